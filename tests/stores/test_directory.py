"""Tenants in Redis: written by one, looked up by others, who ask seldom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from flowserver.quota.limits import Garbled, StoreUnavailable
from flowserver.quota.tenants import Tenant, TenantKey, TenantLimits, digest_of
from flowserver.relay.interfaces import Clock
from flowserver.routing.circuit_breaker import CircuitBreaker
from flowserver.stores import directory as module
from flowserver.stores.directory import FRESH, Directory, KnownTenants
from flowserver.stores.failover import BreakerGate, FailoverStats
from tests.support.clock import FakeClock
from tests.support.lab import free_port
from tests.support.redis import RedisServer, running_cluster, running_redis

UNHURRIED = 10_000.0
"""A deadline in milliseconds that a busy machine keeps."""
KEY, OTHER = b"flow-" + b"a" * 43, b"flow-" + b"b" * 43
ONE, TWO = digest_of(KEY), digest_of(OTHER)
ACME = Tenant("acme", (TenantKey(ONE),), models=("gpt-*",), limits=TenantLimits(tokens_per_day=5))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_redis() as started:
        yield started


@asynccontextmanager
async def opened(url: str, deadline: float = UNHURRIED) -> AsyncIterator[Directory]:
    directory = Directory(url, deadline=deadline)
    try:
        yield directory
    finally:
        await directory.close()


# Reading and writing


async def _tells_what_it_was_told(directory: Directory) -> None:
    assert await directory.find(ONE) is None
    assert await directory.add(ACME)
    assert await directory.find(ONE) == await directory.get("acme") == ACME
    other = Tenant("other", (TenantKey(TWO, 4_000_000_000.0),), disabled=True)
    assert await directory.add(other)
    assert await directory.find(TWO) == other
    assert await directory.names() == ["acme", "other"]
    assert await directory.remove("other")
    assert not await directory.remove("other")
    assert await directory.find(TWO) is None
    assert await directory.get("other") is None
    assert await directory.names() == ["acme"]


async def test_it_tells_what_it_was_told(server: RedisServer) -> None:
    async with opened(server.url) as directory:
        await _tells_what_it_was_told(directory)


async def test_a_cluster() -> None:
    with running_cluster() as nodes:
        url = nodes[0].url.replace("redis:", "redis+cluster:").removesuffix("/0")
        async with opened(url) as directory:
            await _tells_what_it_was_told(directory)
            assert await directory.change("acme", lambda tenant: replace(tenant, keys=(TenantKey(TWO),)))
            assert await directory.find(ONE) is None
            assert (await directory.find(TWO)) is not None


async def test_a_name_is_taken_once(server: RedisServer) -> None:
    async with opened(server.url) as directory:
        assert await directory.add(ACME)
        assert not await directory.add(Tenant("acme", (TenantKey(TWO),)))
        assert await directory.find(TWO) is None
        assert await directory.find(ONE) == ACME


async def test_a_change_moves_the_keys(server: RedisServer) -> None:
    async with opened(server.url) as directory:
        await directory.add(ACME)
        changed = await directory.change("acme", lambda tenant: replace(tenant, keys=(TenantKey(TWO),)))
        assert changed is not None
        assert await directory.find(TWO) == changed
        assert await directory.find(ONE) is None
        assert await directory.change("nobody", lambda tenant: tenant) is None
        await directory.remove("acme")
    with server.commands() as command:
        assert command("KEYS", "*") == []


async def test_changes_at_the_same_time_all_count(server: RedisServer) -> None:
    def more(tenant: Tenant) -> Tenant:
        return replace(tenant, limits=TenantLimits(tokens_per_day=(tenant.limits.tokens_per_day or 0) + 1))

    async with opened(server.url) as one, opened(server.url) as two:
        await one.add(ACME)
        await asyncio.gather(*(directory.change("acme", more) for directory in (one, two) for _ in range(8)))
        tenant = await one.get("acme")
        assert tenant is not None
        assert tenant.limits.tokens_per_day == 5 + 16


async def test_only_the_hash_of_a_key_is_stored(server: RedisServer) -> None:
    async with opened(server.url) as directory:
        await directory.add(ACME)
    with server.commands() as command:
        assert sorted(command("KEYS", "*")) == [f"flow:key:{ONE.hex()}", "flow:tenants", "flow:{acme}:tenant"]
        assert KEY.decode() not in command("GET", "flow:{acme}:tenant")


async def test_pointers_that_were_left_over_mean_nothing(server: RedisServer) -> None:
    async with opened(server.url) as directory:
        await directory.add(ACME)
        with server.commands() as command:
            command("SET", f"flow:key:{TWO.hex()}", "acme")
            command("SET", f"flow:key:{'0' * 64}", "gone")
        assert await directory.find(TWO) is None
        assert await directory.find(bytes(32)) is None


# What goes wrong


@pytest.mark.parametrize("stored", ["", "{", "[]", "{}", '{"name": "acme", "from_tomorrow": 1}'])
async def test_what_cant_be_read_is_no_tenant_and_no_stranger(server: RedisServer, stored: str) -> None:
    async with opened(server.url) as directory:
        await directory.add(ACME)
        with server.commands() as command:
            command("SET", "flow:{acme}:tenant", stored)
        with pytest.raises(StoreUnavailable, match="acme"):
            await directory.find(ONE)


async def test_nobody_listens() -> None:
    async with opened(f"redis://127.0.0.1:{free_port()}", 200) as directory:
        with pytest.raises(StoreUnavailable):
            await directory.find(ONE)


@pytest.mark.serial
async def test_a_frozen_server_costs_the_deadline(server: RedisServer) -> None:
    async with opened(server.url, 50) as directory:
        server.freeze()
        began = time.monotonic()
        failures = await asyncio.gather(*(directory.find(ONE) for _ in range(50)), return_exceptions=True)
        assert time.monotonic() - began < 1
        assert {type(failure) for failure in failures} == {StoreUnavailable}
        server.thaw()


async def test_a_busy_relay_is_no_silence_of_the_server(server: RedisServer) -> None:
    async with opened(server.url) as directory:
        await directory.add(ACME)
    async with opened(server.url, 40) as directory:
        await directory.find(TWO)
        calls = [asyncio.ensure_future(directory.find(ONE)) for _ in range(4)]
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(time.sleep, 0.2)
        assert await asyncio.gather(*calls) == [ACME] * 4


async def test_a_rush_of_keys_is_no_silence_of_the_server(server: RedisServer) -> None:
    """They wait for their turn, which takes far longer than the deadline."""
    async with opened(server.url) as directory:
        await directory.add(ACME)
    async with opened(server.url, 20) as directory:
        digests = [digest_of(b"%d" % number) for number in range(2000)]
        assert set(await asyncio.gather(*map(directory.find, digests))) == {None}
        assert await directory.find(ONE) == ACME


# What a relay asks


class Counting(Directory):
    """Without Redis: it says what it is told to, when it is told to, and counts who asks."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.tenants: dict[bytes, Tenant] = {}
        self.down = False
        self.garbled = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def find(self, digest: bytes) -> Tenant | None:
        self.asked.append(digest)
        await self.answers.wait()
        if self.down:
            raise StoreUnavailable("down")
        if self.garbled:
            raise Garbled("garbled")
        return self.tenants.get(digest)

    async def close(self) -> None:
        pass


