"""The crowd of `hostile`: large bodies at every pace, uploads without an end, and idle HTTP/2 connections. A process of
its own.

Run as `python -m bench.hostile_load JSON`, with the fields of `Plan`; it is told to leave as `bench.pressure_load` is.
"""

from __future__ import annotations

import json
import select
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from bench.frames import ACK, ENABLE_PUSH, PING, PREFACE, SETTINGS, frame, settings, split
from bench.h2_client import request as h2_request
from bench.pressure_load import LoadProcess, is_told_to_leave, prepare
from bench.pressure_provider import script
from bench.visitors import Arrivals, Crowd, Outcome, Visitor

BLOCK = memoryview(b"word " * (256 * 1024 // 5))

DRIP = 1000
"""Bytes of a turn of one that drips."""

AGAIN = 1.0
"""Seconds until one that was refused or cut comes again."""

_BEGIN = b'{"model":"bench","stream":true,"messages":[{"role":"user","content":"'
_END = b'"}]}'
_BOTH = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP
_READ = select.EPOLLIN | select.EPOLLRDHUP


@dataclass(frozen=True, slots=True)
class Plan:
    """On `port`, at any time: `uploads` requests whose bodies have `size` bytes, a third of them as fast as they are
    taken, a third that drips, and a third that stops in the middle; `endless` ones in chunks; and `idle` HTTP/2
    connections, that come within `ramp` seconds, each after a request that was answered. Who is refused or cut comes
    again."""

    port: int
    uploads: int = 1000
    size: int = 32_000_000
    endless: int = 3
    idle: int = 5000
    ramp: float = 10


@dataclass(slots=True)
class Sent:
    """What the load has put into its sockets."""

    outcomes: Counter[str]
    bytes: int = 0


class Upload(Visitor):
    """A request whose body is made as it is sent. Reads whatever comes meanwhile."""

    __slots__ = ("_again", "_left", "_piece", "_sent")

    kind = "fast upload"
    patience = None

    def __init__(self, size: int, sent: Sent, again: Callable[[], None]) -> None:
        """`size`: bytes of the body. `again` makes another one."""
        super().__init__(self.first(size))
        self._left = size - len(_BEGIN)
        self._piece = self.request
        self._sent = sent
        self._again = again

    def first(self, size: int) -> bytes:
        """What is sent at once."""
        return _HEAD % (script(1).encode(), b"content-length: %d" % size) + _BEGIN

    def on_events(self, events: int) -> None:
        if events & (select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
            super().on_events(events)
        if self.outcome is None and events & select.EPOLLOUT:
            self.push()

    def push(self) -> None:
        """Send a piece."""
        try:
            number = self.socket.send(self._piece)
        except BlockingIOError:
            return
        except OSError:
            return  # an answer may wait to be read; if not, the next event says that the connection is gone
        self._sent.bytes += number
        self._piece = self._piece[number:]
        if not self._piece:
            self._piece = self.next_piece()
        self.crowd.watch(self, _BOTH if self._piece else _READ)

    def next_piece(self) -> memoryview:
        """What is sent then; empty: nothing more."""
        piece = BLOCK[: max(0, self._left - len(_END))]
        if not piece and self._left:
            piece = memoryview(_END)
        self._left -= len(piece)
        return piece

    def on_outcome(self) -> None:
        assert self.outcome is not None
        why = f" ({self.status})" if self.status else ""
        self._sent.outcomes[f"{self.kind} {self.outcome}{why}"] += 1
        if self.outcome is not Outcome.LEFT:
            self.crowd.at(time.monotonic() + AGAIN, self._again)


class Drip(Upload):
    """Sends DRIP bytes a second."""

    __slots__ = ()

    kind = "dripping upload"

    def next_piece(self) -> memoryview:
        self.crowd.at(time.monotonic() + 1, self._drip)
        return BLOCK[:0]

    def _drip(self) -> None:
        if self.outcome is None:
            self._piece = BLOCK[: min(DRIP, self._left)]
            self._left -= len(self._piece)
            self.crowd.watch(self, _BOTH)


class Stop(Upload):
    """Stops in the middle, and stays."""

    __slots__ = ("_stops_at",)

    kind = "stopped upload"

    def __init__(self, size: int, sent: Sent, again: Callable[[], None]) -> None:
        super().__init__(size, sent, again)
        self._stops_at = size // 2

    def next_piece(self) -> memoryview:
        return super().next_piece() if self._left > self._stops_at else BLOCK[:0]


class Endless(Upload):
    """Chunks for ever."""

    __slots__ = ()

    kind = "endless upload"

    def first(self, size: int) -> bytes:
        head = _HEAD % (script(1).encode(), b"transfer-encoding: chunked")
        return head + b"%x\r\n%b\r\n" % (len(_BEGIN), _BEGIN)

    def next_piece(self) -> memoryview:
        return _CHUNK


_HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    b"authorization: Bearer bench\r\nx-simulate: %b\r\n%b\r\n\r\n"
)
_CHUNK = memoryview(b"%x\r\n%b\r\n" % (65_500, bytes(BLOCK[:65_500])))

_FIRST = PREFACE + settings({ENABLE_PUSH: 0}) + h2_request(1, script(1))


class Idle(Visitor):
    """An HTTP/2 connection that makes one request and answers pings."""

    __slots__ = ("_again", "_rest", "_sent")

    patience = None

    def __init__(self, sent: Sent, again: Callable[[], None]) -> None:
        super().__init__(_FIRST)
        self._sent = sent
        self._again = again
        self._rest = b""

    def on_readable(self) -> None:
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.finish(Outcome.CUT)
            return
        data = self._rest + data
        position = 0
        for kind, flags, _, start, position in split(data):
            if kind in (SETTINGS, PING) and not flags & ACK:
                self._answer(frame(kind, ACK, 0, data[start:position] if kind == PING else b""))
        self._rest = data[position:]

    def _answer(self, data: bytes) -> None:
        try:
            self.socket.send(data)
        except OSError:
            return  # the next event says so

    def on_outcome(self) -> None:
        self._sent.outcomes[f"idle connection {self.outcome}"] += 1
        if self.outcome is not Outcome.LEFT:
            self.crowd.at(time.monotonic() + AGAIN, self._again)


class Load:
    """Keeps as many there as are planned."""

    def __init__(self, crowd: Crowd, plan: Plan) -> None:
        self._crowd = crowd
        self._plan = plan
        self.sent = Sent(Counter())
        kinds = (Upload, Drip, Stop)
        for number in range(plan.uploads):
            self._upload_at(number / plan.uploads, kinds[number % 3])
        for _ in range(plan.endless):
            self._upload_at(0, Endless)
        if plan.idle:
            self._idle = Arrivals(crowd, plan.idle / plan.ramp, self._come)

    def _upload_at(self, seconds: float, kind: type[Upload]) -> None:
        self._crowd.at(time.monotonic() + seconds, partial(self._begin, kind))

    def _begin(self, kind: type[Upload]) -> None:
        self._crowd.add(kind(self._plan.size, self.sent, partial(self._begin, kind)), self._plan.port)

    def _come(self) -> None:
        self._be_idle()
        self._idle.is_stopped = self._idle.number >= self._plan.idle

    def _be_idle(self) -> None:
        self._crowd.add(Idle(self.sent, self._be_idle), self._plan.port)

    def summary(self) -> dict[str, Any]:
        """For `LoadProcess.summary`."""
        return {"outcomes": dict(self.sent.outcomes), "sent": self.sent.bytes, "too_many": self._crowd.too_many}


def start(plan: Plan) -> LoadProcess:
    return LoadProcess("bench.hostile_load", asdict(plan))


def main() -> None:
    plan = Plan(**prepare())
    with Crowd() as crowd:
        load = Load(crowd, plan)
        crowd.run(86400, is_told_to_leave)
        crowd.leave()
        print("gone", flush=True)
        print(json.dumps(load.summary()), flush=True)


if __name__ == "__main__":
    main()
