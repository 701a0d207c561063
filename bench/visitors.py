"""Clients by the thousand that may be refused, cut or left waiting: each connects without blocking, makes one request,
and ends with an outcome.

`bench.client` is for clients of which all are expected to be served. HTTP/1.1, one request a connection, which is then
reset, so that no port waits.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import math
import select
import socket
import struct
import time
from collections.abc import Callable
from enum import StrEnum
from itertools import count

READ_SIZE = 65536

PATIENCE = 5.0
"""Seconds that a client waits for the head of its answer."""

TIMERS_A_TURN = 64
"""Those who are late must not keep the others from reading."""

SOURCES = tuple(f"127.0.0.{number}" for number in range(2, 18))
"""Addresses that clients come from, in turn: of one, the kernel has 14,000 ports at hand, and looks long for more."""

IP_BIND_ADDRESS_NO_PORT = 24
"""Of linux/in.h: the port is chosen on connecting, when it is known what it must differ from."""

_READ = select.EPOLLIN | select.EPOLLRDHUP
_GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_REFUSALS = (429, 503)


class Outcome(StrEnum):
    """How a visit ended."""

    WHOLE = "whole"
    REFUSED = "refused"
    """By 429 or 503."""
    CUT = "cut"
    """After the head of a 200 answer, before its end."""
    FAILED = "failed"
    """Another status, or closed without an answer."""
    UNANSWERED = "unanswered"
    """Nothing came within the client's patience."""
    LEFT = "left"
    """By the client, before the end."""


class Visitor:
    """One client with its request. Subclasses say what it makes of the answer."""

    __slots__ = ("began", "crowd", "outcome", "received", "request", "socket", "status", "tail")

    receive_buffer: int | None = None
    """SO_RCVBUF in bytes; None: the kernel's own choice."""

    patience: float | None = PATIENCE
    """None: it waits for ever."""

    def __init__(self, request: bytes) -> None:
        self.request = memoryview(request)
        """What is still to be sent of it."""
        self.began = 0.0
        self.status = 0
        """0 until the answer's head has come."""
        self.received = 0
        """Bytes with heads and framing."""
        self.tail = b""
        self.outcome: Outcome | None = None
        """None: the visit goes on."""

    def start(self, crowd: Crowd, port: int) -> None:
        """Begin to connect. For the crowd."""
        self.crowd = crowd
        self.began = time.monotonic()
        self.socket = socket.socket()
        self.socket.setblocking(False)
        if self.receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        self.socket.bind((crowd.next_source(), 0))
        with contextlib.suppress(BlockingIOError):
            self.socket.connect(("127.0.0.1", port))
        if self.patience is not None:
            crowd.at(self.began + self.patience, self._give_up)

    def _give_up(self) -> None:
        if self.outcome is None and not self.status:
            self.finish(Outcome.UNANSWERED)

    def on_events(self, events: int) -> None:
        """What epoll says of the socket. For the crowd."""
        if events & select.EPOLLIN:
            self.on_readable()
        elif events & _GONE:
            self.finish(Outcome.CUT if self.status == 200 else Outcome.FAILED)
        elif events & select.EPOLLOUT:
            self._write()

    def _write(self) -> None:
        try:
            self.request = self.request[self.socket.send(self.request) :]
        except BlockingIOError:
            return
        except OSError:
            self.finish(Outcome.FAILED)
            return
        if not self.request:
            self.crowd.watch(self, _READ)

    def on_readable(self) -> None:
        """Read what has come of the answer."""
        try:
            data = self.socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.finish(Outcome.CUT if self.status == 200 else Outcome.FAILED)
            return
        if not self.status and not self._read_head(data):
            return
        self.received += len(data)
        self.on_data(data)
        if self.outcome is None:
            self.tail = data[-32:] if len(data) >= 32 else (self.tail + data)[-32:]
            if self.tail.endswith(_LAST_CHUNK):
                self.finish(Outcome.WHOLE if self.is_whole() else Outcome.CUT)

    def _read_head(self, data: bytes) -> bool:
        """Whether the answer is worth reading."""
        self.status = int(data[9:12]) if data.startswith(b"HTTP/1.1 ") and data[9:12].isdigit() else -1
        if self.status == 200:
            return True
        self.finish(Outcome.REFUSED if self.status in _REFUSALS else Outcome.FAILED)
        return False

    def is_whole(self) -> bool:
        """The last chunk has come: is it all?"""
        return b"[DONE]" in self.tail

    def on_data(self, data: bytes) -> None:
        """A piece of a 200 answer."""

    def on_outcome(self) -> None:
        """`outcome` is known; the socket is closed. Whoever is to come next comes by `Crowd.at`: in this turn the
        descriptor may have events of its former owner."""

    def stall(self) -> None:
        """Read no more until `read_on`; that the relay has closed is noticed."""
        self.crowd.watch(self, _GONE)

    def read_on(self) -> None:
        if self.outcome is None:
            self.crowd.watch(self, _READ)

    def finish(self, outcome: Outcome) -> None:
        """Close with a reset."""
        self.outcome = outcome
        self.crowd.forget(self)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.socket.close()
        self.on_outcome()


