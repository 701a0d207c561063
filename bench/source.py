"""A provider that does one thing cheaply: endless streams of paced events that carry the time they were sent.

Run as `python -m bench.source --port PORT --rate EVENTS_PER_SECOND --size BYTES --tick SECONDS`. Every request
is answered with a chat-completions stream, each event a chunk or a DATA frame and a send() of its own, at even
distances that differ in phase from stream to stream. With a tick the streams of one tick send in one burst, as those of
a provider with a coarse timer do; what one HTTP/2 connection has of it leaves in one send(). The time is
CLOCK_MONOTONIC in nanoseconds, so a client on the same machine can take the difference.

It speaks HTTP/1.1, and HTTP/2 to those who begin with its preface; over TLS with --tls. With --events NUMBER streams
over HTTP/1.1 end after so many, and connections stay open. With --whole BYTES every request gets a whole answer at
once, a chat completion with its usage.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import select
import socket
import ssl
import struct
import time
from dataclasses import dataclass
from typing import Protocol

from bench.client import BODY
from bench.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WIDE,
    WINDOW_UPDATE,
    frame,
    frame_head,
    header_block,
    settings,
    split,
    window_update,
)
from bench.processes import python_module
from bench.stamps import STAMP, STAMP_DIGITS

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

MAX_STREAMS = 2000
"""Of one HTTP/2 connection."""

LONGEST_SLEEP = 0.0003
"""Seconds between two looks at the sockets at most: how late an event may be sent."""

GOLDEN = 0.6180339887
"""Multiples of it, modulo 1, spread phases evenly whatever their number is."""

_REQUEST_ENDS = (BODY[-8:], BODY[-8:] + b"\r\n0\r\n\r\n")


def whole_answer(size: int) -> bytes:
    """The body of a chat completion, of `size` bytes."""
    body = (
        b'{"id":"bench","object":"chat.completion","created":1700000000,"model":"bench","choices":[{"index":0,"message":'
        b'{"role":"assistant","content":"%b"},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":12,"completion_tokens":150,"total_tokens":162}}'
    )
    padding = size - len(body % b"")
    if padding < 0:
        raise ValueError(f"a whole answer needs at least {size - padding} bytes")
    return body % (b"x" * padding)


def event_parts(size: int) -> tuple[bytes, bytes]:
    """What stands before and after the time in an event of `size` bytes."""
    before = b'data: {"id":"bench","object":"chat.completion.chunk","choices":[{"index":0,"delta":{' + STAMP
    after = b'"},"finish_reason":null}],"obfuscation":"%b"}\n\n'
    padding = size - len(before) - STAMP_DIGITS - len(after % b"")
    if padding < 0:
        raise ValueError(f"an event needs at least {size - padding} bytes")
    return before, after % (b"x" * padding)


@dataclass(frozen=True, slots=True)
class Answers:
    """What is sent: events of `size` bytes, so many `events` for a stream over HTTP/1.1 (None: without an end), or a
    whole answer with `whole` bytes of body. `joined`: what one turn has for an HTTP/2 connection leaves at once."""

    size: int
    events: int | None = None
    whole: int | None = None
    joined: bool = False


class Connection(Protocol):
    """A client's connection."""

    def feed(self, data: bytes) -> int:
        """Take what came. Returns how many requests for events it completes; raises OSError."""
        ...

    def begin(self, number: int) -> None:
        """The stream `number` is due from now on. Called for each that `feed` has told of."""
        ...

    def send_event(self, number: int, now: int) -> bool:
        """Send the next event of a stream. False: there is no such stream any more. Raises OSError."""
        ...

    def flush(self) -> None:
        """A turn is over. Raises OSError."""
        ...


class Http1:
    """One stream at a time."""

    def __init__(self, sock: socket.socket, answers: Answers) -> None:
        self._socket = sock
        self._request = b""
        self._number: int | None = None
        self._rest = b""
        """Of an event that the socket did not take whole."""
        self._events = answers.events
        self._left = 0
        """Events until the end of the stream, where it has one."""
        before, self._after = event_parts(answers.size)
        self._before = b"%x\r\n" % answers.size + before
        self._after += b"\r\n"
        self._whole: bytes | None = None
        if answers.whole is not None:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % answers.whole
            self._whole = head + whole_answer(answers.whole)

    def feed(self, data: bytes) -> int:
        if self._number is not None:
            return 0  # what comes after the head is read and means nothing
        self._request += data
        if self._whole is not None:
            if self._request.endswith(_REQUEST_ENDS) or _is_whole(self._request):
                self._request = b""
                _send(self._socket, self._whole)
            return 0
        return 1 if b"\r\n\r\n" in self._request else 0

    def begin(self, number: int) -> None:
        self._number = number
        self._left = self._events or 0
        _send(self._socket, HEAD)

    def send_event(self, number: int, now: int) -> bool:
        if self._events is not None and not self._left and not self._rest:
            self._number, self._request = None, b""
            _send(self._socket, b"0\r\n\r\n")
            return False
        self._left -= not self._rest
        event = self._rest or b"%b%020d%b" % (self._before, now, self._after)
        try:
            self._rest = event[self._socket.send(event) :]
        except (BlockingIOError, ssl.SSLWantWriteError):  # its reader is behind: the turns until then are left out
            self._rest = event
        return True

    def flush(self) -> None: ...


