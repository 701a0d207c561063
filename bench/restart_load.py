"""Clients that notice each connection that is refused, and each answer that does not come whole."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field

from bench.client import request

CONNECT_TIME = 10.0
"""Seconds after which a connection counts as refused."""
ANSWER_TIME = 60.0
"""Seconds, beyond its own length, after which a stream counts as broken."""
LONG_RATE = 5
"""Events a second of a long stream."""
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_SHORT = request("events=10 rate=50")
_WHOLE = request(stream=False)


@dataclass(slots=True)
class Tally:
    """How connections and answers ended."""

    whole: Counter[str] = field(default_factory=Counter)
    """By the kind of client."""
    refused: int = 0
    broken: int = 0
    lost: int = 0
    """Requests on kept connections that the relay closed instead of answering."""
    problems: list[str] = field(default_factory=list)

    def problem(self, kind: str, error: object) -> None:
        if len(self.problems) < 20:
            self.problems.append(f"{kind}: {error}")


class Answer(asyncio.Protocol):
    """Sends one request and reads its answer, which must be a stream that ends properly."""

    __slots__ = ("_head", "_request", "_tail", "ended", "transport")

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._head = self._tail = b""
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """What is wrong with the answer; empty: nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if len(self._head) < 16:
            self._head += data[:16]
        self._tail = (self._tail + data)[-64:]
        if self._tail.endswith(_LAST_CHUNK):
            is_good = self._head.startswith(b"HTTP/1.1 200") and b"[DONE]" in self._tail
            self._end("" if is_good else f"{self._head!r} ... {self._tail!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"closed ({exc}) after {self._head!r} ... {self._tail!r}")

    def _end(self, problem: str) -> None:
        if not self.ended.done():
            self.ended.set_result(problem)
            self.transport.close()


class Load:
    """Opens short streams at a rate, keeps so many long ones, and has some connections that are used again."""

    def __init__(self, port: int, *, new_per_second: float, long_streams: int, long_seconds: float, kept: int) -> None:
        self.tally = Tally()
        self._port = port
        self._new_per_second = new_per_second
        self._long_streams = long_streams
        self._long_seconds = long_seconds
        self._kept = kept
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()

    def start(self) -> None:
        self._spawn(self._open_short())
        for number in range(self._long_streams):
            self._spawn(self._repeat_long(number))
        for number in range(self._kept):
            self._spawn(self._repeat_whole(number))

    async def stop(self) -> None:
        """Open nothing more, and wait for what is open."""
        self._stopping.set()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _spawn(self, work: Coroutine[object, object, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open_short(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not self._stopping.is_set():
            self._spawn(self._stream("short", _SHORT, 1.0))
            due += 1 / self._new_per_second
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _repeat_long(self, number: int) -> None:
        """The first ends at some time, so that not all end together."""
        await asyncio.sleep(5.0 * number / self._long_streams)
        seconds = random.uniform(1.0, self._long_seconds)
        while not self._stopping.is_set():
            script = f"events={round(seconds * LONG_RATE)} rate={LONG_RATE}"
            if not await self._stream("long", request(script), seconds):
                await asyncio.sleep(0.1)  # nothing listens, perhaps
            seconds = self._long_seconds

    async def _stream(self, kind: str, raw: bytes, seconds: float) -> bool:
        loop = asyncio.get_running_loop()
        try:
            connecting = loop.create_connection(lambda: Answer(raw), "127.0.0.1", self._port)
            _, answer = await asyncio.wait_for(connecting, CONNECT_TIME)
        except (OSError, TimeoutError) as error:
            self.tally.refused += 1
            self.tally.problem(kind, repr(error))
            return False
        try:
            problem = await asyncio.wait_for(answer.ended, seconds + ANSWER_TIME)
        except TimeoutError:
            problem = "no end"
            answer.transport.abort()
        if problem:
            self.tally.broken += 1
            self.tally.problem(kind, problem)
        else:
            self.tally.whole[kind] += 1
        return not problem

    async def _repeat_whole(self, number: int) -> None:
        """Whole answers on a connection that is used for as long as the relay keeps it."""
        await asyncio.sleep(random.random())
        while not self._stopping.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError as error:
                self.tally.refused += 1
                self.tally.problem("kept", repr(error))
                await asyncio.sleep(0.1)
                continue
            await self._ask_while_open(reader, writer)
            writer.close()

    async def _ask_while_open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = 0
        while not self._stopping.is_set() and not reader.at_eof():
            try:
                writer.write(_WHOLE)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
            except (OSError, EOFError, asyncio.IncompleteReadError) as error:
                self._count_loss(asked, error)
                return
            asked += 1
            self.tally.whole["kept"] += 1
            if b"connection: close" in head.lower():
                return
            await asyncio.sleep(random.expovariate(2.0))

    def _count_loss(self, asked: int, error: Exception) -> None:
        if asked:
            self.tally.lost += 1
        else:
            self.tally.broken += 1
        self.tally.problem(f"kept, request {asked + 1}", repr(error))
