"""How often deadlines are checked. No I/O."""

from __future__ import annotations

from .settings import SETTINGS, Config


def sweep_interval(config: Config, *others: float | None) -> float:
    """Seconds between two sweeps: 1, or less if a deadline, including those in `others`, is short."""
    own = (getattr(config, entry.field) for entry in SETTINGS if entry.swept)
    shortest = min((time for time in (*others, *own) if time is not None), default=4.0)
    return min(1.0, max(0.02, shortest / 4))
