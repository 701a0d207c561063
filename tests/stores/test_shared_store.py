"""Workers that share limits and providers by way of a parent: what is particular to the socket between them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from random import Random

import pytest

from flowserver.quota.limits import (
    Cause,
    Limit,
    LimitStore,
    Quota,
    RequestBucket,
    Slots,
    StoreUnavailable,
    TokenBucket,
    tenant_key,
)
from flowserver.routing.circuit_breaker import BreakerState, CircuitBreaker
from flowserver.routing.claim import Claim, Refusal
from flowserver.stores.failover import FailoverStore, Policy
from flowserver.stores.frames import BrokenFrame, FrameReader, pack
from flowserver.stores.memory import MemoryStore
from flowserver.stores.shared_limits import read_limit, written
from flowserver.stores.shared_state import SharedState, connect
from tests.support.clock import FakeClock
from tests.support.lab import eventually
from tests.support.shared import sharing

START = 1_700_000_000.0
SLOTS = Slots("{t}:slots", 10)
QUOTA = Quota("{t}:day", 10_000, ends_at=START + 3600)
LIMITS = (SLOTS, QUOTA)
HEALTH: dict[str, float] = {"failures": 3, "cooldown": 10.0}


def fixed() -> MemoryStore:
    return MemoryStore(FakeClock(START), ttl=30, remember=30)


# Frames and limits


def test_frames_come_whole_however_they_arrive() -> None:
    messages: list[list[object]] = [[1, "admit", "{t}:ü", None, 2.5], [0, 3, "want"], [2]]
    data = b"".join([pack(message) for message in messages])
    for size in (1, 3, len(data)):
        reader = FrameReader()
        read = [message for at in range(0, len(data), size) for message in reader.feed(data[at : at + size])]
        assert read == messages


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x01\0\0\0{", b"\x02\0\0\0{}", b"\x02\0\0\0[]"])
def test_what_is_no_frame_is_an_error(data: bytes) -> None:
    with pytest.raises(BrokenFrame):
        FrameReader().feed(data)


def test_limits_arrive_as_they_were() -> None:
    limits: list[Limit] = [
        RequestBucket("{t}:user a b:requests", 10, 20, 3),
        TokenBucket("{t}:tokens", 6000, 6000),
        SLOTS,
        Quota("{t}:session é", 500, ttl=0.1),
        Quota("{t}:day", 500, ends_at=1_700_000_000.123),
    ]
    assert [read_limit(text) for text in written(limits)] == limits


# What a worker held


async def test_what_a_dead_worker_held_comes_back_and_its_leases_are_charged() -> None:
    async with sharing(fixed()) as shared:
        dying, other = await shared.worker(), await shared.worker()
        for number in range(10):
            assert (await dying.store.admit(f"{{t}}:{number}", LIMITS, need=1, want=100)).admitted
        assert await dying.store.extend("{t}:0", 100, 50) == 50
        assert await dying.store.settle("{t}:9", 7)
        assert (await other.store.admit("{t}:other", LIMITS, need=1, want=100)).admitted
        refused = await other.store.admit("{t}:late", LIMITS, need=1, want=100)
        assert refused.cause is Cause.CONCURRENCY
        await dying.close()
        await eventually(lambda: shared.server.workers == 1)
        slots, quota = await other.store.usage(LIMITS)
        assert slots.used == 1
        assert (quota.used, quota.reserved) == (9 * 100 + 50 + 7, 100)
        assert await other.store.settle("{t}:other", 5)
        assert (await other.store.usage(LIMITS))[1].reserved == 0


async def test_streams_whose_end_was_not_told_are_forgotten() -> None:
    """A worker's breaker was open when they ended."""
    clock = FakeClock(START)
    async with sharing(MemoryStore(clock, ttl=1, remember=1)) as shared:
        worker = await shared.worker()
        for number in range(3000):
            clock.advance(0.01)
            await worker.store.admit(f"{{t}}:{number}", (), need=1, want=1)
        assert shared.server.streams < 2000


# A parent that fails


