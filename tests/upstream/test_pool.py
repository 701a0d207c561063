"""Which connection serves a request, and what a stream does until then. Nothing connects: a test says how it went."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowserver.errors import EndReason, Party, RelayError, upstream_error
from flowserver.flow.bounded_buffer import Watermarks
from flowserver.http.messages import RequestHead
from flowserver.relay.interfaces import UpstreamEvents, UpstreamStream
from flowserver.upstream.h1 import UpstreamH1
from flowserver.upstream.pool import Pool, PoolSettings

from ..support.clock import FakeClock
from ..support.dialogue import FakeDial, Provider
from ..support.recording import RecordingUpstreamEvents
from ..support.transport import FakeTransport, kernel_of

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
MARKS = Watermarks(high=1000, low=100, chunks=16)
REFUSED = upstream_error(
    "connect_failed", "The provider can't be reached.", EndReason.CONNECT_FAILED, not_processed=True
)


class Events(RecordingUpstreamEvents):
    """As the exchange does: the end cancels the stream."""

    stream: UpstreamStream

    def on_upstream_end(self) -> None:
        super().on_upstream_end()
        self.stream.cancel()


class FastPathOwner:
    """A `pool.FastPathOwner` that does nothing but end."""

    is_full = False

    def __init__(self, connection: Many, events: UpstreamEvents) -> None:
        self._connection = connection
        self.events = events
        self.reused = connection.served > 0

    def send_data(self, data: bytes) -> None: ...

    def send_end(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def cancel(self, error: RelayError | None = None) -> None:
        if self in self._connection.carriers:
            self._connection.carriers.remove(self)
            self._connection.pool.on_capacity(self._connection)


class Many:
    """A connection of `limit` requests at once, without a wire."""

    def __init__(self, pool: Pool, limit: int) -> None:
        self.pool = pool
        self.limit = limit
        self.served = 0
        self.carriers: list[FastPathOwner] = []
        self.alive = True
        self.closed = False

    @property
    def capacity(self) -> int:
        return 0 if self.closed else max(0, self.limit - len(self.carriers))

    @property
    def busy(self) -> int:
        return len(self.carriers)

    def begin(self, request: RequestHead, events: UpstreamEvents) -> FastPathOwner:
        assert self.capacity, "more than it can take"
        assert self.alive
        self.carriers.append(FastPathOwner(self, events))
        self.served += 1
        return self.carriers[-1]

    def is_alive(self) -> bool:
        return self.alive and not self.closed

    def sweep(self, now: float) -> None: ...

    def close(self) -> None:
        self.closed = True

    def lose(self) -> None:
        """What the transport's connection_lost does."""
        self.closed = True
        self.pool.on_lost(self)
        carriers, self.carriers = self.carriers, []
        for carrier in carriers:
            carrier.events.on_upstream_failed(REFUSED)


