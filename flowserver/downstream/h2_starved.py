"""Streams of an HTTP/2 connection whose turn came while the connection's window was closed."""

from __future__ import annotations

from ..relay.interfaces import Clock
from .h2_stream import H2Stream


class StarvedStreams:
    """These streams in the order of their turns, and the total time with any of them, in which the client kept the
    window closed."""

    __slots__ = ("_clock", "_seconds", "_streams", "since")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._streams: dict[H2Stream, None] = {}
        self._seconds = 0.0
        self.since: float | None = None
        """Since when there are any; None: there are none."""

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: H2Stream) -> None:
        if self.since is None:
            self.since = self._clock()
        self._streams[stream] = None

    def discard(self, stream: H2Stream) -> None:
        self._streams.pop(stream, None)
        self._settle()

    def take_last_first(self) -> list[H2Stream]:
        """Take all of them, in reverse order: they get the opened window first."""
        streams = list(reversed(self._streams))
        self._streams.clear()
        self._settle()
        return streams

    def seconds(self, now: float) -> float:
        """Total seconds with any such streams so far."""
        return self._seconds if self.since is None else self._seconds + now - self.since

    def _settle(self) -> None:
        if self.since is not None and not self._streams:
            self._seconds += self._clock() - self.since
            self.since = None
