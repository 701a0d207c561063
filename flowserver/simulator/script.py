"""What a request asks of the simulator: the header `x-simulate: key=value key=value ...`. No I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

HEADER = "x-simulate"

MAX_COUNT = 10**12
MAX_SECONDS = 86_400.0
MAX_SIZE = 1 << 20
MAX_WHOLE = 256 << 20
MAX_EVENTS_AT_ONCE = 1_000_000
"""Of an answer that is made or measured as a whole before its head leaves."""

ENDLESS = MAX_COUNT
"""As a number of events."""

_ID = re.compile(r"[\x21-\x7e]{1,200}")


@dataclass(frozen=True, slots=True)
class Script:
    """How one request is answered. All times in seconds, all sizes in bytes."""

    events: int = 20
    """Content events, one token each; 0: endless."""
    reasoning: int = 0
    """Tokens before these that no event shows, but usage reports count."""
    rate: float = 0.0
    """Content events per second; 0: as fast as the socket takes them."""
    size: int = 250
    """Of one content event with its blank line, without HTTP framing. The least possible size wins."""
    delay: float = 0.0
    """From the end of the request to the head of the answer."""
    first: float = 0.0
    """From the head to the first event."""
    silence_after: int | None = None
    """Content events after which nothing more comes while the connection stays open."""
    abort_after: int | None = None
    """Content events after which the connection is reset (RST)."""
    fin_after: int | None = None
    """Content events after which the connection is closed (FIN) in the middle of the answer."""
    status: int = 200
    retry_after: float | None = None
    whole: int | None = None
    """Of the text of an answer that is not streamed; None: as many as its tokens take."""
    id: str | None = None
    """Names the stream in the records."""
    length: bool = False
    """A stream with content-length in place of chunks."""
    close: bool = False
    """The answer ends with the connection: neither chunks nor content-length."""
    split: int = 0
    """Everything is written in pieces of so many bytes, one per turn of the event loop; 0: as it comes."""
    interim: int = 0
    """103 responses before the head."""
    read_rate: float = 0.0
    """Bytes of the request's body that are read per second; 0: as fast as they come."""
    read_after: float = 0.0
    """From the request's head to the reading of its body."""


UNASKED = Script(rate=50.0)
"""For a request without the header: the pace of a real model."""


class ScriptError(Exception):
    """The header asks for something impossible. `key` is what is wrong, `allowed` what it accepts."""

    def __init__(self, key: str, allowed: str) -> None:
        super().__init__(f"{HEADER}: {key!r}: {allowed}")
        self.key = key
        self.allowed = allowed


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a key accepts: `read` returns None for anything else."""

    allowed: str
    read: Callable[[str], Any]


def _whole_number(least: int, most: int, note: str = "") -> _Kind:
    def read(text: str) -> int | None:
        if not (text.isascii() and text.isdigit() and len(text) <= 20):
            return None
        value = int(text)
        return value if least <= value <= most else None

    return _Kind(f"takes a whole number from {least} to {most}{note}", read)


def _number(most: float, unit: str) -> _Kind:
    def read(text: str) -> float | None:
        try:
            value = float(text)
        except ValueError:
            return None
        return value if math.isfinite(value) and 0.0 <= value <= most else None

    return _Kind(f"takes a number of {unit} from 0 to {most:g}", read)


_SECONDS = _number(MAX_SECONDS, "seconds")
_COUNT = _whole_number(0, MAX_COUNT)
_FLAG = _Kind("takes 0 or 1", {"0": False, "1": True}.get)

_KINDS: dict[str, _Kind] = {
    "events": _whole_number(0, MAX_COUNT, "; 0 is endless"),
    "reasoning": _COUNT,
    "rate": _number(1e6, "events per second"),
    "size": _whole_number(1, MAX_SIZE),
    "delay": _SECONDS,
    "first": _SECONDS,
    "silence_after": _COUNT,
    "abort_after": _COUNT,
    "fin_after": _COUNT,
    "status": _whole_number(400, 599),
    "retry_after": _SECONDS,
    "whole": _whole_number(0, MAX_WHOLE),
    "id": _Kind("takes 1 to 200 printable ASCII characters", lambda text: text if _ID.fullmatch(text) else None),
    "length": _FLAG,
    "close": _FLAG,
    "split": _whole_number(1, MAX_SIZE),
    "interim": _whole_number(0, 100),
    "read_rate": _number(1e12, "bytes per second"),
    "read_after": _SECONDS,
}


def parse(header: str | None) -> Script:
    """The script in a header's value; None: no header. Raises ScriptError."""
    if header is None:
        return UNASKED
    given: dict[str, Any] = {}
    for word in header.replace(",", " ").split():
        key, equals, text = word.partition("=")
        kind = _KINDS.get(key)
        if kind is None:
            raise ScriptError(key, f"is unknown; known are {', '.join(_KINDS)}")
        if key in given:
            raise ScriptError(key, "is given twice")
        value = kind.read(text) if equals else None
        if value is None:
            raise ScriptError(key, kind.allowed)
        given[key] = value
    script = replace(Script(), **given)
    if script.length and script.close:
        raise ScriptError("length", "does not go with close=1")
    if script.length and not 1 <= script.events <= MAX_EVENTS_AT_ONCE:
        raise ScriptError("events", f"takes 1 to {MAX_EVENTS_AT_ONCE} when length=1")
    return script
