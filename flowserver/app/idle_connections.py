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


class IdleConnections:
    """The idle connections of one listener."""

    __slots__ = ("_connections",)

    def __init__(self, connections: OpenConnections) -> None:
        self._connections = connections

    def close(self, number: int, now: float) -> int:
        """Close up to `number` connections, at most AT_ONCE. Returns how many were closed."""
        number = min(number, AT_ONCE)
        every = list(self._connections)
        chosen = random.sample(every, min(len(every), CHOICE * number))
        idle = sorted((since, at) for at, each in enumerate(chosen) if (since := idle_since(each)) < now - LEAST)
        for _, at in idle[:number]:
            close(chosen[at])
        return min(number, len(idle))


def idle_since(connection: Connection) -> float:
    """Since when the connection has waited for a request; infinity: it is in use, or waits for its first one."""
    if isinstance(connection, DownstreamH1):
        return connection.idle_since
    if isinstance(connection, DownstreamH2):
        return math.inf if connection.streams or connection.is_over else connection.idle_since
    return math.inf


def close(connection: Connection) -> None:
    """Close an idle connection."""
    if isinstance(connection, DownstreamH2):
        connection.fail(ErrorCodes.NO_ERROR, "memory")
    elif isinstance(connection, DownstreamH1):
        connection.close_idle()
