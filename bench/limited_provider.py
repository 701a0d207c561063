"""A provider of limited capacity: so many requests are served at a time, some more wait in it, others get 429.

An answer is a stream of OpenAI's chat API. Its first token takes longer for longer prompts; then the rest of the tokens
follow in a time that differs from answer to answer. `PUT /capacity` changes what it can take.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from bench.processes import python_module

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Capacity:
    """`places` requests are served at a time, `queue` more wait. Times are seconds: `first` to the first token of a
    small prompt, `per_kilobyte` more for each 1,000 bytes of it, `rest` for all other tokens on average. `speed`
    multiplies the pace of all of it; `early_head`: the head leaves before a place is free."""

    places: int
    queue: int
    first: float = 0.2
    per_kilobyte: float = 0.0
    rest: float = 2.0
    spread: float = 0.5
    """Standard deviation of the logarithm of `rest`; half of it for the first token."""
    speed: float = 1.0
    early_head: bool = False
    tokens: int = 6

    def changed(self, **values: float) -> Capacity:
        return replace(self, **values)  # type: ignore[arg-type]


class LimitedProvider:
    """`start`, ask, `close`."""

    def __init__(self, capacity: Capacity, seed: int = 1) -> None:
        self.capacity = capacity
        self.random = random.Random(seed)
        self.running = 0
        self.most = 0
        self.refused = 0
        self.served = 0
        self._waiting: deque[Callable[[], None]] = deque()
        self._server: asyncio.Server | None = None
        self.connections: set[asyncio.Transport] = set()
        self.port = 0

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self), "127.0.0.1", port, backlog=4096
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        while self.connections:
            for connection in list(self.connections):
                connection.abort()
            await asyncio.sleep(0.01)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def change(self, **values: float) -> None:
        self.capacity = self.capacity.changed(**values)
        self._serve()

    def take(self, start: Callable[[], None]) -> bool:
        """Call `start` when a place is free; False: it is refused."""
        if self.running + len(self._waiting) >= self.capacity.places + self.capacity.queue:
            self.refused += 1
            return False
        self._waiting.append(start)
        self._serve()
        return True

    def leave(self, start: Callable[[], None]) -> None:
        """Wait no more."""
        if start in self._waiting:
            self._waiting.remove(start)

    def done(self) -> None:
        self.running -= 1
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self.running < self.capacity.places:
            self.running += 1
            self.most = max(self.most, self.running)
            self._waiting.popleft()()


class _Connection(asyncio.Protocol):
    def __init__(self, provider: LimitedProvider) -> None:
        self._provider = provider
        self._transport: asyncio.Transport | None = None
        self._unread = b""
        self._timer: asyncio.TimerHandle | None = None
        self._size = 0
        self._is_served = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._provider.connections.add(self._transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        head, found, body = self._unread.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.split(b"\r\n")
        size = next((int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")), 0)
        if len(body) < size:
            return
        self._unread = body[size:]
        if lines[0].startswith(b"PUT"):
            self._provider.change(**json.loads(body[:size]))
            self._write(b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        self._size = size
        if not self._provider.take(self._start):
            self._write(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n")
        elif self._provider.capacity.early_head:
            self._write(_HEAD)

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._provider.connections.discard(self._transport)
        self._transport = None
        self._provider.leave(self._start)
        if self._timer is not None:
            self._timer.cancel()
        if self._is_served:
            self._provider.done()

    def _start(self) -> None:
        self._is_served = True
        provider, capacity = self._provider, self._provider.capacity
        head = b"" if capacity.early_head else _HEAD
        noise = math.exp(provider.random.gauss(0, capacity.spread / 2))
        first = (capacity.first + capacity.per_kilobyte * self._size / 1000) * noise / capacity.speed
        rest = capacity.rest * math.exp(provider.random.gauss(0, capacity.spread)) / capacity.speed
        self._after(first, lambda: self._token(head, rest / capacity.tokens, capacity.tokens))

    def _token(self, head: bytes, pause: float, left: int) -> None:
        event = b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
        if left:
            self._write(head + b"%x\r\n%b\r\n" % (len(event), event))
            self._after(pause, lambda: self._token(b"", pause, left - 1))
            return
        self._write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        self._is_served = False
        self._timer = None
        self._provider.served += 1
        self._provider.done()

    def _after(self, seconds: float, call: Callable[[], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, call)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def command(port: int, capacity: Capacity) -> list[str]:
    fields = [f"{name}={getattr(capacity, name)}" for name in Capacity.__slots__]
    return python_module("bench.limited_provider", str(port), *fields)


async def _serve(port: int, capacity: Capacity) -> None:
    await LimitedProvider(capacity).start(port)
    await asyncio.Event().wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("fields", nargs="*", help="name=value of `Capacity`")
    arguments = parser.parse_args()
    values = {
        name: json.loads(value.lower()) for name, _, value in (field.partition("=") for field in arguments.fields)
    }
    asyncio.run(_serve(arguments.port, Capacity(**values)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
