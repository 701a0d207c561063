"""One connection to Redis: what is written and read, all ways of connecting, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import InvalidResponse, NoScriptError, RedisError, ResponseError

from flowserver.stores.redis_connection import MOST_UNREAD, STEPS, RedisClient, RedisConnection, Reply, pack, take
from tests.support.h2_lab import Certificates
from tests.support.lab import eventually, free_port
from tests.support.redis import RedisServer, running_redis
from tests.support.transport import FakeTransport

UNHURRIED = 10.0
"""Seconds that a busy machine keeps."""


def opened(deadline: float) -> RedisConnection:
    connection = RedisConnection(deadline)
    connection.connection_made(FakeTransport(connection))
    return connection


# What is written and read


def test_a_command_is_a_list_of_texts() -> None:
    assert pack("SET", "naïve", 12) == b"*3\r\n$3\r\nSET\r\n$6\r\nna\xc3\xafve\r\n$2\r\n12\r\n"


ANSWERS = st.one_of(
    st.integers(-(1 << 62), 1 << 62),
    st.none(),
    st.binary(max_size=40),
    st.text("abc E", max_size=20).map(ResponseError),
)


def written(answer: Reply | ResponseError) -> bytes:
    if answer is None:
        return b"$-1\r\n"
    if isinstance(answer, int):
        return b":%d\r\n" % answer
    if isinstance(answer, bytes):
        return b"$%d\r\n%b\r\n" % (len(answer), answer)
    return b"-%b\r\n" % str(answer).encode()


@given(st.lists(ANSWERS, min_size=1, max_size=6), st.data())
def test_answers_cut_anywhere_reach_their_calls(answers: list[Reply | ResponseError], data: st.DataObject) -> None:
    async def run() -> None:
        connection = opened(UNHURRIED)
        calls = [connection.call(b"") for _ in answers]
        stream = b"".join(map(written, answers))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
        for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            connection.data_received(stream[begin:end])
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, ResponseError):
                assert str(call.exception()) == str(answer)
            else:
                assert call.result() == answer
        assert connection.is_open
        connection.close()

    asyncio.run(run())


def test_errors_are_told_apart() -> None:
    kinds = []
    for answer in (b"-NOSCRIPT No matching script.\r\n", b"-ERR wrong\r\n"):
        taken = take(answer, 0)
        assert taken is not None
        kinds.append(type(taken[0]))
    assert kinds == [NoScriptError, ResponseError]


@pytest.mark.parametrize("answer", [b"*1\r\n:1\r\n", b":one\r\n", b"$x\r\n", b"\r\n", b"HTTP/1.1 400 Bad Request\r\n"])
def test_what_scripts_never_answer(answer: bytes) -> None:
    with pytest.raises(InvalidResponse):
        take(answer, 0)


async def test_an_answer_of_no_end() -> None:
    connection = opened(UNHURRIED)
    call = connection.call(b"")
    connection.data_received(b"+" + b"x" * MOST_UNREAD)
    assert not connection.is_open
    with pytest.raises(InvalidResponse):
        await call


async def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    connection = opened(UNHURRIED)
    call = connection.call(b"")
    connection.data_received(b":1\r\n:2\r\n")
    assert await call == 1
    assert not connection.is_open
    with pytest.raises(ConnectionError):
        connection.call(b"")


async def test_the_answer_to_a_cancelled_call_goes_to_nobody() -> None:
    connection = opened(UNHURRIED)
    first, second = connection.call(b""), connection.call(b"")
    first.cancel()
    connection.data_received(b":1\r\n:2\r\n")
    assert await second == 2
    connection.close()


async def test_a_late_call_fails_alone() -> None:
    """Its answer, when it comes, is not the next one's."""
    connection = opened(0.1)
    late = connection.call(b"")
    await asyncio.sleep(0.06)
    next_one = connection.call(b"")
    with pytest.raises(TimeoutError):
        await late
    assert connection.is_open
    assert not next_one.done()
    connection.data_received(b":1\r\n:2\r\n")
    assert await next_one == 2
    connection.close()


async def test_a_silent_server_is_given_up() -> None:
    """Whoever is not late by then may ask elsewhere."""
    connection = opened(0.05)
    late = connection.call(b"")
    with pytest.raises(TimeoutError):
        await late
    await asyncio.sleep(0.03)
    last = connection.call(b"")
    with pytest.raises((ConnectionResetError, TimeoutError)):
        await last
    await eventually(lambda: not connection.is_open)


async def test_each_call_has_the_whole_deadline() -> None:
    """Answers before it tell nothing of it, and one that came stops no clock."""
    connection = opened(0.2)
    loop = asyncio.get_running_loop()
    first = connection.call(b"")
    await asyncio.sleep(0.1)
    second, began = connection.call(b""), loop.time()
    connection.data_received(b":1\r\n")
    with pytest.raises(TimeoutError):
        await second
    assert first.result() == 1
    assert loop.time() - began >= 0.2 * (STEPS - 1) / STEPS - 0.001


# Connecting


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_redis() as started:
        yield started


async def asked(url: str) -> Reply:
    """What a server at `url` says to a script."""
    client = RedisClient(url, UNHURRIED)
    try:
        return await client.call("EVAL", "return redis.call('INCR', KEYS[1])", 1, "count")
    finally:
        await client.close()


async def test_a_user_a_password_and_a_database(server: RedisServer) -> None:
    with server.commands() as command:
        command("ACL", "SETUSER", "relay", "on", ">sec ret", "~*", "+@all")
        command("SELECT", 3)
        assert await asked(f"redis://relay:sec%20ret@127.0.0.1:{server.port}/3") == 1
        command("CONFIG", "SET", "requirepass", "other")
        assert await asked(f"redis://:other@127.0.0.1:{server.port}/3") == 2
    with pytest.raises(ResponseError, match="WRONGPASS"):
        await asked(f"redis://relay:wrong@127.0.0.1:{server.port}")
    with pytest.raises(ResponseError, match="index"):
        await asked(f"redis://relay:sec%20ret@127.0.0.1:{server.port}/99")


