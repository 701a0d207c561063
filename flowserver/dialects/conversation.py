"""What the requests of one conversation have in common: its name in the body, and how it begins. No I/O.

A chat grows at its end, so its instructions and its first message are in each of its requests. Most APIs use the same
member names, also those that are not counted here, so there is one table for all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import orjson

from ..json_text.members import Member
from ..names import user_name

TEXT_BYTES = 1024
"""Bytes of each text that are used. So a prompt that is one text and grows at its end stays the same."""
WINDOW = 1 << 17
"""Bytes of a member's value that are searched for texts."""

_INSTRUCTIONS = (b"system", b"instructions", b"systemInstruction", b"system_instruction")
_MESSAGES = (b"messages", b"contents", b"input", b"prompt", b"inputs", b"text")
"""The first of these that a request has is its conversation."""
_CACHE_KEY, _CONVERSATION = b"prompt_cache_key", b"conversation"
CONVERSATION_NAMES = tuple(name.decode() for name in (*_INSTRUCTIONS, *_MESSAGES, _CACHE_KEY, _CONVERSATION))
"""What the conversation may be known by: the names of a request's members."""
_MOST_NAME = 8192
"""Bytes of a value that may be the conversation's name."""
_INSTRUCTING = (b"system", b"developer")
"""Roles of messages that come before the first one of the conversation."""
_NO_TEXT = frozenset((b"role", b"type", b"ttl", b"id", b"status"))
"""Names of texts that say nothing, or that change with each turn: cache markers move along with the conversation's
end."""

_TOKEN = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)(?:"[ \t\r\n]*+(:)?|\\?\Z)|([\[{])|([\]}])', re.DOTALL)
"""A text, which may continue past the window, with a colon if it is a name; or a bracket."""
_PLAIN = rb"""%b\s*\{\s*"role"\s*:\s*"(\w*+)"\s*,\s*"content"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"\s*\}"""
_PLAIN_MESSAGE = re.compile(_PLAIN % rb"\[", re.DOTALL).match
_NEXT_PLAIN_MESSAGE = re.compile(_PLAIN % rb"\s*,", re.DOTALL).match
_TEXT, _NAME, _OPENING = 1, 2, 3
"""The groups of `_TOKEN`."""


class ConversationStart:
    """Of one request. Unreadable parts are ignored: no request fails because of them."""

    __slots__ = ("_noted", "_pieces")

    def __init__(self, noted: Mapping[bytes, Member], pieces: Sequence[bytes]) -> None:
        """`noted`: where in the body `pieces` the values of `CONVERSATION_NAMES` are; empty if it is no JSON."""
        self._noted = noted
        self._pieces = pieces

    @property
    def name(self) -> str | None:
        """The conversation's name, bounded: OpenAI's `prompt_cache_key`, else its `conversation`; None: it has none.
        Not `previous_response_id`, which changes with each turn."""
        conversation = self._value(_CONVERSATION)
        if isinstance(conversation, dict):
            conversation = conversation.get("id")
        return user_name(self._value(_CACHE_KEY)) or user_name(conversation)

    def _value(self, name: bytes) -> Any:
        """None: there is none, it is too long, or it is no JSON."""
        member = self._noted.get(name)
        if member is None or member.end - member.start > _MOST_NAME:
            return None
        try:
            return orjson.loads(_part(self._pieces, member.start, member.end))
        except orjson.JSONDecodeError:
            return None

    def texts(self) -> list[bytes]:
        """How the conversation begins: the texts of its instructions, then those of its messages up to the first that
        is not an instruction, `TEXT_BYTES` of each, still escaped. If there are none (not JSON, or of an unknown kind):
        the body's first bytes. Empty only if the body is."""
        found: list[bytes] = []
        noted = self._noted
        for name in _INSTRUCTIONS:
            if name in noted:
                found += _texts(self._beginning(noted[name]), is_talk=False)
        for name in _MESSAGES:
            if name in noted:
                value = self._beginning(noted[name])
                texts = _plain_texts(value)
                found += (list(_texts(value, is_talk=True)) if texts is None else texts) or [value[:TEXT_BYTES]]
                break  # without texts: numbers of tokens
        return found or [start for start in [_part(self._pieces, 0, TEXT_BYTES)] if start]

    def _beginning(self, member: Member) -> bytes:
        return _part(self._pieces, member.start, min(member.end, member.start + WINDOW))


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


def _plain_texts(value: bytes) -> list[bytes] | None:
    """As `_texts` of a talk, ten times as fast, for messages that have a role and a text, and nothing else; None: there
    are others."""
    found = []
    match = _PLAIN_MESSAGE(value)
    while match is not None:
        if text := match[2]:
            found.append(text[:TEXT_BYTES])
        if match[1] not in _INSTRUCTING:
            return found
        match = _NEXT_PLAIN_MESSAGE(value, match.end())
    return None


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
