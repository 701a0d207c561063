"""Requests, answers, failures, waits and leaving clients in any order."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowserver.errors import RelayError
from flowserver.routing.context import DispatchState
from flowserver.routing.dispatcher import Dispatcher

from ..support.asker import Asker
from .scene import BROKEN, NO_CONNECTION, REFUSED, TIMEOUT, UNREACHABLE, Events, Scene, Stream

WAITING = (DispatchState.QUEUED, DispatchState.BACKING_OFF)
UNDER_WAY = (DispatchState.ASKING, DispatchState.ANSWERED)


class Order(RuleBasedStateMachine):
    @initialize(limit=st.sampled_from([1, 2, None]), queue=st.integers(0, 3), failures=st.integers(1, 4))
    def begin(self, limit: int | None, queue: int, failures: int) -> None:
        self.scene = Scene(("a", "b"), ("c",), max_concurrent=limit, queue=queue, failures=failures, replay=10)
        self.asked: list[tuple[Dispatcher, Events]] = []
        self.whole: set[Dispatcher] = set()

    def under_way(self) -> list[Stream]:
        return [stream for provider in self.scene.providers.values() for stream in provider.under_way]

    def of(self, *states: DispatchState) -> list[Dispatcher]:
        return [dispatcher for dispatcher, _ in self.asked if dispatcher.state in states]

    @rule(size=st.integers(0, 12), whole=st.booleans())
    def request(self, size: int, whole: bool) -> None:
        self.asked.append(self.scene.ask(b"x" * size, whole=whole))
        if whole:
            self.whole.add(self.asked[-1][0])

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), size=st.integers(1, 12), end=st.booleans())
    def upload(self, data: st.DataObject, size: int, end: bool) -> None:
        dispatcher, _ = data.draw(st.sampled_from(self.asked))
        if dispatcher in self.whole:
            return
        if end:
            self.whole.add(dispatcher)
            dispatcher.send_end()
        else:
            dispatcher.send_data(b"y" * size)

    @precondition(lambda self: self.under_way())
    @rule(data=st.data(), status=st.sampled_from([200, 400, 429, 503]), after=st.sampled_from([None, b"0", b"2"]))
    def head(self, data: st.DataObject, status: int, after: bytes | None) -> None:
        stream = data.draw(st.sampled_from(self.under_way()))
        if not stream.is_answered:
            stream.answer(status, *([] if after is None else [(b"retry-after", after)]))

    @precondition(lambda self: self.under_way())
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self.under_way()))
        if stream.is_answered:
            stream.events.on_upstream_end()

    @precondition(lambda self: self.under_way())
    @rule(data=st.data(), error=st.sampled_from([UNREACHABLE, REFUSED, BROKEN, NO_CONNECTION]))
    def failure(self, data: st.DataObject, error: RelayError) -> None:
        data.draw(st.sampled_from(self.under_way())).fail(error)

    @precondition(lambda self: self.under_way())
    @rule(data=st.data(), full=st.booleans())
    def gate(self, data: st.DataObject, full: bool) -> None:
        stream = data.draw(st.sampled_from(self.under_way()))
        if full != stream.is_full:
            stream.stop_upload(full=full)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), error=st.sampled_from([None, TIMEOUT]))
    def leave(self, data: st.DataObject, error: RelayError | None) -> None:
        dispatcher, _ = data.draw(st.sampled_from(self.asked))
        dispatcher.cancel(error)

    @rule(seconds=st.floats(0, 8))
    def time(self, seconds: float) -> None:
        now = self.scene.clock.advance(seconds)
        for dispatcher, _ in self.asked:
            dispatcher.sweep(now)

    @rule()
    def turn(self) -> None:
        """The event loop's next iteration: places that came free are assigned."""
        self.scene.later.run_once()

    @invariant()
    def each_place_is_held_by_one_request_under_way(self) -> None:
        for name, host in self.scene.hosts.items():
            streams = self.scene.providers[name].under_way
            assert host.open == len(streams)
            limit = host.settings.max_concurrent
            assert limit is None or host.open <= limit
            assert host.waiting == sum(each.upstream == name for each in self.of(DispatchState.QUEUED))
            assert not host.waiting or host.places.is_full(Asker()) or not self.scene.later.is_idle
            probes = [stream.probes for stream in streams if stream.probes is not None and not stream.is_answered]
            assert len(probes) == len(set(probes))

    @invariant()
    def each_dispatcher_waits_or_has_one_request_under_way(self) -> None:
        assert len(self.of(*UNDER_WAY)) == len(self.under_way())
        assert len(self.of(*UNDER_WAY, *WAITING, DispatchState.ENDED)) == len(self.asked)
        assert len(self.of(DispatchState.ANSWERED)) == sum(stream.is_answered for stream in self.under_way())

    @invariant()
    def the_exchange_hears_of_one_outcome(self) -> None:
        for dispatcher, events in self.asked:
            assert dispatcher.attempts <= 3
            assert len(events.errors) <= 1
            assert events.log.count("head 200") <= 1

    @invariant()
    def nothing_is_kept_of_a_body_once_it_is_whole_or_over(self) -> None:
        for dispatcher, events in self.asked:
            if dispatcher in self.whole or dispatcher.state in (DispatchState.ANSWERED, DispatchState.ENDED):
                assert events.upload.held == 0

    @invariant()
    def an_upload_is_stopped_for_a_reason(self) -> None:
        stopped = 0
        for dispatcher, events in self.asked:
            heard = [line for line in events.log if line in ("full", "drained")]
            assert heard == ["full", "drained"] * (len(heard) // 2) + ["full"] * (len(heard) % 2)
            stopped += heard[-1:] == ["full"] and dispatcher.state in UNDER_WAY
        assert stopped == sum(stream.is_full for stream in self.under_way())


TestOrder = Order.TestCase
