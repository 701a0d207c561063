"""Whether anything still moves. No I/O, no clock."""

from __future__ import annotations


class Activity:
    """Notices by a look now and then that nothing moves any more: nothing to do per chunk."""

    __slots__ = ("_mark", "_since")

    def __init__(self) -> None:
        self._mark: tuple[object, ...] = ()
        self._since = 0.0

    def still_for(self, now: float, *mark: object) -> float:
        """Seconds without a change of `mark`, as far as looks can tell."""
        if mark != self._mark:
            self._mark = mark
            self._since = now
        return now - self._since
