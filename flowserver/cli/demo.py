"""`flowserver demo`: runs a provider, a relay and four clients on this machine, and shows what they do.

Provider and relay are separate processes, so the memory shown is the relay's own. The clients run in this process. All
figures come from the relay's admin pages and the provider's records.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import uvloop

from ..http.h1_chunked import ChunkDecoder
from .demo_table import GREEN, RED, Display, Row
from .usage import Parser

SECONDS = 12.0
"""How long the scene lasts."""
STALL = (1.5, 8.0)
"""When the stalled client stops reading, and when it resumes; seconds from the start."""
LEAVE = 4.0
SLOW_BYTES_PER_SECOND = 40_000
_EVENT = re.compile(rb"tok(\d+)")
_ALLOWED_PULL = 256 * 1024
"""Bytes that may be pulled for a client that reads nothing. The buffers of relay and kernels are far below this."""


class Client(asyncio.Protocol):
    """A client that reads one stream, at the pace that `take` allows."""

    def __init__(self, name: str, simulate: str, behaviour: str) -> None:
        self.name = name
        self.behaviour = behaviour
        self._simulate = simulate
        self.bytes_read = 0
        """Body bytes without framing, as the relay counts what it pulls."""
        self.events: list[int] = []
        self._head: bytes | None = b""
        """The head so far; None once it is complete."""
        self._body = ChunkDecoder()
        self.left_at: float | None = None
        self._tail = b""
        self._transport: asyncio.Transport | None = None
        self._allowance: int | None = None

    async def start(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        connection = socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)  # keep the client's own buffer small
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.create_connection(lambda: self, sock=connection)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        body = orjson.dumps({"model": "demo", "stream": True, "messages": [{"role": "user", "content": "Hi"}]})
        self._transport.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: demo\r\ncontent-type: application/json\r\n"
            b"x-request-id: %b\r\nx-simulate: %b\r\ncontent-length: %d\r\n\r\n%b"
            % (self.name.encode(), self._simulate.encode(), len(body), body)
        )

    def data_received(self, data: bytes) -> None:
        if self._allowance is not None:
            self._allowance -= len(data)
            if self._allowance <= 0 and self._transport is not None:
                self._transport.pause_reading()
        if self._head is not None:
            self._head, blank, data = (self._head + data).partition(b"\r\n\r\n")
            if not blank:
                return
            self._head = None
        body = self._body.feed(data) if not self._body.ended else b""
        self.bytes_read += len(body)
        text = self._tail + body
        last = 0
        for match in _EVENT.finditer(text):
            if match.end() < len(text):  # the number may continue in the next read
                self.events.append(int(match[1]))
                last = match.end()
        self._tail = text[max(last, len(text) - 64) :]

    @property
    def finished(self) -> bool:
        return self._body.ended

    def take(self, count: int | None) -> None:
        """Allow about `count` more bytes to be read, less any earlier excess. None: read everything."""
        assert self._transport is not None
        self._allowance = None if count is None else min(0, self._allowance or 0) + count
        if self._transport.is_closing():
            return
        if count == 0 or (self._allowance is not None and self._allowance <= 0):
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def leave(self) -> None:
        assert self._transport is not None
        self.left_at = time.monotonic()
        self._transport.abort()

    @property
    def in_order(self) -> bool:
        """Whether each event arrived once and in order."""
        first = self.events[0] if self.events else 0
        return self.events == list(range(first, first + len(self.events)))


@dataclass
class Scene:
    """The observations so far."""

    clients: list[Client]
    relay_port: int
    admin_port: int
    provider_port: int
    relay_pid: int
    ended: dict[str, dict[str, Any]]
    """Last figures of streams that have ended, from the relay's log."""
    streams: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The relay's figures of each client's stream: from /streams, or from the log once it has ended."""
    read: dict[str, int] = field(default_factory=dict)
    """Body bytes that each client had read just before that."""
    provider: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The provider's records by stream."""
    memory: int = 0
    """The relay's resident bytes."""
    memory_at_start: int = 0
    pulled_while_stalled: int = 0
    """Bytes that the relay had read for the stalled client just before it resumed."""
    read_while_stalled: int = 0

    async def look(self) -> None:
        """Take all figures, the clients' first, because the relay has pulled whatever they have read."""
        read = {client.name: client.bytes_read for client in self.clients}
        for _ in range(50):
            for stream in await _get(self.admin_port, "/streams"):
                self.streams[stream["request_id"]] = stream
            self.streams.update(self.ended)
            if all(self.streams.get(name, _NOTHING)["bytes_down"] >= count for name, count in read.items()):
                break
            await asyncio.sleep(0.02)  # it ended in between: its log line is still on its way
        self.read = read
        for record in await _get(self.provider_port, "/simulator/streams"):
            self.provider[record["id"]] = record
        self.memory = _resident(self.relay_pid)


