"""The states of an exchange. No I/O."""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """What an exchange waits for. From FLUSHING on it needs no provider any more.

    WAITING -> STREAMING -> FLUSHING -> ENDED. An answer of the relay's own leads from WAITING to FLUSHING at once. A
    client that leaves ends the exchange, except where the answer is read on: ABANDONED, then ENDED, with SETTLING in
    between.
    """

    WAITING = 0
    """For the head of the answer."""
    STREAMING = 1
    """For the rest of the answer, whose head has been passed on."""
    ABANDONED = 2
    """For the rest of the answer, though the client has left."""
    FLUSHING = 3
    """For the client to take the rest of an answer that is whole. Its last events may wait for tokens."""
    SETTLING = 4
    """For tokens for the last events of an answer that is whole, though the client has left."""
    ENDED = 5
