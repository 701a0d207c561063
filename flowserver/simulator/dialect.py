"""What a dialect gives the simulator: one `Reply` per request. No I/O."""

from __future__ import annotations

from typing import Protocol

from .script import Script


class BadRequest(Exception):
    """The request's body can't be answered. `param` names the field that is wrong, None for the body itself."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Reply(Protocol):
    """The answer to one request, as bytes without HTTP framing."""

    @property
    def streamed(self) -> bool: ...

    @property
    def tokens(self) -> int:
        """Content events, or tokens of a whole answer; 0: endless."""
        ...

    def opening(self) -> list[bytes]:
        """The events before the first content event."""
        ...

    def content(self) -> tuple[bytes, bytes, bytes]:
        """A content event in the parts that NumberedEvents takes."""
        ...

    def closing(self, tokens: int) -> list[bytes]:
        """The events behind the last content event, after `tokens` of them."""
        ...

    def whole(self) -> tuple[bytes, int]:
        """The body of an answer that is not streamed, and the offset of its text in it."""
        ...


class Dialect(Protocol):
    """A module such as `chat`."""

    def read(self, body: bytes, script: Script) -> Reply:
        """The reply to a request; the same for the same request. Raises BadRequest."""
        ...

    def error(self, status: int, message: str, param: str | None = None) -> bytes:
        """The body of an error response."""
        ...
