"""Where each dialect's requests go to. No I/O."""

from __future__ import annotations

from . import chat, gemini, messages, responses
from .dialect import Dialect

FIXED = {
    "/v1/chat/completions": chat.DIALECT,
    "/v1/responses": responses.DIALECT,
    "/v1/messages": messages.DIALECT,
}


def dialect_of(path: str, query: str) -> Dialect | None:
    """None: the path belongs to no dialect."""
    return FIXED.get(path) or gemini.dialect(path, query)
