"""Streams that no provider should send: they pass as they are, and cost the relay neither its memory nor other clients
their answers. The bounds are wide, they are no measurements."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import pytest

from tests.support.lab import Lab, Line, RelayProcess, eventually, finishes, page, samples
from tests.support.provider import Caller, Script
from tests.support.wire import LAST_CHUNK, Wire, chunk, request, response

PIECE = 65536
MB = 1 << 20
SIZE = 8 * MB
LARGE = 100 * MB
MAX_EVENT = 65536
MEMORY = 6 * MB
"""What a stream may take beyond what its bytes do when nobody looks into them."""
SHARE = 4 * MB
"""Bytes of a stream within which others are to be answered at least once."""
LATE = "1.0"
"""Seconds that the event loop may be late, as a bucket of its histogram."""

SSE, NDJSON, FRAMES = "text/event-stream", "application/x-ndjson", "application/vnd.amazon.eventstream"
CHAT, OLLAMA, BEDROCK = "/v1/chat/completions", "/api/chat", "/model/m/converse-stream"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"so"},"finish_reason":null}]}\n\n'
ASKED = b'{"model": "m", "stream": true}'
GOOD = EVENT * 3 + b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Hostile:
    """A stream, and how it is asked for."""

    make: Callable[[], Iterator[bytes]]
    uncounted: int | None = 0
    """Its events that could not be read, and 1 more where nothing could; None: it depends."""
    kind: str = SSE
    path: str = CHAT
    encoding: str = "identity"
    budget: str = "off"


def _filled(before: bytes, filling: bytes, size: int, after: bytes = b"") -> Iterator[bytes]:
    yield before
    yield from repeat(filling * (PIECE // len(filling)), size // PIECE)
    yield after


def _noise(size: int) -> Iterator[bytes]:
    chance = random.Random(7)
    yield from (chance.randbytes(PIECE) for _ in range(size // PIECE))


def _nested(opening: bytes, closing: bytes) -> Iterator[bytes]:
    deep = opening * 9000 + b"1" + closing * 9000
    yield from repeat(b'data: {"choices":[{"index":0,"delta":{"content":%b}}]}\n\n' % deep, 200)


STREAMS = {
    "an event of 100 MB": Hostile(lambda: _filled(b"data: ", b"x", LARGE, b"\n\n"), 1),
    "content of 100 MB": Hostile(lambda: _filled(EVENT[:60], b"so", LARGE, EVENT[60:])),
    "content of 100 MB within a budget": Hostile(lambda: _filled(EVENT[:60], b"so", LARGE, EVENT[60:]), budget="9"),
    "comments": Hostile(lambda: _filled(b"", b": ping\n\n", SIZE), 1),
    "an endless block of comments": Hostile(lambda: _filled(b"", b": ping\n", SIZE), 1),
    "blank lines": Hostile(lambda: _filled(b"", b"\n", SIZE), 1),
    "carriage returns": Hostile(lambda: _filled(b"", b"\r", SIZE), 1),
    "events of nothing": Hostile(lambda: _filled(b"", b"data:\n\n", SIZE), 1),
    "deep arrays": Hostile(lambda: _nested(b"[", b"]"), uncounted=1),
    "deep objects": Hostile(lambda: _nested(b'{"a":', b"}"), uncounted=1),
    "no UTF-8": Hostile(lambda: _filled(b"", EVENT.replace(b"so", b"\xff\xc3\xed\xa0"), SIZE), uncounted=1),
    "NULs": Hostile(lambda: _filled(b"", b"\0", SIZE), 1),
    "a page": Hostile(lambda: _filled(b"<html>", b"<p>so</p>", SIZE), 1),
    "noise": Hostile(lambda: _noise(SIZE), None),
    "a line of 100 MB": Hostile(lambda: _filled(b'{"message":"', b"x", LARGE, b'"}\n'), 0, NDJSON, OLLAMA),
    "noise for JSON lines": Hostile(lambda: _noise(SIZE), None, NDJSON, OLLAMA),
    "noise for frames": Hostile(lambda: _noise(SIZE), 1, FRAMES, BEDROCK),
    "compressed": Hostile(lambda: iter([gzip.compress(GOOD * 1000)]), 1, encoding="gzip"),
}


def _serving(stream: Hostile) -> Script:
    """Plays the stream, where /plain is asked for as bytes that mean nothing; /ping is answered in short."""

    async def script(caller: Caller) -> None:
        while True:
            try:
                message = await caller.request()
            except EOFError:
                return
            if message.start.startswith("GET /ping "):
                await caller.send(response(b"pong"))
            elif message.get("x-good"):
                await caller.send(response(GOOD, [f"Content-Type: {SSE}"]))
            else:
                plain = message.start.startswith("GET /plain ")
                await _play(caller, stream, "application/octet-stream" if plain else stream.kind)

    return script


async def _play(caller: Caller, stream: Hostile, kind: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Encoding: {stream.encoding}\r\n"
    await caller.send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
    for piece in stream.make():
        if piece:
            await caller.send(chunk(piece))
    await caller.send(LAST_CHUNK)


def _measured(stream: Hostile) -> tuple[int, str]:
    """Its size and its digest."""
    size, digest = 0, hashlib.sha256()
    for piece in stream.make():
        size += len(piece)
        digest.update(piece)
    return size, digest.hexdigest()


async def _passed(client: Wire) -> str:
    """The digest of an answer's body."""
    assert (await client.head()).status == 200
    digest = hashlib.sha256()
    while data := await client.chunk():
        digest.update(data)
    return digest.hexdigest()


