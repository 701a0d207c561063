"""Streams that draw on one quota by leases, under any order of events and of the store's answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowserver.quota.lease import TokenLease, Verdict
from flowserver.quota.limits import Decision, Limit, Quota, Slots, TokenBucket
from flowserver.stores.limiter import StoreLimiter
from flowserver.stores.memory import MemoryStore

from ..support.clock import FakeClock

QUOTA = Quota("{t}:quota", 1200, ttl=1e6)
SLOTS = Slots("{t}:slots", 4)
BUCKET = TokenBucket("{t}:bucket", 4_000_000, 1, period=1_000_000)
"""It refills by less than a token in a test, so it lacks what is charged and leased."""
LIFE = 60.0
LEASE = 100


class Distant:
    """A `Limiter` whose calls reach the store when they are let, in any order."""

    lease = LEASE
    renewal = LIFE / 3

    def __init__(self, near: StoreLimiter) -> None:
        self._near = near
        self.under_way: list[Callable[[], None]] = []

    def admit(
        self, stream_id: str, limits: Sequence[Limit], *, need: int, want: int, done: Callable[[Decision], None]
    ) -> None:
        self.under_way.append(lambda: self._near.admit(stream_id, limits, need=need, want=want, done=done))

    def extend(self, stream_id: str, used: int, want: int, done: Callable[[int], None]) -> None:
        self.under_way.append(lambda: self._near.extend(stream_id, used, want, done))

    def settle(self, stream_id: str, used: int) -> None:
        self.under_way.append(lambda: self._near.settle(stream_id, used))


class Counting:
    """A store with a ledger of its own: what each stream said first that it used in the end, or until then the most it
    said on the way."""

    def __init__(self, clock: FakeClock) -> None:
        self._store = MemoryStore(clock, ttl=LIFE)
        self.admit, self.usage, self.close = self._store.admit, self._store.usage, self._store.close
        self.settled: list[str] = []
        """Whoever asked to."""
        self.told: dict[str, int] = {}
        self.finals: dict[str, int] = {}

    async def extend(self, stream_id: str, used: int, want: int) -> int:
        granted = await self._store.extend(stream_id, used, want)
        self.told[stream_id] = max(self.told.get(stream_id, 0), used)
        if stream_id in self.finals:
            assert granted == 0
        return granted

    async def settle(self, stream_id: str, used: int) -> bool:
        self.settled.append(stream_id)
        settled = await self._store.settle(stream_id, used)
        if settled:
            assert stream_id not in self.finals
            self.finals[stream_id] = used
        return settled

    @property
    def charged(self) -> int:
        return sum((self.told | self.finals).values())


class Stream:
    """As an exchange does: events pass, wait in their order, or end it."""

    def __init__(self, limiter: Any, number: int, need: int) -> None:
        self.id = f"{{t}}:{number}"
        self.lease = TokenLease(limiter, self.id, resume=self._on_resume)
        self.used = 0
        """Tokens that passed, those of the request among them, as far as is known."""
        self.reported: int | None = None
        """The provider's last word on what it used."""
        self.unpassed = 0
        """Tokens of an event that did not pass, counted though it was."""
        self.waits = False
        self.is_over = False
        self.is_dead = False
        """Whether its relay is: nothing comes of it any more."""
        self.decision: Decision | None = None
        self._need = need
        self.lease.ask((SLOTS, QUOTA, BUCKET), need=need, done=self._on_decision)

    def emit(self, size: int) -> None:
        verdict = self.lease.verdict(self.used + size)
        if verdict is Verdict.PASS:
            self.used += size
            self.unpassed = 0
        elif verdict is Verdict.WAIT:
            self.waits, self.unpassed = True, size
        else:
            self.unpassed = size
            self.leave()

    def correct(self, used: int) -> None:
        """A report on the way: it has used less than was estimated."""
        self.used = min(self.used, used)
        assert self.lease.verdict(self.used) is Verdict.PASS

    def leave(self) -> None:
        self.is_over, self.waits = True, False
        self.lease.settle(self.final)

    def die(self) -> None:
        self.is_over, self.is_dead, self.waits = True, True, False

    @property
    def final(self) -> int:
        return self.used if self.reported is None else self.reported

    @property
    def overdraws(self) -> int:
        """Tokens that nobody granted."""
        return max(0, self.final - self.lease.granted) if self.is_over and not self.is_dead else 0

    def _on_decision(self, decision: Decision) -> None:
        if self.is_dead:
            return
        assert not self.is_over
        self.decision = decision
        if decision.admitted:
            self.used = self._need
        else:
            self.leave()

    def _on_resume(self) -> None:
        if self.is_dead:
            return
        assert self.waits
        assert not self.is_over
        self.waits = False
        self.emit(self.unpassed)


