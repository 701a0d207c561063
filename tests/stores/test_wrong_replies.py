"""A Redis that answers what this relay's scripts never do is a Redis that does not answer: by type, count or size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from flowserver.quota.limits import Quota, Slots, StoreUnavailable
from flowserver.routing.circuit_breaker import CircuitBreaker
from flowserver.stores.directory import Directory
from flowserver.stores.failover import FailoverStore, Policy
from flowserver.stores.memory import MemoryStore
from flowserver.stores.redis_store import RedisStore

LIMITS = (Slots("{a}:slots", 5), Quota("{a}:day", 1000, ttl=60))
STREAM = "{a}:1"


@asynccontextmanager
async def answering(reply: bytes) -> AsyncIterator[str]:
    """The URL of a server that answers `reply` to each command, but PONG to a ping and so on."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            args = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                args.append((await reader.readexactly(size + 2))[:-2])
            is_greeting = args[0].upper() in (b"HELLO", b"CLIENT", b"PING", b"SELECT", b"AUTH")
            writer.write(b"+OK\r\n" if is_greeting else reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0?protocol=2"
    finally:
        server.close()


def text(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


NEVER = [
    b":1\r\n",
    b"$-1\r\n",
    b"$-7\r\n",
    b"$x\r\n",
    b"$3\r\nabcde\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*1\r\n:1\r\n",
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":1_0\r\n",
    b": 1\r\n",
    b":" + b"9" * 3000 + b"\r\n",
    b":" + b"9" * 30 + b"\r\n",
    b"%1\r\n+a\r\n:1\r\n",
    b"#t\r\n",
    b"$99999999\r\nx",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    text(b""),
    text(b"abc"),
    text(b"\xff"),
]
ADMISSIONS = [
    text(b"1 256 0 -1"),
    text(b"1 256 0 -1 4 -1 900 60000 1"),
    text(b"1 257 0 -1 4 -1 900 60000"),
    text(b"1 -5 0 -1 4 -1 900 60000"),
    text(b"2 256 0 -1 4 -1 900 60000"),
    text(b"0 0 0 -1 4 -1 900 60000"),
    text(b"0 0 3 -1 4 -1 900 60000"),
    text(b"0 0 -1 -1 4 -1 900 60000"),
    text(b"1 256 0 -1 4 -2 900 60000"),
    text(b"1 256 0 -1 4 -1 nan inf"),
    text(b"1 256 0 -1 4 -1 9e2 60000"),
    text(b"1 256 0 -1 4 -1 900 99999999999999999999"),
    text(b"1  256 0 -1 4 -1 900 60000"),
    text("1 256 0 -1 4 -1 900 \N{ARABIC-INDIC DIGIT ONE}".encode()),
]


@pytest.mark.parametrize("reply", [*NEVER, *ADMISSIONS], ids=lambda reply: repr(reply[:30]))
async def test_an_admission_that_makes_no_sense(reply: bytes) -> None:
    async with answering(reply) as url:
        store = RedisStore(url)
        with pytest.raises(StoreUnavailable):
            await store.admit(STREAM, LIMITS, need=10, want=256)
        await store.close()


@pytest.mark.parametrize("reply", [each for each in NEVER if each != b":1\r\n"], ids=lambda reply: repr(reply[:30]))
async def test_other_answers_that_make_no_sense(reply: bytes) -> None:
    async with answering(reply) as url:
        store = RedisStore(url)
        for call in (store.extend(STREAM, 1, 256), store.settle(STREAM, 1), store.usage(LIMITS)):
            with pytest.raises(StoreUnavailable):
                await call
        await store.close()


@pytest.mark.parametrize("reply", [b":257\r\n", b":-2\r\n", b":2147483648\r\n"])
async def test_more_tokens_than_were_asked_for_are_not_believed(reply: bytes) -> None:
    async with answering(reply) as url:
        store = RedisStore(url)
        with pytest.raises(StoreUnavailable):
            await store.extend(STREAM, 1, 256)
        with pytest.raises(StoreUnavailable):
            await store.settle(STREAM, 1)
        await store.close()


@pytest.mark.parametrize("reply", [*NEVER, *ADMISSIONS], ids=lambda reply: repr(reply[:30]))
async def test_an_open_policy_goes_on_by_the_process_s_own_limits(reply: bytes) -> None:
    def clock() -> float:
        return asyncio.get_running_loop().time()

    async with answering(reply) as url:
        health = CircuitBreaker(failures=3, cooldown=60.0)
        store = FailoverStore(RedisStore(url), MemoryStore(clock), policy=Policy.OPEN, breaker=health, clock=clock)
        for number in range(5):
            decision = await store.admit(f"{{a}}:{number}", LIMITS, need=10, want=100)
            assert decision.admitted
            assert decision.granted == 100
            assert await store.extend(f"{{a}}:{number}", 50, 10) == 10
            assert await store.settle(f"{{a}}:{number}", 60)
        assert store.stats.requests == 5
        assert store.stats.failures == 3  # then it is left alone
        await store.close()


@pytest.mark.parametrize(
    "reply",
    [
        b":1\r\n",
        b"*1\r\n:1\r\n",
        b"+1\r\n",
        b"*0\r\n",
        b":x\r\n",
        b"*x\r\n",
        b"$x\r\n",
        b"nonsense\r\n",
        text(b"\xff"),
        b":9\r\n",
    ],
    ids=repr,
)
async def test_the_directory_takes_no_nonsense_for_a_tenant(reply: bytes) -> None:
    """Texts may be names of tenants; what then is not their JSON is not believed either."""
    async with answering(reply) as url:
        directory = Directory(url, deadline=500)
        for call in (directory.find(b"x" * 32), directory.get("acme")):
            with pytest.raises(StoreUnavailable):
                await call
        if not reply.startswith(b"*0"):
            with pytest.raises(StoreUnavailable):
                await directory.names()
        await directory.close()
