"""Both sides of a relay are played by chance: clients and providers that stall, leave, reset, flood and talk nonsense,
over HTTP/1.1 and HTTP/2, plain and over TLS, beside streams of honest clients.

`FLOW_SOAK` is how many seconds that takes (20 unless it is set); with -s the figures are printed. `FLOW_SEED` repeats
the choices of a run, though not its timing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import ssl
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson
import pytest

from tests.support import h2_frames as frames
from tests.support.h2_lab import Certificates
from tests.support.h2_peer import H2Peer
from tests.support.lab import Lab, RelayProcess, eventually, free_port, numbers, page, samples, simulate
from tests.support.topology import toml
from tests.support.wire import CHUNKED_HEAD, LAST_CHUNK, chunk

SECONDS = float(os.environ.get("FLOW_SOAK", "20"))
SEED = int(os.environ.get("FLOW_SEED", "1"))
WORKERS = 24
"""Hostile clients of each relay."""
LONG = 600.0
"""Seconds from which on a run tells of memory."""
GROWTH = 5_000_000
"""Bytes that a long run may add to what it had after a tenth."""
PATIENCE = 8.0
"""Seconds for each thing that a client does."""

GONE = (OSError, EOFError, TimeoutError, ssl.SSLError, RuntimeError)
"""What the other side's end is here; RuntimeError is uvloop's for what is written after it."""
PATH = "/v1/chat/completions"
MODELS = ("sim", "sim", "sim-tls", "bad", "bad", "bad-tls", "bad-h2", "bad-h2-tls", "nobody")
OPTIONS: tuple[dict[str, object], ...] = (
    {"events": 20, "rate": 100},
    {"events": 2000},
    {"whole": 50_000},
    {"events": 50, "abort_after": 5},
    {"events": 50, "fin_after": 5, "length": 1},
    {"events": 50, "close": 1},
    {"events": 0, "silence_after": 3},
    {"status": 500},
    {"first": 60},
    {"delay": 60},
)
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"so"},"finish_reason":null}]}\n\n'
ANSWER = CHUNKED_HEAD + chunk(EVENT) * 10 + chunk(b"data: [DONE]\n\n") + LAST_CHUNK

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def _spoiled(chance: random.Random, data: bytes) -> bytes:
    """`data` with some bytes changed, left out, or put in."""
    spoiled = bytearray(data)
    for _ in range(chance.randint(1, 5)):
        place = chance.randrange(len(spoiled) + 1)
        spoiled[place : place + chance.choice((0, 1, 1, 4))] = chance.randbytes(chance.choice((0, 1, 1, 9)))
    return bytes(spoiled)


# --- providers ---


async def _asked(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.partition(b":")[2]))


class BadProvider:
    """Of HTTP/1.1. Answers well in one case of four."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(*GONE, asyncio.LimitOverrunError):
            async with asyncio.timeout(30):
                while await self._answer(reader, writer):
                    pass
        writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Returns whether the connection goes on."""
        chance = self._chance
        if chance.random() < 0.1:  # before the request has come
            writer.write(chance.choice((ANSWER, b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", b"\0")))
            return False
        await _asked(reader)
        what = chance.randrange(12)
        if what < 3:
            for place in range(0, len(ANSWER), 200):
                writer.write(ANSWER[place : place + 200])
                await asyncio.sleep(chance.random() * 0.01)
        elif what == 3:
            writer.write(ANSWER[: chance.randrange(len(ANSWER))])
            await writer.drain()
        elif what == 4:
            writer.write(_spoiled(chance, ANSWER))
            await asyncio.sleep(0.1)
        elif what == 5:
            writer.write(chance.randbytes(chance.randint(1, 5000)))
        elif what == 6:
            await asyncio.sleep(chance.random() * 3)
        elif what == 7:
            writer.write(CHUNKED_HEAD)
            for _ in range(chance.randint(1, 300)):
                writer.write(chunk(EVENT * 100))
                await writer.drain()
        elif what == 8:
            writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\n" * chance.choice((1, 100)) + ANSWER)
        elif what == 9:
            status = chance.choice((b"500 A", b"503 B\r\nretry-after: 1", b"429 C\r\nretry-after-ms: 5", b"204 D"))
            writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")
        elif what == 10:
            writer.write(CHUNKED_HEAD + chunk(b"data: " + b"x" * chance.choice((10, 3_000_000))) + chunk(b"\n\n"))
            writer.write_eof() if writer.can_write_eof() else writer.close()
            await asyncio.sleep(0.1)
        else:
            writer.write(ANSWER + ANSWER)
        return what < 3 or what in (8, 9)


class BadH2Provider:
    """Of HTTP/2. Knows no windows and no state; answers each stream by chance."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(*GONE):
            async with asyncio.timeout(30):
                await reader.readexactly(24)
                writer.write(frames.settings())
                while await self._frame(reader, writer):
                    await writer.drain()
        writer.transport.abort()

    async def _frame(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readexactly(9)
        size, kind, flags, stream_id = (
            int.from_bytes(head[:3], "big"),
            head[3],
            head[4],
            int.from_bytes(head[5:], "big"),
        )
        await reader.readexactly(size)
        if kind == frames.SETTINGS and not flags & frames.ACK:
            writer.write(frames.settings(ack=True))
        elif kind in (frames.HEADERS, frames.DATA) and flags & frames.END_STREAM:
            return await self._answer(stream_id, writer)
        return True

    async def _answer(self, stream_id: int, writer: asyncio.StreamWriter) -> bool:
        chance = self._chance
        fields = [(":status", "200"), ("content-type", "text/event-stream")]
        began = frames.frame(frames.HEADERS, frames.END_HEADERS, stream_id, frames.literals(fields))
        whole = began + frames.data(stream_id, EVENT * 9) + frames.data(stream_id, b"data: [DONE]\n\n", end=True)
        what = chance.randrange(12)
        if what < 4:
            writer.write(whole)
        elif what == 4:
            writer.write(_spoiled(chance, whole))
        elif what == 5:
            writer.write(began + frames.rst_stream(stream_id, chance.randrange(14)))
        elif what == 6:
            writer.write(frames.goaway(chance.choice((0, stream_id, 2**31 - 1)), chance.randrange(14)))
        elif what == 7:
            one = chance.choice(
                (frames.ping(), frames.settings(), frames.data(stream_id), frames.rst_stream(stream_id))
            )
            writer.write(one * chance.choice((1, 3000)))
        elif what == 8:
            writer.write(began + frames.data(stream_id, b"x" * 16_384) * 20)  # more than its window
        elif what == 9:
            writer.write(chance.randbytes(chance.randint(1, 5000)))
        elif what == 10:
            await asyncio.sleep(chance.random() * 2)
            return False
        else:
            return chance.random() < 0.8  # says nothing
        return True


# --- clients ---


def _request(chance: random.Random, model: str) -> tuple[list[tuple[str, str]], bytes]:
    """Fields and body."""
    name, _, value = simulate(**chance.choice(OPTIONS)).partition(": ")
    message = {"role": "user", "content": "Go on. " * chance.choice((1, 1, 1, 20_000))}
    body = orjson.dumps({"model": model, "stream": chance.random() < 0.8, "messages": [message]})
    return [("content-type", "application/json"), (name.lower(), value)], body


def _plain(fields: list[tuple[str, str]], body: bytes) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", "host: relay.test", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


class Client:
    """One that does what chance wants, again and again."""

    def __init__(self, port: int, tls: Certificates | None, chance: random.Random) -> None:
        self._port = port
        self._tls = tls
        self._chance = chance
        self.done: Counter[str] = Counter()

    async def run(self, deadline: float) -> None:
        ways: tuple[Callable[[], Awaitable[None]], ...] = (
            self.reads,
            self.stalls,
            self.leaves,
            self.half_closes,
            self.talks_nonsense,
            self.asks_much,
            self.asks_over_h2,
            self.asks_over_h2,
            self.stalls_over_h2,
            self.floods_over_h2,
            self.talks_nonsense_over_h2,
        )
        while time.monotonic() < deadline:
            way = self._chance.choice(ways)
            with contextlib.suppress(*GONE):
                async with asyncio.timeout(PATIENCE):
                    await way()
            self.done[way.__name__] += 1

    @contextlib.asynccontextmanager
    async def _connected(self, protocol: str):  # type: ignore[no-untyped-def]
        context = None if self._tls is None else self._tls.client(protocol)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=context, limit=1 << 14)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    def _asks(self) -> bytes:
        return _plain(*_request(self._chance, self._chance.choice(MODELS)))

    async def reads(self) -> None:
        async with self._connected("http/1.1") as (reader, writer):
            writer.write(self._asks())
            while await reader.read(65536):
                pass

    async def stalls(self) -> None:
        async with self._connected("http/1.1") as (reader, writer):
            writer.write(self._asks())
            for _ in range(self._chance.randint(0, 20)):
                await reader.read(1024)
                await asyncio.sleep(self._chance.random() * 0.2)
            await asyncio.sleep(self._chance.random() * 5)

    async def leaves(self) -> None:
        async with self._connected("http/1.1") as (_, writer):
            asks = self._asks()
            writer.write(asks[: self._chance.randint(0, len(asks))])
            await asyncio.sleep(self._chance.choice((0, 0.01, 0.2)))
            if self._chance.random() < 0.5:
                writer.close()
                await writer.wait_closed()

    async def half_closes(self) -> None:
        async with self._connected("http/1.1") as (reader, writer):
            writer.write(self._asks())
            await asyncio.sleep(self._chance.choice((0, 0.05, 0.2)))
            if writer.can_write_eof():
                writer.write_eof()
            while await reader.read(65536):
                pass

    async def talks_nonsense(self) -> None:
        async with self._connected("http/1.1") as (reader, writer):
            writer.write(_spoiled(self._chance, self._asks()))
            while await reader.read(65536):
                pass

    async def asks_much(self) -> None:
        async with self._connected("http/1.1") as (reader, writer):
            writer.write(b"".join(self._asks() for _ in range(self._chance.choice((2, 3, 200)))))
            while await reader.read(65536):
                pass

    def _asks_h2(self, peer: H2Peer) -> int:
        fields, body = _request(self._chance, self._chance.choice(MODELS))
        stream_id = peer.request("POST", PATH, fields, end=False)
        peer.upload(stream_id, body[: peer.room(stream_id)], end=self._chance.random() < 0.95)
        return stream_id

    async def asks_over_h2(self) -> None:
        peer = H2Peer()
        async with self._connected("h2") as (reader, writer):
            asked = [self._asks_h2(peer) for _ in range(self._chance.randint(1, 5))]
            writer.write(peer.take())
            while not all(peer.answers[stream_id].ended for stream_id in asked):
                peer.hear(await _some(reader))
                if self._chance.random() < 0.05:
                    stream_id = self._chance.choice(asked)
                    if not peer.answers[stream_id].ended:
                        peer.reset(stream_id)
                        asked.remove(stream_id)
                writer.write(peer.take())

    async def stalls_over_h2(self) -> None:
        peer = H2Peer(window=self._chance.choice((0, 100, 65_535)))
        async with self._connected("h2") as (reader, writer):
            peer.stalled.update(self._asks_h2(peer) for _ in range(self._chance.randint(1, 5)))
            writer.write(peer.take())
            async with asyncio.timeout(self._chance.random() * 5):
                while True:
                    peer.hear(await _some(reader))
                    writer.write(peer.take())

    async def floods_over_h2(self) -> None:
        peer = H2Peer()
        async with self._connected("h2") as (reader, writer):
            stream_id = self._asks_h2(peer)
            one = self._chance.choice(
                (
                    frames.ping(),
                    frames.settings(),
                    frames.window_update(0, 1),
                    frames.priority(1, 3),
                    frames.data(stream_id),
                    frames.rst_stream(stream_id),
                    frames.settings((4, 0)) + frames.settings((4, 65_535)),
                )
            )
            writer.write(peer.take() + one * self._chance.choice((10, 5000)))
            await self._listens(reader)

    async def talks_nonsense_over_h2(self) -> None:
        peer = H2Peer()
        async with self._connected("h2") as (reader, writer):
            for _ in range(self._chance.randint(1, 3)):
                self._asks_h2(peer)
            writer.write(_spoiled(self._chance, peer.take()))
            await self._listens(reader)

    async def _listens(self, reader: asyncio.StreamReader) -> None:
        async with asyncio.timeout(self._chance.random()):
            while await reader.read(65536):
                pass