async def test_a_unix_socket(tmp_path: Path) -> None:
    with running_redis("--unixsocket", str(tmp_path / "redis")):
        assert await asked(f"unix://{tmp_path}/redis") == 1
        assert await asked(f"unix://{tmp_path}/redis?db=2") == 1
        with pytest.raises(OSError):
            await asked(f"unix://{tmp_path}/nothing")


async def test_tls(tmp_path: Path) -> None:
    made, port = Certificates(tmp_path), free_port()
    files = ("--tls-cert-file", made.certificate, "--tls-key-file", made.key, "--tls-ca-cert-file", made.authority)
    try:
        with running_redis("--tls-port", str(port), *files, "--tls-auth-clients", "no"):
            assert await asked(f"rediss://127.0.0.1:{port}?ssl_ca_certs={made.authority}") == 1
            with pytest.raises(OSError, match="certificate verify failed"):
                await asked(f"rediss://127.0.0.1:{port}")
    except AssertionError as failure:
        if "Redis ended" in str(failure):
            pytest.skip("this redis-server has no TLS")
        raise


async def test_many_calls_share_one_connection(server: RedisServer) -> None:
    client = RedisClient(server.url, UNHURRIED)
    answers = await asyncio.gather(*(client.call("INCR", "count") for _ in range(100)))
    assert answers == list(range(1, 101))
    with server.commands() as command:
        assert command("INFO", "stats")["total_connections_received"] <= 3  # the fixture's, this one, the client's
    await client.close()


async def test_a_primary_that_became_a_replica_is_looked_for_anew(server: RedisServer) -> None:
    client = RedisClient(server.url, UNHURRIED)
    assert await client.call("INCR", "count") == 1
    with server.commands() as command:
        command("REPLICAOF", "127.0.0.1", "1")
        before = command("INFO", "stats")["total_connections_received"]
        for _ in range(2):
            with pytest.raises(RedisError, match="READONLY"):
                await client.call("INCR", "count")
        assert command("INFO", "stats")["total_connections_received"] == before + 1
    await client.close()


@asynccontextmanager
async def talking(answers: Iterable[bytes], *, seconds: float = 0.0) -> AsyncIterator[str]:
    """The URL of a server that takes `seconds` for each of `answers`, one to a read, and hangs up for an empty one."""
    rest = iter(answers)
    talks: list[asyncio.Task[None]] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            await asyncio.sleep(seconds)
            if not (answer := next(rest, b"")):
                break
            writer.write(answer)
        writer.close()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.get_running_loop().create_task(talk(reader, writer)))

    async with await asyncio.start_server(begin, "127.0.0.1", 0) as listening:
        yield f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        await asyncio.gather(*talks, return_exceptions=True)


async def test_a_call_whose_connection_broke_begins_anew_once() -> None:
    async with talking([b":1\r\n", b"", b":2\r\n", b"", b"", b":3\r\n"]) as url:
        client = RedisClient(url, UNHURRIED)
        assert await client.call("FIRST") == 1
        assert await client.call("SECOND") == 2
        with pytest.raises(ConnectionError):
            await client.call("SECOND")
        assert await client.call("THIRD") == 3
        await client.close()


async def test_a_call_begins_anew_once_whatever_happens() -> None:
    """Each attempt would be in time by itself: the connection breaks, a script is missing, the connection breaks."""
    answers = [b":0\r\n", b"", b"-NOSCRIPT No matching script.\r\n", b"", b":1\r\n"]
    async with talking(answers, seconds=0.15) as url:
        client = RedisClient(url, 0.2)
        assert await client.call("FIRST") == 0
        began = asyncio.get_running_loop().time()
        with pytest.raises(OSError):
            await client.call("SECOND", otherwise=["THIRD"])
        assert asyncio.get_running_loop().time() - began < 0.4 + 0.15
        await client.close()


async def test_a_script_that_the_server_misses(server: RedisServer) -> None:
    client = RedisClient(server.url, UNHURRIED)
    missing = ("EVALSHA", "0" * 40, 0)
    for _ in range(2):  # on a new connection, and on one that is there
        assert await client.call(*missing, otherwise=("EVAL", "return 7", 0)) == 7
    await client.close()


async def test_a_closed_line_opens_nothing_any_more(server: RedisServer) -> None:
    client = RedisClient(server.url, UNHURRIED)
    assert await client.call("INCR", "count") == 1
    server.freeze()
    call = asyncio.ensure_future(client.call("INCR", "count"))
    await asyncio.sleep(0.02)
    await client.close()
    with pytest.raises(ConnectionError):
        await call
    server.thaw()
    with pytest.raises(ConnectionError):
        await client.call("INCR", "count")
    with server.commands() as command:
        assert command("INFO", "clients")["connected_clients"] == 1


async def test_connecting_ahead_has_its_own_time() -> None:
    async with talking([b"+OK\r\n", b"+PONG\r\n"], seconds=0.3) as url:
        client = RedisClient(url.replace("//", "//:secret@"), 0.1)
        await client.connect(UNHURRIED)
        await client.close()


async def test_it_is_no_redis() -> None:
    async with talking([b"HTTP/1.1 400 Bad Request\r\n\r\n"]) as url:
        client = RedisClient(url, UNHURRIED)
        with pytest.raises(InvalidResponse):
            await client.call("FIRST")
        await client.close()