class Crowd:
    """All visitors of a process, on one epoll set, and what is to be done at a time. A context manager: those that are
    there at its end leave."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._visitors: dict[int, Visitor] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self.most = 0
        """Visitors at a time."""
        self.too_many = 0
        """Those that could not come, since this process may open no more files."""

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        self._epoll.close()

    def __len__(self) -> int:
        return len(self._visitors)

    def add(self, visitor: Visitor, port: int) -> None:
        """It visits `port` of 127.0.0.1."""
        try:
            visitor.start(self, port)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            self.too_many += 1
            return
        self._visitors[visitor.socket.fileno()] = visitor
        self._epoll.register(visitor.socket, _READ | select.EPOLLOUT)
        self.most = max(self.most, len(self._visitors))

    def next_source(self) -> str:
        """For visitors: the address to connect from."""
        return SOURCES[next(self._numbers) % len(SOURCES)]

    def watch(self, visitor: Visitor, events: int) -> None:
        """For visitors."""
        self._epoll.modify(visitor.socket, events)

    def forget(self, visitor: Visitor) -> None:
        """For visitors, before they close, which ends the watch."""
        del self._visitors[visitor.socket.fileno()]

    def at(self, moment: float, action: Callable[[], None]) -> None:
        """`moment` is of time.monotonic()."""
        heapq.heappush(self._timers, (moment, next(self._numbers), action))

    def leave(self) -> None:
        """All go, and nothing more is done at a time."""
        self._timers.clear()
        for visitor in list(self._visitors.values()):
            visitor.finish(Outcome.LEFT)

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """For so long, or until `until` holds; it is asked at each turn. True if it came to hold."""
        deadline = time.monotonic() + seconds
        while (now := time.monotonic()) < deadline:
            if until is not None and until():
                return True
            self.turn(max(0.0, min(deadline - now, 0.05)))
        return until is not None and until()

    def turn(self, longest: float) -> None:
        """What is due, and what sockets have; waits for `longest` seconds at most."""
        timers = self._timers
        for _ in range(TIMERS_A_TURN):
            if not timers or timers[0][0] > time.monotonic():
                break
            heapq.heappop(timers)[2]()
        if timers:
            longest = max(0.0, min(longest, timers[0][0] - time.monotonic()))
        for descriptor, events in self._epoll.poll(longest, 256):
            visitor = self._visitors.get(descriptor)
            if visitor is not None:
                visitor.on_events(events)


def moment_of(number: int, per_second: float, ramp: float) -> float:
    """Seconds from the start until arrival `number`, from 0, where the rate rises evenly for `ramp` seconds."""
    rising = per_second * ramp / 2
    if number < rising:
        return math.sqrt(2 * number * ramp / per_second)
    return ramp + (number - rising) / per_second


class Arrivals:
    """Calls `arrive` so many times a second, evenly, until it is stopped. One that is late is made up for. The rate
    rises for `ramp` seconds."""

    def __init__(self, crowd: Crowd, per_second: float, arrive: Callable[[], None], *, ramp: float = 0) -> None:
        self._crowd = crowd
        self._per_second = per_second
        self._ramp = ramp
        self._arrive = arrive
        self._started = self._due = time.monotonic()
        self.number = 0
        self.late = 0.0
        """Seconds by which one came too late, at most."""
        self.is_stopped = False
        crowd.at(self._due, self._next)

    def _next(self) -> None:
        if self.is_stopped:
            return
        self.late = max(self.late, time.monotonic() - self._due)
        self.number += 1
        self._due = self._started + moment_of(self.number, self._per_second, self._ramp)
        self._crowd.at(self._due, self._next)
        self._arrive()