class Leases(RuleBasedStateMachine):
    is_distant = False
    expires = False
    """Whether leases expire whose streams live on. Then more may pass than there is."""

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

    @precondition(lambda self: bool(self.running()))
    @rule(pick=st.integers(0, 100), used=st.integers(0, 400))
    def correct(self, pick: int, used: int) -> None:
        running = self.running()
        running[pick % len(running)].correct(used)

    @precondition(lambda self: bool(self.running()))
    @rule(pick=st.integers(0, 100), used=st.integers(0, 400))
    def report_and_leave(self, pick: int, used: int) -> None:
        running = self.running()
        stream = running[pick % len(running)]
        stream.reported = used
        stream.leave()

    @precondition(lambda self: any(not stream.is_over for stream in self.streams))
    @rule(pick=st.integers(0, 100))
    def die(self, pick: int) -> None:
        here = [stream for stream in self.streams if not stream.is_over]
        here[pick % len(here)].die()

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
            if not stream.is_dead:
                stream.lease.sweep(self.clock())
        self.all_arrive()

    @precondition(lambda self: self.expires)
    @rule(lives=st.sampled_from([0.5, 1, 3, 20]))
    def time_jumps(self, lives: float) -> None:
        """Nobody renews, and calls under way stay there. After 11 lives what expired is forgotten."""
        self.clock.advance(LIFE * lives)

    @precondition(lambda self: self.expires and bool(self.running()))
    @rule(pick=st.integers(0, 100), used=st.integers(0, 400))
    def end_late(self, pick: int, used: int) -> None:
        """All that is under way has arrived, and the lease has expired."""
        self.all_arrive()
        self.clock.advance(LIFE)
        if self.running():
            self.report_and_leave(pick, used)

    @precondition(lambda self: not self.expires)
    @invariant()
    def no_more_passes_than_there_is(self) -> None:
        passed = sum(stream.final for stream in self.streams if not stream.is_dead)
        assert passed <= QUOTA.most + self.overdrawn

    @precondition(lambda self: not self.expires)
    @invariant()
    def no_more_is_taken_than_there_is(self) -> None:
        used, reserved, _, _ = self.usage()
        assert used + reserved <= QUOTA.most + self.overdrawn

    @invariant()
    def all_that_is_charged_was_told(self) -> None:
        used, reserved, _, lacks = self.usage()
        assert used == self.store.charged
        assert reserved >= 0
        assert lacks == used + reserved

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
        self.clock.advance(LIFE)  # of whom nobody settles
        used, reserved, streams, lacks = self.usage()
        assert (reserved, streams) == (0, 0)
        admitted = [stream for stream in self.streams if _was_admitted(stream) and not stream.is_dead]
        assert sorted(self.store.settled) == sorted(stream.id for stream in admitted)
        charges = self.store.told | self.store.finals
        assert used == lacks == sum(charges.values())
        for stream in admitted:
            if not self.expires:
                assert charges[stream.id] == stream.final

    def running(self) -> list[Stream]:
        """Those that may emit."""
        return [
            stream
            for stream in self.streams
            if not (stream.is_over or stream.waits) and stream.decision is not None and stream.decision.admitted
        ]

    @property
    def overdrawn(self) -> int:
        return sum(stream.overdraws for stream in self.streams)

    def usage(self) -> tuple[int, int, int, int]:
        """Tokens charged and reserved, streams at once, and tokens that the bucket lacks."""
        call = self.store.usage((QUOTA, SLOTS, BUCKET))
        try:
            call.send(None)
        except StopIteration as end:
            quota, slots, bucket = end.value
            return quota.used, quota.reserved, slots.used, bucket.used
        raise AssertionError("it waits")

    def all_arrive(self) -> None:
        while self.distant.under_way:
            self.distant.under_way.pop(0)()


def _was_admitted(stream: Stream) -> bool:
    """Also when it had left by then."""
    return stream.lease.decision is not None and stream.lease.decision.admitted


class DistantLeases(Leases):
    is_distant = True


class ExpiringLeases(Leases):
    is_distant = True
    expires = True


TestLeases = Leases.TestCase
TestExpiringLeases = ExpiringLeases.TestCase
TestDistantLeases = DistantLeases.TestCase