async def test_calls_under_way_fail_when_the_parent_is_gone_and_so_do_all_later_ones() -> None:
    async with sharing() as shared:
        worker = await shared.worker()
        call = asyncio.ensure_future(worker.store.admit("{t}:a", LIMITS, need=1, want=1))
        await asyncio.sleep(0)
        shared.server.close()
        with pytest.raises(StoreUnavailable):
            await call
        assert not worker.is_open
        with pytest.raises(StoreUnavailable):
            await worker.store.settle("{t}:a", 1)


async def test_a_parent_that_does_not_answer_is_a_store_that_fails() -> None:
    silent, ours = socket.socketpair()
    worker = await connect(ours, deadline=0.05)
    with silent:
        with pytest.raises(StoreUnavailable, match="in time"):
            await worker.store.admit("{t}:a", LIMITS, need=1, want=1)
        assert worker.is_open, "the parent may only have paused"
        silent.setblocking(False)
        numbers = [message[0] for message in FrameReader().feed(silent.recv(65536))]
        call = asyncio.ensure_future(worker.store.settle("{t}:a", 1))
        await asyncio.sleep(0)
        silent.send(pack([*numbers, 500]) + pack([numbers[-1] + 1, True]))
        assert await call, "the late answer is not taken for this one's"
        await worker.close()


async def test_a_busy_loop_is_no_silent_parent() -> None:
    async with sharing(deadline=0.05) as shared:
        worker = await shared.worker()
        call = asyncio.ensure_future(worker.store.usage(LIMITS))
        await asyncio.sleep(0)
        time.sleep(0.2)  # noqa: ASYNC251
        assert len(await call) == 2


@pytest.mark.parametrize("policy", list(Policy))
async def test_the_policy_holds_when_the_parent_is_gone(policy: Policy) -> None:
    async with sharing(fixed()) as shared:
        worker = await shared.worker()
        breaker = CircuitBreaker(failures=3, cooldown=1.0)
        store = FailoverStore(worker.store, fixed(), policy=policy, breaker=breaker, clock=time.monotonic)
        assert (await store.admit("{t}:a", LIMITS, need=1, want=1)).admitted
        shared.server.close()
        decision = await store.admit("{t}:b", LIMITS, need=1, want=1)
        assert decision.admitted == (policy is Policy.OPEN)
        assert await store.extend("{t}:a", 1, 100) == (100 if policy is Policy.OPEN else 0)
        assert store.stats.failures >= 1


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xff\xff\xff",
        pack([1, "nonsense"]),
        pack([0, 5, "want", 1, True]),
        pack([1, "admit", 5]),
        pack([0, 3, "join"]),
    ],
)
async def test_a_worker_that_sends_nonsense_is_cut_off_and_nobody_else(sent: bytes) -> None:
    async with sharing() as shared:
        good = await shared.worker()
        sock = await shared.raw()
        with sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(sock, sent)
            assert await asyncio.get_running_loop().sock_recv(sock, 10) == b""
        assert [worker for worker, _ in shared.broken] == [99]
        assert (await good.store.admit("{t}:a", LIMITS, need=1, want=1)).admitted


# Providers


async def test_what_happens_at_a_provider_is_known_to_all_workers() -> None:
    async with sharing() as shared:
        workers = [await shared.worker() for _ in range(3)]
        shares = [worker.provider("a http://a", failures=3, cooldown=10.0) for worker in workers]
        others = [worker.provider("b http://b", failures=3, cooldown=10.0) for worker in workers]
        for share in shares:
            share.health.failed(time.monotonic(), probe=False)
            await asyncio.sleep(0.01)
        await eventually(lambda: all(share.health.state(time.monotonic()) is BreakerState.OPEN for share in shares))
        shares[0].cooldowns.limited(time.monotonic(), ("key", b"k"), 20.0)
        await eventually(lambda: not any(share.cooldowns.allows(time.monotonic(), ("key", b"k")) for share in shares))
        assert all(share.health.is_closed for share in others)
        late = (await shared.worker()).provider("a http://a", failures=3, cooldown=10.0)
        await eventually(lambda: late.health.state(time.monotonic()) is BreakerState.OPEN)
        assert not late.cooldowns.allows(time.monotonic(), ("key", b"k"))


