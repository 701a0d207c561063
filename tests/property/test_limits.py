"""Limits under any order of events: held to a naive model, the two stores to one another, and to no more than is
allowed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowserver.quota.limits import (
    MAX_TOKENS,
    LeaseLost,
    Limit,
    LimitStore,
    Quota,
    RequestBucket,
    Slots,
    TokenBucket,
    tenant_key,
)
from flowserver.stores.memory import MemoryStore
from flowserver.stores.redis_store import RedisStore
from tests.support.clock import FakeClock
from tests.support.redis import RedisServer, running_redis
from tests.support.shared import sharing

START = 1_700_000_000.0
TTL, REMEMBER = 3000, 7000
"""Milliseconds."""

BUCKET = TokenBucket("{t}:bucket", 900, 700, period=3)
SLOTS = Slots("{t}:slots", 3)
QUOTA = Quota("{t}:quota", 1500, ttl=10.0)
LIMITS = (BUCKET, SLOTS, QUOTA)
STREAMS = ["{t}:" + name for name in "abcdef"]

TOKENS = st.integers(0, 700)
REPORTS = st.integers(-5, 700)
"""What a stream is said to have used. Below 0 is nonsense."""
NONSENSE = st.sampled_from([-(1 << 62), MAX_TOKENS, MAX_TOKENS + 1, 1 << 62])
STEPS = st.sampled_from([1, 7, 333, 1000, TTL - 1, TTL, REMEMBER]) | st.integers(1, 5000)


# A naive model: everything happens at its own time, and all sums are made anew.


@dataclass
class Stream:
    charged: int
    holds: int
    """Tokens taken from the bucket, the charged ones among them; what is not charged of them is reserved."""
    until: int
    period: int
    state: str = "live"


class Model:
    def __init__(self) -> None:
        self.now = 0
        self.level = Fraction(BUCKET.capacity)
        self.streams: dict[str, Stream] = {}
        """The ones that are known still, by name."""
        self.all: list[Stream] = []
        self.ends: list[int] = []
        """Of the periods so far."""

    def advance(self, duration: int) -> None:
        target = self.now + duration
        while due := [each for each in self.streams.items() if each[1].until <= target]:
            name, stream = min(due, key=lambda each: each[1].until)
            self._pass(stream.until)
            if stream.state == "live":
                self._hold(stream, stream.charged)
                # It is remembered from when the store notices: with its next call, right after the jump.
                stream.state, stream.until = "expired", target + REMEMBER
            else:
                del self.streams[name]
        self._pass(target)

    def admit(self, name: str, need: int, want: int) -> int | None:
        stream = self.streams.get(name)
        if stream is not None and stream.state == "live":
            return min(stream.holds - stream.charged, max(1, need, want))
        need = max(1, need)
        left = self.left
        if int(self.level) < need or len(self.live) >= SLOTS.most or left < need:
            return None
        granted = max(need, min(want, int(self.level), self._lease(want, left)))
        if not self._runs():
            self.ends.append(self.now + 10_000)
        stream = self.streams[name] = Stream(0, 0, self.now + TTL, self.period)
        self.all.append(stream)
        self._hold(stream, granted)
        return granted

    def extend(self, name: str, used: int, want: int) -> int | None:
        stream = self.streams.get(name)
        if stream is None:
            return None
        if stream.state == "settled":
            return 0
        stream.state, stream.until = "live", self.now + TTL
        self._charge(stream, max(stream.charged, used))
        self._hold(stream, max(stream.holds, stream.charged))
        granted = self._lease(want, self.left) if self._counts(stream) else want
        self._hold(stream, stream.holds + granted)
        return granted

    def settle(self, name: str, used: int) -> bool:
        stream = self.streams.get(name)
        if stream is None or stream.state == "settled":
            return False
        if stream.state == "live":
            stream.until = self.now + REMEMBER
        stream.state = "settled"
        self._charge(stream, used)
        self._hold(stream, stream.charged)
        return True

    def usage(self) -> list[tuple[int, int]]:
        lacks = BUCKET.capacity - self.level
        return [(-int(-lacks // 1), 0), (len(self.live), 0), (self.used, self.reserved)]

    @property
    def live(self) -> list[Stream]:
        return [stream for stream in self.streams.values() if stream.state == "live"]

    @property
    def period(self) -> int:
        return len(self.ends) - 1

    @property
    def used(self) -> int:
        return sum(stream.charged for stream in self.all if self._counts(stream))

    @property
    def reserved(self) -> int:
        return sum(stream.holds - stream.charged for stream in self.live if self._counts(stream))

    @property
    def left(self) -> int:
        return QUOTA.most - self.reserved - self.used

    def _runs(self) -> bool:
        return bool(self.ends) and self.now < self.ends[-1]

    def _counts(self, stream: Stream) -> bool:
        """Whether it is of the quota's present period."""
        return self._runs() and stream.period == self.period

    def _pass(self, now: int) -> None:
        self.level += Fraction(BUCKET.refill * (now - self.now), BUCKET.parts)
        self.level = min(self.level, Fraction(BUCKET.capacity))
        self.now = now

    def _hold(self, stream: Stream, tokens: int) -> None:
        """Of the bucket, from now on."""
        self.level = min(self.level + stream.holds - tokens, Fraction(BUCKET.capacity))
        stream.holds = tokens

    @staticmethod
    def _charge(stream: Stream, used: int) -> None:
        stream.charged = max(0, used)

    @staticmethod
    def _lease(want: int, left: int) -> int:
        return max(0, min(want, left, max(64, left // 4)))


class StoreAndModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock(START)
        self.store = MemoryStore(self.clock, ttl=TTL / 1000, remember=REMEMBER / 1000)
        self.model = Model()
        self.known: dict[str, int] = {}
        self.elapsed = 0

    @rule(name=st.sampled_from(STREAMS), need=st.integers(0, 200), want=TOKENS)
    def admit(self, name: str, need: int, want: int) -> None:
        decision = done(self.store.admit(name, LIMITS, need=need, want=want))
        assert (decision.granted if decision.admitted else None) == self.model.admit(name, need, want)
        if not decision.admitted:
            assert decision.refused_by in LIMITS

    @rule(name=st.sampled_from(STREAMS), used=REPORTS, want=TOKENS)
    def extend(self, name: str, used: int, want: int) -> None:
        assert outcome(self.store.extend(name, used, want)) == self.model.extend(name, used, want)

    @rule(name=st.sampled_from(STREAMS), used=REPORTS)
    def settle(self, name: str, used: int) -> None:
        """Also again, with another figure."""
        assert done(self.store.settle(name, used)) is self.model.settle(name, used)

    @rule(duration=STEPS)
    def advance(self, duration: int) -> None:
        self.elapsed += duration
        self.clock.now = START + self.elapsed / 1000
        self.model.advance(duration)

    @precondition(lambda self: bool(self.model.streams))
    @rule()
    def everything_ends(self) -> None:
        for name in STREAMS:
            done(self.store.settle(name, 0))
            self.model.settle(name, 0)
        used = done(self.store.usage(LIMITS))
        assert (used[1].used, used[2].reserved) == (0, 0)

    @invariant()
    def is_what_the_model_says(self) -> None:
        usage = done(self.store.usage(LIMITS))
        assert [(each.used, each.reserved) for each in usage] == self.model.usage()

    def teardown(self) -> None:
        for _ in range(10):
            self.advance(TTL + REMEMBER)
            done(self.store.usage(LIMITS))
        assert len(self.store) == 0


TestStoreAndModel = StoreAndModel.TestCase


def done(call: Any) -> Any:
    """The result of a coroutine that never waits."""
    try:
        call.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


def outcome(call: Any) -> Any:
    try:
        return done(call)
    except LeaseLost:
        return None


# No more than is allowed


@given(st.lists(st.integers(0, 4000), max_size=60), st.integers(1, 8), st.integers(1, 9), st.integers(1, 3))
def test_a_bucket_lets_through_what_an_exact_one_would(
    pauses: list[int], capacity: int, refill: int, period: int
) -> None:
    clock = FakeClock(START)
    store = MemoryStore(clock)
    limits = (RequestBucket("{t}:requests", capacity, refill, period),)
    level, elapsed = Fraction(capacity), 0
    for number, pause in enumerate(pauses):
        elapsed += pause
        clock.now = START + elapsed / 1000
        level = min(Fraction(capacity), level + Fraction(pause * refill, period * 1000))
        decision = done(store.admit(f"{{t}}:{number}", limits, need=1, want=1))
        assert decision.admitted == (level >= 1)
        if decision.admitted:
            level -= 1
        else:
            assert decision.retry_after == -(-(1 - level) * period * 1000 // refill) / 1000
        assert decision.states[0].remaining == int(level)


@given(st.lists(st.tuples(st.sampled_from(STREAMS), TOKENS, st.booleans()), max_size=80))
def test_a_quota_is_never_exceeded_by_streams_that_keep_to_their_leases(
    calls: list[tuple[str, int, bool]],
) -> None:
    store = MemoryStore(FakeClock(START))
    may: dict[str, int] = {}
    used = dict.fromkeys(STREAMS, 0)
    for name, amount, ends in calls:
        if name not in may:
            decision = done(store.admit(name, (QUOTA,), need=1, want=amount))
            if decision.admitted:
                may[name], used[name] = decision.granted, 0
        elif ends:
            done(store.settle(name, min(may.pop(name), used[name] + amount)))
        else:
            used[name] = min(may[name], used[name] + amount)
            may[name] += done(store.extend(name, used[name], amount))
        usage = done(store.usage((QUOTA,)))[0]
        assert usage.used >= 0
        assert usage.reserved == sum(may.values()) - sum(used[name] for name in may)
        assert usage.used + usage.reserved <= QUOTA.most
    for name in may:
        done(store.settle(name, used[name]))
    assert done(store.usage((QUOTA,)))[0].reserved == 0


# Redis does what memory does


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as started:
        yield started


NAMES = st.sampled_from("abcd")
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), NAMES, st.integers(0, 200), TOKENS),
        st.tuples(st.just("extend"), NAMES, REPORTS, TOKENS),
        st.tuples(st.just("settle"), NAMES, REPORTS, st.just(0)),
        st.tuples(st.sampled_from(["extend", "settle"]), NAMES, NONSENSE, NONSENSE),
        st.tuples(st.just("advance"), NAMES, STEPS, st.just(0)),
    ),
    min_size=1,
    max_size=40,
)
_tenants = itertools.count()