async def _some(reader: asyncio.StreamReader) -> bytes:
    data = await reader.read(65536)
    if not data:
        raise EOFError
    return data


# --- honest clients, in a thread each: what the rest of this process does is not to delay them ---

_EVENTS = 100


def _honest(port: int, tls: Certificates | None, deadline: float) -> tuple[float, int]:
    """Streams one answer after the other. Returns the largest gap in seconds, and how many answers there were."""
    import http.client

    largest, count = 0.0, 0
    while time.monotonic() < deadline:
        if tls is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=tls.client("http/1.1"))
        name, _, value = simulate(events=_EVENTS, rate=50).partition(": ")
        body = orjson.dumps({"model": "honest", "stream": True, "messages": []})
        connection.request("POST", PATH, body, {"Content-Type": "application/json", name: value})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        read, last = b"", time.monotonic()
        while piece := answer.read1(65536):
            now = time.monotonic()
            largest, last = max(largest, now - last), now
            read += piece
        assert numbers(read) == list(range(_EVENTS))
        connection.close()
        count += 1
    return largest, count


# --- the relay ---


def _memory(process: RelayProcess) -> int:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _sockets(process: RelayProcess) -> int:
    count = 0
    for name in os.listdir(f"/proc/{process.pid}/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/{process.pid}/fd/{name}").startswith("socket:")
    return count


