"""Clients and providers that misbehave at random: they stall, leave, reset, flood and send garbage, over HTTP/1.1 and
HTTP/2."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import orjson

from . import h2_frames as frames
from .h2_lab import Certificates
from .h2_peer import H2Peer
from .lab import simulate
from .wire import CHUNKED_HEAD, LAST_CHUNK, chunk

PATH = "/v1/chat/completions"

_PROVIDER_TIMEOUT = 30.0
"""Seconds that a provider serves one connection."""
_CLIENT_TIMEOUT = 8.0
"""Seconds for each thing that a client does."""
_DISCONNECTED = (OSError, EOFError, TimeoutError, ssl.SSLError, RuntimeError)
"""How a connection that the relay ended shows; uvloop raises RuntimeError for a write after that."""
_OPTIONS: tuple[dict[str, object], ...] = (
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
"""What clients ask of the simulator."""
_EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"so"},"finish_reason":null}]}\n\n'
_DONE = b"data: [DONE]\n\n"
_ANSWER = CHUNKED_HEAD + chunk(_EVENT) * 10 + chunk(_DONE) + LAST_CHUNK

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


def corrupted(rng: random.Random, data: bytes) -> bytes:
    """`data` with some bytes changed, left out, or put in."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 5)):
        place = rng.randrange(len(changed) + 1)
        changed[place : place + rng.choice((0, 1, 1, 4))] = rng.randbytes(rng.choice((0, 1, 1, 9)))
    return bytes(changed)


class BadProvider:
    """A provider of HTTP/1.1 that answers properly in one case of four."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        with contextlib.suppress(*_DISCONNECTED, asyncio.LimitOverrunError):
            async with asyncio.timeout(_PROVIDER_TIMEOUT):
                while await self._answer(reader, writer):
                    pass
        writer.transport.abort()

    async def _answer(self, reader: Reader, writer: Writer) -> bool:
        """Returns whether the connection goes on, as does each of the answers."""
        if self._rng.random() < 0.1:  # before the request has come
            writer.write(self._rng.choice((_ANSWER, b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", b"\0")))
            return False
        await _read_request(reader)
        answers: tuple[Callable[[Writer], Awaitable[bool]], ...] = (
            *[self._properly] * 3,
            self._break_off,
            self._corruptly,
            self._with_garbage,
            self._not_at_all,
            self._with_a_flood,
            self._after_interim_heads,
            self._with_a_bare_status,
            self._with_one_large_event,
            self._twice,
        )
        return await self._rng.choice(answers)(writer)

    async def _properly(self, writer: Writer) -> bool:
        for place in range(0, len(_ANSWER), 200):
            writer.write(_ANSWER[place : place + 200])
            await asyncio.sleep(self._rng.random() * 0.01)
        return True

    async def _break_off(self, writer: Writer) -> bool:
        writer.write(_ANSWER[: self._rng.randrange(len(_ANSWER))])
        await writer.drain()
        return False

    async def _corruptly(self, writer: Writer) -> bool:
        writer.write(corrupted(self._rng, _ANSWER))
        await asyncio.sleep(0.1)
        return False

    async def _with_garbage(self, writer: Writer) -> bool:
        writer.write(self._rng.randbytes(self._rng.randint(1, 5000)))
        return False

    async def _not_at_all(self, writer: Writer) -> bool:
        await asyncio.sleep(self._rng.random() * 3)
        return False

    async def _with_a_flood(self, writer: Writer) -> bool:
        writer.write(CHUNKED_HEAD)
        for _ in range(self._rng.randint(1, 300)):
            writer.write(chunk(_EVENT * 100))
            await writer.drain()
        return False

    async def _after_interim_heads(self, writer: Writer) -> bool:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\n" * self._rng.choice((1, 100)) + _ANSWER)
        return True

    async def _with_a_bare_status(self, writer: Writer) -> bool:
        status = self._rng.choice((b"500 A", b"503 B\r\nretry-after: 1", b"429 C\r\nretry-after-ms: 5", b"204 D"))
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")
        return True

    async def _with_one_large_event(self, writer: Writer) -> bool:
        writer.write(CHUNKED_HEAD + chunk(b"data: " + b"x" * self._rng.choice((10, 3_000_000))) + chunk(b"\n\n"))
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()
        await asyncio.sleep(0.1)
        return False

    async def _twice(self, writer: Writer) -> bool:
        writer.write(_ANSWER + _ANSWER)
        return False


async def _read_request(reader: Reader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.partition(b":")[2]))


class BadH2Provider:
    """A provider of HTTP/2 that knows no windows and no state, and answers properly in one case of three."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        unread = bytearray()
        with contextlib.suppress(*_DISCONNECTED):
            async with asyncio.timeout(_PROVIDER_TIMEOUT):
                await reader.readexactly(len(frames.PREFACE))
                writer.write(frames.settings())
                goes_on = True
                while goes_on:
                    unread += await _read_some(reader)
                    for raw in frames.split(unread):
                        goes_on = goes_on and await self._on_frame(raw, writer)
                    await writer.drain()
        writer.transport.abort()

    async def _on_frame(self, raw: frames.Raw, writer: Writer) -> bool:
        """Returns whether the connection goes on."""
        if raw.kind == frames.SETTINGS and not raw.flags & frames.ACK:
            writer.write(frames.settings(ack=True))
        elif raw.kind in (frames.HEADERS, frames.DATA) and raw.flags & frames.END_STREAM:
            answer = self._answer(raw.stream_id)
            writer.write(answer)
            if not answer:
                await asyncio.sleep(self._rng.random() * 2)
                return self._rng.random() < 0.5
        return True

    def _answer(self, stream_id: int) -> bytes:
        """Empty: none at all."""
        rng = self._rng
        fields = [(":status", "200"), ("content-type", "text/event-stream")]
        head = frames.headers(stream_id, fields, end=False)
        proper = head + frames.data(stream_id, _EVENT * 9) + frames.data(stream_id, _DONE, end=True)
        repeated = (frames.ping(), frames.settings(), frames.data(stream_id), frames.rst_stream(stream_id))
        return rng.choice(
            (
                *[proper] * 4,
                corrupted(rng, proper),
                head + frames.rst_stream(stream_id, rng.randrange(14)),
                frames.goaway(rng.choice((0, stream_id, 2**31 - 1)), rng.randrange(14)),
                rng.choice(repeated) * rng.choice((1, 3000)),
                head + frames.data(stream_id, b"x" * 16_384) * 20,  # more than its window
                rng.randbytes(rng.randint(1, 5000)),
                b"",
                b"",
            )
        )


