"""What a dialect gives the simulator: one `Reply` per request. No I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from .events import TEXT, TOKEN_BYTES, split_at_text, token_text
from .script import Script

CREATED = 1_700_000_000
"""Always the same, so that the same request has the same bytes."""


class BadRequest(Exception):
    """The request's body can't be answered. `param` names the field that is wrong, None for the body itself."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request asks for, in any dialect."""

    model: str
    streamed: bool
    prompt_tokens: int
    tokens: int
    """Content events, or tokens of a whole answer's text; ENDLESS: it does not end by itself."""
    reasoning: int
    """Tokens before these that are counted but not shown."""
    limited: bool
    """The request's limit of tokens ends the answer."""
    whole_bytes: int | None
    """Of a whole answer's text; None: as many as its tokens take."""


@dataclass(frozen=True, slots=True)
class Reply(ABC):
    """The answer to one request, as bytes without HTTP framing."""

    plan: Plan

    @abstractmethod
    def opening(self) -> list[bytes]:
        """The events before the first content event."""

    @abstractmethod
    def content(self) -> bytes:
        """A content event as a template for NumberedEvents."""

    @abstractmethod
    def closing(self, tokens: int) -> list[bytes]:
        """The events after the last content event, the `tokens`-th."""

    @abstractmethod
    def answer(self, text: str) -> dict[str, Any]:
        """The body of an answer that is not streamed."""

    def whole(self) -> tuple[bytes, int]:
        """That body with its text filled in, and the text's offset."""
        size = self.plan.whole_bytes
        text = token_text(self.plan.tokens if size is None else size // TOKEN_BYTES + 1)[:size]
        before, behind = split_at_text(orjson.dumps(self.answer(TEXT)))
        return b"".join([before, text, behind]), len(before)


class ErrorBody(Protocol):
    def __call__(self, status: int, message: str, param: str | None = None) -> bytes:
        """The body of an error response; `param` names the field that is wrong."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What requests to one path are answered with."""

    read: Callable[[bytes, Script], Reply]
    """The reply to a request's body; the same for the same request. Raises BadRequest."""
    error: ErrorBody
