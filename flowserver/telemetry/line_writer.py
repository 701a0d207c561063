"""Writes the lines of the log, in a thread or directly, without ever waiting for the reader."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Protocol

from .sink import DescriptorSink, Sink

MAX_WAITING = 10_000
"""Most lines that wait for the writer; further ones are dropped and counted."""
AT_ONCE = 1000
"""Most lines that the writer takes at a time."""
END = 1.0
"""Seconds for writing the remaining lines at the end: the reader may have stopped for ever."""


class LineWriter(Protocol):
    def put(self, line: bytes) -> None: ...

    @property
    def dropped(self) -> int:
        """Lines lost because the reader of the log was too slow, or gone."""

    def close(self) -> None:
        """Write the remaining lines, for END seconds at most."""


class ThreadWriter:
    """Writes in a thread of its own, so that a slow reader of the log never stops the event loop."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._waiting: deque[bytes] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._refused = 0
        """Lines dropped because too many were waiting. Counted by the event loop's thread; the next one by the
        writer's."""
        self._lost = 0
        """Lines that could not be written."""
        self._writer_thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._writer_thread.start()

    @property
    def dropped(self) -> int:
        return self._refused + self._lost

    def put(self, line: bytes) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._refused += 1
            return
        self._waiting.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self._writer_thread.join(timeout=END)

    def _run(self) -> None:
        waiting = self._waiting
        while waiting or not self._closing:
            if not waiting:
                self._wake.wait()
                self._wake.clear()
            lines = [waiting.popleft() for _ in range(min(AT_ONCE, len(waiting)))]
            self._lost += self._sink.write(lines)
            if not waiting and not self._closing:
                time.sleep(0.02)  # collects the lines of many exchanges for one write


class PolledWriter:
    """Writes directly if the descriptor has room. For a process that logs little and must not have threads, because it
    forks. What finds no room waits for the next line, or for `flush`."""

    def __init__(self, sink: DescriptorSink) -> None:
        self._sink = sink
        self._waiting: deque[bytes] = deque()
        self.dropped = 0

    def put(self, line: bytes) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        self._waiting.append(line)
        self.flush()

    def flush(self) -> None:
        while self._waiting and self._sink.has_room():
            self.dropped += self._sink.write([self._waiting.popleft()])

    def close(self) -> None:
        deadline = time.monotonic() + END
        while self._waiting and time.monotonic() < deadline:
            self.flush()
            if self._waiting:
                time.sleep(0.01)
