"""Sinks for log lines, called by the log's own thread. Descriptors may be closed, full or without a reader."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Protocol

TRIES = 10
PAUSE = 0.01
"""Attempts to write to a full non-blocking descriptor before lines are dropped, and seconds in between. For a blocking
descriptor the writer waits indefinitely, while further lines wait in the log."""

ATOMIC = select.PIPE_BUF
"""Bytes that a pipe accepts atomically."""
PIECE = 1 << 16
"""Bytes of one write to a blocking descriptor."""


class Sink(Protocol):
    def write(self, lines: Sequence[bytes]) -> int:
        """Write whole lines. Returns how many were lost. Never raises."""


class DescriptorSink:
    """Writes with plain system calls. A buffered stream has a lock, for which the interpreter waits as it exits: with a
    writer stuck in a full pipe it would abort instead."""

    def __init__(self, descriptor: int, *, is_shared: bool = False) -> None:
        """`is_shared`: other processes write to it too, so each write must be atomic on a pipe."""
        self._descriptor = descriptor
        self._is_shared = is_shared
        self._cut = b""
        """The rest of a partly written line: it goes first, so that no line begins in the middle of another."""

    def write(self, lines: Sequence[bytes]) -> int:
        self._cut = self._put(self._cut)
        written = 0
        for piece in () if self._cut else _pieces(lines, self._piece_size()):
            data = b"".join(piece)
            taken = len(data) - len(self._put(data))
            for line in piece:
                if taken <= 0:
                    return len(lines) - written
                written += 1
                self._cut = line[taken:]
                taken -= len(line)
        return len(lines) - written

    def has_room(self) -> bool:
        """Whether a short line can be written without waiting for the reader; also true if writing it will fail."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(0))

    def _piece_size(self) -> int:
        if self._is_shared:
            return ATOMIC
        with contextlib.suppress(OSError):
            if not os.get_blocking(self._descriptor):
                return ATOMIC
        return PIECE

    def _put(self, data: bytes) -> bytes:
        """Write `data`. Returns what could not be written."""
        tries = 0
        while data and tries < TRIES:
            try:
                data = data[os.write(self._descriptor, data) :]
                tries = 0
            except BlockingIOError:
                tries += 1
                time.sleep(PAUSE)
            except OSError:  # closed, its reader gone, or the disk full
                break
        return data


def _pieces(lines: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    """Groups of whole lines of at most `size` bytes, unless a single line is longer."""
    begin, total = 0, 0
    for number, line in enumerate(lines):
        if number > begin and total + len(line) > size:
            yield lines[begin:number]
            begin, total = number, 0
        total += len(line)
    if begin < len(lines):
        yield lines[begin:]


class StreamSink:
    """Writes to a binary stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, lines: Sequence[bytes]) -> int:
        try:
            self._stream.write(b"".join(lines))
            self._stream.flush()
        except (OSError, ValueError):
            return len(lines)
        return 0


class NoSink:
    """Discards all lines: standard output was closed when the process started."""

    def write(self, lines: Sequence[bytes]) -> int:
        return len(lines)


def standard_output() -> Sink:
    """The sink for standard output. Replaces closed standard streams by /dev/null: otherwise the next file to be opened
    would get the number of one, and its output. So call this before any file is opened."""
    closed = []
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            closed.append(os.open(os.devnull, os.O_RDWR))  # gets the lowest free number: this one
    return NoSink() if 1 in closed else DescriptorSink(1)
