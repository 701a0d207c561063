"""The kinds of answer bodies, detected by media type and first bytes, and their scanners. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum, auto
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from ..json_text.scan import BLANKS, BOM, find_value
from .eventstream import PRELUDE_SIZE, EventStreamScanner, read_prelude
from .json_array import JsonArrayScanner
from .ndjson import NdjsonScanner
from .scanner import Scanner
from .sse import SseScanner


class BodyKind(Enum):
    SSE = auto()
    """Server-sent events."""
    NDJSON = auto()
    """A JSON object in each line."""
    JSON = auto()
    """One JSON object."""
    ARRAY = auto()
    """One JSON array."""
    EVENTSTREAM = auto()
    """Amazon's frames."""
    OPAQUE = auto()
    """Unreadable: compressed, or of an unknown format."""
    UNDECIDED = auto()
    """More bytes are needed to decide."""


SCANNERS: Final[Mapping[BodyKind, Callable[[int], Scanner]]] = MappingProxyType(
    {
        BodyKind.SSE: SseScanner,
        BodyKind.NDJSON: NdjsonScanner,
        BodyKind.ARRAY: JsonArrayScanner,
        BodyKind.EVENTSTREAM: EventStreamScanner,
    }
)
"""Scanners of the kinds that are streams; the argument is the largest size of an event that is held."""

_NDJSON_TYPES = frozenset(
    {
        b"application/jsonl",
        b"application/ndjson",
        b"application/stream+json",
        b"application/x-json-stream",
        b"application/x-jsonl",
        b"application/x-jsonlines",
        b"application/x-ndjson",
        b"text/x-ndjson",
    }
)
_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")
"""How lines of server-sent events begin."""
_LONGEST_NAME = 32
_LF: Final = ord("\n")
_object_on_new_line = re.compile(rb"\n[ \t\n\r]*+\{").search
_field_name = re.compile(rb"[A-Za-z0-9_-]{1,%d}" % _LONGEST_NAME).match


@lru_cache(64)
def _labelled(media_type: bytes) -> BodyKind | None:
    """The kind that a content-type claims; None: none of these."""
    name = media_type.partition(b";")[0].strip().lower()
    if name == b"text/event-stream":
        return BodyKind.SSE
    if name == b"application/vnd.amazon.eventstream":
        return BodyKind.EVENTSTREAM
    if name in _NDJSON_TYPES:
        return BodyKind.NDJSON
    if name in (b"application/json", b"text/json") or name.endswith(b"+json"):
        return BodyKind.JSON
    return None


def claimed_kind(media_type: bytes, *, compressed: bool) -> BodyKind | None:
    """The kind of a body whose head calls it a stream, or compressed; None: its first bytes decide."""
    if compressed:
        return BodyKind.OPAQUE
    label = _labelled(media_type)
    return label if label is not BodyKind.JSON else None


def body_kind(media_type: bytes, first: bytes, *, compressed: bool) -> BodyKind:
    """The kind of a body.

    `media_type`: its content-type field, b"" if there is none. `first`: its bytes so far, if any. `compressed`: it has
    a content-encoding other than identity.
    """
    if compressed:
        return BodyKind.OPAQUE
    label = _labelled(media_type)
    text = first.removeprefix(BOM).lstrip(BLANKS)
    return _seen(first, text, label)


def is_blank(first: bytes) -> bool:
    """Whether the first bytes of a body are only blanks, which decide nothing and may be passed on."""
    return bool(first) and not first.removeprefix(BOM).strip(BLANKS)


def _seen(first: bytes, text: bytes, label: BodyKind | None) -> BodyKind:
    if text.startswith(b"{"):
        return BodyKind.NDJSON if label is BodyKind.NDJSON or _is_followed(text) else BodyKind.JSON
    if text.startswith(b"["):
        return BodyKind.NDJSON if label is BodyKind.NDJSON else BodyKind.ARRAY
    if (frame := _frame(first)) is not None:
        return frame
    if text.startswith(_FIELDS):
        return BodyKind.SSE
    if not text or BOM.startswith(first) or any(field.startswith(text) for field in _FIELDS):
        return BodyKind.UNDECIDED
    return _other_field(text) if label is BodyKind.SSE else BodyKind.OPAQUE


def _is_followed(text: bytes) -> bool:
    """Whether a line with one object is followed by another object. Few answers begin with such a line, and finding the
    end of a value takes a tenth of the time of a small answer."""
    if _LF not in text or _object_on_new_line(text) is None:
        return False
    match = find_value(text)
    if match is None:
        return False
    blanks = text[match.end() :]
    return blanks.lstrip(BLANKS).startswith(b"{") and b"\n" in blanks.partition(b"{")[0]


def _frame(first: bytes) -> BodyKind | None:
    """The kind if these are Amazon's frames; None: they are not."""
    if len(first) >= PRELUDE_SIZE:
        return BodyKind.EVENTSTREAM if read_prelude(first) is not None else None
    # A frame is shorter than 16 MB, so it begins with a zero byte.
    return BodyKind.UNDECIDED if first.startswith(b"\0") else None


def _other_field(text: bytes) -> BodyKind:
    """Whether these are events that begin with an unknown field, which is allowed and ignored, or just text."""
    name = _field_name(text)
    end = name.end() if name else 0
    if end == len(text) < _LONGEST_NAME:
        return BodyKind.UNDECIDED
    return BodyKind.SSE if end and text[end : end + 1] in (b":", b"\r", b"\n") else BodyKind.OPAQUE
