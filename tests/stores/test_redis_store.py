"""Redis: its own time, its keys' lives, several clients, a cluster, and everything that can go wrong with it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from flowserver.quota.limits import (
    LeaseLost,
    Limit,
    Quota,
    RequestBucket,
    Slots,
    StoreUnavailable,
    TokenBucket,
    tenant_key,
)
from flowserver.stores.redis_store import RedisStore
from tests.support.clock import FakeClock
from tests.support.lab import free_port, full_backlog
from tests.support.redis import RedisServer, running_cluster, running_redis

UNHURRIED = 10_000
"""A deadline in milliseconds that a busy machine keeps."""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_redis() as started:
        yield started


def limits_of(tenant: str) -> tuple[Limit, ...]:
    return (
        RequestBucket(tenant_key(tenant, "requests"), 100, 100),
        TokenBucket(tenant_key(tenant, "tokens"), 100_000, 100_000),
        Slots(tenant_key(tenant, "slots"), 500),
        Quota(tenant_key(tenant, "month"), 1_000_000, ttl=30 * 86400.0),
    )


async def admitted(store: RedisStore, stream_id: str, limits: tuple[Limit, ...]) -> bool:
    return (await store.admit(stream_id, limits, need=10, want=100)).admitted


# Alone


async def test_it_has_the_servers_time(server: RedisServer) -> None:
    store = RedisStore(server.url, deadline=UNHURRIED, ttl=0.05, remember=60)
    limits = (RequestBucket("{t}:requests", 1, 20, period=1), Slots("{t}:slots", 1), Quota("{t}:day", 100, ttl=60))
    assert await admitted(store, "{t}:a", limits)
    assert not await admitted(store, "{t}:b", limits)
    await asyncio.sleep(0.06)  # the request is there again, the lease expired
    assert await admitted(store, "{t}:b", limits)
    assert await store.settle("{t}:a", 20)
    assert await store.settle("{t}:b", 20)
    usage = await store.usage(limits)
    assert [each[1:3] for each in usage[1:]] == [(0, 0), (40, 0)]
    assert usage[2].reset == pytest.approx(60, abs=5)
    await store.close()


async def test_a_quota_ends_at_a_moment_of_the_servers_clock(server: RedisServer) -> None:
    store = RedisStore(server.url, deadline=UNHURRIED)
    decision = await store.admit("{t}:a", (Quota("{t}:day", 100, ends_at=time.time() + 1000),), need=1, want=1)
    assert decision.states[0].reset == pytest.approx(1000, abs=10)
    await store.close()


async def test_every_key_has_a_life_and_its_tenant(server: RedisServer) -> None:
    store = RedisStore(server.url, deadline=UNHURRIED)
    limits = limits_of("acme")
    await admitted(store, "{acme}:a", limits)
    await admitted(store, "{acme}:b", limits)
    await store.extend("{acme}:b", 50, 100)
    await store.settle("{acme}:b", 120)
    with server.commands() as command:
        keys = command("KEYS", "*")
        lives = {key: command("PTTL", key) for key in keys}
    assert all(key.startswith("flow:limits:{acme}:") for key in keys)
    assert len(keys) == 7  # four limits, the leases, which expire when, and one that settled
    assert all(life > 0 for life in lives.values())
    assert lives["flow:limits:{acme}:live"] >= 29 * 86400_000  # as long as the quota that it holds something of
    await store.close()


async def test_a_dead_relay_of_an_idle_tenant_holds_nothing(server: RedisServer) -> None:
    """Whenever the tenant comes again, also when all markers would be gone by then."""
    clock = FakeClock(1_700_000_000.0)
    store = RedisStore(server.url, deadline=UNHURRIED, ttl=1, remember=1, clock=clock)
    limits = limits_of("acme")
    await admitted(store, "{acme}:a", limits)
    clock.advance(86400)
    assert [each[1:3] for each in await store.usage(limits)] == [(0, 0)] * 4
    await store.close()


async def test_a_quota_that_was_lost_gives_nothing_back(server: RedisServer) -> None:
    """A period whose counter was deleted begins at 0; leases of before must not put it below."""
    store = RedisStore(server.url, deadline=UNHURRIED, clock=FakeClock(1_700_000_000.0))
    limits = (Quota("{acme}:day", 1000, ends_at=1_700_003_600.0),)
    for number in range(2):
        await admitted(store, f"{{acme}}:{number}", limits)
        await store.extend(f"{{acme}}:{number}", 50, 100)
    with server.commands() as command:
        command("DEL", "flow:limits:{acme}:day")
    await admitted(store, "{acme}:x", limits)
    await store.settle("{acme}:x", 20)
    assert [each[1:3] for each in await store.usage(limits)] == [(20, 0)]
    for number in range(2):
        await store.settle(f"{{acme}}:{number}", 10)
        [usage] = await store.usage(limits)
        assert usage.used >= 0
        assert usage.reserved == 0
    await store.close()


async def test_many_leases_that_expired_at_once_are_ended_by_and_by(server: RedisServer) -> None:
    clock = FakeClock(1_700_000_000.0)
    store = RedisStore(server.url, deadline=UNHURRIED, clock=clock)
    limits = limits_of("acme")[1:]
    for number in range(250):
        assert await admitted(store, f"{{acme}}:{number}", limits)
    clock.advance(1000)
    reserved = [(await store.usage(limits))[2].reserved for _ in range(3)]
    assert reserved == [15_000, 5_000, 0]
    await store.close()


# Together


async def test_two_clients_share_one_limit(server: RedisServer) -> None:
    stores = [RedisStore(server.url, deadline=UNHURRIED, clock=FakeClock(1_700_000_000.0)) for _ in range(2)]
    limits = limits_of("acme")
    calls = (admitted(stores[number % 2], f"{{acme}}:{number}", limits) for number in range(2000))
    passed = Counter(await asyncio.gather(*calls))
    assert passed == {True: 100, False: 1900}
    assert await stores[0].usage(limits) == await stores[1].usage(limits)
    for number in range(2000):  # each stream is settled by both, and once
        await asyncio.gather(*(store.settle(f"{{acme}}:{number}", 30) for store in stores))
    assert [each[1:3] for each in (await stores[0].usage(limits))[1:]] == [(3000, 0), (0, 0), (3000, 0)]
    for store in stores:
        await store.close()


async def test_a_cluster() -> None:
    with running_cluster() as nodes:
        store = RedisStore(nodes[0].url.replace("redis:", "redis+cluster:").removesuffix("/0"), deadline=UNHURRIED)
        await store.connect(10)
        for number in range(12):
            tenant = f"tenant {number}"
            limits, stream_id = limits_of(tenant), tenant_key(tenant, "a")
            assert await admitted(store, stream_id, limits)
            assert await store.extend(stream_id, 50, 100) == 100
            assert await store.settle(stream_id, 120)
            assert [each[1:3] for each in (await store.usage(limits))[2:]] == [(0, 0), (120, 0)]
        for node in nodes:
            with node.commands() as command:
                assert command("DBSIZE") > 0
        await store.close()


# What goes wrong


async def fails_within(store: RedisStore, milliseconds: float, stream_id: str = "{acme}:x") -> StoreUnavailable:
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as failure:
        await admitted(store, stream_id, limits_of("acme"))
    assert time.monotonic() - began < milliseconds / 1000
    return failure.value


async def test_a_server_that_dies_and_comes_back(server: RedisServer) -> None:
    store = RedisStore(server.url, deadline=200)
    limits = limits_of("acme")
    await asyncio.gather(*(admitted(store, f"{{acme}}:{number}", limits) for number in range(20)))
    server.stop()
    for _ in range(3):
        await fails_within(store, 1000)
    with pytest.raises(StoreUnavailable):
        await store.settle("{acme}:1", 10)
    server.start()
    with pytest.raises(LeaseLost):  # it forgot everything, its scripts also
        await store.extend("{acme}:1", 10, 10)
    assert await admitted(store, "{acme}:1", limits)
    assert await store.settle("{acme}:1", 10)
    await store.close()


async def test_connections_that_broke_meanwhile_are_not_noticed(server: RedisServer) -> None:
    store = RedisStore(server.url, deadline=UNHURRIED)
    limits = limits_of("acme")
    await asyncio.gather(*(admitted(store, f"{{acme}}:{number}", limits) for number in range(20)))
    server.stop()
    server.start()
    assert all(await asyncio.gather(*(admitted(store, f"{{acme}}:{number}", limits) for number in range(20))))
    await store.close()


@pytest.mark.serial
async def test_a_frozen_server_costs_the_deadline_and_mixes_up_nothing(server: RedisServer) -> None:
    store = RedisStore(server.url, deadline=50)
    limits = limits_of("acme")
    await store.connect()
    assert await admitted(store, "{acme}:a", limits)
    server.freeze()
    began = time.monotonic()
    failures = await asyncio.gather(*(fails_within(store, 1000, f"{{acme}}:frozen {number}") for number in range(50)))
    assert time.monotonic() - began < 1.0
    assert len(failures) == 50
    server.thaw()
    await store.close()
    store = RedisStore(server.url, deadline=UNHURRIED)
    assert await store.extend("{acme}:a", 40, 77) == 77
    assert [await store.extend("{acme}:a", 40, want) for want in range(10)] == list(range(10))
    await store.close()


async def test_answers_that_come_too_late_are_not_taken_for_others(server: RedisServer) -> None:
    store = RedisStore(server.url, deadline=300)
    await store.connect()
    assert await admitted(store, "{acme}:a", limits_of("acme"))
    server.freeze()
    for _ in range(3):
        await fails_within(store, 2000, "{acme}:late")
    server.thaw()
    assert [await store.extend("{acme}:a", 0, want) for want in range(20)] == list(range(20))
    await store.close()


async def test_a_short_pause_of_the_server_fails_the_late_calls_only(server: RedisServer) -> None:
    store = RedisStore(server.url, deadline=400)
    await store.connect()
    assert await admitted(store, "{acme}:0", limits_of("acme"))
    server.freeze()
    calls = []
    for number in range(1, 5):
        calls.append(asyncio.ensure_future(admitted(store, f"{{acme}}:{number}", limits_of("acme"))))
        await asyncio.sleep(0.11)
    with pytest.raises(StoreUnavailable):
        await calls[0]
    server.thaw()
    assert await asyncio.gather(*calls[2:]) == [True] * 2
    await asyncio.gather(*calls, return_exceptions=True)
    await store.close()


async def test_a_busy_relay_is_no_silence_of_the_server(server: RedisServer) -> None:
    store = RedisStore(server.url, deadline=40)
    await store.connect()
    calls = [asyncio.ensure_future(admitted(store, "{acme}:a", limits_of("acme"))) for _ in range(4)]
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(time.sleep, 0.2)
    assert await asyncio.gather(*calls) == [True] * 4
    await store.close()


async def test_nobody_listens() -> None:
    store = RedisStore(f"redis://127.0.0.1:{free_port()}", deadline=200)
    await fails_within(store, 1000)
    with pytest.raises(StoreUnavailable):
        await store.connect()
    await store.close()


async def test_connecting_that_never_ends() -> None:
    with full_backlog() as port:
        store = RedisStore(f"redis://127.0.0.1:{port}", deadline=50)
        await fails_within(store, 1000)
        await store.close()


async def test_no_cluster_there() -> None:
    store = RedisStore(f"redis+cluster://127.0.0.1:{free_port()}", deadline=200)
    await fails_within(store, 1000)
    await store.close()


@pytest.mark.parametrize(
    ("commands", "text"),
    [
        ([("CONFIG", "SET", "maxmemory", "1")], "OOM|memory"),
        ([("REPLICAOF", "127.0.0.1", "1")], "READONLY|read only|replica"),
        ([("ACL", "SETUSER", "default", "-evalsha")], "permission"),
        ([("ACL", "SETUSER", "default", "on", "resetpass", ">secret")], "[Aa]uthenticat"),
        ([("SET", "flow:limits:{acme}:slots", "something else")], "WRONGTYPE"),
    ],
)
async def test_a_server_that_refuses(server: RedisServer, commands: list[tuple[str, ...]], text: str) -> None:
    with server.commands() as command:
        for each in commands:
            command(*each)
    store = RedisStore(server.url, deadline=UNHURRIED)
    failure = await fails_within(store, UNHURRIED)
    assert not isinstance(failure, LeaseLost)
    assert failure.__cause__ is not None
    with pytest.raises(StoreUnavailable, match=text):
        await admitted(store, "{acme}:x", limits_of("acme"))
    await store.close()


async def test_a_server_that_still_loads() -> None:
    async def load(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(b"-LOADING Redis is loading the dataset in memory\r\n" * 4)
        writer.close()

    async with await asyncio.start_server(load, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        store = RedisStore(f"redis://127.0.0.1:{port}", deadline=300)
        await fails_within(store, 1500)
        await store.close()


async def test_a_cancelled_call_leaves_the_store_usable(server: RedisServer) -> None:
    store = RedisStore(server.url, deadline=UNHURRIED)
    server.freeze()
    call = asyncio.ensure_future(admitted(store, "{acme}:a", limits_of("acme")))
    await asyncio.sleep(0.02)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    server.thaw()
    assert await admitted(store, "{acme}:a", limits_of("acme"))
    await store.close()