def gate(clock: Clock) -> BreakerGate:
    return BreakerGate(CircuitBreaker(failures=3, cooldown=1.0), clock, FailoverStats())


class Rig:
    def __init__(self, *, outlive: bool = False) -> None:
        self.directory = Counting()
        self.clock = FakeClock()
        self.wall = FakeClock(2_000_000_000.0)
        self.known = KnownTenants(self.directory, self.clock, self.wall, gate=gate(self.clock), outlive=outlive)
        self.heard: list[tuple[Tenant | None, bool]] = []

    def find(self, key: bytes = KEY) -> None:
        self.known.find(key, lambda tenant, told: self.heard.append((tenant, told)))

    async def answer(self, key: bytes = KEY) -> tuple[Tenant | None, bool]:
        found: asyncio.Future[tuple[Tenant | None, bool]] = asyncio.get_running_loop().create_future()
        self.known.find(key, lambda tenant, told: found.set_result((tenant, told)))
        return await found


async def test_an_answer_serves_for_some_seconds() -> None:
    rig = Rig()
    rig.directory.tenants[ONE] = ACME
    assert await rig.answer() == (ACME, True)
    rig.clock.advance(FRESH - 0.1)
    rig.find()
    assert rig.heard.pop() == (ACME, True)  # at once
    del rig.directory.tenants[ONE]
    rig.clock.advance(0.1)
    assert await rig.answer() == (None, True)
    rig.directory.tenants[ONE] = ACME
    rig.clock.advance(FRESH - 0.1)
    rig.find()
    assert rig.heard.pop() == (None, True)
    rig.clock.advance(0.1)
    assert await rig.answer() == (ACME, True)
    assert len(rig.directory.asked) == 3


async def test_what_is_no_key_of_ours_is_not_looked_up() -> None:
    rig = Rig()
    for key in (b"", b"sk-abc", KEY + b"a", KEY[:-1] + b"="):
        assert await rig.answer(key) == (None, True)
    assert rig.directory.asked == []