@settings(max_examples=60)
@given(CALLS)
def test_both_stores_answer_alike(server: RedisServer, calls: list[tuple[str, str, int, int]]) -> None:
    asyncio.run(_compare(server.url, calls))


async def _compare(url: str, calls: list[tuple[str, str, int, int]]) -> None:
    clock = FakeClock(START)
    lives = {"ttl": TTL / 1000, "remember": REMEMBER / 1000}
    memory = MemoryStore(clock, **lives)
    shared = RedisStore(url, deadline=10_000, clock=clock, **lives)
    tenant = f"compared {next(_tenants)}"
    limits = _limits_of(tenant)
    try:
        for call in calls:
            if call[0] == "advance":
                clock.now = round(clock.now * 1000 + call[2]) / 1000
            stream_id = tenant_key(tenant, call[1])
            assert await _answer(memory, call, stream_id, limits) == await _answer(shared, call, stream_id, limits)
    finally:
        await shared.close()


def _limits_of(tenant: str) -> tuple[Limit, ...]:
    return (
        RequestBucket(tenant_key(tenant, "requests"), 4, 90),
        TokenBucket(tenant_key(tenant, "bucket"), 900, 700, period=3),
        Slots(tenant_key(tenant, "slots"), 3),
        Quota(tenant_key(tenant, "session"), 1500, ttl=10.0),
        Quota(tenant_key(tenant, "day"), 2500, ends_at=START + 12),
    )