_NOTHING = {"bytes_down": 0}


def parser() -> Parser:
    parser = Parser(prog="flowserver demo", description="Show backpressure at work on this machine.")
    parser.add_argument("--keep", action="store_true", help="keep provider and relay running afterwards, until Ctrl-C")
    return parser


def main(argv: list[str]) -> int:
    """Run the demo. Returns 0 if everything worked as promised, otherwise 1."""
    keep = parser().read(argv).keep
    try:
        return uvloop.run(_demo(keep))
    except KeyboardInterrupt:
        return 130


async def _demo(keep: bool) -> int:
    ended: dict[str, dict[str, Any]] = {}
    async with _processes(ended) as (provider_port, relay_port, admin_port, relay_pid):
        clients = [
            Client("fast", "events=500 rate=50 size=250", "reads at once"),
            Client("slow", "events=0 rate=0 size=250", f"reads {SLOW_BYTES_PER_SECOND // 1000} KB/s"),
            Client("stalled", "events=8000 rate=0 size=250", f"stops for {STALL[1] - STALL[0]:.1f} s"),
            Client("leaving", "events=0 rate=50 size=250", f"leaves after {LEAVE:.0f} s"),
        ]
        scene = Scene(clients, relay_port, admin_port, provider_port, relay_pid, ended)
        scene.memory_at_start = _resident(relay_pid)
        display = Display()
        await _play(scene, display)
        passed = _verdict(scene, display)
        if keep:
            print("\nThe relay keeps running until Ctrl-C. Try:")
            print(
                f"curl -N http://127.0.0.1:{relay_port}/v1/chat/completions -H 'content-type: application/json'"
                """ -d '{"model": "demo", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'"""
            )
            print(f"curl http://127.0.0.1:{admin_port}/metrics", flush=True)
            await asyncio.Event().wait()
    return 0 if passed else 1


