"""What the requests of one conversation have in common: its name in the body, and how it begins. No I/O.

A chat grows at its end, so its instructions and its first message are in each of its requests. Most APIs use the same
member names, also those that are not counted here, so there is one table for all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate

from ..json_text.members import SPAN, JsonMembers, Member, Reads
from ..names import user_name

TEXT_BYTES = 1024
"""Bytes of each text that are used. So a prompt that is one text and grows at its end stays the same."""
WINDOW = 1 << 17
"""Bytes of a member's value that are searched for texts."""

_INSTRUCTIONS = (("system",), ("instructions",), ("systemInstruction",), ("system_instruction",))
_MESSAGES = (("messages",), ("contents",), ("input",), ("prompt",), ("inputs",), ("text",))
"""The first of these that a request has is its conversation."""
_READS = Reads(
    {
        "prompt_cache_key": None,
        "conversation": Reads({"id": None}),
        **dict.fromkeys((name for (name,) in (*_INSTRUCTIONS, *_MESSAGES)), SPAN),
    }
)
_INSTRUCTING = (b"system", b"developer")
"""Roles of messages that come before the first one of the conversation."""
_NO_TEXT = frozenset((b"role", b"type", b"ttl", b"id", b"status"))
"""Names of texts that say nothing, or that change with each turn: cache markers move along with the conversation's
end."""

_TOKEN = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)(?:"[ \t\r\n]*+(:)?|\\?\Z)|([\[{])|([\]}])', re.DOTALL)
"""A text, which may continue past the window, with a colon if it is a name; or a bracket."""
_TEXT, _NAME, _OPENING = 1, 2, 3
"""Its groups."""


class ConversationStart:
    """`feed` it the body as it arrives, then `finish`. Unreadable parts are ignored: no request fails because of
    them."""

    __slots__ = ("_members",)

    def __init__(self) -> None:
        self._members = JsonMembers(_READS)

    def feed(self, data: bytes) -> None:
        self._members.feed(data)

    def finish(self) -> None:
        self._members.finish()

    @property
    def name(self) -> str | None:
        """The conversation's name, bounded: OpenAI's `prompt_cache_key`, else its `conversation`; None: it has none.
        Not `previous_response_id`, which changes with each turn."""
        if self._members.problem is not None:
            return None
        values = self._members.values
        conversation = values.get("conversation")
        if isinstance(conversation, dict):
            conversation = conversation.get("id")
        return user_name(values.get("prompt_cache_key")) or user_name(conversation)

    def texts(self, pieces: Sequence[bytes]) -> list[bytes]:
        """How the conversation in the body `pieces` begins: the texts of its instructions, then those of its messages
        up to the first that is not an instruction, `TEXT_BYTES` of each, still escaped. If there are none (not JSON, or
        of an unknown kind): the body's first bytes. Empty only if the body is."""
        found: list[bytes] = []
        members = self._members.members if self._members.problem is None else {}
        for path in _INSTRUCTIONS:
            if path in members:
                found += _texts(_beginning(pieces, members[path]), is_talk=False)
        for path in _MESSAGES:
            if path in members:
                value = _beginning(pieces, members[path])
                found += list(_texts(value, is_talk=True)) or [value[:TEXT_BYTES]]  # numbers of tokens
                break
        return found or [start for start in [_part(pieces, 0, TEXT_BYTES)] if start]


def _beginning(pieces: Sequence[bytes], member: Member) -> bytes:
    return _part(pieces, member.start, min(member.end, member.start + WINDOW))


def _part(pieces: Sequence[bytes], start: int, end: int) -> bytes:
    """The bytes from `start` to `end` of a body."""
    if len(pieces) == 1:
        return pieces[0][start:end]
    parts = []
    for piece, behind in zip(pieces, accumulate(map(len, pieces)), strict=True):
        if behind > start:
            before = behind - len(piece)
            parts.append(piece[max(0, start - before) : max(0, end - before)])
        if behind >= end:
            break
    return b"".join(parts)


def _texts(value: bytes, *, is_talk: bool) -> Iterator[bytes]:
    """The texts in a value. `is_talk`: in a list, only up to the first message that is not an instruction."""
    level = 0
    name = role = b""
    for token in _TOKEN.finditer(value):
        kind = token.lastindex
        if kind == _NAME:
            name = token[_TEXT]
        elif kind == _TEXT:
            text = token[_TEXT]
            if name == b"role" and level == 2:
                role = text
            if text and name not in _NO_TEXT:
                yield text[:TEXT_BYTES]
            if is_talk and level == 1:  # a list of texts
                return
        elif kind == _OPENING:
            level += 1
            if level == 2:
                role = b""
        else:
            level -= 1
            if is_talk and level == 1 and role not in _INSTRUCTING:
                return
