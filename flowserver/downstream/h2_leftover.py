"""The rest of HTTP/2 requests that were answered before they were whole. No I/O.

RFC 9113 section 8.1 allows a RST_STREAM behind such an answer, and several clients (curl, httpx) lose the answer to it
when they are still sending. So the rest is read and dropped for a while, and only then reset.
"""

from __future__ import annotations

from h2.errors import ErrorCodes

from ..h2_guard import FrameGuard
from .h2_state import ClientState
from .linger import LINGER_BYTES, LINGER_RATE, LINGER_SILENCE, LINGER_TIME


class _Rest:
    """Of one request."""

    __slots__ = ("began", "heard", "left", "owed")

    def __init__(self, now: float) -> None:
        self.began = self.heard = now
        self.left = LINGER_BYTES
        self.owed = 0
        """Bytes that came and that its window was not opened by."""


class Leftovers:
    """Of one connection. Bytes cost the rate that all of them share; what is above it is credited later."""

    __slots__ = ("_budget", "_looked", "_most", "_rests")

    def __init__(self, most: int, now: float) -> None:
        """At most `most` streams are waited for at a time."""
        self._most = most
        self._rests: dict[int, _Rest] = {}
        self._budget = LINGER_RATE
        self._looked = now

    def __len__(self) -> int:
        return len(self._rests)

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._rests

    def add(self, stream_id: int, now: float) -> bool:
        """The answer to this stream is complete. False: too many are waited for already."""
        if len(self._rests) >= self._most:
            return False
        self._rests[stream_id] = _Rest(now)
        return True

    def remove(self, stream_id: int) -> None:
        """The request is whole or was reset."""
        self._rests.pop(stream_id, None)

    def receive(self, stream_id: int, length: int, now: float) -> int | None:
        """`length` bytes came. Returns by how many its window may be opened; None: it was enough, reset it."""
        rest = self._rests[stream_id]
        rest.heard = now
        rest.left -= length
        if rest.left <= 0:
            del self._rests[stream_id]
            return None
        self._budget -= length
        if self._budget > 0:
            return length
        rest.owed += length
        return 0

    def sweep(self, now: float) -> tuple[list[tuple[int, int]], list[int]]:
        """(streams whose windows are to be opened, and by how much), and streams that had their time."""
        if not self._rests:
            return [], []
        self._budget = min(LINGER_RATE, self._budget + int(LINGER_RATE * (now - self._looked)))
        self._looked = now
        late = [
            stream_id
            for stream_id, rest in self._rests.items()
            if now - rest.began >= LINGER_TIME or (not rest.owed and now - rest.heard >= LINGER_SILENCE)
        ]
        for stream_id in late:
            del self._rests[stream_id]
        credits = []
        for stream_id, rest in self._rests.items():
            if rest.owed and self._budget > 0:
                credits.append((stream_id, rest.owed))
                rest.heard = now
                rest.owed = 0
        return credits, late


class LeftoverUploads:
    """Reads and drops them, and resets them when they had their time."""

    __slots__ = ("_guard", "_leftovers", "_state", "_window")

    def __init__(self, leftovers: Leftovers, state: ClientState, guard: FrameGuard, *, window: int) -> None:
        """`window`: bytes that may be on their way of a stream that is reset."""
        self._leftovers = leftovers
        self._state = state
        self._guard = guard
        self._window = window

    def __len__(self) -> int:
        return len(self._leftovers)

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._leftovers

    def leave(self, stream_id: int, now: float) -> None:
        """The answer to this stream is complete, and the request is not."""
        if not self._leftovers.add(stream_id, now):
            self._reset(stream_id)

    def remove(self, stream_id: int) -> None:
        self._leftovers.remove(stream_id)

    def drop(self, stream_id: int, length: int, now: float) -> None:
        """`length` bytes came."""
        self._state.credit_connection(length)
        credit = self._leftovers.receive(stream_id, length, now)
        if credit is None:
            self._reset(stream_id)
        elif credit:
            self._state.credit_stream(self._state.stream(stream_id), credit)

    def sweep(self, now: float) -> bool:
        """Whether there are any, so that something may have to be sent."""
        if not self._leftovers:
            return False
        credits, late = self._leftovers.sweep(now)
        for stream_id, length in credits:
            self._state.credit_stream(self._state.stream(stream_id), length)
        for stream_id in late:
            self._reset(stream_id)
        return True

    def _reset(self, stream_id: int) -> None:
        self._state.reset_stream(stream_id, ErrorCodes.NO_ERROR)
        self._guard.expect_late(self._window)
