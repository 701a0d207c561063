"""Without its store a relay goes on alone, or refuses, and comes back by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import pytest

from flowserver.quota.limits import (
    Cause,
    Decision,
    Limit,
    MoneyQuota,
    Quota,
    Slots,
    StoreUnavailable,
    Usage,
    money_stream,
)
from flowserver.quota.money import NANO
from flowserver.routing.circuit_breaker import CircuitBreaker
from flowserver.stores.failover import AT_ONCE, FailoverStore, Policy
from flowserver.stores.memory import MemoryStore
from tests.support.clock import FakeClock

_T = TypeVar("_T")

LIMITS = (Slots("{t}:slots", 2), Quota("{t}:quota", 1000, ttl=3600))
COOLDOWN = 5.0


class Fragile:
    """A store that answers while it is `well`."""

    def __init__(self, clock: FakeClock) -> None:
        self.store = MemoryStore(clock)
        self.is_up = True
        self.calls = 0
        self.gate: asyncio.Event | None = None
        self.closed = False

    async def admit(self, stream_id: str, limits: Sequence[Limit], *, need: int, want: int) -> Decision:
        return await self._answer(lambda: self.store.admit(stream_id, limits, need=need, want=want))

    async def extend(self, stream_id: str, used: int, want: int) -> int:
        return await self._answer(lambda: self.store.extend(stream_id, used, want))

    async def settle(self, stream_id: str, used: int) -> bool:
        return await self._answer(lambda: self.store.settle(stream_id, used))

    async def usage(self, limits: Sequence[Limit]) -> tuple[Usage, ...]:
        return await self._answer(lambda: self.store.usage(limits))

    async def close(self) -> None:
        self.closed = True

    async def _answer(self, call: Callable[[], Awaitable[_T]]) -> _T:
        self.calls += 1
        if self.gate is not None:
            await self.gate.wait()
        if not self.is_up:
            raise StoreUnavailable("out of order")
        return await call()


class Rig:
    def __init__(self, policy: Policy) -> None:
        self.clock = FakeClock()
        self.remote = Fragile(self.clock)
        breaker = CircuitBreaker(failures=2, cooldown=COOLDOWN)
        fallback = MemoryStore(self.clock)
        self.store = FailoverStore(self.remote, fallback, policy=policy, breaker=breaker, clock=self.clock)
        self.stats = self.store.stats

    async def admit(self, name: str) -> Decision:
        return await self.store.admit(f"{{t}}:{name}", LIMITS, need=1, want=100)


@pytest.fixture
def open_rig() -> Rig:
    return Rig(Policy.OPEN)


@pytest.fixture
def closed_rig() -> Rig:
    return Rig(Policy.CLOSED)


async def test_a_store_that_is_well_decides(closed_rig: Rig) -> None:
    assert (await closed_rig.admit("a")).granted == 100
    assert await closed_rig.store.extend("{t}:a", 50, 20) == 20
    assert await closed_rig.store.settle("{t}:a", 60)
    assert (await closed_rig.store.usage(LIMITS))[1].used == 60
    assert closed_rig.remote.calls == 4


async def test_open_goes_on_by_limits_of_its_own(open_rig: Rig) -> None:
    open_rig.remote.is_up = False
    assert [(await open_rig.admit(name)).admitted for name in "abc"] == [True, True, False]
    assert await open_rig.store.extend("{t}:a", 50, 20) == 20
    assert (await open_rig.store.usage(LIMITS))[1][1:3] == (50, 170)
    assert await open_rig.store.settle("{t}:a", 60)
    assert (await open_rig.admit("c")).admitted
    assert (open_rig.stats.requests, open_rig.stats.failures) == (3, 2)
    assert open_rig.remote.calls == 2  # from then on the breaker spares the wait


async def test_the_counts_of_the_store_alone_are_never_those_of_the_fallback(open_rig: Rig) -> None:
    await open_rig.admit("a")
    assert [each[1:3] for each in await open_rig.store.stored_usage(LIMITS)] == [(1, 0), (0, 100)]
    open_rig.remote.is_up = False
    for _ in range(3):  # the breaker opens in between
        with pytest.raises(StoreUnavailable):
            await open_rig.store.stored_usage(LIMITS)
    assert open_rig.remote.calls == 4
    assert (await open_rig.store.usage(LIMITS))[1][1:3] == (0, 0)


async def test_closed_refuses(closed_rig: Rig) -> None:
    closed_rig.remote.is_up = False
    first, second, third = [await closed_rig.admit(name) for name in "abc"]
    assert first == (False, 0, (), Cause.UNAVAILABLE, None, None)
    assert second == third == (False, 0, (), Cause.UNAVAILABLE, None, COOLDOWN)
    assert (closed_rig.stats.refused, closed_rig.stats.requests) == (3, 0)


async def test_running_streams_of_a_lost_store(open_rig: Rig, closed_rig: Rig) -> None:
    for rig, granted in (open_rig, 20), (closed_rig, 0):
        await rig.admit("a")
        rig.remote.is_up = False
        assert await rig.store.extend("{t}:a", 50, 20) == granted
        assert not await rig.store.settle("{t}:a", 50)
        assert (rig.stats.tokens, rig.stats.unsettled) == (granted, 1)


async def test_money_that_nothing_granted_is_told_apart_from_tokens(open_rig: Rig, closed_rig: Rig) -> None:
    for rig, granted in (open_rig, 2_000_000), (closed_rig, 0):
        stream = money_stream("{t}:a")
        limits = (MoneyQuota("{t}:usd", NANO, ttl=60),)
        await rig.store.admit(stream, limits, need=1, want=1_000_000)
        rig.remote.is_up = False
        assert await rig.store.extend(stream, 900_000, 2_000_000) == granted
        assert (rig.stats.money, rig.stats.tokens) == (granted, 0)


async def test_a_lost_end_is_counted_and_leaves_the_charge_as_it_was(open_rig: Rig, closed_rig: Rig) -> None:
    for rig in (open_rig, closed_rig):
        await rig.admit("a")
        await rig.store.extend("{t}:a", 50, 20)
        rig.remote.is_up = False
        assert not await rig.store.settle("{t}:a", 30)
        assert rig.stats.unsettled == 1
        rig.remote.is_up = True
        assert (await rig.store.usage(LIMITS))[1].used == 50
        assert await rig.store.settle("{t}:a", 30)
        assert (await rig.store.usage(LIMITS))[1][1:3] == (30, 0)
        assert rig.stats.unsettled == 1


async def test_the_fallback_charges_the_final_figure_too(open_rig: Rig) -> None:
    open_rig.remote.is_up = False
    await open_rig.admit("a")
    await open_rig.store.extend("{t}:a", 50, 20)
    assert await open_rig.store.settle("{t}:a", 30)
    assert (await open_rig.store.usage(LIMITS))[1][1:3] == (30, 0)
    assert open_rig.stats.unsettled == 0


async def test_it_comes_back_by_one_probe(open_rig: Rig) -> None:
    open_rig.remote.is_up = False
    for name in "ab":
        await open_rig.admit(name)
    open_rig.clock.advance(COOLDOWN)
    await open_rig.admit("c")  # the probe fails
    await open_rig.admit("d")
    assert open_rig.remote.calls == 3
    open_rig.remote.is_up = True
    open_rig.clock.advance(COOLDOWN)
    assert (await open_rig.admit("e")).admitted
    assert (await open_rig.admit("f")).admitted
    assert open_rig.remote.calls == 5
    assert (await open_rig.store.usage(LIMITS))[0].used == 2


async def test_a_stream_stays_with_the_store_that_admitted_it(open_rig: Rig) -> None:
    open_rig.remote.is_up = False
    await open_rig.admit("a")
    open_rig.remote.is_up = True
    assert await open_rig.store.extend("{t}:a", 50, 20) == 20
    assert await open_rig.store.settle("{t}:a", 60)
    assert open_rig.remote.calls == 1
    assert (await open_rig.store.usage(LIMITS))[1].used == 0


async def test_a_lost_lease_is_no_failure_of_the_store(open_rig: Rig) -> None:
    for _ in range(5):
        assert await open_rig.store.extend("{t}:a", 50, 20) == 20
    assert (open_rig.remote.calls, open_rig.stats.failures, open_rig.stats.tokens) == (5, 0, 100)


async def test_a_cancelled_probe_is_followed_by_another(open_rig: Rig) -> None:
    open_rig.remote.is_up = False
    for name in "ab":
        await open_rig.admit(name)
    open_rig.clock.advance(COOLDOWN)
    open_rig.remote.gate = asyncio.Event()
    probe = asyncio.ensure_future(open_rig.admit("c"))
    await asyncio.sleep(0)
    assert open_rig.remote.calls == 3
    assert not (await open_rig.admit("d")).admitted  # beside a probe, its own limits hold
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    open_rig.remote.gate, open_rig.remote.is_up = None, True
    assert (await open_rig.admit("e")).admitted
    assert open_rig.remote.calls == 4


async def test_a_rush_waits_for_its_turn_and_not_for_a_store_that_is_gone(closed_rig: Rig) -> None:
    gate = closed_rig.remote.gate = asyncio.Event()
    rush = [asyncio.ensure_future(closed_rig.admit(f"s{number}")) for number in range(10 * AT_ONCE)]
    await asyncio.sleep(0)
    assert closed_rig.remote.calls == AT_ONCE
    closed_rig.remote.is_up = False
    gate.set()
    assert not any(decision.admitted for decision in await asyncio.gather(*rush))
    assert closed_rig.remote.calls < 3 * AT_ONCE


async def test_closing_closes_the_store(open_rig: Rig) -> None:
    await open_rig.store.close()
    assert open_rig.remote.closed
