"""What is particular to the store in memory: it stays small."""

from __future__ import annotations

from flowserver.quota.limits import Quota, RequestBucket, Slots, TokenBucket, tenant_key
from flowserver.stores.memory import MemoryStore
from tests.support.clock import FakeClock


async def test_what_is_over_is_swept() -> None:
    clock = FakeClock(1_700_000_000.0)
    store = MemoryStore(clock, ttl=10, remember=20)
    most = 0
    for number in range(5000):
        tenant = f"tenant {number}"
        limits = (
            RequestBucket(tenant_key(tenant, "requests"), 10, 10),
            TokenBucket(tenant_key(tenant, "tokens"), 1000, 1000),
            Slots(tenant_key(tenant, "slots"), 5),
            Quota(tenant_key(tenant, "session"), 1000, ttl=30),
        )
        stream_id = tenant_key(tenant, "a")
        assert (await store.admit(stream_id, limits, need=1, want=100)).admitted
        if number % 2:
            await store.settle(stream_id, 50)
        clock.advance(1)
        most = max(most, len(store))
    assert most < 400
    clock.advance(100)
    for _ in range(200):
        await store.settle("{nobody}:a", 0)
        clock.advance(1)
    assert len(store) == 0


async def test_a_bucket_that_is_full_is_the_same_when_it_was_forgotten() -> None:
    clock = FakeClock(1_700_000_000.0)
    store = MemoryStore(clock, ttl=1000)
    limits = (TokenBucket("{t}:tokens", 100, 60),)
    await store.admit("{t}:a", limits, need=100, want=100)
    clock.advance(200)
    for _ in range(5):
        await store.settle("{nobody}:a", 0)  # sweeps the bucket, not the lease
    assert len(store) == 1
    await store.admit("{t}:b", limits, need=10, want=10)
    await store.settle("{t}:a", 150)
    assert (await store.usage(limits))[0].used == 60
    await store.settle("{t}:b", 0)
    assert (await store.usage(limits))[0].used == 50
