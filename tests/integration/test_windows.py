"""What the kernel is told of windows and limits on a relay's own sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys

import orjson
import pytest

from flowserver.net.receive_buffer import WIDE
from flowserver.net.send_queue import UNSENT
from flowserver.upstream.receive_window import FIRST
from tests.support.lab import Lab, RunningRelay, chat, eventually, numbers
from tests.support.provider import Caller
from tests.support.wire import CHUNKED_HEAD, LAST_CHUNK, Wire, chunk, request, response

KB = 1024
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and needs SO_BUF_LOCK and TCP_NOTSENT_LOWAT")
pytestmark = LINUX
BUF_LOCK, IS_LOCKED = 72, 2
"""socket(7): SO_BUF_LOCK, SOCK_RCVBUF_LOCK."""


def _mode(descriptor: str) -> int:
    try:
        return os.fstat(int(descriptor)).st_mode
    except OSError:  # the one that lists the directory is closed by now
        return 0


def _option(level: int, option: int, *, ours: int | None = None, peer: int | None = None) -> int:
    """Of this process's socket with that local port, or that peer's."""
    for name in os.listdir("/proc/self/fd"):
        if not stat.S_ISSOCK(_mode(name)):
            continue
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as found:
            if found.family == socket.AF_INET and found.type == socket.SOCK_STREAM:
                theirs = found.getpeername()[1]  # of one that listens there is none
                if ours in (None, found.getsockname()[1]) and peer in (None, theirs):
                    return found.getsockopt(level, option)
    raise AssertionError("no such socket")


def _upstream(caller: Caller) -> tuple[int, bool]:
    """Of the relay's end of a provider's connection: the buffer, as it was asked for, and whether that stays."""
    port = caller.socket.getpeername()[1]
    size = _option(socket.SOL_SOCKET, socket.SO_RCVBUF, ours=port) // 2
    return size, bool(_option(socket.SOL_SOCKET, BUF_LOCK, ours=port) & IS_LOCKED)


def _unsent(client: Wire) -> int:
    """Of the relay's end of a client's connection."""
    return _option(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, peer=client.socket.getsockname()[1])


async def _pieces(caller: Caller) -> None:
    """Answers every request with a stream of 200 KB, which comes as fast as it may."""
    while True:
        await caller.request()
        await caller.send(CHUNKED_HEAD)
        for _ in range(200):
            await caller.send(chunk(b"x" * KB))
        await caller.send(LAST_CHUNK)


async def _blocked(relay: RunningRelay) -> None:
    await eventually(lambda: relay.exchanges and relay.exchanges[0].record().pauses, "it is held up")


async def test_a_pinned_receive_buffer_is_the_socket_s_whatever_comes() -> None:
    async with Lab() as lab:
        provider, relay, client = await lab.between(_pieces, upstream_rcvbuf="20k")
        for _ in range(2):
            await client.send(request())
            message = await client.response()
            assert len(message.body) == 200 * KB
            assert _upstream(provider.callers[0]) == (20 * KB, True)
        await relay.access(2)


async def test_off_leaves_the_receive_buffer_to_the_kernel() -> None:
    async with Lab() as lab:
        provider, _, client = await lab.between(_pieces, upstream_rcvbuf="off")
        await client.send(request())
        await client.response()
        size, is_locked = _upstream(provider.callers[0])
        assert not is_locked
        assert size > FIRST


async def test_auto_begins_narrow() -> None:
    async with Lab() as lab:
        seen = []

        async def script(caller: Caller) -> None:
            await caller.request()
            seen.append(_upstream(caller))
            await caller.send(CHUNKED_HEAD + LAST_CHUNK)

        _, _, client = await lab.between(script)
        await client.send(request())
        await client.response()
        assert seen == [(FIRST, True)]


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_known_to_be_whole_has_a_wide_window_from_the_beginning(*, stream: bool) -> None:
    async with Lab() as lab:
        seen = []

        async def script(caller: Caller) -> None:
            await caller.request()
            seen.append(_upstream(caller)[0])
            await caller.send(response(b"{}"))

        _, _, client = await lab.between(script)
        body = orjson.dumps({"model": "m", "messages": [], "stream": stream})
        await client.send(request("POST", "/v1/chat/completions", ["Content-Type: application/json"], body=body))
        await client.response()
        assert seen == [FIRST if stream else WIDE]


@pytest.mark.parametrize(("value", "limit"), [("auto", UNSENT), ("9000", 9000)])
async def test_what_the_kernel_may_hold_unsent_is_set_for_every_client(value: str, limit: int) -> None:
    async with Lab() as lab:
        _, _, client = await lab.between(_pieces, notsent_lowat=value)
        await client.send(request())
        await client.response()
        assert _unsent(client) == limit


async def test_off_leaves_what_is_unsent_to_the_kernel() -> None:
    async with Lab() as lab:
        _, _, client = await lab.between(_pieces, notsent_lowat="off")
        with socket.socket() as untouched:
            usual = untouched.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
        await client.send(request())
        await client.response()
        assert _unsent(client) == usual


@pytest.mark.parametrize("value", ["auto", "9000"])
async def test_a_slow_client_on_a_kept_connection_gets_every_answer_whole(value: str) -> None:
    """Limits shrink for it, if they may, and are the usual ones afterwards."""
    async with Lab() as lab:
        simulator = await lab.simulator()
        relay = await lab.relay(simulator.url, notsent_lowat=value)
        client = await lab.client(relay.port, receive_buffer=8 * KB)
        before = None
        for _ in range(2):
            await client.send(chat(events=8000))
            await _blocked(relay)
            message = await client.response()
            assert numbers(message.body) == list(range(8000))
            await eventually(lambda: not relay.exchanges, "it is over")
            before = before or _unsent(client)
            assert _unsent(client) == before == (UNSENT if value == "auto" else 9000)
        await relay.access(2)
