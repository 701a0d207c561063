"""Closes idle connections when memory is short, those idle for longest first."""

from __future__ import annotations

import math
import random

from h2.errors import ErrorCodes

from ..downstream.context import Connection, OpenConnections
from ..downstream.h1 import DownstreamH1
from ..downstream.h2 import DownstreamH2

AT_ONCE = 64
"""Connections that are closed in one iteration of the event loop: a few milliseconds."""
CHOICE = 5
"""The oldest of this many is closed. Finding the oldest of all would take longer than closing them."""
LEAST = 1.0
"""Seconds that a connection must have been idle: its client may be about to use it."""


def close_idle(connections: OpenConnections, number: int, now: float) -> int:
    """Close up to `number` idle connections, at most AT_ONCE. Returns how many were closed."""
    number = min(number, AT_ONCE)
    every = list(connections)
    chosen = random.sample(every, min(len(every), CHOICE * number))
    idle = sorted((since, at) for at, each in enumerate(chosen) if (since := idle_since(each)) < now - LEAST)
    for _, at in idle[:number]:
        _close(chosen[at])
    return min(number, len(idle))


def idle_since(connection: Connection) -> float:
    """Since when the connection has waited for a request; infinity: it is in use, or waits for its first one."""
    if isinstance(connection, DownstreamH1):
        return connection.idle_since
    if isinstance(connection, DownstreamH2):
        return math.inf if connection.streams or connection.is_over else connection.idle_since
    return math.inf


def _close(connection: Connection) -> None:
    if isinstance(connection, DownstreamH2):
        connection.fail(ErrorCodes.NO_ERROR, "memory")
    elif isinstance(connection, DownstreamH1):
        connection.close_idle()
