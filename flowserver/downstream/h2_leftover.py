"""Reads and drops the rest of HTTP/2 requests that were answered before they were complete. No I/O.

RFC 9113 section 8.1 allows a RST_STREAM after such an answer, but several clients (curl, httpx) lose the answer then if
they are still sending. So the rest is read and dropped for a while, and only then reset.
"""

from __future__ import annotations

from h2.errors import ErrorCodes

from ..http.h2_flood_guard import FrameGuard
from ..http.h2_server_state import ServerState
from .drop_budget import DropBudget, SharedDrops
from .linger import LINGER_BYTES, LINGER_SILENCE, LINGER_TIME


class _Rest:
    """The rest of one request."""

    __slots__ = ("began", "heard", "left", "owed")

    def __init__(self, now: float) -> None:
        self.began = self.heard = now
        self.left = LINGER_BYTES
        self.owed = 0
        """Received bytes for which its window was not opened yet."""

    def is_late(self, now: float) -> bool:
        return now - self.began >= LINGER_TIME or (not self.owed and now - self.heard >= LINGER_SILENCE)


class LeftoverUploads:
    """The unfinished uploads of one connection: dropped, and reset after a time. Their bytes share a budget; above it,
    windows are opened later."""

    __slots__ = ("_budget", "_guard", "_most", "_rests", "_state")

    def __init__(self, state: ServerState, guard: FrameGuard, drops: SharedDrops, *, most: int, now: float) -> None:
        """At most `most` streams are read at a time."""
        self._state = state
        self._guard = guard
        self._most = most
        self._rests: dict[int, _Rest] = {}
        self._budget = DropBudget(drops, now)

    def __len__(self) -> int:
        return len(self._rests)

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._rests

    def leave(self, stream_id: int, now: float) -> None:
        """The answer on this stream is complete, but the request is not."""
        if len(self._rests) < self._most:
            self._rests[stream_id] = _Rest(now)
        else:
            self._reset(stream_id)

    def remove(self, stream_id: int) -> None:
        """The request is complete or was reset."""
        self._rests.pop(stream_id, None)

    def drop(self, stream_id: int, length: int, now: float) -> None:
        """`length` bytes were received."""
        self._state.credit_connection(length)
        rest = self._rests[stream_id]
        rest.heard = now
        rest.left -= length
        may_go_on = self._budget.drop(length)
        if rest.left <= 0:
            self._reset(stream_id)
        elif may_go_on:
            self._credit(stream_id, length)
        else:
            rest.owed += length

    def sweep(self, now: float) -> bool:
        """Reset late streams, and credit others as the budget allows. Returns whether there may be frames to send."""
        if not self._rests:
            return False
        self._budget.refill(now)
        for stream_id, rest in list(self._rests.items()):
            if rest.is_late(now):
                self._reset(stream_id)
            elif rest.owed and self._budget.has_room:
                self._credit(stream_id, rest.owed)
                rest.heard = now
                rest.owed = 0
        return True

    def _credit(self, stream_id: int, length: int) -> None:
        self._state.credit_stream(self._state.stream(stream_id), length)

    def _reset(self, stream_id: int) -> None:
        self.remove(stream_id)
        self._guard.expect_late(self._state.stream(stream_id).may_come)
        self._state.reset_stream(stream_id, ErrorCodes.NO_ERROR)
