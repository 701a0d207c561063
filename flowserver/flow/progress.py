"""Whether anything still moves. No I/O, no clock."""

from __future__ import annotations


class Activity:
    """Notices by a look now and then that nothing moves any more: nothing to do per chunk."""

    __slots__ = ("_mark", "_since")

    def __init__(self) -> None:
        self._mark: tuple[object, ...] = ()
        self._since = 0.0

    def still_for(self, now: float, *mark: object) -> float:
        """By how much `now`, seconds or any other count, has grown since `mark` last changed, as far as looks can tell;
        0 if it is None: nothing has to move."""
        if mark != self._mark or mark == (None,):
            self._mark = mark
            self._since = now
        return now - self._since