class HostileClient:
    """Asks for the `models` at random, again and again, and behaves differently each time."""

    def __init__(self, port: int, tls: Certificates | None, models: Sequence[str], rng: random.Random) -> None:
        self._port = port
        self._tls = tls
        self._models = models
        self._rng = rng
        self.done: Counter[str] = Counter()
        """How often it did what."""

    async def run(self, deadline: float) -> None:
        """Until then, as time.monotonic() has it."""
        ways: tuple[Callable[[], Awaitable[None]], ...] = (
            self.reads,
            self.stalls,
            self.leaves,
            self.half_closes,
            self.sends_garbage,
            self.pipelines,
            self.reads_h2,
            self.reads_h2,
            self.stalls_h2,
            self.floods_h2,
            self.sends_garbage_h2,
        )
        while time.monotonic() < deadline:
            way = self._rng.choice(ways)
            with contextlib.suppress(*_DISCONNECTED):
                async with asyncio.timeout(_CLIENT_TIMEOUT):
                    await way()
            self.done[way.__name__] += 1

    @contextlib.asynccontextmanager
    async def _connected(self, protocol: str = "http/1.1") -> AsyncIterator[tuple[Reader, Writer]]:
        context = None if self._tls is None else self._tls.client(protocol)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=context, limit=1 << 14)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    def _chosen(self) -> tuple[list[tuple[str, str]], bytes]:
        """A request's fields and body."""
        name, _, value = simulate(**self._rng.choice(_OPTIONS)).partition(": ")
        message = {"role": "user", "content": "Go on. " * self._rng.choice((1, 1, 1, 20_000))}
        model, stream = self._rng.choice(self._models), self._rng.random() < 0.8
        body = orjson.dumps({"model": model, "stream": stream, "messages": [message]})
        return [("content-type", "application/json"), (name, value)], body

    def _request(self) -> bytes:
        fields, body = self._chosen()
        lines = [f"POST {PATH} HTTP/1.1", "host: relay.test", *(f"{name}: {value}" for name, value in fields)]
        return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body

    async def reads(self) -> None:
        async with self._connected() as (reader, writer):
            writer.write(self._request())
            await _read_all(reader)

    async def stalls(self) -> None:
        async with self._connected() as (reader, writer):
            writer.write(self._request())
            for _ in range(self._rng.randint(0, 20)):
                await reader.read(1024)
                await asyncio.sleep(self._rng.random() * 0.2)
            await asyncio.sleep(self._rng.random() * 5)

    async def leaves(self) -> None:
        async with self._connected() as (_, writer):
            request = self._request()
            writer.write(request[: self._rng.randint(0, len(request))])
            await asyncio.sleep(self._rng.choice((0, 0.01, 0.2)))
            if self._rng.random() < 0.5:
                writer.close()
                await writer.wait_closed()

    async def half_closes(self) -> None:
        async with self._connected() as (reader, writer):
            writer.write(self._request())
            await asyncio.sleep(self._rng.choice((0, 0.05, 0.2)))
            if writer.can_write_eof():
                writer.write_eof()
            await _read_all(reader)

    async def sends_garbage(self) -> None:
        async with self._connected() as (reader, writer):
            writer.write(corrupted(self._rng, self._request()))
            await _read_all(reader)

    async def pipelines(self) -> None:
        async with self._connected() as (reader, writer):
            writer.write(b"".join(self._request() for _ in range(self._rng.choice((2, 3, 200)))))
            await _read_all(reader)

    def _ask(self, peer: H2Peer) -> int:
        """Returns the stream."""
        fields, body = self._chosen()
        stream_id = peer.request("POST", PATH, fields, end=False)
        peer.upload(stream_id, body[: peer.room(stream_id)], end=self._rng.random() < 0.95)
        return stream_id

    def _ask_some(self, peer: H2Peer, most: int) -> list[int]:
        return [self._ask(peer) for _ in range(self._rng.randint(1, most))]

    async def reads_h2(self) -> None:
        """And resets a stream now and then."""
        peer = H2Peer()
        async with self._connected("h2") as (reader, writer):
            asked = self._ask_some(peer, 5)
            writer.write(peer.take())
            while not all(peer.answers[stream_id].ended for stream_id in asked):
                peer.hear(await _read_some(reader))
                stream_id = self._rng.choice(asked)
                if self._rng.random() < 0.05 and not peer.answers[stream_id].ended:
                    peer.reset(stream_id)
                    asked.remove(stream_id)
                writer.write(peer.take())

    async def stalls_h2(self) -> None:
        peer = H2Peer(window=self._rng.choice((0, 100, 65_535)))
        async with self._connected("h2") as (reader, writer):
            peer.stalled.update(self._ask_some(peer, 5))
            writer.write(peer.take())
            async with asyncio.timeout(self._rng.random() * 5):
                while True:
                    peer.hear(await _read_some(reader))
                    writer.write(peer.take())

    async def floods_h2(self) -> None:
        peer = H2Peer()
        async with self._connected("h2") as (reader, writer):
            stream_id = self._ask(peer)
            repeated = (
                frames.ping(),
                frames.settings(),
                frames.window_update(0, 1),
                frames.priority(1, 3),
                frames.data(stream_id),
                frames.rst_stream(stream_id),
                frames.settings((frames.INITIAL_WINDOW, 0)) + frames.settings((frames.INITIAL_WINDOW, 65_535)),
            )
            writer.write(peer.take() + self._rng.choice(repeated) * self._rng.choice((10, 5000)))
            async with asyncio.timeout(self._rng.random()):
                await _read_all(reader)

    async def sends_garbage_h2(self) -> None:
        peer = H2Peer()
        async with self._connected("h2") as (reader, writer):
            self._ask_some(peer, 3)
            writer.write(corrupted(self._rng, peer.take()))
            async with asyncio.timeout(self._rng.random()):
                await _read_all(reader)


async def _read_all(reader: Reader) -> None:
    while await reader.read(65536):
        pass


async def _read_some(reader: Reader) -> bytes:
    data = await reader.read(65536)
    if not data:
        raise EOFError
    return data