async def _answer(
    store: LimitStore, call: tuple[str, str, int, int], stream_id: str, limits: tuple[Limit, ...]
) -> tuple[object, object]:
    result: object = None
    try:
        if call[0] == "admit":
            result = await store.admit(stream_id, limits, need=call[2], want=call[3])
        elif call[0] == "extend":
            result = await store.extend(stream_id, call[2], call[3])
        elif call[0] == "settle":
            result = await store.settle(stream_id, call[2])
    except LeaseLost:
        result = "lost"
    return result, await store.usage(limits)


@settings(max_examples=60, deadline=None)
@given(CALLS, st.lists(st.integers(0, 2), min_size=40, max_size=40))
def test_workers_answer_like_one_process(calls: list[tuple[str, str, int, int]], workers: list[int]) -> None:
    asyncio.run(_compare_workers(calls, workers))


async def _compare_workers(calls: list[tuple[str, str, int, int]], turns: list[int]) -> None:
    """Each call is made by one of three workers; of the same stream also by several."""
    clock = FakeClock(START)
    lives = {"ttl": TTL / 1000, "remember": REMEMBER / 1000}
    alone = MemoryStore(clock, **lives)
    limits = _limits_of("compared")
    async with sharing(MemoryStore(clock, **lives)) as shared:
        workers = [await shared.worker() for _ in range(3)]
        for call, turn in zip(calls, turns, strict=False):
            if call[0] == "advance":
                clock.now = round(clock.now * 1000 + call[2]) / 1000
            stream_id = tenant_key("compared", call[1])
            expected = await _answer(alone, call, stream_id, limits)
            assert await _answer(workers[turn].store, call, stream_id, limits) == expected
            assert shared.store.leased(stream_id) == alone.leased(stream_id)


