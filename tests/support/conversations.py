"""Reads how a conversation begins from the body of a request."""

from __future__ import annotations

from flowserver.dialects.conversation import CONVERSATION_NAMES, ConversationStart
from flowserver.json_text.members import Reads
from flowserver.relay.request_body import JsonBody
from tests.support.scanning import pieces

_READS = Reads({"model": None}).noting(CONVERSATION_NAMES)


def conversation(body: bytes, *cuts: int) -> ConversationStart:
    """Of a `body` that arrives in pieces."""
    reader, parts = JsonBody(_READS), pieces(body, cuts)
    for piece in parts:
        reader.feed(piece)
    reader.finish()
    return ConversationStart(reader.noted, parts)
