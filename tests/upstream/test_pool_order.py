"""The pool holds its promises in whatever order things happen."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowserver.relay.interfaces import UpstreamStream

from ..support.pool import REFUSED, Events, Many, Scene


@dataclass
class Asked:
    """One request, as its client sees it."""

    stream: UpstreamStream
    events: Events
    has_left: bool = False
    is_settled: bool = False
    """It has or had a connection, or failed."""


class Order(RuleBasedStateMachine):
    """Requests come, leave and end; connections come, fail, fill up and are lost."""

    def __init__(self) -> None:
        super().__init__()
        self.connections: list[Many] = []
        self.born: dict[Many, float] = {}
        self.requests: list[Asked] = []
        """In the order in which they came."""
        self.waited: list[int] = []
        """The places of those that waited after the step before."""

    @initialize(max_age=st.sampled_from([None, 60.0]))
    def begin(self, max_age: float | None) -> None:
        self.max_age = max_age
        self.scene = Scene(multiplexed=None, max_connections=3, max_age=max_age)

    def is_old(self, connection: Many) -> bool:
        return self.max_age is not None and self.scene.clock.now - self.born[connection] >= self.max_age

    @rule()
    def request(self) -> None:
        self.requests.append(Asked(*self.scene.ask()))

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def leave_or_end(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.requests))
        request.has_left = True
        request.stream.cancel()

    @precondition(lambda self: self.scene.dial.under_way)
    @rule(limit=st.integers(1, 3), data=st.data())
    def connected(self, limit: int, data: st.DataObject) -> None:
        connection = Many(self.scene.pool, limit)
        self.connections.append(connection)
        self.born[connection] = self.scene.clock.now
        data.draw(st.sampled_from(self.scene.dial.under_way)).connected(connection)

    @precondition(lambda self: self.scene.dial.under_way)
    @rule()
    def failed(self) -> None:
        self.scene.dial.under_way[0].failed(REFUSED)

    @precondition(lambda self: self.connections)
    @rule(data=st.data(), limit=st.integers(0, 3))
    def limit(self, data: st.DataObject, limit: int) -> None:
        connection = data.draw(st.sampled_from(self.connections))
        if not connection.closed:
            connection.limit = limit
            self.scene.pool.on_capacity(connection)

    @precondition(lambda self: self.connections)
    @rule(data=st.data())
    def lost(self, data: st.DataObject) -> None:
        connection = data.draw(st.sampled_from(self.connections))
        self.connections.remove(connection)
        connection.lose()

    @rule(seconds=st.floats(0, 40))
    def time(self, seconds: float) -> None:
        self.scene.pool.sweep(self.scene.clock.advance(seconds))

    @property
    def waiting(self) -> list[int]:
        """The places of requests that wait, in the order in which they came."""
        served = {id(stream.events) for connection in self.connections for stream in connection.streams}
        for request in self.requests:
            if id(request.events) in served or request.events.errors:
                request.is_settled = True
        return [place for place, each in enumerate(self.requests) if not each.is_settled and not each.has_left]

    @invariant()
    def the_oldest_is_served_first(self) -> None:
        waiting = self.waiting
        settled = [place for place in self.waited if self.requests[place].is_settled]
        self.waited = waiting
        assert not settled or not waiting or max(settled) < min(waiting)

    @invariant()
    def connections_are_bounded_and_counted(self) -> None:
        pool = self.scene.pool
        assert pool.open_connections == len(self.connections)
        assert pool.open_connections - pool.retired_connections + len(self.scene.dial.under_way) <= 3
        assert pool.retired_connections <= sum(
            self.is_old(each) and (each.busy > 0 or each.closed) for each in self.connections
        )
        assert pool.idle_connections == sum(not each.busy and not each.closed for each in self.connections)

    @invariant()
    def nobody_waits_beside_a_free_place_or_without_hope(self) -> None:
        pool = self.scene.pool
        assert pool.waiting_requests == len(self.waiting)
        if self.waiting:
            assert not any(each.capacity for each in self.connections if not self.is_old(each))
            assert self.scene.dial.under_way or pool.open_connections - pool.retired_connections == 3

    @invariant()
    def each_hears_of_its_failure_once_at_most(self) -> None:
        assert all(len(request.events.errors) <= 1 for request in self.requests)


TestOrder = Order.TestCase
