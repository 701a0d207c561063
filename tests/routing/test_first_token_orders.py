"""Requests with first-token deadlines and hedges: heads, content, failures, time and leaving clients in any order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowserver.errors import RelayError
from flowserver.routing.context import DispatchState
from flowserver.routing.dispatcher import Dispatcher
from flowserver.routing.first_token_times import ENOUGH
from flowserver.routing.hedge_budget import HedgeBudget
from flowserver.routing.routes import FirstTokenPolicy

from .scene import BROKEN, NO_CONNECTION, REFUSED, UNREACHABLE, Events, Scene, Stream

WAITING = (DispatchState.QUEUED, DispatchState.BACKING_OFF)
UNDER_WAY = (DispatchState.ASKING, DispatchState.ANSWERED)


class Order(RuleBasedStateMachine):
    @initialize(
        limit=st.sampled_from([1, 2, None]),
        queue=st.integers(0, 3),
        timeout=st.sampled_from([None, 2.0, 5.0]),
        hedges=st.booleans(),
        alone=st.booleans(),
    )
    def begin(self, limit: int | None, queue: int, timeout: float | None, hedges: bool, alone: bool) -> None:
        policy = FirstTokenPolicy(timeout, HedgeBudget(1.0) if hedges else None)
        tiers = [("a",)] if alone else [("a", "b"), ("c",)]
        self.scene = Scene(*tiers, max_concurrent=limit, queue=queue, replay=10, first_token=policy)
        for host in self.scene.hosts.values():
            for _ in range(ENOUGH):
                host.first_token_times.of(None).note(1.0, self.scene.clock())
        self.asked: list[tuple[Dispatcher, Events]] = []
        self.whole: set[Dispatcher] = set()
        self.sent: dict[int, bytes] = {}

    def under_way(self, *, answered: bool | None = None) -> list[Stream]:
        return [
            stream
            for provider in self.scene.providers.values()
            for stream in provider.under_way
            if answered is None or stream.is_answered is answered
        ]

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

    @precondition(lambda self: self.under_way(answered=False))
    @rule(data=st.data(), status=st.sampled_from([200, 200, 200, 400, 429, 503]))
    def head(self, data: st.DataObject, status: int) -> None:
        data.draw(st.sampled_from(self.under_way(answered=False))).answer(status)

    @precondition(lambda self: self.under_way(answered=True))
    @rule(data=st.data(), piece=st.sampled_from([b" ", b"\n", b"content"]))
    def body(self, data: st.DataObject, piece: bytes) -> None:
        stream = data.draw(st.sampled_from(self.under_way(answered=True)))
        self.sent[id(stream)] = self.sent.get(id(stream), b"") + piece
        stream.events.on_upstream_data(piece)

    @precondition(lambda self: self.under_way(answered=True))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.under_way(answered=True))).events.on_upstream_end()

    @precondition(lambda self: self.under_way())
    @rule(data=st.data(), error=st.sampled_from([UNREACHABLE, REFUSED, BROKEN, NO_CONNECTION]))
    def failure(self, data: st.DataObject, error: RelayError) -> None:
        data.draw(st.sampled_from(self.under_way())).fail(error)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.asked))[0].cancel()

    @rule(seconds=st.floats(0.1, 4))
    def time(self, seconds: float) -> None:
        self.scene.timers.advance(seconds)
        for dispatcher, _ in self.asked:
            dispatcher.sweep(self.scene.clock())

    @rule()
    def turn(self) -> None:
        self.scene.later.run_once()

    @invariant()
    def each_place_is_held_by_one_request_under_way(self) -> None:
        for name, host in self.scene.hosts.items():
            assert host.open == len(self.scene.providers[name].under_way)
            limit = host.settings.max_concurrent
            assert limit is None or host.open <= limit

    @invariant()
    def each_dispatcher_waits_or_has_one_request_under_way_or_two(self) -> None:
        under_way = len(self.under_way())
        asking = len(self.of(DispatchState.ASKING))
        answered = len(self.of(DispatchState.ANSWERED))
        assert answered + asking <= under_way <= answered + 2 * asking
        assert len(self.of(*UNDER_WAY, *WAITING, DispatchState.ENDED)) == len(self.asked)

    @invariant()
    def the_exchange_hears_of_one_answer_from_its_beginning(self) -> None:
        for dispatcher, events in self.asked:
            assert dispatcher.attempts <= 3
            assert len(events.errors) <= 1
            heads = [line for line in events.log if line.startswith("head")]
            assert len(heads) <= 1
            assert not events.body or events.body in self._prefixes()
            if heads:
                assert dispatcher.state in (DispatchState.ANSWERED, DispatchState.ENDED)

    def _prefixes(self) -> set[bytes]:
        return {sent[:size] for sent in self.sent.values() for size in range(len(sent) + 1)}

    @invariant()
    def nothing_is_held_and_no_timer_set_for_what_is_over(self) -> None:
        asking = len(self.of(DispatchState.ASKING))
        waits = len(self.of(*WAITING))
        assert self.scene.timers.waiting <= asking + waits
        if not asking + waits:
            assert self.scene.context.first_token.figures.held == 0

    def teardown(self) -> None:
        if hasattr(self, "scene"):
            for dispatcher, _ in self.asked:
                dispatcher.cancel()
            self.scene.later.run()
            assert self.scene.open == 0
            assert self.scene.timers.waiting == 0
            assert self.scene.context.first_token.figures.held == 0


TestOrder = Order.TestCase
TestOrder.settings = settings(max_examples=200, stateful_step_count=30)
