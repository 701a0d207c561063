"""A provider that plays recorded streams."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from flowserver.dialects import path_model, recognise

from .corpus import Recording
from .provider import Caller
from .wire import LAST_CHUNK, chunk

RECORDING = "x-recording"
"""The request's field that names the recording to play."""

_KINDS = {
    ".sse": "text/event-stream",
    ".ndjson": "application/x-ndjson",
    ".eventstream": "application/vnd.amazon.eventstream",
    ".jsonarray": "application/json; charset=UTF-8",
}
_SMALL = 3000
"""Bytes of a recording that may come byte by byte; of larger ones there are about as many pieces at most."""


def path_of(recording: Recording) -> str:
    """Where it is asked for. Some recordings have lost parts of their URL, and some a query that says what they are."""
    path = "/" + re.sub(r"<[^>]*>", "x", recording.about["request_path"]).lstrip("/")
    return path + "?alt=sse" if recording.path.suffix == ".sse" and path.endswith(":streamGenerateContent") else path


def is_served(recording: Recording) -> bool:
    """Whether its API is one that the relay counts."""
    return recognise(path_of(recording)) is not None


def is_chat(recording: Recording) -> bool:
    """Whether it is OpenAI's chat format, or its legacy one: where the usage is told on demand."""
    return path_of(recording).partition("?")[0].endswith("/completions")


def body_of(recording: Recording, *, asks: bool = True) -> bytes:
    """The recorded request, that `asks` for the usage or does not, where it is told on demand."""
    recorded = recording.about["request_body"]
    body: dict[str, Any] = dict(recorded) if isinstance(recorded, dict) else {}
    if path_model(path_of(recording)):
        body.pop("model", None)  # Azure takes one beside its deployment, whatever it is
    if is_chat(recording):
        body |= {"stream": True, "stream_options": {"include_usage": asks}}
    return orjson.dumps(body)


def content_type(recording: Recording) -> str:
    """As recorded, else what this framing has."""
    return str(recording.about["response_headers"].get("content-type") or _KINDS[recording.path.suffix])


def pieces(body: bytes, seed: str) -> Iterator[bytes]:
    """`body` cut at random places, the same for the same seed."""
    chance = random.Random(seed)
    scale = max(chance.choice((1, 16, 256, 4096)), len(body) // _SMALL)
    start = 0
    while start < len(body):
        end = start + chance.randint(1, 2 * scale - 1)
        yield body[start:end]
        start = end


class Replay:
    """A script. `ends` False: a stream has no end, and goes on until the relay hangs up."""

    def __init__(self, recordings: Iterable[Recording], *, ends: bool = True) -> None:
        self._recordings = {recording.name: recording for recording in recordings}
        self._ends = ends
        self.cancelled: list[str] = []
        """The recordings whose endless streams the relay hung up on."""

    async def __call__(self, caller: Caller) -> None:
        caller.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or the kernel joins the pieces again
        while True:
            try:
                message = await caller.request()
            except EOFError:
                return
            recording = self._recordings[message.get(RECORDING) or ""]
            if self._ends:
                await self._send(caller, recording)
                await caller.send(LAST_CHUNK)
            else:
                await self._send_endless(caller, recording)
                return

    async def _send(self, caller: Caller, recording: Recording) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type(recording)}\r\nTransfer-Encoding: chunked\r\n\r\n"
        await caller.send(head.encode())
        for piece in pieces(recording.body, recording.name):
            await caller.send(chunk(piece))
            await asyncio.sleep(0)  # for the relay, on the same loop, to read this piece by itself

    async def _send_endless(self, caller: Caller, recording: Recording) -> None:
        try:
            await self._send(caller, recording)
            hung_up = not await caller.receive()
        except (ConnectionResetError, BrokenPipeError):
            hung_up = True
        if hung_up:
            self.cancelled.append(recording.name)