class Waiter:
    def __init__(self, seen: list[int], places: Callable[[Claim], None]) -> None:
        self.claim = Claim()
        self.seen = seen
        self._release = places
        self.done = asyncio.get_running_loop().create_future()

    def on_place(self) -> None:
        self.seen[0] += 1
        self.seen[1] = max(self.seen)
        asyncio.get_running_loop().call_later(0.001, self._end)

    def on_no_place(self, refusal: Refusal | None) -> None:
        self.done.set_result(False)

    def on_busy(self) -> None:
        self.done.set_result(False)

    def _end(self) -> None:
        self.seen[0] -= 1
        self._release(self.claim)
        self.done.set_result(True)


async def test_a_rush_to_a_provider_never_has_more_than_its_places() -> None:
    async with sharing() as shared:
        workers = [await shared.worker() for _ in range(4)]
        places = []
        for worker in workers:
            places.append(worker.provider("a http://a", failures=3, cooldown=10.0).places)
            places[-1].limit(5, 1000)
        seen = [0, 0]
        for each in places:  # it is known to be full, so all wait
            each.on_full(True, True)
        waiters = []
        for number in range(400):
            each = places[number % 4]
            waiters.append(Waiter(seen, each.release))
            assert each.wait(waiters[-1]) is None
        assert all(await asyncio.gather(*(waiter.done for waiter in waiters)))
        assert seen == [0, 5]
        assert all(each.open == each.waiting == 0 for each in places)


# A rush

RUSH = 2000


@pytest.mark.parametrize("seed", range(3))
async def test_in_a_rush_nothing_overshoots_when_a_worker_is_cut_off(seed: int) -> None:
    """Four workers, one of which goes in the middle: what it held comes back, what it had leased is charged."""
    random = Random(seed)
    tenant = "rush"
    rate = RequestBucket(tenant_key(tenant, "requests"), 900, 900)
    slots = Slots(tenant_key(tenant, "slots"), 40)
    quota = Quota(tenant_key(tenant, "day"), 30_000, ends_at=START + 3600)
    limits = (rate, slots, quota)
    async with sharing(fixed()) as shared:
        workers = [await shared.worker() for _ in range(4)]
        rig = _Rush(limits, random)
        asked = [rig.ask(workers[number % 4], f"{{rush}}:{number}") for number in range(RUSH)]
        tasks = [asyncio.ensure_future(each) for each in asked]
        await eventually(lambda: rig.ended > 100)
        await workers[1].close()
        await asyncio.gather(*tasks)
        await eventually(lambda: shared.server.workers == 3)
        requests, streams, tokens = await workers[0].store.usage(limits)
        assert streams.used == 0
        assert tokens.reserved == 0
        assert rig.used <= tokens.used <= quota.most
        assert tokens.used <= rig.used + rig.lost_leases
        assert rig.most <= slots.most
        assert requests.used <= rate.capacity
        assert rig.admitted <= requests.used, "an answer may be lost, a charge is not"


class _Rush:
    """Requests that use what they are granted, and count what that is."""

    def __init__(self, limits: tuple[Limit, ...], random: Random) -> None:
        self._limits = limits
        self._random = random
        self._open: dict[SharedState, int] = {}
        self.admitted = self.ended = self.used = self.most = self.lost_leases = 0

    async def ask(self, worker: SharedState, stream_id: str) -> None:
        for _ in range(self._random.randrange(400)):
            await asyncio.sleep(0)
        store: LimitStore = worker.store
        granted = want = 1 + self._random.randrange(100)
        used = 0
        try:
            decision = await store.admit(stream_id, self._limits, need=1, want=want)
            if not decision.admitted:
                return
            self.admitted += 1
            self._begin(worker)
            granted = decision.granted
            used = self._random.randrange(granted + 1)
            await asyncio.sleep(self._random.random() / 100)
            granted += await store.extend(stream_id, used, 50)
            used = self._random.randrange(used, granted + 1)
            self._open[worker] -= 1
            await store.settle(stream_id, used)
            self.ended += 1
        except StoreUnavailable:
            self._open[worker] = 0
            self.lost_leases += granted + 50
        finally:
            self.used += used

    def _begin(self, worker: SharedState) -> None:
        if worker.is_open:
            self._open[worker] = self._open.get(worker, 0) + 1
            running = sum(streams for each, streams in self._open.items() if each.is_open)
            self.most = max(self.most, running)