RUSH, ALLOWED = 2000, 100


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1 << 32), st.booleans())
def test_of_a_rush_exactly_the_allowed_pass_in_any_interleaving(server: RedisServer, seed: int, shared: bool) -> None:
    """Over two clients of one Redis, or one memory; some streams end, with what they used, while others still ask."""
    assert asyncio.run(_rush(server.url if shared else None, Random(seed))) == ALLOWED


async def _rush(url: str | None, random: Random) -> int:
    """How many of `RUSH` requests pass that come at one moment of the clock, in an order that `random` makes."""
    clock = FakeClock(START)
    tenant = f"rush {next(_tenants)}"
    limits = (RequestBucket(tenant_key(tenant, "requests"), ALLOWED, ALLOWED), Slots(tenant_key(tenant, "slots"), RUSH))
    memory = MemoryStore(clock)
    stores: list[LimitStore] = [memory, memory]
    if url is not None:
        stores = [RedisStore(url, deadline=60_000, clock=clock) for _ in range(2)]

    async def ask(number: int, turns: int, ends: bool) -> bool:
        store, stream_id = stores[number % 2], tenant_key(tenant, str(number))
        for _ in range(turns):
            await asyncio.sleep(0)
        admitted = (await store.admit(stream_id, limits, need=1, want=1)).admitted
        if admitted and ends:
            await stores[1 - number % 2].settle(stream_id, 7)
        return admitted

    try:
        asked = [ask(number, random.randrange(20), random.random() < 0.5) for number in range(RUSH)]
        random.shuffle(asked)
        return sum(await asyncio.gather(*asked))
    finally:
        for store in stores:
            await store.close()
