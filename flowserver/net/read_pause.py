"""The on/off of reading one transport, with the reasons that hold it off."""

from __future__ import annotations

from typing import Protocol


class ReadTransport(Protocol):
    """What `ReadPause` asks of its transport; uvloop's are no subclass of asyncio's."""

    def is_closing(self) -> bool: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class ReadPause:
    """Reads while no reason holds. A reason is a bit of the user's choice; setting it twice is once."""

    __slots__ = ("_transport", "reasons")

    def __init__(self, transport: ReadTransport) -> None:
        self._transport = transport
        self.reasons = 0
        """Those that hold."""

    def __repr__(self) -> str:
        return f"<ReadPause reasons={self.reasons:#b}>"

    def pause(self, reason: int) -> None:
        if not self.reasons:
            self._transport.pause_reading()
        self.reasons |= reason

    def resume(self, reason: int) -> None:
        """Nothing happens on a transport that is closing: it is never read again."""
        if self.reasons & reason and not self._transport.is_closing():
            self.reasons &= ~reason
            if not self.reasons:
                self._transport.resume_reading()
