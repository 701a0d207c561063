"""Formats of a log line: a JSON object, or text for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

LineFormat = Callable[[dict[str, Any]], bytes]
"""Formats a line from its fields, which it may modify: `time` (seconds since the epoch), `level`, `event`, and others.
The line ends with a line feed."""

_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
_QUOTED = frozenset(' "=\\')
_LEVELS = {
    "debug": b"\x1b[2mDEBUG\x1b[0m",
    "info": b"INFO ",
    "warning": b"\x1b[33mWARN \x1b[0m",
    "error": b"\x1b[31mERROR\x1b[0m",
}
_FIRST = ("method", "path", "status", "end", "upstream", "model", "duration_ms")
"""The fields that come first in text, in this order; the others follow in theirs."""
_ALWAYS_SHORT = frozenset(("reused", "estimated"))
"""Flags that are omitted while they are false."""


def json_line(fields: dict[str, Any]) -> bytes:
    """One JSON object; its `time` is in RFC 3339 format, in UTC, with microseconds."""
    fields["time"] = datetime.fromtimestamp(fields["time"], UTC)
    return orjson.dumps(fields, option=_OPTIONS)


def text_line(fields: dict[str, Any]) -> bytes:
    """`15:04:05.123 INFO access POST /v1/messages 200 complete ...`, in local time; fields without a value are left
    out."""
    moment = datetime.fromtimestamp(fields.pop("time")).strftime("%H:%M:%S.%f")[:-3]
    level, event = fields.pop("level"), fields.pop("event")
    values = [_text(fields[name]) for name in _FIRST if fields.get(name) is not None and name != "duration_ms"]
    if fields.get("duration_ms") is not None:
        values.append(f"{fields['duration_ms']:g}ms")
    rest = [f"{name}={_text(value)}" for name, value in fields.items() if name not in _FIRST and _says(name, value)]
    text = " ".join([moment, "%s", event, *values, *rest])
    head, _, tail = text.partition("%s")
    return head.encode() + _LEVELS[level] + tail.encode("utf-8", "replace") + b"\n"


def _says(name: str, value: Any) -> bool:
    """Whether a field is worth showing."""
    return value is not None and not (value is False and name in _ALWAYS_SHORT) and value != 0 and value != {}


def _text(value: Any) -> str:
    """A value with line ends and control characters escaped, which could forge a line or control a terminal."""
    if isinstance(value, str):
        plain = value.isprintable() and value and not _QUOTED.intersection(value)
        return str(value) if plain else orjson.dumps(value).decode() if _fits_json(value) else repr(value)
    if isinstance(value, bool | int | float):
        return str(value)
    return orjson.dumps(value, default=str).decode()


def _fits_json(value: str) -> bool:
    """Whether JSON escapes everything unprintable in it: it does not escape DEL, C1 and the like."""
    return all(char.isprintable() or char < " " for char in value)
