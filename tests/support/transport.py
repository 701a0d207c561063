"""A transport without a socket, as strict as uvloop's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import cast

NO_SUCH_FD = 1_000_000
"""A descriptor that is not open, so that asking the kernel about it fails."""
MAX_READ = 64 * 1024


class FakeSocket:
    """What a transport's `get_extra_info("socket")` gives."""

    def __init__(self) -> None:
        self.family = socket.AF_INET
        self.options: dict[tuple[int, int], object] = {}
        self.sent = 0
        """Bytes that the kernel has taken."""
        self.acknowledged = 0
        """Bytes that the other side's kernel has taken."""
        self.receive_limited = 0
        """Microseconds for which the other side's receive window was the limit."""
        self.round_trip = 0.00005
        """Seconds to the other side and back; 0: not known."""
        self.receive_buffer = 4096
        self.segment = 0
        """Bytes that the other side may send as one segment."""
        self.real: socket.socket | None = None
        """What the kernel is asked about; None: nothing it knows."""

    def fileno(self) -> int:
        return NO_SUCH_FD if self.real is None else self.real.fileno()

    def setsockopt(self, level: int, option: int, value: object) -> None:
        self.options[level, option] = value

    def getsockopt(self, level: int, option: int, size: int = 0) -> int | bytes:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_RCVBUF):
            return 2 * self.receive_buffer
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        info = bytearray(216)
        figures = [(84, 4, self.segment), (120, 8, self.acknowledged + 1), (148, 4, round(self.round_trip * 1e6))]
        figures += [(176, 8, self.receive_limited), (200, 8, self.sent)]
        for offset, length, figure in figures:
            info[offset : offset + length] = figure.to_bytes(length, sys.byteorder)
        return bytes(info[:size])

    @property
    def resets_on_close(self) -> bool:
        return self.options.get((socket.SOL_SOCKET, socket.SO_LINGER)) == struct.pack("ii", 1, 0)


@contextlib.contextmanager
def kernel_of(transport: FakeTransport) -> Iterator[socket.socket]:
    """Have the kernel know the transport's socket meanwhile; the other end of it is given."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport.socket.real = ours
        yield theirs
        transport.socket.real = None


class FakeTransport(asyncio.Transport):
    """Joins a protocol to a test.

    `room` is how many bytes the kernel will still take (None: all): what does not fit waits in `buffer`, and
    pause_writing is called inside write, as uvloop does. `arrive` is the wire's side: bytes wait in the kernel until
    the protocol reads them.
    """

    def __init__(self, protocol: asyncio.BaseProtocol, *, tls: bool = False) -> None:
        self.socket = FakeSocket()
        super().__init__({"socket": self.socket, "ssl_object": object() if tls else None})
        self._protocol = protocol
        self._tls = tls
        self._high = 64 * 1024
        self._low = 16
        self._writing_paused = False
        self._eof_written = False
        self._eof_arrived = False
        self._eof_told = False
        self._closing = False
        self._unread = bytearray()
        self.room: int | None = None
        self.acknowledges = True
        """Whether what the kernel took reaches the other side."""
        self.sent = bytearray()
        """What the kernel took."""
        self.buffer = bytearray()
        """What waits in user space."""
        self.calls: list[str] = []
        """pause_reading, resume_reading, write_eof, close and abort, as they came."""
        self.writes = 0
        """Calls of `write`."""
        self.reading = True
        self.aborted = False
        self.lost = False
        """connection_lost was called."""
        protocol.connection_made(self)

    # --- asyncio.Transport -------------------------------------------------------------------------------------------

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        assert low is not None
        self._high, self._low = high, low

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.lost:
            raise RuntimeError("unable to perform operation; the handler is closed")
        if self._eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._closing:
            return
        self.writes += 1
        self.buffer += data
        self._flush()
        if len(self.buffer) > self._high and not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return not self._tls

    def write_eof(self) -> None:
        assert not self._tls
        self.calls.append("write_eof")
        self._eof_written = True

    def shut(self) -> FakeTransport:
        """What `TlsTransport` has beside others; from now on this is the plain transport below it."""
        assert self._tls
        self._tls = False
        return self

    @property
    def is_blocked(self) -> bool:
        """Whether the protocol was told to stop writing."""
        return self._writing_paused

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def pause_reading(self) -> None:
        self.calls.append("pause_reading")
        self.reading = False

    def resume_reading(self) -> None:
        self.calls.append("resume_reading")
        self.reading = not self._closing

    def is_reading(self) -> bool:
        return self.reading

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self.calls.append("close")
        self._closing = True
        self.reading = False

    def abort(self) -> None:
        self.calls.append("abort")
        self._closing = self.aborted = True
        self.reading = False
        self.buffer.clear()

    # --- the kernel's side -------------------------------------------------------------------------------------------

    def block(self) -> None:
        """The other side reads no more."""
        self.room = 0

    def drain(self, size: int | None = None) -> None:
        """The kernel takes `size` bytes more; None: everything, from now on."""
        self.room = size
        self._flush()
        if self._writing_paused and len(self.buffer) <= self._low and not self.lost:
            self._writing_paused = False
            self._protocol.resume_writing()

    def arrive(self, data: bytes = b"", *, reads: int | None = None) -> None:
        """Bytes come from the other side; they wait while the protocol does not read, or after so many `reads`."""
        self._unread += data
        self.deliver(reads)

    def arrive_eof(self) -> None:
        """The other side has shut its sending side."""
        self._eof_arrived = True
        self.deliver()

    def deliver(self, reads: int | None = None) -> None:
        """Let the protocol read what waits, in at most `reads` reads."""
        while self._unread and self.reading and not self.lost and reads != 0:
            self._read_once()
            reads = None if reads is None else reads - 1
        if self._eof_arrived and not self._unread and self.reading and not self.lost and not self._eof_told:
            self._eof_told = True
            # A fast path is a protocol by its methods alone.
            if not cast(asyncio.Protocol, self._protocol).eof_received():
                self.close()

    def lose(self, error: Exception | None = None) -> None:
        """The connection is gone, or what was closed comes to its end."""
        if not self.lost:
            self.lost = self._closing = True
            self.reading = False
            self._protocol.connection_lost(error)

    @property
    def unread(self) -> int:
        """Bytes in the kernel that the protocol has not read."""
        return len(self._unread)

    @property
    def end(self) -> str:
        """How the other side sees it: "open", "half-closed", "closed" or "reset"."""
        if self.aborted or (self._closing and self.socket.resets_on_close):
            return "reset"
        if self._closing:
            return "closed"
        return "half-closed" if self._eof_written else "open"

    def _flush(self) -> None:
        size = len(self.buffer) if self.room is None else min(self.room, len(self.buffer))
        self.sent += self.buffer[:size]
        self.socket.sent += size
        self.socket.acknowledged += size if self.acknowledges else 0
        del self.buffer[:size]
        if self.room is not None:
            self.room -= size

    def _read_once(self) -> None:
        if isinstance(self._protocol, asyncio.BufferedProtocol):
            target = memoryview(self._protocol.get_buffer(-1))
            size = min(len(target), len(self._unread))
            target[:size] = self._unread[:size]
            del self._unread[:size]
            self._protocol.buffer_updated(size)
        else:
            data = bytes(self._unread[:MAX_READ])
            del self._unread[:MAX_READ]
            cast(asyncio.Protocol, self._protocol).data_received(data)
