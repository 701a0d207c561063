"""How a line of the log is written: as a JSON object, or as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

LineFormat = Callable[[dict[str, Any]], bytes]
"""Makes a line of its fields, which it may change: `time` (seconds since the epoch), `level`, `event`, and others.
Ends with a line feed."""

_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
_QUOTED = frozenset(' "=\\')
_LEVELS = {
    "debug": b"\x1b[2mDEBUG\x1b[0m",
    "info": b"INFO ",
    "warning": b"\x1b[33mWARN \x1b[0m",
    "error": b"\x1b[31mERROR\x1b[0m",
}
_FIRST = ("method", "path", "status", "end", "upstream", "model", "duration_ms")
"""What a reader of text looks for, in this order; the other fields follow as they come."""
_ALWAYS_SHORT = frozenset(("reused", "estimated"))
"""Flags that say nothing while they are false."""


def json_line(fields: dict[str, Any]) -> bytes:
    """One JSON object; its `time` is as in RFC 3339, in UTC, with microseconds."""
    fields["time"] = datetime.fromtimestamp(fields["time"], UTC)
    return orjson.dumps(fields, option=_OPTIONS)


def text_line(fields: dict[str, Any]) -> bytes:
    """`15:04:05.123 INFO  access POST /v1/messages 200 complete ...`, in local time; what is not known is left out."""
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
    """Whether a field is worth a reader's time."""
    return value is not None and not (value is False and name in _ALWAYS_SHORT) and value != 0 and value != {}


def _text(value: Any) -> str:
    """A value without line ends or control characters, which could forge a line or steer a terminal."""
    if isinstance(value, str):
        plain = value.isprintable() and value and not _QUOTED.intersection(value)
        return str(value) if plain else orjson.dumps(value).decode() if _fits_json(value) else repr(value)
    if isinstance(value, bool | int | float):
        return str(value)
    return orjson.dumps(value, default=str).decode()


def _fits_json(value: str) -> bool:
    """Whether JSON quotes everything in it that is not printable: it leaves DEL, C1 and the like as they are."""
    return all(char.isprintable() or char < " " for char in value)
