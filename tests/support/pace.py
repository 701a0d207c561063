"""Paces of clients."""

from __future__ import annotations

from flowserver.flow.drain_rate import DrainRate

TARGET = 0.25


def pace_of(rate: float, unevenness: float = 0.0) -> DrainRate:
    """Of a client that takes `rate` bytes a second, steadily unless told otherwise."""
    pace = DrainRate(TARGET, 0.0)
    pace.rate = rate
    pace.unevenness = unevenness
    return pace