async def test_many_who_ask_at_once_ask_once() -> None:
    rig = Rig()
    rig.directory.tenants[ONE] = ACME
    rig.directory.answers.clear()
    for _ in range(100):
        rig.find()
    rig.find(OTHER)
    assert rig.heard == []
    rig.directory.answers.set()
    await asyncio.sleep(0.01)
    assert sorted(rig.heard, key=str) == sorted([(ACME, True)] * 100 + [(None, True)], key=str)
    assert sorted(rig.directory.asked) == sorted([ONE, TWO])


async def test_a_flood_of_unknown_keys_puts_no_known_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CACHED", 10)
    rig = Rig()
    rig.directory.tenants[ONE] = ACME
    await rig.answer()
    for number in range(100):
        assert await rig.answer(b"flow-%043d" % number) == (None, True)
    asked = len(rig.directory.asked)
    assert await rig.answer() == (ACME, True)
    assert await rig.answer(b"flow-%043d" % 99) == (None, True)
    assert len(rig.directory.asked) == asked
    await rig.answer(b"flow-%043d" % 0)
    assert len(rig.directory.asked) == asked + 1


async def test_the_known_ones_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CACHED", 2)
    rig = Rig()
    names = [b"flow-%043d" % number for number in range(3)]
    rig.directory.tenants = {digest_of(name): Tenant("t", (TenantKey(digest_of(name)),)) for name in names}
    for name in (names[0], names[1], names[0], names[2], names[0]):
        await rig.answer(name)
    assert len(rig.directory.asked) == 3
    await rig.answer(names[1])
    assert len(rig.directory.asked) == 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tenant: replace(tenant, disabled=True),
        lambda tenant: replace(tenant, keys=(TenantKey(ONE, 2_000_000_000.0),)),
    ],
)
async def test_disabled_and_expired_are_as_unknown(spoil: Callable[[Tenant], Tenant]) -> None:
    rig = Rig()
    rig.directory.tenants[ONE] = spoil(ACME)
    assert await rig.answer() == (None, True)
    assert await rig.answer() == (None, True)
    assert len(rig.directory.asked) == 1


async def test_a_key_expires_also_while_it_is_remembered() -> None:
    rig = Rig()
    rig.directory.tenants[ONE] = tenant = replace(ACME, keys=(TenantKey(ONE, 2_000_000_001.0),))
    assert await rig.answer() == (tenant, True)
    rig.wall.advance(1)
    assert await rig.answer() == (None, True)


@pytest.mark.parametrize("outlive", [False, True])
async def test_while_redis_does_not_answer(outlive: bool) -> None:
    rig = Rig(outlive=outlive)
    rig.directory.tenants[ONE] = ACME
    await rig.answer()
    rig.clock.advance(FRESH)
    rig.directory.down = True
    assert await rig.answer() == ((ACME, True) if outlive else (None, False))
    assert await rig.answer(OTHER) == (None, False)
    asked = len(rig.directory.asked)
    await rig.answer()
    assert len(rig.directory.asked) == (asked if outlive else asked + 1)
    rig.directory.down = False
    rig.clock.advance(FRESH)
    assert await rig.answer() == (ACME, True)
    assert await rig.answer(OTHER) == (None, True)


async def test_a_redis_that_does_not_answer_is_spared() -> None:
    rig = Rig()
    rig.directory.down = True
    keys = [b"flow-%043d" % number for number in range(100)]
    assert [await rig.answer(key) for key in keys] == [(None, False)] * 100
    assert len(rig.directory.asked) == 3
    rig.directory.down = False
    rig.clock.advance(1.0)
    assert await rig.answer(keys[0]) == (None, True)


async def test_a_tenant_that_cant_be_read_says_nothing_of_redis() -> None:
    rig = Rig()
    rig.directory.garbled = True
    for number in range(10):
        assert await rig.answer(b"flow-%043d" % number) == (None, False)
    assert len(rig.directory.asked) == 10


async def test_closing_ends_what_is_under_way() -> None:
    rig = Rig()
    rig.directory.answers.clear()
    rig.find()
    await asyncio.sleep(0)
    await rig.known.close()
    rig.directory.answers.set()
    await asyncio.sleep(0)
    assert rig.heard == []


async def test_with_a_real_one(server: RedisServer) -> None:
    async with opened(server.url) as directory:
        await directory.add(ACME)
    known = KnownTenants(
        Directory(server.url, deadline=UNHURRIED), time.monotonic, time.time, gate=gate(time.monotonic)
    )
    found: asyncio.Future[tuple[Tenant | None, bool]] = asyncio.get_running_loop().create_future()
    known.find(KEY, lambda tenant, told: found.set_result((tenant, told)))
    assert await found == (ACME, True)
    await known.close()