async def _play(scene: Scene, display: Display) -> None:
    fast, slow, stalled, leaving = scene.clients
    for client in scene.clients:
        await client.start(scene.relay_port)
    stalled.take(20_000)
    start = time.monotonic()
    resumed = False
    while (now := time.monotonic() - start) < SECONDS:
        slow.take(SLOW_BYTES_PER_SECOND // 4)
        if now >= STALL[0] and not resumed:
            stalled.take(0)
        if now >= STALL[1] and not resumed:
            resumed = True
            await scene.look()
            scene.pulled_while_stalled = scene.streams.get("stalled", {}).get("bytes_down", 0)
            scene.read_while_stalled = scene.read["stalled"]
            stalled.take(None)
        if now >= LEAVE and leaving.left_at is None:
            leaving.leave()
        await scene.look()
        display.show(now, scene.memory, _rows(scene))
        if fast.finished and resumed and stalled.finished:
            break
        await asyncio.sleep(0.25)
    slow.leave()
    await asyncio.sleep(0.3)
    await scene.look()


def _verdict(scene: Scene, display: Display) -> bool:
    """Print each promise and what was observed."""
    fast, _, stalled, leaving = scene.clients
    excess = scene.pulled_while_stalled - scene.read_while_stalled
    cancelled = scene.provider.get("leaving", {}).get("cancelled")
    delay = None if cancelled is None or leaving.left_at is None else (cancelled - leaving.left_at) * 1000
    growth = scene.memory - scene.memory_at_start
    slow_excess = scene.streams.get("slow", _NOTHING)["bytes_down"] - scene.read["slow"]
    checks = [
        (fast.finished and len(fast.events) == 500 and fast.in_order, f"fast: {len(fast.events)} events, in order"),
        (
            scene.read_while_stalled > 0 and excess < _ALLOWED_PULL,
            f"stalled: the relay pulled only {excess / 1024:.0f} KB more than it read",
        ),
        (
            stalled.finished and len(stalled.events) == 8000 and stalled.in_order,
            f"stalled: continued and got all {len(stalled.events)} events, in order",
        ),
        (slow_excess < _ALLOWED_PULL, f"slow: the provider was at most {slow_excess / 1024:.0f} KB ahead"),
        (
            delay is not None and delay < 1000,
            "leaving: its request was never cancelled" if delay is None else f"leaving: cancelled after {delay:.1f} ms",
        ),
        (growth < 8 * 1024 * 1024, f"relay: memory grew by {growth / 1024 / 1024:.1f} MB"),
    ]
    print()
    for good, text in checks:
        print(f"  {display.painted('ok  ', GREEN) if good else display.painted('FAIL', RED)}  {text}")
    passed = all(good for good, _ in checks)
    print("\nBackpressure reached the provider." if passed else "\nNot everything worked as promised.", flush=True)
    return passed


# --- showing -------------------------------------------------------------------------------------------------------


def _rows(scene: Scene) -> list[Row]:
    rows = []
    for client in scene.clients:
        stream = scene.streams.get(client.name, _NOTHING)
        provider = str(scene.provider.get(client.name, {}).get("state", "-"))
        pauses, paused = int(stream.get("pauses", 0)), float(stream.get("paused_seconds", 0))
        read, pulled = scene.read.get(client.name, 0), int(stream["bytes_down"])
        rows.append(Row(client.name, client.behaviour, read, pulled, pauses, paused, provider))
    return rows


# --- processes -----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _processes(ended: dict[str, dict[str, Any]]) -> AsyncIterator[tuple[int, int, int, int]]:
    """Run a provider and a relay; yields their ports (provider, relay, admin) and the relay's pid. `ended` is filled
    from the relay's log: see `Scene`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FLOW_")}
    async with contextlib.AsyncExitStack() as stack:
        provider = await stack.enter_async_context(_process(["simulate", "--listen", "127.0.0.1:0"], clean))
        provider_port = await _announced(provider, rb"http://[^:]+:(\d+)")
        settings = {
            "FLOW_LISTEN": "127.0.0.1:0",
            "FLOW_ADMIN_LISTEN": "127.0.0.1:0",
            "FLOW_UPSTREAM": f"http://127.0.0.1:{provider_port}",
        }
        relay = await stack.enter_async_context(_process(["serve"], {**clean, **settings}))
        line = await _line(relay)
        listening = orjson.loads(line)
        relay_port = int(listening["listen"][0].rpartition(":")[2])
        admin_port = int(listening["admin"].rpartition(":")[2])
        reading = asyncio.create_task(_read_log(relay, ended))
        try:
            yield provider_port, relay_port, admin_port, relay.pid
        finally:
            reading.cancel()


@contextlib.asynccontextmanager
async def _process(arguments: list[str], environment: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flowserver", *arguments, env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 20)
    if not line:
        raise SystemExit("flowserver demo: a process did not start; its message is above")
    return line


async def _announced(process: asyncio.subprocess.Process, pattern: bytes) -> int:
    line = await _line(process)
    match = re.search(pattern, line)
    if match is None:
        raise SystemExit(f"flowserver demo: unexpected output of the simulator: {line!r}")
    return int(match[1])


async def _read_log(relay: asyncio.subprocess.Process, ended: dict[str, dict[str, Any]]) -> None:
    assert relay.stdout is not None
    async for text in relay.stdout:
        line = orjson.loads(text)
        if line["event"] == "access":
            line["paused_seconds"] = line["paused_ms"] / 1000
            ended[line["request_id"]] = line


async def _get(port: int, path: str) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return orjson.loads(answer.partition(b"\r\n\r\n")[2])


def _resident(pid: int) -> int:
    """Resident bytes of a process; 0 if /proc can't be read."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
