"""Pings a silent client to find out whether it is still there. No I/O."""

from __future__ import annotations


class Liveness:
    """A client that has been silent for `interval` seconds (None: off) is pinged (RFC 9113 section 6.7)."""

    __slots__ = ("_asked_at", "_heard", "_interval", "_quiet_since")

    def __init__(self, interval: float | None, now: float) -> None:
        self._interval = interval
        self._heard = False
        self._quiet_since = now
        self._asked_at: float | None = None

    def hear(self) -> None:
        """Bytes were received."""
        self._heard = True

    def is_due(self, now: float, *, busy: bool) -> bool:
        """Whether to send a ping now; `busy` while it would wait behind other bytes."""
        if self._interval is None or self._heard or busy:
            self.excuse(now)
        elif self._asked_at is None and now - self._quiet_since >= self._interval:
            self._asked_at = now
            return True
        return False

    def is_unanswered(self, now: float) -> bool:
        """Whether a ping was not answered in time."""
        return self._interval is not None and self._asked_at is not None and now - self._asked_at >= self._interval

    def excuse(self, now: float) -> None:
        """Start the interval again."""
        self._heard = False
        self._quiet_since = now
        self._asked_at = None
