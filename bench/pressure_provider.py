"""A provider for thousands of streams at once, most of which nobody reads.

Run as `python -m bench.pressure_provider --port PORT`. The header `x-simulate` asks for `events=N rate=R size=B`: paced
events that carry the time they were sent, or, with a rate of 0, all of them as fast as they are taken. Those share one
piece of memory, so that a stream that is held up costs a socket and an offset. Request bodies are read and dropped,
whatever their size. HTTP/1.1 only.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import heapq
import select
import socket
import time
from functools import cache

from bench.processes import allow_many_files, python_module
from bench.source import HEAD, event_parts

END = b"data: [DONE]\n\n"
TAIL = b"%x\r\n%b\r\n0\r\n\r\n" % (len(END), END)
"""What a whole answer ends with."""

SEND_SIZE = 64 * 1024
"""Bytes of one send() of an answer without a pace."""

READ_SIZE = 256 * 1024

LONGEST_HEAD = 64 * 1024
"""Bytes of a request's head."""


def script(events: int, rate: float = 0, size: int = 250) -> str:
    """What a request asks for: `rate` in events per second, `size` in bytes."""
    return f"events={events} rate={rate:g} size={size}"


@cache
def answer(events: int, size: int) -> memoryview:
    """A whole answer whose events all carry the time 0."""
    before, after = event_parts(size)
    event = b"%x\r\n%b%020d%b\r\n" % (size, before, 0, after)
    return memoryview(HEAD + event * events + TAIL)


class Body:
    """Finds the end of a request's body, in which there is no empty line, as in JSON."""

    __slots__ = ("_left", "_tail", "is_over")

    def __init__(self, head: bytes) -> None:
        """`head` in lower case."""
        self._left: int | None = 0
        """Bytes to come; None: chunks come."""
        if b"\r\ntransfer-encoding:" in head:
            self._left = None
        elif (at := head.find(b"\r\ncontent-length:")) >= 0:
            self._left = int(head[at + 17 :].split(b"\r\n", 1)[0])
        self._tail = b""
        self.is_over = self._left == 0

    def feed(self, data: bytes) -> None:
        """Nothing may come behind the end: requests are not pipelined."""
        if self._left is None:
            self._tail = (self._tail + data[-7:])[-7:]
            self.is_over = self._tail in (b"\r\n0\r\n\r\n", b"0\r\n\r\n")
        else:
            self._left -= len(data)
            self.is_over = self._left <= 0


class Stream:
    """A connection, with one request at a time."""

    __slots__ = ("asked", "body", "due", "head", "interval", "left", "parts", "rest", "socket")

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.head = b""
        self.asked = (0, 0.0, 0)
        self.body: Body | None = None
        self.rest: memoryview | None = None
        """What is still to be sent before anything else."""
        self.left = 0
        """Paced events until the end."""
        self.interval = self.due = 0
        """Nanoseconds."""
        self.parts = (b"", b"")


class Provider:
    """Serves on `port` until it is killed."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._streams: dict[int, Stream] = {}
        self._due: list[tuple[int, int, Stream]] = []
        """(time of the next event in ns, descriptor, stream), as a heap."""

    def run(self) -> None:
        while True:
            for descriptor, events in self._epoll.poll(self._pause()):
                if descriptor == self._listener.fileno():
                    self._accept()
                elif (stream := self._streams.get(descriptor)) is not None:
                    self._serve(descriptor, stream, events)
            self._send_what_is_due()

    def _pause(self) -> float | None:
        return max(0.0, (self._due[0][0] - time.monotonic_ns()) / 1e9) if self._due else None

    def _accept(self) -> None:
        for _ in range(64):
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._streams[accepted.fileno()] = Stream(accepted)
            self._epoll.register(accepted, select.EPOLLIN)

    def _serve(self, descriptor: int, stream: Stream, events: int) -> None:
        try:
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                data = stream.socket.recv(READ_SIZE)
                if not data:
                    raise OSError("the client has left")
                self._feed(descriptor, stream, data)
            elif events & select.EPOLLOUT:
                self._send_more(descriptor, stream)
        except BlockingIOError:
            pass
        except OSError:
            del self._streams[descriptor]
            stream.left = 0
            stream.socket.close()

    def _feed(self, descriptor: int, stream: Stream, data: bytes) -> None:
        if stream.body is None:
            stream.head += data
            head, blank, data = stream.head.partition(b"\r\n\r\n")
            if not blank:
                if len(stream.head) > LONGEST_HEAD:
                    raise OSError("no head")
                return
            head = head.lower()
            stream.head = b""
            stream.asked = read_script(head)
            stream.body = Body(head)
        if data:
            stream.body.feed(data)
        if stream.body.is_over:
            stream.body = None
            self._begin(descriptor, stream)

    def _begin(self, descriptor: int, stream: Stream) -> None:
        events, rate, size = stream.asked
        if not rate:
            stream.rest = answer(events, size)
            self._send_more(descriptor, stream)
            return
        before, after = event_parts(size)
        stream.parts = (b"%x\r\n%b" % (size, before), after + b"\r\n")
        stream.left, stream.interval = events, int(1e9 / rate)
        stream.due = time.monotonic_ns()
        stream.socket.send(HEAD)
        heapq.heappush(self._due, (stream.due, descriptor, stream))

    def _send_more(self, descriptor: int, stream: Stream) -> None:
        """Waits for the socket while there is more than it takes."""
        if stream.rest is not None:
            with contextlib.suppress(BlockingIOError):
                stream.rest = stream.rest[stream.socket.send(stream.rest[:SEND_SIZE]) :]
            if not stream.rest:
                stream.rest = None
        self._epoll.modify(descriptor, select.EPOLLIN | (select.EPOLLOUT if stream.rest is not None else 0))

    def _send_what_is_due(self) -> None:
        due = self._due
        now = time.monotonic_ns()
        while due and due[0][0] <= now:
            _, descriptor, stream = due[0]
            if not stream.left:
                heapq.heappop(due)
                continue
            stream.due += stream.interval
            heapq.heapreplace(due, (stream.due, descriptor, stream))
            if stream.rest is None:  # else its reader is behind, and this turn is left out
                self._send_event(descriptor, stream)

    def _send_event(self, descriptor: int, stream: Stream) -> None:
        stream.left -= 1
        before, after = stream.parts
        event = b"%b%020d%b" % (before, time.monotonic_ns(), after)
        if not stream.left:
            event += TAIL
        try:
            sent = stream.socket.send(event)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._serve(descriptor, stream, select.EPOLLHUP)
            return
        if sent < len(event):
            stream.rest = memoryview(event)[sent:]
            self._send_more(descriptor, stream)


def read_script(head: bytes) -> tuple[int, float, int]:
    """(events, rate, size) of a head in lower case; one event where it asks for nothing."""
    _, found, value = head.partition(b"\r\nx-simulate:")
    asked = dict(part.split("=", 1) for part in value.split(b"\r\n", 1)[0].decode().split()) if found else {}
    return int(asked.get("events", 1)), float(asked.get("rate", 0)), int(asked.get("size", 250))


def command(port: int) -> list[str]:
    """Its command line."""
    return python_module("bench.pressure_provider", "--port", str(port))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pressure_provider", description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    allow_many_files()
    gc.disable()  # there are no cycles, and a collection would be a late event
    Provider(arguments.port).run()


if __name__ == "__main__":
    main()
