"""How far a client's HTTP/2 connection is on its way to its end."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """Phases of a connection, in their order."""

    OPEN = "open"
    LEAVING = "leaving"
    """The first GOAWAY was sent. Requests that cross it are still served."""
    CLOSING = "closing"
    """The second was sent: later requests are refused."""
    ENDED = "ended"
    """Everything is written, and the last bytes may still be on their way."""
    FAILED = "failed"
    """As ENDED, but streams were broken off."""