def _is_whole(request: bytes) -> bool:
    """Of a relay that writes the body anew."""
    head, blank, body = request.partition(b"\r\n\r\n")
    _, found, after = head.lower().partition(b"content-length:")
    return bool(blank and found) and len(body) >= int(after.split(b"\r\n")[0])


class Http2:
    """Many streams, each with a window of its own, which is kept to. Heads that come are not decoded."""

    def __init__(self, sock: socket.socket, answers: Answers) -> None:
        self._socket = sock
        self._answers = answers
        self._before, self._after = event_parts(answers.size)
        self._body = whole_answer(answers.whole) if answers.whole is not None else b""
        self._input = b""
        self._preface_missing = len(PREFACE)
        self._window = FIRST_WINDOW
        self._first_window = FIRST_WINDOW
        self._windows: dict[int, int] = {}
        """Stream -> bytes that may be sent on it."""
        self._begun: list[int] = []
        """Streams whose requests `feed` has told of."""
        self._streams: dict[int, int] = {}
        """Number -> stream."""
        self._out: list[bytes] = []
        self._rest = b""
        """What the socket did not take."""
        wanted = settings({MAX_CONCURRENT_STREAMS: MAX_STREAMS, INITIAL_WINDOW_SIZE: 1 << 20})
        _send(sock, wanted + window_update(0, WIDE - FIRST_WINDOW))

    def feed(self, data: bytes) -> int:
        skipped = min(self._preface_missing, len(data))
        self._preface_missing -= skipped
        data = self._input + data[skipped:]
        position = 0
        for kind, flags, stream, start, position in split(data):
            if kind in (HEADERS, DATA):
                self._receive(kind, flags, stream)
            else:
                self._control(kind, flags, stream, data[start:position])
        self._input = data[position:]
        self.flush()
        return len(self._begun)

    def begin(self, number: int) -> None:
        stream = self._begun.pop()
        self._streams[number] = stream
        _send(self._socket, frame(HEADERS, END_HEADERS, stream, _EVENTS_HEAD))

    def send_event(self, number: int, now: int) -> bool:
        stream = self._streams[number]
        size = self._answers.size
        window = self._windows.get(stream)
        if window is None:
            del self._streams[number]
            return False
        if size > window or size > self._window:
            return True  # its reader is behind: this turn is left out
        self._windows[stream] = window - size
        self._window -= size
        self._out.append(b"%b%b%020d%b" % (frame_head(size, DATA, 0, stream), self._before, now, self._after))
        if not self._answers.joined:
            self.flush()
        return True

    def flush(self) -> None:
        if self._out or self._rest:
            data = b"".join([self._rest, *self._out])
            self._out.clear()
            try:
                self._rest = data[self._socket.send(data) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._rest = data

    def _receive(self, kind: int, flags: int, stream: int) -> None:
        whole = self._answers.whole
        if kind == HEADERS:
            self._windows[stream] = self._first_window
            if whole is None:
                self._begun.append(stream)
        if whole is not None and flags & END_STREAM:
            del self._windows[stream]
            self._window -= whole
            self._out.append(frame(HEADERS, END_HEADERS, stream, _WHOLE_HEAD))
            self._out.append(frame(DATA, END_STREAM, stream, self._body))

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            size = int.from_bytes(payload, "big")
            if not stream:
                self._window += size
            elif stream in self._windows:
                self._windows[stream] += size
        elif kind == RST_STREAM:
            self._windows.pop(stream, None)
        elif kind in (SETTINGS, PING) and not flags & ACK:
            if kind == SETTINGS:
                self._apply(dict(struct.iter_unpack(">HI", payload)))
            self._out.append(frame(kind, ACK, 0, payload if kind == PING else b""))

    def _apply(self, values: dict[int, int]) -> None:
        size = values.get(INITIAL_WINDOW_SIZE, self._first_window)
        for stream in self._windows:
            self._windows[stream] += size - self._first_window
        self._first_window = size


_EVENTS_HEAD = header_block({b":status": b"200", b"content-type": b"text/event-stream"})
_WHOLE_HEAD = header_block({b":status": b"200", b"content-type": b"application/json"})


class Source:
    """Serves on `port` until it is killed. `rate` is events per second and stream, `tick` seconds."""

    def __init__(self, port: int, rate: float, tick: float, answers: Answers, tls: ssl.SSLContext | None) -> None:
        self._interval = int(1e9 / rate)
        self._tick = max(1, int(tick * 1e9))
        self._answers = answers
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._sockets: dict[int, socket.socket] = {}
        self._connections: dict[int, Connection | None] = {}
        """Descriptor -> its connection; None until it has said what it speaks."""
        self._due: list[tuple[int, int, int]] = []
        """(time of the next event in ns, number of the stream, descriptor), as a heap."""
        self._started = 0
        self._owners: dict[int, Connection] = {}
        """Number of a stream -> the connection that it is on."""

    def run(self) -> None:
        while True:
            for descriptor, _ in self._epoll.poll(0 if self._due else None):
                if descriptor == self._listener.fileno():
                    self._accept()
                else:
                    self._read(descriptor)
            self._send_what_is_due()
            if self._due:
                pause = min(LONGEST_SLEEP, (self._due[0][0] - time.monotonic_ns()) / 1e9)
                if pause > 0:
                    time.sleep(pause)

    def _accept(self) -> None:
        accepted, _ = self._listener.accept()
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            accepted = self._tls.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        self._sockets[accepted.fileno()] = accepted
        self._connections[accepted.fileno()] = None
        self._epoll.register(accepted, select.EPOLLIN)

    def _read(self, descriptor: int) -> None:
        sock = self._sockets[descriptor]
        try:
            if isinstance(sock, ssl.SSLSocket) and sock.version() is None:
                sock.do_handshake()
            while data := sock.recv(65536):
                self._feed(descriptor, sock, data)
                if self._tls is None:
                    return
            self._close(descriptor)
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except OSError:
            self._close(descriptor)

    def _feed(self, descriptor: int, sock: socket.socket, data: bytes) -> None:
        connection = self._connections[descriptor]
        if connection is None:
            connection = Http2(sock, self._answers) if data.startswith(PREFACE[:4]) else Http1(sock, self._answers)
            self._connections[descriptor] = connection
        for _ in range(connection.feed(data)):
            self._started += 1
            connection.begin(self._started)
            self._owners[self._started] = connection
            first = time.monotonic_ns() + int(self._started * GOLDEN % 1 * self._interval)
            heapq.heappush(self._due, (first - first % self._tick, self._started, descriptor))

    def _close(self, descriptor: int) -> None:
        connection = self._connections.pop(descriptor)
        self._sockets.pop(descriptor).close()
        for number in [number for number, owner in self._owners.items() if owner is connection]:
            del self._owners[number]

    def _send_what_is_due(self) -> None:
        due, owners, interval = self._due, self._owners, self._interval
        busy: dict[Connection, int] = {}
        now = time.monotonic_ns()
        while due and due[0][0] <= now:
            time_due, number, descriptor = due[0]
            connection = owners.get(number)
            if connection is None:
                heapq.heappop(due)
                continue
            now = time.monotonic_ns()
            try:
                if connection.send_event(number, now):
                    heapq.heapreplace(due, (time_due + interval, number, descriptor))
                    busy[connection] = descriptor
                else:
                    del owners[number]
            except OSError:
                self._close(descriptor)
        for connection, descriptor in busy.items():
            try:
                connection.flush()
            except OSError:
                if self._connections.get(descriptor) is connection:
                    self._close(descriptor)


def _send(sock: socket.socket, data: bytes) -> None:
    """Send all of `data`. Raises OSError if the reader is too far behind: the connection is then closed, and the client
    notices."""
    if sock.send(data) != len(data):
        raise OSError("the socket's send buffer is full")


def command(
    port: int,
    *,
    rate: float = 1,
    size: int = 250,
    tick: float = 0,
    events: int | None = None,
    tls: tuple[str, str] | None = None,
) -> list[str]:
    """The command line of a source of streams. `tls` is the paths of certificate and key."""
    options: list[object] = ["--port", port, "--rate", rate, "--size", size, "--tick", tick]
    if events is not None:
        options += ["--events", events]
    return _with(options, tls)


def whole_command(port: int, size: int, tls: tuple[str, str] | None = None) -> list[str]:
    """The same of a source of whole answers of `size` bytes."""
    return _with(["--port", port, "--rate", 1, "--size", 250, "--whole", size], tls)


def _with(options: list[object], tls: tuple[str, str] | None) -> list[str]:
    return python_module("bench.source", *map(str, [*options, *(["--tls", *tls] if tls is not None else [])]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.source", description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="events per second and stream")
    parser.add_argument("--size", type=int, required=True, help="bytes per event")
    parser.add_argument("--tick", type=float, default=0, help="seconds; events leave at its multiples only")
    parser.add_argument("--events", type=int, help="after so many a stream ends; only over HTTP/1.1")
    parser.add_argument("--whole", type=int, help="bytes; every answer is a whole one of this size")
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"), help="PEM files")
    arguments = parser.parse_args()
    tls = None
    if arguments.tls:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*arguments.tls)
        tls.set_alpn_protocols(["h2", "http/1.1"])
    answers = Answers(arguments.size, arguments.events, arguments.whole, joined=arguments.tick > 0)
    gc.disable()  # there are no cycles, and a collection would be a late event
    Source(arguments.port, arguments.rate, arguments.tick, answers, tls).run()


if __name__ == "__main__":
    main()
