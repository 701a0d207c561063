"""Every limit store: the same suite, with a clock that the tests move."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from flowserver.limits.memory import MemoryStore
from flowserver.limits.redis import RedisStore
from flowserver.limits.store import (
    PAST_QUOTA,
    SMALL_LEASE,
    Cause,
    LeaseLost,
    LimitStore,
    Quota,
    RequestBucket,
    Slots,
    TokenBucket,
    tenant_key,
)
from tests.support.clock import FakeClock
from tests.support.redis import RedisServer, running_redis

TTL = 30.0
REMEMBER = 100.0
START = 1_700_000_000.0

_tenants = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as started:
        yield started


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START)


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[LimitStore]:
    made: LimitStore
    if request.param == "memory":
        made = MemoryStore(clock, ttl=TTL, remember=REMEMBER)
    else:
        url = request.getfixturevalue("server").url
        made = RedisStore(url, deadline=10_000, ttl=TTL, remember=REMEMBER, clock=clock)
    yield made
    await made.close()


Key = Callable[[str], str]


@pytest.fixture
def key() -> Key:
    """Keys of a tenant that no other test has."""
    tenant = f"tenant {next(_tenants)}"
    return lambda name: tenant_key(tenant, name)


# Admission


async def test_all_limits_are_taken_from_at_once(store: LimitStore, key: Key) -> None:
    limits = (
        RequestBucket(key("requests"), 10, 10),
        TokenBucket(key("tokens"), 6000, 6000),
        Slots(key("slots"), 3),
        Quota(key("day"), 100_000, ends_at=START + 3600),
    )
    decision = await store.admit(key("a"), limits, need=10, want=500)
    assert decision.admitted
    assert decision.granted == 500
    assert (decision.cause, decision.refused_by, decision.retry_after) == (None, None, None)
    assert [state.limit for state in decision.states] == list(limits)
    assert [state.remaining for state in decision.states] == [9, 5500, 2, 99_500]
    assert [state.reset for state in decision.states] == [6.0, 5.0, None, 3600.0]


async def test_no_limits_limit_nothing(store: LimitStore, key: Key) -> None:
    decision = await store.admit(key("a"), (), need=1, want=500)
    assert decision == (True, 500, (), None, None, None)
    assert await store.extend(key("a"), 100, 70) == 70
    assert await store.settle(key("a"), 100)


async def test_a_refusal_takes_nothing(store: LimitStore, key: Key) -> None:
    requests, tokens = RequestBucket(key("requests"), 10, 10), TokenBucket(key("tokens"), 6000, 6000)
    slots, quota = Slots(key("slots"), 0), Quota(key("session"), 1000, ttl=60)
    before = await store.usage((requests, tokens, slots, quota))
    decision = await store.admit(key("a"), (requests, tokens, quota, slots), need=1, want=500)
    assert not decision.admitted
    assert decision.granted == 0
    assert decision.refused_by == slots
    assert await store.usage((requests, tokens, slots, quota)) == before
    assert not await store.settle(key("a"), 0)


async def test_requests_come_back_one_by_one(store: LimitStore, key: Key, clock: FakeClock) -> None:
    limits = (RequestBucket(key("requests"), 2, 60),)
    assert (await store.admit(key("a"), limits, need=1, want=1)).admitted
    clock.advance(0.4)
    assert (await store.admit(key("b"), limits, need=1, want=1)).admitted
    refused = await store.admit(key("c"), limits, need=1, want=1)
    assert (refused.cause, refused.refused_by, refused.retry_after) == (Cause.RATE, limits[0], 0.6)
    clock.advance(0.599)
    assert not (await store.admit(key("c"), limits, need=1, want=1)).admitted
    clock.advance(0.001)
    assert (await store.admit(key("c"), limits, need=1, want=1)).admitted


async def test_a_bucket_of_tokens_wants_what_is_needed_and_gives_what_it_has(store: LimitStore, key: Key) -> None:
    limits = (TokenBucket(key("tokens"), 100, 60),)
    assert (await store.admit(key("a"), limits, need=10, want=70)).granted == 70
    refused = await store.admit(key("b"), limits, need=31, want=40)
    assert (refused.admitted, refused.cause, refused.retry_after) == (False, Cause.RATE, 1.0)
    assert (await store.admit(key("b"), limits, need=30, want=40)).granted == 30


async def test_more_than_a_bucket_holds_is_never_there(store: LimitStore, key: Key) -> None:
    refused = await store.admit(key("a"), (TokenBucket(key("tokens"), 100, 60),), need=101, want=101)
    assert (refused.cause, refused.retry_after) == (Cause.RATE, None)


async def test_slots(store: LimitStore, key: Key) -> None:
    limits = (Slots(key("slots"), 2),)
    for name in "ab":
        assert (await store.admit(key(name), limits, need=1, want=1)).admitted
    refused = await store.admit(key("c"), limits, need=1, want=1)
    assert (refused.cause, refused.refused_by, refused.retry_after) == (Cause.CONCURRENCY, limits[0], None)
    assert refused.states == ((limits[0], 0, None),)
    await store.settle(key("a"), 0)
    assert (await store.admit(key("c"), limits, need=1, want=1)).admitted
    assert (await store.usage(limits))[0].used == 2


async def test_an_exhausted_quota_tells_its_end(store: LimitStore, key: Key) -> None:
    limits = (Quota(key("day"), 100, ends_at=START + 50),)
    await store.admit(key("a"), limits, need=100, want=100)
    refused = await store.admit(key("b"), limits, need=1, want=1)
    assert (refused.cause, refused.retry_after) == (Cause.QUOTA, None)  # the lease may come back before
    await store.settle(key("a"), 100)
    refused = await store.admit(key("b"), limits, need=1, want=1)
    assert (refused.cause, refused.refused_by, refused.retry_after) == (Cause.QUOTA, limits[0], 50.0)


async def test_an_admission_may_be_repeated(store: LimitStore, key: Key) -> None:
    limits = (RequestBucket(key("requests"), 5, 5), Slots(key("slots"), 1), Quota(key("day"), 1000, ttl=60))
    first = await store.admit(key("a"), limits, need=1, want=100)
    assert await store.admit(key("a"), limits, need=1, want=100) == first
    assert [each.used + each.reserved for each in await store.usage(limits)] == [1, 1, 100]


async def test_leases_are_small_near_the_end_of_a_quota(store: LimitStore, key: Key) -> None:
    limits = (Quota(key("day"), 1000, ttl=60),)
    assert (await store.admit(key("a"), limits, need=1, want=600)).granted == 250
    assert (await store.admit(key("b"), limits, need=300, want=600)).granted == 300  # what is needed
    assert (await store.admit(key("c"), limits, need=1, want=600)).granted == 112
    assert await store.extend(key("c"), 112, 500) == 84
    assert await store.extend(key("c"), 112, 20) == 20
    while granted := await store.extend(key("c"), 112, 500):
        assert granted <= SMALL_LEASE
    assert await store.usage(limits) == ((limits[0], 112, 888, 60.0),)


async def test_tenants_are_not_mixed(store: LimitStore, key: Key) -> None:
    with pytest.raises(ValueError):
        await store.admit(key("a"), (Slots(tenant_key("another", "slots"), 2),), need=1, want=1)
    with pytest.raises(ValueError):
        await store.admit("a", (), need=1, want=1)
    with pytest.raises(ValueError):
        await store.usage((Slots(key("slots"), 2), Slots(tenant_key("another", "slots"), 2)))
    assert await store.usage(()) == ()


async def test_of_very_many_at_once_exactly_the_allowed_pass(store: LimitStore, key: Key) -> None:
    limits = (RequestBucket(key("requests"), 100, 100), Slots(key("slots"), 1000))
    decisions = await asyncio.gather(
        *(store.admit(key(f"stream {number}"), limits, need=1, want=1) for number in range(2000))
    )
    assert sum(decision.admitted for decision in decisions) == 100
    assert (await store.usage(limits))[1].used == 100


# While it runs


async def test_what_is_used_is_charged_and_the_rest_stays_reserved(store: LimitStore, key: Key) -> None:
    limits = (Quota(key("day"), 10_000, ttl=60), TokenBucket(key("tokens"), 10_000, 1))
    await store.admit(key("a"), limits, need=1, want=100)
    assert await store.extend(key("a"), 60, 100) == 100
    assert [each[1:3] for each in await store.usage(limits)] == [(60, 140), (200, 0)]
    assert await store.extend(key("a"), 50, 0) == 0  # less than before
    assert [each[1:3] for each in await store.usage(limits)] == [(60, 140), (200, 0)]
    assert await store.extend(key("a"), 230, 0) == 0  # more than it had
    assert [each[1:3] for each in await store.usage(limits)] == [(230, 0), (230, 0)]


async def test_an_exhausted_quota_grants_nothing(store: LimitStore, key: Key) -> None:
    limits = (Quota(key("day"), 100, ttl=60),)
    await store.admit(key("a"), limits, need=60, want=60)
    assert await store.extend(key("a"), 60, 60) == 40
    assert await store.extend(key("a"), 100, 60) == 0
    assert await store.extend(key("a"), 120, 60) == 0
    assert await store.usage(limits) == ((limits[0], 120, 0, 60.0),)
    refused = await store.admit(key("b"), limits, need=1, want=1)
    assert refused.states[0].remaining == 0


async def test_a_bucket_does_not_cut_a_stream_but_holds_back_the_next(
    store: LimitStore, key: Key, clock: FakeClock
) -> None:
    limits = (TokenBucket(key("tokens"), 100, 60),)
    await store.admit(key("a"), limits, need=1, want=100)
    assert await store.extend(key("a"), 100, 50) == 50
    await store.settle(key("a"), 150)
    refused = await store.admit(key("b"), limits, need=1, want=100)
    assert (refused.states[0].remaining, refused.retry_after) == (0, 51.0)
    clock.advance(51)
    assert (await store.admit(key("b"), limits, need=1, want=100)).granted == 1


# Its end


async def test_settling_gives_back_and_charges_once(store: LimitStore, key: Key) -> None:
    limits = (Quota(key("day"), 1000, ttl=60), TokenBucket(key("tokens"), 1000, 1), Slots(key("slots"), 2))
    await store.admit(key("a"), limits, need=1, want=100)
    assert await store.settle(key("a"), 30)
    assert not await store.settle(key("a"), 70)
    assert [each[1:3] for each in await store.usage(limits)] == [(30, 0), (30, 0), (0, 0)]
    assert await store.extend(key("a"), 90, 10) == 0
    assert [each[1:3] for each in await store.usage(limits)] == [(30, 0), (30, 0), (0, 0)]


async def test_more_than_was_leased_is_charged(store: LimitStore, key: Key) -> None:
    limits = (Quota(key("day"), 1000, ttl=60), TokenBucket(key("tokens"), 1000, 1))
    await store.admit(key("a"), limits, need=1, want=100)
    assert await store.settle(key("a"), 180)
    assert [each[1:3] for each in await store.usage(limits)] == [(180, 0), (180, 0)]


async def test_an_unknown_stream(store: LimitStore, key: Key) -> None:
    assert not await store.settle(key("a"), 10)
    with pytest.raises(LeaseLost):
        await store.extend(key("a"), 10, 10)


async def test_a_relay_that_dies_holds_nothing(store: LimitStore, key: Key, clock: FakeClock) -> None:
    limits = (Quota(key("day"), 1000, ttl=3600), TokenBucket(key("tokens"), 1000, 1), Slots(key("slots"), 2))
    await store.admit(key("a"), limits, need=1, want=100)
    clock.advance(TTL - 0.001)
    await store.extend(key("a"), 40, 100)
    clock.advance(TTL - 0.001)
    assert [each[1:3] for each in await store.usage(limits)] == [(40, 160), (200, 0), (1, 0)]
    clock.advance(0.001)
    assert [each[1:3] for each in await store.usage(limits)] == [(40, 0), (40, 0), (0, 0)]


async def test_a_late_end_is_charged_once(store: LimitStore, key: Key, clock: FakeClock) -> None:
    limits = (Quota(key("day"), 1000, ttl=3600), TokenBucket(key("tokens"), 1000, 1), Slots(key("slots"), 2))
    await store.admit(key("a"), limits, need=1, want=100)
    await store.extend(key("a"), 40, 100)
    clock.advance(TTL + 1)
    assert await store.settle(key("a"), 90)
    assert not await store.settle(key("a"), 90)
    assert [each[1:3] for each in await store.usage(limits)] == [(90, 0), (90, 0), (0, 0)]


async def test_a_late_extension_takes_the_lease_up_again(store: LimitStore, key: Key, clock: FakeClock) -> None:
    limits = (Quota(key("day"), 1000, ttl=3600), Slots(key("slots"), 1))
    await store.admit(key("a"), limits, need=1, want=100)
    clock.advance(TTL + 1)
    assert (await store.admit(key("b"), limits, need=1, want=10)).admitted
    assert await store.extend(key("a"), 70, 20) == 20
    assert [each[1:3] for each in await store.usage(limits)] == [(70, 30), (2, 0)]
    assert await store.settle(key("a"), 80)
    assert await store.settle(key("b"), 0)
    assert [each[1:3] for each in await store.usage(limits)] == [(80, 0), (0, 0)]


@pytest.mark.parametrize("settled", [True, False])
async def test_what_is_over_is_forgotten_in_time(
    store: LimitStore, key: Key, clock: FakeClock, *, settled: bool
) -> None:
    limits = (Quota(key("day"), 1000, ttl=3600),)
    await store.admit(key("a"), limits, need=1, want=100)
    clock.advance(TTL - 1)
    if settled:
        await store.settle(key("a"), 10)
    else:
        clock.advance(1)
        await store.usage(limits)
    clock.advance(REMEMBER - 0.001)
    assert await store.settle(key("a"), 10) is not settled
    clock.advance(0.001)
    assert not await store.settle(key("a"), 50)
    with pytest.raises(LeaseLost):
        await store.extend(key("a"), 60, 10)
    assert await store.usage(limits) == ((limits[0], 10, 0, 3600 - TTL + (settled) - REMEMBER),)


async def test_a_stream_id_may_come_again(store: LimitStore, key: Key) -> None:
    limits = (Quota(key("day"), 1000, ttl=60),)
    for _ in range(2):
        assert (await store.admit(key("a"), limits, need=1, want=100)).granted == 100
        assert await store.settle(key("a"), 30)
    assert await store.usage(limits) == ((limits[0], 60, 0, 60.0),)


# Time


async def test_a_session_lasts_from_its_first_use(store: LimitStore, key: Key, clock: FakeClock) -> None:
    limits = (Quota(key("session"), 100, ttl=60),)
    assert not (await store.admit(key("a"), limits, need=101, want=101)).admitted
    clock.advance(10)
    await store.admit(key("a"), limits, need=100, want=100)
    await store.settle(key("a"), 100)
    clock.advance(59.999)
    refused = await store.admit(key("b"), limits, need=1, want=1)
    assert refused.retry_after == 0.001
    clock.advance(0.001)
    assert (await store.admit(key("b"), limits, need=1, want=1)).admitted
    assert await store.usage(limits) == ((limits[0], 0, 1, 60.0),)


async def test_the_next_period_owes_nothing_to_the_last(store: LimitStore, key: Key, clock: FakeClock) -> None:
    today = (Quota(key("day"), 100, ends_at=START + 5),)
    tomorrow = (Quota(key("day"), 100, ends_at=START + 1000),)
    await store.admit(key("a"), today, need=60, want=60)
    clock.advance(5)
    await store.admit(key("b"), tomorrow, need=70, want=70)
    assert await store.extend(key("a"), 60, 500) == 500
    assert await store.usage(tomorrow) == ((tomorrow[0], 0, 70, 995.0),)
    assert await store.settle(key("a"), 300)
    assert await store.settle(key("b"), 20)
    assert await store.usage(tomorrow) == ((tomorrow[0], 20, 0, 995.0),)


async def test_a_quota_whose_end_has_passed_still_counts(store: LimitStore, key: Key) -> None:
    limits = (Quota(key("day"), 100, ends_at=START - 1),)
    assert (await store.admit(key("a"), limits, need=60, want=60)).states[0].reset == PAST_QUOTA
    assert not (await store.admit(key("b"), limits, need=60, want=60)).admitted


async def test_tokens_that_come_back_do_not_overflow(store: LimitStore, key: Key, clock: FakeClock) -> None:
    limits = (TokenBucket(key("tokens"), 100, 60),)
    await store.admit(key("a"), limits, need=100, want=100)
    clock.advance(20)
    await store.settle(key("a"), 30)
    assert await store.usage(limits) == ((limits[0], 10, 0, 10.0),)
    clock.advance(25)
    assert (await store.admit(key("b"), limits, need=1, want=200)).granted == 100


async def test_a_limit_that_changes_keeps_what_is_taken(store: LimitStore, key: Key) -> None:
    old = (TokenBucket(key("tokens"), 100, 60), Quota(key("day"), 1000, ttl=60), Slots(key("slots"), 9))
    new = (TokenBucket(key("tokens"), 500, 1, period=7), Quota(key("day"), 100, ttl=9), Slots(key("slots"), 1))
    await store.admit(key("a"), old, need=90, want=90)
    decision = await store.admit(key("b"), new, need=1, want=1)
    assert decision.refused_by == new[2]
    assert [state.remaining for state in decision.states] == [410, 10, 0]


async def test_a_clock_that_goes_back_gives_nothing(store: LimitStore, key: Key, clock: FakeClock) -> None:
    limits = (RequestBucket(key("requests"), 1, 60),)
    await store.admit(key("a"), limits, need=1, want=1)
    clock.advance(-5)
    assert (await store.admit(key("b"), limits, need=1, want=1)).retry_after == 1.0
