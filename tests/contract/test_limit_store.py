"""Every limit store: the same suite, with a clock that the tests move."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import pytest

from flowserver.quota.limits import (
    MAX_MONEY,
    MAX_TOKENS,
    PAST_QUOTA,
    SMALL_LEASE,
    SMALL_MONEY,
    Cause,
    LeaseLost,
    Limit,
    LimitStore,
    MoneyQuota,
    Quota,
    RequestBucket,
    Slots,
    TokenBucket,
    money_stream,
    tenant_key,
)
from flowserver.quota.money import NANO
from flowserver.stores.memory import MemoryStore
from flowserver.stores.redis_store import RedisStore
from tests.support.clock import FakeClock
from tests.support.redis import RedisServer, running_redis
from tests.support.shared import sharing

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


@pytest.fixture(params=["memory", "parent", "redis"])
async def store(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[LimitStore]:
    made: LimitStore = MemoryStore(clock, ttl=TTL, remember=REMEMBER)
    if request.param == "parent":
        async with sharing(MemoryStore(clock, ttl=TTL, remember=REMEMBER)) as shared:
            yield (await shared.worker()).store
        return
    if request.param == "redis":
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


async def test_quotas_of_money_count_nano_dollars_exactly(store: LimitStore, key: Key) -> None:
    """Millions of dollars, to the last nano-dollar."""
    most = 4_000_000 * NANO
    limits = (MoneyQuota(key("usd"), most, ends_at=START + 3600), MoneyQuota(key("usd of all"), most + 1, ttl=60))
    streams = [money_stream(key(name)) for name in "abc"]
    assert (await store.admit(streams[0], limits, need=1, want=12_345_678_901)).granted == 12_345_678_901
    assert await store.extend(streams[0], 12_345_678_900, 10_000_000_001) == 10_000_000_001
    assert await taken(store, limits) == [(12_345_678_900, 10_000_000_002)] * 2
    assert await store.settle(streams[0], 17_000_000_003)
    assert await taken(store, limits) == [(17_000_000_003, 0)] * 2
    refused = await store.admit(streams[1], limits, need=most, want=most)
    assert (refused.admitted, refused.cause, refused.refused_by) == (False, Cause.QUOTA, limits[0])
    assert refused.retry_after == 3600.0
    assert [state.remaining for state in refused.states] == [most - 17_000_000_003, most - 17_000_000_002]
    left = most - 17_000_000_003
    assert (await store.admit(streams[2], limits, need=left, want=left)).granted == left
    assert await taken(store, limits) == [(17_000_000_003, left)] * 2


async def test_leases_of_money_are_small_near_the_end_of_a_quota(store: LimitStore, key: Key) -> None:
    limits = (MoneyQuota(key("usd"), 100 * SMALL_MONEY, ttl=60),)
    streams = [money_stream(key(name)) for name in "ab"]
    assert (await store.admit(streams[0], limits, need=1, want=60 * SMALL_MONEY)).granted == 25 * SMALL_MONEY
    assert (
        await store.admit(streams[1], limits, need=73 * SMALL_MONEY, want=74 * SMALL_MONEY)
    ).granted == 73 * SMALL_MONEY
    assert await store.extend(streams[0], 0, 60 * SMALL_MONEY) == SMALL_MONEY
    assert await store.extend(streams[0], 0, 60 * SMALL_MONEY) == SMALL_MONEY
    assert await store.extend(streams[0], 0, 60 * SMALL_MONEY) == 0


async def test_a_stream_holds_tokens_and_money_apart(store: LimitStore, key: Key) -> None:
    """Under two ids, so that each is used, extended and settled by itself."""
    tokens, money = (Quota(key("tokens"), 1000, ttl=60),), (MoneyQuota(key("usd"), NANO, ttl=60),)
    stream = key("a")
    await store.admit(money_stream(stream), money, need=1, want=5_000_000)
    await store.admit(stream, tokens, need=1, want=100)
    assert await store.settle(stream, 30)
    assert await taken(store, (*tokens, *money)) == [(30, 0), (0, 5_000_000)]
    assert await store.extend(money_stream(stream), 4_000_000, 0) == 0
    assert await store.settle(money_stream(stream), 4_500_000)
    assert await taken(store, (*tokens, *money)) == [(30, 0), (4_500_000, 0)]


async def test_an_expired_lease_of_money_is_taken_up_again(store: LimitStore, key: Key, clock: FakeClock) -> None:
    limits = (MoneyQuota(key("usd"), NANO, ttl=3600),)
    stream = money_stream(key("a"))
    await store.admit(stream, limits, need=1, want=50_000_000)
    await store.extend(stream, 20_000_000, 0)
    clock.advance(TTL + 1)
    assert await taken(store, limits) == [(20_000_000, 0)]
    assert await store.extend(stream, 30_000_000, 40_000_000) == 40_000_000
    assert await taken(store, limits) == [(30_000_000, 40_000_000)]
    assert await store.settle(stream, 60_000_000)
    assert await taken(store, limits) == [(60_000_000, 0)]


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


# A report below what was charged


Figures = list[tuple[int, int]]


async def taken(store: LimitStore, limits: Sequence[Limit]) -> Figures:
    """Used and reserved of each."""
    return [(each.used, each.reserved) for each in await store.usage(limits)]


@pytest.fixture
def limits(key: Key) -> tuple[Limit, ...]:
    """Of which the bucket does not refill within a test."""
    return (
        Quota(key("day"), 10_000, ends_at=START + 3600),
        Quota(key("session"), 5000, ttl=3600),
        TokenBucket(key("tokens"), 10_000, 1, period=1_000_000),
        Slots(key("slots"), 5),
    )


def all_of(used: int, reserved: int = 0, streams: int = 0) -> Figures:
    """What is taken of `limits`."""
    return [(used, reserved), (used, reserved), (used + reserved, 0), (streams, 0)]


@pytest.mark.parametrize("final", [0, 1, 59, 60, 61, 100, 199, 200, 201, 900])
async def test_the_charge_is_the_final_figure(
    store: LimitStore, key: Key, limits: Sequence[Limit], *, final: int
) -> None:
    await store.admit(key("other"), limits, need=1, want=70)
    await store.extend(key("other"), 30, 0)
    await store.admit(key("a"), limits, need=1, want=100)
    await store.extend(key("a"), 60, 100)
    assert await taken(store, limits) == all_of(90, 180, 2)
    assert await store.settle(key("a"), final)
    assert await taken(store, limits) == all_of(30 + final, 40, 1)
    assert await store.settle(key("other"), 0)
    assert await taken(store, limits) == all_of(final)


@pytest.mark.parametrize("again", [0, 10, 40, 500])
async def test_only_the_first_final_figure_counts(
    store: LimitStore, key: Key, limits: Sequence[Limit], *, again: int
) -> None:
    await store.admit(key("a"), limits, need=1, want=100)
    await store.extend(key("a"), 60, 100)
    assert await store.settle(key("a"), 40)
    assert not await store.settle(key("a"), again)
    assert await store.extend(key("a"), again, 100) == 0
    assert await taken(store, limits) == all_of(40)


async def test_a_stream_that_used_more_than_its_lease_may_settle_for_less(
    store: LimitStore, key: Key, limits: Sequence[Limit]
) -> None:
    await store.admit(key("a"), limits, need=1, want=100)
    await store.extend(key("a"), 350, 0)
    assert await taken(store, limits) == all_of(350, 0, 1)
    assert await store.settle(key("a"), 80)
    assert await taken(store, limits) == all_of(80)


async def test_what_comes_back_at_the_end_may_be_used(store: LimitStore, key: Key) -> None:
    limits = (Quota(key("day"), 100, ttl=60),)
    await store.admit(key("a"), limits, need=100, want=100)
    await store.extend(key("a"), 100, 0)
    assert not (await store.admit(key("b"), limits, need=1, want=1)).admitted
    await store.settle(key("a"), 20)
    assert (await store.admit(key("b"), limits, need=80, want=80)).granted == 80
    assert not (await store.admit(key("c"), limits, need=1, want=1)).admitted


@pytest.mark.parametrize("final", [0, 30, 60, 90])
async def test_a_late_end_gives_back_too(
    store: LimitStore, key: Key, clock: FakeClock, limits: Sequence[Limit], *, final: int
) -> None:
    """After the lease expired, with what was charged of it."""
    await store.admit(key("a"), limits, need=1, want=100)
    await store.extend(key("a"), 60, 100)
    clock.advance(TTL)
    assert await taken(store, limits) == all_of(60)
    assert await store.settle(key("a"), final)
    assert not await store.settle(key("a"), 5)
    assert await store.extend(key("a"), 70, 100) == 0
    assert await taken(store, limits) == all_of(final)


@pytest.mark.parametrize("final", [0, 30, 75, 300])
async def test_a_lease_taken_up_again_gives_back_too(
    store: LimitStore, key: Key, clock: FakeClock, limits: Sequence[Limit], *, final: int
) -> None:
    await store.admit(key("a"), limits, need=1, want=100)
    await store.extend(key("a"), 60, 100)
    clock.advance(TTL)
    assert await store.extend(key("a"), 75, 40) == 40
    assert await taken(store, limits) == all_of(75, 40, 1)
    assert await store.extend(key("a"), 10, 0) == 0
    assert await taken(store, limits) == all_of(75, 40, 1)
    assert await store.settle(key("a"), final)
    assert await taken(store, limits) == all_of(final)


async def test_what_a_dead_relay_has_charged_stays_charged(
    store: LimitStore, key: Key, clock: FakeClock, limits: Sequence[Limit]
) -> None:
    await store.admit(key("a"), limits, need=1, want=100)
    await store.extend(key("a"), 60, 100)
    clock.advance(TTL)
    assert await taken(store, limits) == all_of(60)
    clock.advance(REMEMBER)
    assert await taken(store, limits) == all_of(60)
    assert not await store.settle(key("a"), 20)
    assert await taken(store, limits) == all_of(60)


@pytest.mark.parametrize("expires", [False, True])
async def test_a_charge_to_an_ended_period_stays_there(
    store: LimitStore, key: Key, clock: FakeClock, *, expires: bool
) -> None:
    """And the bucket, which has no periods, gets it back."""
    bucket = TokenBucket(key("tokens"), 10_000, 1, period=1_000_000)
    today = (Quota(key("day"), 1000, ends_at=START + 5), bucket)
    tomorrow = (Quota(key("day"), 1000, ends_at=START + 1000), bucket)
    await store.admit(key("a"), today, need=1, want=100)
    await store.extend(key("a"), 90, 0)
    clock.advance(TTL if expires else 5)
    assert await taken(store, tomorrow) == [(0, 0), (90 if expires else 100, 0)]
    await store.admit(key("b"), tomorrow, need=1, want=70)
    await store.extend(key("b"), 20, 0)
    assert await store.settle(key("a"), 10)
    assert await taken(store, tomorrow) == [(20, 50), (80, 0)]
    assert await store.settle(key("b"), 5)
    assert await taken(store, tomorrow) == [(5, 0), (15, 0)]


async def test_a_bucket_that_has_refilled_meanwhile_is_no_more_than_full(
    store: LimitStore, key: Key, clock: FakeClock
) -> None:
    limits = (TokenBucket(key("tokens"), 100, 60),)
    await store.admit(key("a"), limits, need=100, want=100)
    await store.extend(key("a"), 100, 0)
    clock.advance(20)
    await store.settle(key("a"), 90)
    assert await taken(store, limits) == [(70, 0)]
    await store.admit(key("b"), limits, need=30, want=30)
    await store.extend(key("b"), 30, 0)
    clock.advance(TTL - 1)
    await store.settle(key("b"), 0)
    assert await taken(store, limits) == [(41, 0)]
    clock.advance(20)
    await store.admit(key("c"), limits, need=50, want=50)
    clock.advance(TTL)
    await store.extend(key("c"), 50, 0)
    await store.settle(key("c"), 0)
    assert await taken(store, limits) == [(0, 0)]
    assert (await store.admit(key("d"), limits, need=1, want=900)).granted == 100


async def test_limits_that_changed_get_back_what_was_charged(store: LimitStore, key: Key) -> None:
    old = (TokenBucket(key("tokens"), 100, 60, period=1000), Quota(key("day"), 1000, ttl=60))
    new = (TokenBucket(key("tokens"), 500, 1, period=700_000), Quota(key("day"), 50, ttl=60))
    await store.admit(key("a"), old, need=90, want=90)
    await store.extend(key("a"), 80, 0)
    assert not (await store.admit(key("b"), new, need=1, want=1)).admitted
    assert await store.settle(key("a"), 20)
    assert await taken(store, new) == [(20, 0), (20, 0)]
    assert (await store.admit(key("b"), new, need=1, want=100)).granted == 30


@pytest.mark.parametrize("nonsense", [-1, -(1 << 62)])
async def test_nothing_below_zero_is_charged(
    store: LimitStore, key: Key, limits: Sequence[Limit], *, nonsense: int
) -> None:
    await store.admit(key("a"), limits, need=1, want=100)
    assert await store.extend(key("a"), nonsense, nonsense) == 0
    assert await taken(store, limits) == all_of(0, 100, 1)
    await store.extend(key("a"), 40, 0)
    assert await store.settle(key("a"), nonsense)
    assert await taken(store, limits) == all_of(0)


@pytest.mark.parametrize("nonsense", [MAX_TOKENS, MAX_TOKENS + 1, 1 << 62, 1 << 200])
async def test_an_absurd_figure_is_bounded_and_comes_back_to_the_token(
    store: LimitStore, key: Key, *, nonsense: int
) -> None:
    limits = (Quota(key("day"), 1000, ttl=3600), TokenBucket(key("tokens"), 1000, 1))
    await store.admit(key("other"), limits, need=1, want=33)
    await store.settle(key("other"), 33)
    await store.admit(key("a"), limits, need=1, want=100)
    assert await store.extend(key("a"), nonsense, nonsense) == 0
    assert await taken(store, limits) == [(33 + MAX_TOKENS, 0), (33 + MAX_TOKENS, 0)]
    await store.settle(key("a"), 7)
    assert await taken(store, limits) == [(40, 0), (40, 0)]


@pytest.mark.parametrize("nonsense", [MAX_MONEY, MAX_MONEY + 1, 1 << 62])
async def test_an_absurd_cost_is_bounded_and_comes_back_to_the_nano_dollar(
    store: LimitStore, key: Key, *, nonsense: int
) -> None:
    limits = (MoneyQuota(key("usd"), 1000, ttl=3600),)
    stream = money_stream(key("a"))
    await store.admit(stream, limits, need=1, want=100)
    assert await store.extend(stream, nonsense, nonsense) == 0
    assert await taken(store, limits) == [(MAX_MONEY, 0)]
    await store.settle(stream, 7)
    assert await taken(store, limits) == [(7, 0)]


async def test_very_many_streams_end_as_reported(store: LimitStore, key: Key) -> None:
    """Each with a figure of its own, in any order, and settled twice at once."""
    limits = (Quota(key("day"), 1_000_000, ttl=60), Slots(key("slots"), 1000))
    finals = [number * 7 % 90 for number in range(300)]

    async def live(number: int, final: int) -> list[bool]:
        stream = key(f"stream {number}")
        assert (await store.admit(stream, limits, need=1, want=50)).admitted
        await asyncio.gather(store.extend(stream, 60, 10), store.extend(stream, 30, 10))
        return list(await asyncio.gather(store.settle(stream, final), store.settle(stream, final)))

    settled = await asyncio.gather(*(live(number, final) for number, final in enumerate(finals)))
    assert all(sorted(pair) == [False, True] for pair in settled)
    assert await taken(store, limits) == [(sum(finals), 0), (0, 0)]


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