class Scene:
    def __init__(
        self,
        *,
        keepalive: float | None = 30.0,
        max_connections: int = 10,
        multiplexed: bool | None = False,
        max_age: float | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.dial = FakeDial()
        settings = PoolSettings(
            keepalive=keepalive,
            timeout=10.0,
            max_connections=max_connections,
            multiplexed=multiplexed,
            max_age=max_age,
        )
        self.pool = Pool("api", self.dial, MARKS, settings, self.clock)
        self.providers: list[Provider] = []

    def ask(self, *, has_body: bool = False) -> tuple[UpstreamStream, Events]:
        events = Events()
        head = RequestHead(b"POST", b"/", [(b"host", b"x")], has_body=has_body)
        events.stream = stream = self.pool.open(head, events)
        if not has_body:
            stream.send_end()
        return stream, events

    def connect(self, *, blocked: bool = False) -> Provider:
        """The oldest attempt comes to its end, with HTTP/1.1."""
        connection = UpstreamH1(self.pool, MARKS)
        provider = Provider(connection, FakeTransport(connection))
        if blocked:
            provider.stops_reading()
        self.providers.append(provider)
        self.dial.under_way[0].connected(connection)
        return provider

    def connect_many(self, limit: int) -> Many:
        """The same, with HTTP/2."""
        connection = Many(self.pool, limit)
        self.dial.under_way[0].connected(connection)
        return connection

    def answered(self) -> Provider:
        """A connection that was asked and has answered."""
        self.ask()
        provider = self.connect()
        provider.says(ANSWER)
        provider.hears()
        return provider

    @property
    def figures(self) -> tuple[int, int, int, int]:
        return self.pool.connects, self.pool.reuses, self.pool.open_connections, self.pool.idle_connections


# Connecting


def test_a_request_goes_out_when_its_connection_is_there() -> None:
    scene = Scene()
    stream, events = scene.ask()
    provider = scene.connect()
    assert provider.hears() == b"POST / HTTP/1.1\r\nhost: x\r\n\r\n"
    provider.says(ANSWER)
    assert events.log == ["head 200", "data", "end"]
    assert not stream.reused
    assert scene.figures == (1, 0, 1, 1)


def test_a_body_waits_for_its_connection_up_to_the_high_mark() -> None:
    scene = Scene()
    stream, events = scene.ask(has_body=True)
    stream.send_data(b"x" * 999)
    assert events.log == []
    stream.send_data(b"y")
    assert events.log == ["full"]
    stream.send_data(b"z")
    stream.send_end()
    provider = scene.connect()
    assert events.log == ["full", "drained"]
    assert provider.hears().endswith(b"\r\n\r\n3e9\r\n" + b"x" * 999 + b"yz\r\n0\r\n\r\n")


def test_a_body_that_waited_and_fills_the_transport_is_drained_by_it() -> None:
    scene = Scene()
    stream, events = scene.ask(has_body=True)
    stream.send_data(b"x" * 1500)
    stream.send_end()
    provider = scene.connect(blocked=True)
    assert events.log[0] == "full"
    assert "drained" not in events.log
    provider.reads()
    assert events.log[-1] == "drained"
    assert provider.hears().endswith(b"x\r\n0\r\n\r\n")


def test_no_connection_is_told_to_the_client() -> None:
    scene = Scene()
    _, events = scene.ask()
    assert events.log == []
    scene.dial.attempts[0].failed(REFUSED)
    assert events.errors == [REFUSED]
    assert scene.figures == (0, 0, 0, 0)
    assert scene.dial.under_way == []


def test_each_request_over_http_1_dials_for_itself_and_the_first_come_is_served_first() -> None:
    scene = Scene()
    asked = [scene.ask() for _ in range(3)]
    assert len(scene.dial.under_way) == 3
    provider = scene.connect()
    provider.says(ANSWER)
    assert [events.body for _, events in asked] == [b"hello", b"", b""]
    provider.says(ANSWER)  # kept, and taken by who waited longest
    provider.says(ANSWER)
    assert [events.body for _, events in asked] == [b"hello"] * 3
    assert scene.pool.reuses == 2


def test_one_failed_dial_of_several_fails_its_share_and_the_oldest_first() -> None:
    scene = Scene()
    asked = [scene.ask() for _ in range(3)]
    scene.dial.attempts[1].failed(REFUSED)
    assert [len(events.errors) for _, events in asked] == [1, 0, 0]
    assert len(scene.dial.under_way) == 2


def test_a_failed_dial_fails_all_that_it_was_made_for() -> None:
    scene = Scene(multiplexed=True)
    asked = [scene.ask() for _ in range(5)]
    assert len(scene.dial.attempts) == 1
    scene.dial.attempts[0].failed(REFUSED)
    assert [len(events.errors) for _, events in asked] == [1] * 5
    assert len(scene.dial.attempts) == 1


def test_who_asks_again_inside_its_failure_waits_for_the_next_connection() -> None:
    scene = Scene(multiplexed=True)

    class Again(Events):
        def on_upstream_failed(self, error: RelayError) -> None:
            super().on_upstream_failed(error)
            second.append(scene.ask())

    second: list[tuple[UpstreamStream, Events]] = []
    first = [Again() for _ in range(2)]
    for events in first:
        events.stream = scene.pool.open(RequestHead(b"GET", b"/", []), events)
    scene.dial.attempts[0].failed(REFUSED)
    assert [len(events.errors) for events in first] == [1, 1]
    assert [events.log for _, events in second] == [[], []]
    assert len(scene.dial.under_way) == 1


def test_who_leaves_inside_the_failure_of_another_is_told_nothing() -> None:
    scene = Scene(multiplexed=True)

    class Breaker(Events):
        def on_upstream_failed(self, error: RelayError) -> None:
            other.cancel()

    events = Breaker()
    events.stream = scene.pool.open(RequestHead(b"GET", b"/", []), events)
    other, told = scene.ask()
    scene.dial.attempts[0].failed(REFUSED)
    assert told.log == []


def test_a_client_that_leaves_while_connecting_gives_the_surplus_dial_up() -> None:
    scene = Scene()
    asked = [scene.ask() for _ in range(2)]
    asked[0][0].cancel()
    assert [attempt.state for attempt in scene.dial.attempts].count("cancelled") == 1
    asked[1][0].cancel()
    assert scene.dial.under_way == []
    assert all(events.log == [] for _, events in asked)


def test_who_leaves_from_the_middle_of_ten_thousand_changes_nothing_for_the_others() -> None:
    scene = Scene(max_connections=1)
    asked = [scene.ask() for _ in range(10_000)]
    for stream, _ in asked[1:-1]:
        stream.cancel()
    first = scene.connect()
    assert not asked[0][0].reused
    first.says(ANSWER)
    assert asked[-1][0].reused


def test_over_http_2_a_dial_goes_on_while_anyone_waits() -> None:
    scene = Scene(multiplexed=True)
    asked = [scene.ask() for _ in range(2)]
    asked[0][0].cancel()
    assert len(scene.dial.under_way) == 1
    asked[1][0].cancel()
    assert scene.dial.under_way == []


def test_a_connection_that_nobody_waits_for_any_more_is_kept() -> None:
    scene = Scene()
    scene.ask()
    second, _ = scene.ask()
    first = scene.connect()
    first.says(ANSWER)  # the second takes over this one, the dial for it is still under way
    assert second.reused
    first.says(ANSWER)
    scene.connect()
    assert scene.pool.idle_connections == 2


def test_a_pause_from_before_the_connection_holds() -> None:
    scene = Scene()
    stream, events = scene.ask()
    stream.pause_reading()
    provider = scene.connect()
    provider.says(ANSWER)
    assert events.log == []
    stream.resume_reading()
    provider.transport.deliver()
    assert events.log == ["head 200", "data", "end"]


# How many


@pytest.mark.parametrize(("multiplexed", "dials"), [(False, 4), (True, 1), (None, 1)])
def test_so_many_are_dialled(multiplexed: bool | None, dials: int) -> None:
    scene = Scene(multiplexed=multiplexed, max_connections=4)
    for _ in range(6):
        scene.ask()
    assert len(scene.dial.under_way) == dials


def test_the_first_connection_tells_how_many_are_needed() -> None:
    scene = Scene(multiplexed=None)
    for _ in range(4):
        scene.ask()
    scene.connect()
    assert len(scene.dial.under_way) == 3


def test_http_2_serves_all_that_wait_up_to_its_limit_and_another_one_the_rest() -> None:
    scene = Scene(multiplexed=None)
    asked = [scene.ask() for _ in range(7)]
    first = scene.connect_many(3)
    assert len(first.carriers) == 3
    assert len(scene.dial.under_way) == 1
    second = scene.connect_many(10)
    assert len(second.carriers) == 4
    assert scene.dial.under_way == []
    assert [carrier.events for carrier in first.carriers + second.carriers] == [events for _, events in asked]


def test_a_provider_that_goes_over_from_http_2_to_http_1_is_dialled_as_such() -> None:
    scene = Scene(multiplexed=None)
    scene.ask()
    scene.connect_many(100).lose()
    for _ in range(3):
        scene.ask()
    scene.connect()
    assert len(scene.dial.under_way) == 2


def test_a_busy_http_2_connection_takes_more() -> None:
    scene = Scene(multiplexed=True)
    scene.ask()
    connection = scene.connect_many(10)
    stream, _ = scene.ask()
    assert stream.reused
    assert connection.busy == 2
    assert scene.figures == (1, 1, 1, 0)


def test_a_lowered_limit_holds_and_what_waits_goes_on_as_others_end() -> None:
    scene = Scene(multiplexed=True, max_connections=1)
    asked = [scene.ask()[0] for _ in range(3)]
    connection = scene.connect_many(3)
    connection.limit = 1
    scene.pool.on_capacity(connection)
    _, waiting = scene.ask()
    asked[0].cancel()
    asked[1].cancel()
    [served] = connection.carriers
    assert served.events is not waiting
    asked[2].cancel()
    [served] = connection.carriers
    assert served.events is waiting


def test_a_raised_limit_serves_who_waits() -> None:
    scene = Scene(multiplexed=True, max_connections=1)
    for _ in range(3):
        scene.ask()
    connection = scene.connect_many(1)
    connection.limit = 2
    scene.pool.on_capacity(connection)
    assert connection.busy == 2


def test_an_idle_connection_that_takes_no_more_requests_is_closed() -> None:
    scene = Scene(multiplexed=True, max_connections=1)
    stream, _ = scene.ask()
    connection = scene.connect_many(1)
    connection.limit = 0
    stream.cancel()
    assert connection.closed
    connection.lose()
    scene.ask()
    assert len(scene.dial.under_way) == 1


def test_a_connection_that_takes_no_request_from_the_start_is_a_failure_and_no_reason_to_dial_on() -> None:
    scene = Scene(multiplexed=True)
    _, events = scene.ask()
    connection = scene.connect_many(0)
    assert connection.closed
    assert events.log == ["failed 502"]
    assert events.errors[0].not_processed
    assert scene.dial.under_way == []
    assert scene.pool.open_connections == 0


def test_no_more_connections_than_allowed_and_a_wait_has_its_end() -> None:
    scene = Scene(max_connections=1)
    scene.ask()
    provider = scene.connect()
    waiting, events = scene.ask()
    _, late = scene.ask()
    assert scene.dial.under_way == []
    scene.pool.sweep(scene.clock.advance(9))
    assert events.log == []
    waiting.cancel()
    scene.pool.sweep(scene.clock.advance(1))
    assert events.log == []
    assert late.log == ["failed 503"]
    error = late.errors[0]
    assert (error.party, error.not_processed, error.retry_after) == (Party.RELAY, True, 1)
    provider.says(ANSWER)
    assert scene.pool.idle_connections == 1


def test_a_lost_connection_makes_room_for_who_waits() -> None:
    scene = Scene(max_connections=1)
    scene.ask()
    provider = scene.connect()
    _, events = scene.ask()
    provider.transport.lose()
    assert len(scene.dial.under_way) == 1
    scene.connect().says(ANSWER)
    assert events.body == b"hello"


# Keeping


def test_a_kept_connection_is_taken_at_once() -> None:
    scene = Scene()
    provider = scene.answered()
    stream, events = scene.ask()
    assert stream.reused
    provider.says(ANSWER)
    assert events.body == b"hello"
    assert scene.figures == (1, 1, 1, 1)


def test_the_connection_used_last_is_taken_first() -> None:
    scene = Scene()
    for _ in range(2):
        scene.ask()
    first, second = scene.connect(), scene.connect()
    second.says(ANSWER)
    first.says(ANSWER)
    first.hears(), second.hears()
    scene.ask()
    assert first.hears()
    assert not second.hears()


def test_a_dead_connection_is_passed_over() -> None:
    scene = Scene()
    provider = scene.answered()
    with kernel_of(provider.transport) as theirs:
        theirs.close()
        stream, _ = scene.ask()
    assert provider.end == "reset"
    scene.connect()
    assert not stream.reused


def test_a_connection_that_the_provider_closed_is_forgotten() -> None:
    scene = Scene()
    provider = scene.answered()
    provider.shuts()
    provider.transport.lose()
    assert scene.figures == (1, 0, 0, 0)


def test_a_connection_that_was_idle_for_too_long_is_closed() -> None:
    scene = Scene()
    provider = scene.answered()
    scene.pool.sweep(scene.clock.advance(29))
    assert provider.end == "open"
    scene.pool.sweep(scene.clock.advance(1))
    assert provider.end == "reset"
    assert scene.pool.idle_connections == 0


def test_only_what_was_idle_for_too_long_is_closed() -> None:
    scene = Scene()
    for _ in range(2):
        scene.ask()
    first, second = scene.connect(), scene.connect()
    second.says(ANSWER)
    scene.clock.advance(20)
    first.says(ANSWER)
    scene.pool.sweep(scene.clock.advance(20))
    assert (first.end, second.end) == ("open", "reset")


def test_without_keepalive_no_connection_is_kept() -> None:
    scene = Scene(keepalive=None)
    provider = scene.answered()
    assert provider.end == "reset"
    assert scene.pool.idle_connections == 0


def test_closing_the_pool_closes_busy_and_idle_connections_and_ends_dials() -> None:
    scene = Scene()
    first = scene.answered()
    scene.ask()
    scene.ask()
    second = scene.connect()
    scene.ask()
    scene.pool.close()
    assert (first.end, second.end) == ("reset", "reset")
    assert scene.dial.under_way == []


# Age


def test_an_idle_connection_that_is_too_old_is_closed() -> None:
    scene = Scene(keepalive=1000, max_age=600)
    provider = scene.answered()
    scene.pool.sweep(scene.clock.advance(599))
    assert provider.end == "open"
    scene.pool.sweep(scene.clock.advance(1))
    assert provider.end == "reset"
    assert scene.pool.idle_connections == 0


def test_requests_do_not_make_a_connection_younger() -> None:
    scene = Scene(max_age=600)
    provider = scene.answered()
    for _ in range(29):
        scene.pool.sweep(scene.clock.advance(20))
        scene.ask()
        provider.says(ANSWER)
    assert scene.pool.reuses == 29
    scene.clock.advance(20)
    stream, _ = scene.ask()  # before any sweep
    assert provider.end == "reset"
    scene.connect()
    assert not stream.reused


def test_a_connection_that_grew_too_old_under_its_request_is_not_kept_after_it() -> None:
    scene = Scene(max_age=600)
    scene.ask()
    provider = scene.connect()
    scene.pool.sweep(scene.clock.advance(700))
    assert provider.end == "open"
    assert scene.figures == (1, 0, 1, 0)
    provider.says(ANSWER)
    assert provider.end == "reset"
    provider.transport.lose()
    assert scene.figures == (1, 0, 0, 0)


def test_who_waits_for_an_old_connection_gets_a_new_one_in_its_place() -> None:
    scene = Scene(max_age=600, max_connections=1)
    scene.ask()
    provider = scene.connect()
    scene.clock.advance(700)
    stream, events = scene.ask()
    assert scene.dial.under_way == []
    provider.says(ANSWER)
    provider.transport.lose()
    scene.connect().says(ANSWER)
    assert events.body == b"hello"
    assert not stream.reused


@pytest.mark.parametrize("swept", [True, False])
def test_an_old_http_2_connection_takes_no_new_stream_and_closes_with_its_last_one(*, swept: bool) -> None:
    scene = Scene(multiplexed=True, max_age=600)
    streams = [scene.ask()[0] for _ in range(2)]
    old = scene.connect_many(10)
    scene.clock.advance(600)
    if swept:
        scene.pool.sweep(scene.clock.now)
    scene.ask()
    assert (old.busy, len(scene.dial.under_way)) == (2, 1)
    new = scene.connect_many(10)
    assert new.busy == 1
    assert scene.pool.open_connections == 2
    streams[0].cancel()
    assert old.is_alive()
    streams[1].cancel()
    assert not old.is_alive()
    old.lose()
    assert scene.figures == (2, 1, 1, 0)


def test_a_pool_whose_old_connection_still_carries_requests_is_in_use() -> None:
    scene = Scene(multiplexed=True, max_age=600)
    scene.ask()
    connection = scene.connect_many(10)
    scene.clock.advance(600)
    scene.pool.sweep(scene.clock.now)
    assert connection.busy
    assert not scene.pool.is_unused
    connection.carriers.clear()
    scene.pool.on_capacity(connection)
    scene.pool.on_lost(connection)
    assert scene.pool.is_unused


def test_an_old_http_2_connection_with_a_long_stream_makes_room_for_a_new_one() -> None:
    scene = Scene(multiplexed=True, max_connections=1, max_age=600)
    scene.ask()
    old = scene.connect_many(10)
    scene.clock.advance(600)
    _, events = scene.ask()
    assert scene.dial.under_way == []
    scene.pool.sweep(scene.clock.now)
    new = scene.connect_many(10)
    assert [carrier.events for carrier in new.carriers] == [events]
    assert not old.closed


def test_a_lost_old_connection_fails_its_requests() -> None:
    scene = Scene(multiplexed=True, max_age=600)
    _, events = scene.ask()
    old = scene.connect_many(10)
    scene.pool.sweep(scene.clock.advance(600))
    old.lose()
    assert events.log == ["failed 502"]
    assert scene.pool.open_connections == 0


def test_closing_the_pool_closes_old_connections_too() -> None:
    scene = Scene(multiplexed=True, max_age=600)
    scene.ask()
    old = scene.connect_many(10)
    scene.pool.sweep(scene.clock.advance(600))
    scene.pool.close()
    assert old.closed


# Ending


def test_a_cancelled_stream_ignores_what_follows() -> None:
    scene = Scene()
    stream, events = scene.ask(has_body=True)
    provider = scene.connect()
    stream.cancel()
    stream.cancel()
    stream.send_data(b"x")
    stream.send_end()
    stream.pause_reading()
    stream.resume_reading()
    provider.transport.lose()
    assert provider.transport.calls == ["abort"]
    assert events.log == []


def test_a_stream_that_is_over_has_no_hand_in_the_next_one() -> None:
    scene = Scene()
    first, _ = scene.ask()
    provider = scene.connect()
    provider.says(ANSWER)
    _, events = scene.ask()
    first.pause_reading()
    first.cancel()
    provider.says(ANSWER)
    assert events.log == ["head 200", "data", "end"]


# Any order of events


class Order(RuleBasedStateMachine):
    """Requests come, leave and end; connections come, fail, fill up and are lost."""

    def __init__(self) -> None:
        super().__init__()
        self.connections: list[Many] = []
        self.born: dict[Many, float] = {}
        self.streams: list[tuple[UpstreamStream, Events]] = []

    @initialize(max_age=st.sampled_from([None, 60.0]))
    def begin(self, max_age: float | None) -> None:
        self.max_age = max_age
        self.scene = Scene(multiplexed=None, max_connections=3, max_age=max_age)

    def is_old(self, connection: Many) -> bool:
        return self.max_age is not None and self.scene.clock.now - self.born[connection] >= self.max_age

    @rule()
    def request(self) -> None:
        self.streams.append(self.scene.ask())

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def leave_or_end(self, data: st.DataObject) -> None:
        stream, _ = data.draw(st.sampled_from(self.streams))
        stream.cancel()

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

    @invariant()
    def connections_are_bounded_and_counted(self) -> None:
        pool = self.scene.pool
        assert pool.open_connections == len(self.connections)
        retired = pool._retired
        assert pool.open_connections - len(retired) + len(self.scene.dial.under_way) <= 3
        assert all(self.is_old(each) and (each.busy or each.closed) for each in self.connections if each in retired)
        assert pool.idle_connections <= pool.open_connections
        idle = [each for each in self.connections if not each.busy and not each.closed]
        assert set(pool._idle) == set(idle)

    @invariant()
    def nobody_waits_beside_a_free_place_or_without_hope(self) -> None:
        pool = self.scene.pool
        waiting = list(pool._waiting)
        assert all(not stream._ended for stream in waiting)
        if waiting:
            assert not any(each.capacity for each in self.connections if not self.is_old(each))
            assert self.scene.dial.under_way or pool.open_connections - len(pool._retired) == 3

    @invariant()
    def the_oldest_waits_first(self) -> None:
        order = [stream for stream, _ in self.streams]
        waiting = [order.index(stream) for stream in self.scene.pool._waiting]
        assert waiting == sorted(waiting)

    @invariant()
    def each_hears_of_its_failure_once_at_most(self) -> None:
        assert all(len(events.errors) <= 1 for _, events in self.streams)


TestOrder = Order.TestCase


def test_an_idle_connection_that_takes_more_than_at_first_carries_several() -> None:
    scene = Scene(multiplexed=None, max_connections=3)
    stream, _ = scene.ask()
    connection = Many(scene.pool, 1)
    scene.dial.under_way[0].connected(connection)
    stream.cancel()
    connection.limit = 2
    scene.pool.on_capacity(connection)
    scene.ask()
    scene.ask()
    assert connection.busy == 2
    assert not scene.dial.under_way
