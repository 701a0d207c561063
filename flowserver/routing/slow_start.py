"""Slow start: a provider that comes back gets its load gradually. No I/O, no clock."""

from __future__ import annotations

LEAST = 0.1
"""The part of its weight with which it begins."""


class SlowStart:
    """The part of its weight that a provider has. One that was never away has all of it."""

    __slots__ = ("_back_at", "_is_away")

    def __init__(self) -> None:
        self._is_away = False
        self._back_at: float | None = None
        """None: it has not been away, or long ago."""

    def __repr__(self) -> str:
        return f"<SlowStart {'away' if self._is_away else 'there' if self._back_at is None else 'growing'}>"

    def ramp(self, now: float, seconds: float | None, *, is_away: bool) -> float:
        """The current part; call this about once a second. It grows evenly over `seconds` (None: at once). `is_away`:
        the provider is unavailable now."""
        if is_away:
            self._is_away = True
            return 1.0 if seconds is None else LEAST
        if self._is_away:
            self._is_away = False
            self._back_at = now
        if self._back_at is None or seconds is None or now - self._back_at >= seconds:
            self._back_at = None
            return 1.0
        return LEAST + (1.0 - LEAST) * (now - self._back_at) / seconds
