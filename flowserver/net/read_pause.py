"""Pauses reading of one transport, with reasons."""

from __future__ import annotations

from typing import Protocol


class ReadTransport(Protocol):
    """The part of a transport that `ReadPause` needs; uvloop's transports are not subclasses of asyncio's."""

    def is_closing(self) -> bool: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class ReadPause:
    """Reads while no reason is set. A reason is a bit chosen by the user; setting it twice counts once."""

    __slots__ = ("_transport", "reasons")

    def __init__(self, transport: ReadTransport) -> None:
        self._transport = transport
        self.reasons = 0
        """The reasons that are set."""

    def __repr__(self) -> str:
        return f"<ReadPause reasons={self.reasons:#b}>"

    def pause(self, reason: int) -> None:
        if not self.reasons:
            self._transport.pause_reading()
        self.reasons |= reason

    def resume(self, reason: int) -> None:
        """Does nothing on a closing transport, which is never read again."""
        if self.reasons & reason and not self._transport.is_closing():
            self.reasons &= ~reason
            if not self.reasons:
                self._transport.resume_reading()
