"""The states of an exchange. No I/O."""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """What an exchange waits for. From FLUSHING on it no longer needs a provider.

    WAITING -> STREAMING -> FLUSHING -> ENDED. The relay's own answers go from WAITING to FLUSHING at once. A client
    that leaves ends the exchange, unless the answer is still read: ABANDONED, then ENDED, possibly with SETTLING in
    between.
    """

    WAITING = 0
    """For the head of the answer."""
    STREAMING = 1
    """For the rest of the answer, whose head has been passed on."""
    ABANDONED = 2
    """For the rest of the answer, though the client has left."""
    FLUSHING = 3
    """For the client to read the rest of a complete answer. Its last events may wait for tokens."""
    SETTLING = 4
    """For tokens for the last events of a complete answer, though the client has left."""
    ENDED = 5
