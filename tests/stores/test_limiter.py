"""A store as the middle calls it: answers by callback, failures as decisions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from flowserver.quota.limits import Cause, Decision, LeaseLost, Limit, Quota, StoreUnavailable, Usage
from flowserver.stores.limiter import NOT_ADMITTED, StoreLimiter
from flowserver.stores.memory import MemoryStore
from tests.support.clock import FakeClock
from tests.support.lab import eventually, finishes

QUOTA = Quota("{t}:quota", 1000, ttl=3600)
ID = "{t}:1"


class Store:
    """A store that waits while `gate` is not set, and fails with `error`."""

    def __init__(self) -> None:
        self._store = MemoryStore(FakeClock())
        self.usage = self._store.usage
        self.gate: asyncio.Event | None = None
        self.error: StoreUnavailable | None = None
        self.closed = False
        self.waiting = 0
        """Calls at the gate."""
        self.asked: list[tuple[int, int]] = []

    async def admit(self, stream_id: str, limits: Sequence[Limit], *, need: int, want: int) -> Decision:
        await self._wait()
        self.asked.append((need, want))
        return await self._store.admit(stream_id, limits, need=need, want=want)

    async def extend(self, stream_id: str, used: int, want: int) -> int:
        await self._wait()
        return await self._store.extend(stream_id, used, want)

    async def settle(self, stream_id: str, used: int) -> bool:
        await self._wait()
        return await self._store.settle(stream_id, used)

    async def close(self) -> None:
        self.closed = True

    async def _wait(self) -> None:
        if self.gate is not None:
            self.waiting += 1
            await self.gate.wait()
            self.waiting -= 1
        if self.error is not None:
            raise self.error


class Rig:
    def __init__(self, *, is_local: bool) -> None:
        self.store = Store()
        self.limiter = StoreLimiter(self.store, lease=100, life=60.0, is_local=is_local)
        self.decisions: list[Decision] = []
        self.more: list[int] = []

    async def admit(self, need: int = 10) -> Decision:
        before = len(self.decisions)
        self.limiter.admit(ID, (QUOTA,), need=need, want=need + self.limiter.lease, done=self.decisions.append)
        await eventually(lambda: len(self.decisions) > before)
        return self.decisions[-1]

    async def extend(self, used: int, want: int) -> int:
        before = len(self.more)
        self.limiter.extend(ID, used, want, self.more.append)
        await eventually(lambda: len(self.more) > before)
        return self.more[-1]

    async def usage(self) -> Usage:
        [usage] = await self.store.usage((QUOTA,))
        return usage

    async def settle(self, used: int) -> None:
        self.limiter.settle(ID, used)
        await eventually(lambda: not self.limiter.under_way)


local_or_not = pytest.mark.parametrize("is_local", [False, True])


@local_or_not
async def test_a_stream_gets_its_need_and_a_lease_takes_more_and_gives_back(is_local: bool) -> None:
    rig = Rig(is_local=is_local)
    decision = await rig.admit(need=30)
    assert (decision.admitted, decision.granted, rig.store.asked) == (True, 130, [(30, 130)])
    assert await rig.extend(100, 50) == 50
    await rig.settle(120)
    usage = await rig.usage()
    assert (usage.used, usage.reserved) == (120, 0)


@local_or_not
async def test_a_refusal_is_passed_on(is_local: bool) -> None:
    decision = await Rig(is_local=is_local).admit(need=1001)
    assert (decision.admitted, decision.cause, decision.refused_by) == (False, Cause.QUOTA, QUOTA)


def test_a_local_store_has_answered_when_the_call_returns() -> None:
    """There is not even a loop."""
    rig = Rig(is_local=True)
    rig.limiter.admit(ID, (QUOTA,), need=1, want=101, done=rig.decisions.append)
    rig.limiter.extend(ID, 5, 7, rig.more.append)
    assert [decision.admitted for decision in rig.decisions] == [True]
    assert rig.more == [7]


async def test_another_store_answers_later() -> None:
    rig = Rig(is_local=False)
    rig.limiter.admit(ID, (QUOTA,), need=1, want=101, done=rig.decisions.append)
    assert rig.decisions == []
    await eventually(lambda: rig.decisions)


@local_or_not
@pytest.mark.parametrize("error", [StoreUnavailable("gone"), LeaseLost("forgotten")])
async def test_a_store_that_fails_gives_no_tokens_and_raises_nothing(is_local: bool, error: StoreUnavailable) -> None:
    rig = Rig(is_local=is_local)
    await rig.admit()
    rig.store.error = error
    assert await rig.admit() is NOT_ADMITTED
    assert NOT_ADMITTED.cause is Cause.UNAVAILABLE
    assert await rig.extend(5, 50) == 0
    await rig.settle(5)
    rig.store.error = None
    assert (await rig.usage()).reserved == 110


async def test_a_store_that_is_local_and_waits_is_an_error() -> None:
    rig = Rig(is_local=True)
    rig.store.gate = asyncio.Event()
    with pytest.raises(RuntimeError, match="local"):
        rig.limiter.admit(ID, (QUOTA,), need=1, want=101, done=rig.decisions.append)
    assert rig.decisions == []


async def test_closing_waits_for_streams_that_settle() -> None:
    rig = Rig(is_local=False)
    await rig.admit()
    rig.store.gate = asyncio.Event()
    rig.limiter.settle(ID, 40)
    closing = asyncio.get_running_loop().create_task(rig.limiter.close())
    await eventually(lambda: rig.store.waiting)
    await asyncio.sleep(0)  # a turn of the loop, in which it would close
    assert not closing.done()
    assert not rig.store.closed
    rig.store.gate.set()
    await finishes(closing)
    usage = await rig.usage()
    assert (usage.used, usage.reserved) == (40, 0)
    assert rig.store.closed


@local_or_not
async def test_closing_with_nothing_under_way_closes_the_store(is_local: bool) -> None:
    rig = Rig(is_local=is_local)
    await finishes(rig.limiter.close())
    assert rig.store.closed


def test_a_lease_is_renewed_well_before_its_life_is_over() -> None:
    limiter = Rig(is_local=True).limiter
    assert (limiter.lease, limiter.renewal) == (100, 20.0)