async def _pings(client: Wire) -> int:
    """How often another client was answered until this was cancelled."""
    count = 0
    while True:
        try:
            await client.send(request(target="/ping"))
            assert (await client.response()).body == b"pong"
            count += 1
        except asyncio.CancelledError:
            return count


def _peak(process: RelayProcess) -> int:
    """The most memory that the process ever had."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def _counted(process: RelayProcess) -> list[Line]:
    """The access lines of requests to an API that is counted."""
    return [line for line in process.lines if line["event"] == "access" and "dialect" in line]


@pytest.mark.parametrize("stream", STREAMS.values(), ids=[name.replace(" ", "-") for name in STREAMS])
async def test_it_passes_and_takes_nothing_from_others(lab: Lab, stream: Hostile) -> None:
    provider = await lab.provider(_serving(stream))
    # The ping is for HTTP/2 only, but makes the relay look after its loop many times a second.
    process = await lab.process(provider.url, max_event=MAX_EVENT, upstream_ping_interval="80ms", overload_target="off")
    client, other = await lab.client(process.port), await lab.client(process.port)
    size, whole = _measured(stream)
    await client.send(request(target="/plain"))
    assert await finishes(_passed(client), within=60) == whole
    peak = _peak(process)

    pings = asyncio.create_task(_pings(other))
    bound = [f"x-flow-max-tokens: {stream.budget}"]
    await client.send(request("POST", stream.path, bound, body=ASKED))
    assert await finishes(_passed(client), within=60) == whole
    pings.cancel()
    assert await pings >= size // SHARE
    assert _peak(process) - peak < MEMORY

    await client.send(request("POST", CHAT, ["x-good: 1"], body=ASKED))
    assert (await client.response()).body == GOOD
    await eventually(lambda: len(_counted(process)) == 2, "both access lines")
    assert [line["end"] for line in _counted(process)] == ["complete"] * 2
    assert _counted(process)[-1]["output_tokens"] == 4  # and one that frames it
    metrics = samples((await page(process.admin_port, "/metrics")).body.decode())
    uncounted = sum(value for name, value in metrics.items() if name.startswith("flow_uncounted_total{"))
    assert stream.uncounted in (uncounted, None)
    lag = "flow_event_loop_lag_seconds"
    assert metrics[f'{lag}_bucket{{le="{LATE}"}}'] == metrics[f"{lag}_count"] > 0
