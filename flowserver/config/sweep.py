"""How often deadlines are looked at. No I/O."""

from __future__ import annotations

from .settings import SETTINGS, Config


def sweep_interval(config: Config, *others: float | None) -> float:
    """Seconds between two looks at all deadlines: 1, or less when a deadline, one of `others` among them, is so short
    that it needs it."""
    own = (getattr(config, entry.field) for entry in SETTINGS if entry.swept)
    shortest = min((time for time in (*others, *own) if time is not None), default=4.0)
    return min(1.0, max(0.02, shortest / 4))