async def _metrics(process: RelayProcess) -> dict[str, float]:
    return samples((await page(process.admin_port, "/metrics")).body.decode())


_OPEN = (
    "flow_streams_open",
    "flow_streams_paused",
    "flow_held_bytes",
    "flow_connections_open",
    "flow_uploads_held_bytes",
    "flow_upstream_open",
    "flow_upstream_waiting",
)


async def _left(process: RelayProcess) -> dict[str, float]:
    """What is open still."""
    metrics = await _metrics(process)
    return {name: value for name, value in metrics.items() if name.partition("{")[0] in _OPEN and value}


async def _simulator(lab: Lab) -> str:
    """One in a process of its own. Returns its URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flowserver", "simulate", "--listen", "127.0.0.1:0", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    lab.on_exit(process.kill)
    return (await process.stdout.readline()).split()[-1].decode()


async def _upstreams(lab: Lab, tls: Certificates, chance: random.Random) -> dict[str, dict[str, object] | str]:
    def upstream(port: int, protocol: str, *, secure: bool) -> dict[str, object]:
        return {"url": f"http{'s' if secure else ''}://127.0.0.1:{port}", "protocol": protocol}

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    context.set_alpn_protocols(["http/1.1"])
    over_h2 = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    over_h2.load_cert_chain(tls.certificate, tls.key)
    over_h2.set_alpn_protocols(["h2"])
    found: dict[str, dict[str, object] | str] = {
        "honest": await _simulator(lab),
        "sim": (await lab.simulator()).url,
        "sim-tls": (await lab.simulator(tls=context)).url,
        "nobody": f"http://127.0.0.1:{free_port()}",
    }
    for name, play, protocol, server_tls in (
        ("bad", BadProvider(chance), "h1", None),
        ("bad-tls", BadProvider(chance), "h1", context),
        ("bad-h2", BadH2Provider(chance), "h2", None),
        ("bad-h2-tls", BadH2Provider(chance), "h2", over_h2),
    ):
        server = await asyncio.start_server(play, "127.0.0.1", 0, ssl=server_tls, limit=1 << 22)
        lab.on_exit(server.close)
        found[name] = upstream(server.sockets[0].getsockname()[1], protocol, secure=server_tls is not None)
    return found


async def _watch(process: RelayProcess, began: float) -> int:
    """Forgets what the relay logs, until cancelled. Returns its memory after a tenth of the time."""
    early = 0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(min(5, SECONDS / 20))
            process.lines[:] = [line for line in process.lines if line["event"] != "access"]
            if not early and time.monotonic() - began > SECONDS / 10:
                early = _memory(process)
    return early


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_whatever_chance_plays_nothing_is_left_and_honest_streams_go_on(lab: Lab, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    tls = Certificates(tmp_path)
    upstreams = await _upstreams(lab, tls, chance)
    routes = "".join(
        f'[[routes]]\npath = "{PATH}"\nmodels = ["{name}"]\nupstreams = ["{name}"]\n' for name in upstreams
    )
    config = toml(tmp_path, upstreams, routes + '[[routes]]\npath = "*"\nupstreams = ["sim"]\n')
    settings = {
        "config": config,
        "upstream_ca": tls.authority,
        "breaker_failures": 1_000_000,  # they are to be asked again
        "idle_timeout": "2s",
        "first_byte_timeout": "2s",
        "stall_timeout": "2s",
        "head_timeout": "2s",
        "keepalive_timeout": "1s",
        "upstream_keepalive": "1s",
    }
    processes = [await lab.process(None, **settings), await lab.process(None, **settings, **tls.settings)]
    listeners = [_sockets(process) for process in processes]
    began = time.monotonic()
    deadline = began + SECONDS
    watches = [asyncio.create_task(_watch(process, began)) for process in processes]
    kinds = [(processes[0].port, None), (processes[1].port, tls)]
    clients = [Client(port, secure, chance) for port, secure in kinds for _ in range(WORKERS)]
    honest = [
        asyncio.create_task(asyncio.to_thread(_honest, port, secure, deadline))
        for port, secure in kinds
        for _ in range(2)
    ]
    await asyncio.gather(*(client.run(deadline) for client in clients))
    results = await asyncio.gather(*honest)

    done: Counter[str] = sum((client.done for client in clients), Counter())
    print(f"\n{SECONDS:g} s, seed {SEED}: {sum(done.values())} hostile clients: {dict(done)}")
    for (port, secure), (gap, answers) in zip([kind for kind in kinds for _ in range(2)], results, strict=True):
        print(f"honest {'TLS' if secure else 'plain'}: {answers} answers, largest gap {gap * 1000:.0f} ms")
        assert answers > 0, port
    for process, before, watch in zip(processes, listeners, watches, strict=True):
        for _ in range(75):
            if not (left := await _left(process)):
                break
            await asyncio.sleep(0.2)
        assert not left
        await eventually(lambda p=process, b=before: _sockets(p) <= b + 1, "no socket is left")  # type: ignore[misc]
        watch.cancel()
        early, late = await watch, _memory(process)
        print(f"memory after a tenth {early / 1e6:.1f} MB, at the end {late / 1e6:.1f} MB")
        if SECONDS >= LONG:
            assert late - early < GROWTH
        metrics = await _metrics(process)
        print({name: value for name, value in metrics.items() if name.startswith("flow_exchanges_total")})
        assert process.complaints == b""
        assert process.returncode is None
        process.signal(15)  # type: ignore[arg-type]
        assert await process.exit_status() == 0
