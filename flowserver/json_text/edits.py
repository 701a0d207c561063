"""Changes members of a JSON object in place: all other bytes stay unchanged. No I/O.

So numbers of any length, lone surrogates, the order of names and white space reach the provider as they were written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from .members import JsonMembers, Member, Reads

JOINED: Final = 64 * 1024
"""Bytes of a piece above which it is not worth copying to save a write."""


class Edit(NamedTuple):
    """Replaces the bytes from `start` to `end` with `text`."""

    start: int
    end: int
    text: bytes


Places = Mapping[tuple[str, ...], Member]
"""The place of each value, by its path: `JsonMembers.members`."""


def edits(before: Mapping[str, Any], places: Places, after: Mapping[str, Any]) -> list[Edit]:
    """The edits, in order, that turn a text with the values `before`, at `places`, into one whose values are
    `after`."""
    return sorted(_edits(before, places, after, ()), key=lambda edit: (edit.start, edit.end))


def _edits(
    before: Mapping[str, Any], places: Places, after: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[Edit]:
    place = places[path]
    empty = place.is_empty
    for name, value in after.items():
        if name not in before:
            member = b"%b%b:%b" % (b"" if empty else b",", orjson.dumps(name), orjson.dumps(value))
            empty = False
            yield Edit(place.close, place.close, member)
        elif isinstance(value, dict) and isinstance(before[name], dict):
            yield from _edits(before[name], places, value, (*path, name))
        elif value is not before[name] and (value != before[name] or type(value) is not type(before[name])):
            there = places[*path, name]
            yield Edit(there.start, there.end, orjson.dumps(value))


def apply(changes: Sequence[Edit], pieces: Sequence[bytes]) -> list[bytes]:
    """Applies `changes`, in order and without overlaps, to the text in `pieces`. Unchanged pieces stay as they are. A
    changed one of up to `JOINED` bytes stays one piece, since each is written by itself."""
    result: list[bytes] = []
    next_change = 0
    start = 0
    for piece in pieces:
        end = start + len(piece)
        passed = start
        parts: list[bytes] = []
        while next_change < len(changes) and changes[next_change].start < end:
            change = changes[next_change]
            if change.start > passed:
                parts.append(piece[passed - start : change.start - start])
            if change.start >= start and change.text:
                parts.append(change.text)
            passed = min(change.end, end)
            if change.end > end:
                break
            next_change += 1
        if passed < end:
            parts.append(piece[passed - start :])
        if len(parts) > 1 and len(piece) <= JOINED:
            parts = [b"".join(parts)]
        result += parts
        start = end
    return result


def without_member(text: bytes, name: str) -> bytes | None:
    """The JSON object `text` without the member `name`; None if it does not appear exactly once, or the object can't be
    read."""
    found = JsonMembers(Reads({name: None}), most_scalar=len(text))
    found.feed(text)
    found.finish()
    member = found.members.get((name,))
    if member is None or found.problem is not None:
        return None
    before = text[: member.start].rstrip().removesuffix(b":").rstrip()
    begin = before.rfind(b'"', 0, len(before) - 1)
    head, tail = text[:begin].rstrip(), text[member.end :].lstrip()
    if tail.startswith(b","):
        return head + tail[1:].lstrip()
    return head.removesuffix(b",") + tail
