"""Bounds what is read only to be dropped: the rest of requests that were answered before they were complete. No I/O."""

from __future__ import annotations

LINGER_RATE = 16 << 20
"""Bytes that one connection may drop per second: fast enough for an upload to finish, at 2 % of a core."""
TOTAL_RATE = 64 << 20
"""Bytes that all of them may drop per second: under overload thousands of uploads may be refused."""


class SharedDrops:
    """What the connections of one listener may still drop."""

    __slots__ = ("_looked", "left")

    def __init__(self) -> None:
        self.left = TOTAL_RATE
        self._looked = 0.0

    def spend(self, size: int) -> None:
        """What was dropped without being allowed to is a debt of a second at most: one client that sends on and on must
        not stop all others."""
        self.left = max(-TOTAL_RATE, self.left - size)

    def refill(self, now: float) -> None:
        self.left = min(TOTAL_RATE, self.left + int(TOTAL_RATE * max(0.0, now - self._looked)))
        self._looked = now


class DropBudget:
    """What one connection may drop until the next sweep."""

    __slots__ = ("_left", "_looked", "_shared")

    def __init__(self, shared: SharedDrops, now: float) -> None:
        self._shared = shared
        self._left = LINGER_RATE
        self._looked = now

    @property
    def has_room(self) -> bool:
        return self._left > 0 and self._shared.left > 0

    def drop(self, size: int) -> bool:
        """`size` bytes were dropped. Returns whether more may follow before the next sweep."""
        self._left = max(-LINGER_RATE, self._left - size)
        self._shared.spend(size)
        return self.has_room

    def refill(self, now: float) -> None:
        self._left = min(LINGER_RATE, self._left + int(LINGER_RATE * (now - self._looked)))
        self._looked = now
        self._shared.refill(now)
