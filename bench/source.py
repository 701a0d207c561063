"""A provider that does one thing cheaply: endless streams of paced events that carry the time they were sent.

Run as `python -m bench.source --port PORT --rate EVENTS_PER_SECOND --size BYTES --tick SECONDS`. Every request
is answered with a chat-completions stream, each event a chunk and a send() of its own, at even distances that
differ in phase from stream to stream. With a tick the streams of one tick send in one burst, as those of a provider
with a coarse timer do. The time is CLOCK_MONOTONIC in nanoseconds, so a client on the same machine can take the
difference.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import select
import socket
import time

from bench.processes import python_module

STAMP = b'"content":"'
"""Stands before the time of sending: 20 digits."""

STAMP_DIGITS = 20

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

LONGEST_SLEEP = 0.0003
"""Seconds between two looks at the sockets at most: how late an event may be sent."""

GOLDEN = 0.6180339887
"""Multiples of it, modulo 1, spread phases evenly whatever their number is."""


def event_parts(size: int) -> tuple[bytes, bytes]:
    """What stands before and after the time in a chunk that holds an event of `size` bytes."""
    before = b'data: {"id":"bench","object":"chat.completion.chunk","choices":[{"index":0,"delta":{' + STAMP
    after = b'"},"finish_reason":null}],"obfuscation":"%b"}\n\n'
    padding = size - len(before) - STAMP_DIGITS - len(after % b"")
    if padding < 0:
        raise ValueError(f"an event has at least {size - padding} bytes")
    return b"%x\r\n%b" % (size, before), after % (b"x" * padding) + b"\r\n"


class Source:
    """Serves on `port` until it is killed."""

    def __init__(self, port: int, rate: float, size: int, tick: float) -> None:
        self._interval = int(1e9 / rate)
        self._tick = max(1, int(tick * 1e9))
        self._before, self._after = event_parts(size)
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._sockets: dict[int, socket.socket] = {}
        self._heads: dict[int, bytes] = {}
        self._due: list[tuple[int, int, int]] = []
        """(time of the next event in ns, number of the stream, descriptor), as a heap."""
        self._started = 0
        self._live: dict[int, int] = {}
        """Descriptor -> number of the stream on it."""

    def run(self) -> None:
        while True:
            for descriptor, _ in self._epoll.poll(0):
                if descriptor == self._listener.fileno():
                    self._accept()
                else:
                    self._read(descriptor)
            self._send_what_is_due()
            pause = LONGEST_SLEEP
            if self._due:
                pause = min(pause, (self._due[0][0] - time.monotonic_ns()) / 1e9)
            if pause > 0:
                time.sleep(pause)

    def _accept(self) -> None:
        accepted, _ = self._listener.accept()
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets[accepted.fileno()] = accepted
        self._heads[accepted.fileno()] = b""
        self._epoll.register(accepted, select.EPOLLIN)

    def _read(self, descriptor: int) -> None:
        try:
            data = self._sockets[descriptor].recv(65536)
        except OSError:
            data = b""
        if not data:
            self._close(descriptor)
        elif descriptor in self._heads:
            self._heads[descriptor] += data
            if b"\r\n\r\n" in self._heads[descriptor]:
                self._start(descriptor)

    def _start(self, descriptor: int) -> None:
        """What the client sends after the head is read and means nothing."""
        del self._heads[descriptor]
        self._sockets[descriptor].send(HEAD)
        self._started += 1
        self._live[descriptor] = self._started
        first = time.monotonic_ns() + int(self._started * GOLDEN % 1 * self._interval)
        heapq.heappush(self._due, (first - first % self._tick, self._started, descriptor))

    def _close(self, descriptor: int) -> None:
        self._sockets.pop(descriptor).close()
        self._heads.pop(descriptor, None)
        self._live.pop(descriptor, None)

    def _send_what_is_due(self) -> None:
        due, live, sockets = self._due, self._live, self._sockets
        before, after, interval = self._before, self._after, self._interval
        now = time.monotonic_ns()
        while due and due[0][0] <= now:
            time_due, number, descriptor = due[0]
            if live.get(descriptor) != number:
                heapq.heappop(due)
                continue
            heapq.heapreplace(due, (time_due + interval, number, descriptor))
            now = time.monotonic_ns()
            chunk = b"%b%020d%b" % (before, now, after)
            try:
                sent = sockets[descriptor].send(chunk)
            except OSError:
                sent = 0
            if sent != len(chunk):
                # A reader so far behind is no reader of paced events: its stream breaks, and the client sees it.
                self._close(descriptor)


def command(port: int, *, rate: float, size: int, tick: float = 0) -> list[str]:
    """The command line of a source."""
    options = {"--port": port, "--rate": rate, "--size": size, "--tick": tick}
    return python_module("bench.source", *(str(part) for option in options.items() for part in option))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.source", description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="events per second and stream")
    parser.add_argument("--size", type=int, required=True, help="bytes per event")
    parser.add_argument("--tick", type=float, default=0, help="seconds; events leave at its multiples only")
    arguments = parser.parse_args()
    gc.disable()  # there are no cycles, and a collection would be a late event
    Source(arguments.port, arguments.rate, arguments.size, arguments.tick).run()


if __name__ == "__main__":
    main()
