"""Streams that draw on one quota by leases, under any order of events and of the store's answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowserver.limits.limiter import StoreLimiter
from flowserver.limits.memory import MemoryStore
from flowserver.limits.store import Decision, Limit, Quota, Slots
from flowserver.relay.permit import Permit, Verdict

from ..support.clock import FakeClock

QUOTA = Quota("{t}:quota", 1200, ttl=1e6)
SLOTS = Slots("{t}:slots", 4)
LIFE = 60.0
LEASE = 100


class Distant:
    """A `Limiter` whose calls reach the store when they are let, in any order."""

    lease = LEASE
    renewal = LIFE / 3

    def __init__(self, near: StoreLimiter) -> None:
        self._near = near
        self.under_way: list[Callable[[], None]] = []

    def admit(self, stream_id: str, limits: Sequence[Limit], *, need: int, done: Callable[[Decision], None]) -> None:
        self.under_way.append(lambda: self._near.admit(stream_id, limits, need=need, done=done))

    def extend(self, stream_id: str, used: int, want: int, done: Callable[[int], None]) -> None:
        self.under_way.append(lambda: self._near.extend(stream_id, used, want, done))

    def settle(self, stream_id: str, used: int) -> None:
        self.under_way.append(lambda: self._near.settle(stream_id, used))


class Counting(MemoryStore):
    """Knows who settled."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock, ttl=LIFE)
        self.settled: list[str] = []

    async def settle(self, stream_id: str, used: int) -> bool:
        self.settled.append(stream_id)
        return await super().settle(stream_id, used)


class Stream:
    """As an exchange does: events pass, wait in their order, or end it."""

    def __init__(self, limiter: Any, number: int, need: int) -> None:
        self.id = f"{{t}}:{number}"
        self.permit = Permit(limiter, self.id, resume=self._on_resume)
        self.used = 0
        """Tokens that passed, those of the request among them."""
        self.unpassed = 0
        """Tokens of an event that did not pass, counted though it was."""
        self.waits = False
        self.is_over = False
        self.decision: Decision | None = None
        self._need = need
        self.permit.ask((SLOTS, QUOTA), need=need, done=self._on_decision)

    def emit(self, size: int) -> None:
        verdict = self.permit.verdict(self.used + size)
        if verdict is Verdict.PASS:
            self.used += size
            self.unpassed = 0
        elif verdict is Verdict.WAIT:
            self.waits, self.unpassed = True, size
        else:
            self.unpassed = size
            self.leave()

    def leave(self) -> None:
        self.is_over, self.waits = True, False
        self.permit.settle(self.used)

    def _on_decision(self, decision: Decision) -> None:
        assert not self.is_over
        self.decision = decision
        if decision.admitted:
            self.used = self._need
        else:
            self.leave()

    def _on_resume(self) -> None:
        assert self.waits
        assert not self.is_over
        self.waits = False
        self.emit(self.unpassed)


class Leases(RuleBasedStateMachine):
    is_distant = False

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock(1_700_000_000.0)
        self.store = Counting(self.clock)
        near = StoreLimiter(self.store, lease=LEASE, life=LIFE, is_local=True)
        self.distant = Distant(near)
        self.limiter = self.distant if self.is_distant else near
        self.streams: list[Stream] = []

    @rule(need=st.integers(1, 60))
    def start(self, need: int) -> None:
        self.streams.append(Stream(self.limiter, len(self.streams), need))

    @precondition(lambda self: bool(self.running()))
    @rule(pick=st.integers(0, 100), size=st.integers(1, 30) | st.integers(1, 400))
    def emit(self, pick: int, size: int) -> None:
        running = self.running()
        running[pick % len(running)].emit(size)

    @precondition(lambda self: any(not stream.is_over for stream in self.streams))
    @rule(pick=st.integers(0, 100))
    def leave(self, pick: int) -> None:
        """At any time: before the decision, while it waits, twice."""
        here = [stream for stream in self.streams if not stream.is_over]
        here[pick % len(here)].leave()
        here[pick % len(here)].leave()

    @precondition(lambda self: bool(self.distant.under_way))
    @rule(pick=st.integers(0, 100))
    def arrive(self, pick: int) -> None:
        calls = self.distant.under_way
        calls.pop(pick % len(calls))()

    @rule()
    def time_passes(self) -> None:
        """More than a lease's life within a few steps: who did not renew lost it."""
        self.all_arrive()
        self.clock.advance(LIFE / 4)
        for stream in self.streams:
            stream.permit.sweep(self.clock())
        self.all_arrive()

    @invariant()
    def no_more_passes_than_there_is(self) -> None:
        assert sum(stream.used for stream in self.streams) <= QUOTA.most

    @invariant()
    def no_more_is_taken_than_there_is(self) -> None:
        used, reserved, _ = self.usage()
        assert reserved >= 0
        assert used + reserved <= QUOTA.most

    @invariant()
    def who_waits_waits_for_an_answer(self) -> None:
        assert self.distant.under_way or not any(stream.waits for stream in self.streams)

    def teardown(self) -> None:
        self.all_arrive()
        assert not any(stream.waits for stream in self.streams)
        for stream in self.streams:
            if not stream.is_over:
                stream.leave()
        self.all_arrive()
        used, reserved, streams = self.usage()
        assert (reserved, streams) == (0, 0)
        passed = sum(stream.used for stream in self.streams)
        assert passed <= used <= passed + sum(stream.unpassed for stream in self.streams)
        admitted = [stream.id for stream in self.streams if _was_admitted(stream)]
        assert sorted(self.store.settled) == sorted(admitted)

    def running(self) -> list[Stream]:
        """Those that may emit."""
        return [
            stream
            for stream in self.streams
            if not (stream.is_over or stream.waits) and stream.decision is not None and stream.decision.admitted
        ]

    def usage(self) -> tuple[int, int, int]:
        """Tokens charged and reserved, and streams at once."""
        call = self.store.usage((QUOTA, SLOTS))
        try:
            call.send(None)
        except StopIteration as end:
            quota, slots = end.value
            return quota.used, quota.reserved, slots.used
        raise AssertionError("it waits")

    def all_arrive(self) -> None:
        while self.distant.under_way:
            self.distant.under_way.pop(0)()


def _was_admitted(stream: Stream) -> bool:
    """Also when it had left by then."""
    return stream.permit.decision is not None and stream.permit.decision.admitted


class DistantLeases(Leases):
    is_distant = True


TestLeases = Leases.TestCase
TestDistantLeases = DistantLeases.TestCase
