"""Detects a lack of progress. No I/O, no clock."""

from __future__ import annotations


class Activity:
    """Detects by occasional checks that nothing moves any more, without work per chunk."""

    __slots__ = ("_mark", "_since")

    def __init__(self) -> None:
        self._mark: tuple[object, ...] = ()
        self._since = 0.0

    def still_for(self, now: float, *mark: object) -> float:
        """How much `now`, seconds or any other count, has grown since `mark` last changed, to the precision of the
        checks; 0 if `mark` is None: nothing has to move."""
        if mark != self._mark or mark == (None,):
            self._mark = mark
            self._since = now
        return now - self._since
