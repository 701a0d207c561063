"""Shared by the formats: careful reading of numbers and texts in JSON, and the base classes of meters. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import orjson

from ..json_text.members import COUNT, Reads
from .base import KeyPaths, Quirks, Usage
from .event_template import Shortcut
from .limit_fields import X_RATELIMIT

Key = TypeVar("Key")

NONSENSE = (AttributeError, LookupError, TypeError, ValueError)
"""Exceptions that reading malformed JSON, or JSON of an unexpected shape, raises."""

MAX_COUNT: Final = 2**53
"""Counts from here on are nonsense: not every JSON library keeps them exact."""

DONE: Final = b"[DONE]"
"""The last event of many streams."""

MAX_TOLD = 200
"""Characters kept of an error in an answer."""

MAX_REASON: Final = 64
"""Characters kept of the reason why an answer ended."""

MAX_OPEN: Final = 256
"""Blocks of an answer that are remembered as open, far more than providers have at once. The ending closes no more."""

FALLBACKS: dict[str, Reads | str | None] = {"models": COUNT, "fallbacks": COUNT}
"""Fields in which gateways (OpenRouter, LiteLLM) take models to be used in place of `model`."""

MAX_ANNOUNCED = 16 << 10
"""Bytes of tools' names that wait for the content they are counted with; providers allow 128 for each."""


def count(value: Any, missing: int | None = None) -> int | None:
    """`value` as a count; `missing` if it is not one. Texts are counts too: Google's APIs allow them, and servers in
    Python accept any form of them (" +1_0.0")."""
    if value is None:
        return missing
    if type(value) is int:
        return value if 0 <= value < MAX_COUNT else missing
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return missing
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < MAX_COUNT else missing


def total(*counts: int | None) -> int | None:
    """The sum of the known counts; None if none is known."""
    known = [each for each in counts if each is not None]
    return sum(known) if known else None


def largest(bounds: Sequence[Any]) -> int | None:
    """The largest of several limits of one answer: an upper bound whichever the provider uses. None: no limit, or one
    is not a valid count."""
    counts = [count(bound) for bound in bounds]
    known = [bound for bound in counts if bound is not None]
    return max(known) if known and len(known) == len(counts) else None


def has_fallbacks(body: Mapping[str, Any]) -> bool:
    """Whether the members of `FALLBACKS` name any."""
    return bool(body.get("models") or body.get("fallbacks"))


def text(value: Any) -> str | None:
    """`value` if it is a non-empty string."""
    return value if isinstance(value, str) and value else None


def reason_text(value: Any) -> str | None:
    """The first `MAX_REASON` characters of `value`; None if it is not a string, or empty."""
    return value[:MAX_REASON] if isinstance(value, str) and value else None


def note_open(blocks: dict[Key, None], key: Key) -> None:
    """Add `key` to the open blocks, unless there are too many."""
    if len(blocks) < MAX_OPEN:
        blocks[key] = None


def unread_size(data: bytes) -> int:
    """The size of a malformed event; 0 for `DONE` and for blanks."""
    return len(data) if data.strip() and not data.startswith(DONE) else 0


def json_text(value: Any) -> str:
    """`value` as JSON. Raises TypeError if it is nested too deep."""
    return orjson.dumps(value).decode()


def error_text(error: Any) -> str:
    """The first `MAX_TOLD` characters of an error in an answer, which is an object or a text."""
    if isinstance(error, dict):
        error = ": ".join(part for key in ("type", "status", "message") if (part := text(error.get(key))))
    return (text(error) or "error")[:MAX_TOLD]


def section(body: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The object `name` in `body`, created if missing; None if it is not an object, which the provider will refuse."""
    if body.get(name) is None:
        body[name] = {}
    found = body[name]
    return found if isinstance(found, dict) else None


def lower(fields: dict[str, Any], name: str, most: int, *, least: int = 0) -> bool:
    """Lower `fields[name]` to `most`, or set it. Returns whether it changed. A value below `least` means no limit."""
    bound = count(fields.get(name))
    if bound is not None and least <= bound <= most:
        return False
    fields[name] = most
    return True


def sse(event: Mapping[str, Any], name: str = "") -> bytes:
    """A server-sent event; without an `event:` line if it has no name."""
    line = f"event: {name}\n".encode() if name else b""
    return b"%bdata: %b\n\n" % (line, orjson.dumps(event))


class BaseFormat:
    """Defaults for most formats."""

    __slots__ = ()

    heartbeat: bytes | None = None
    takes_forms = False
    streams_lines = False
    key_paths: KeyPaths | None = None
    limit_fields = X_RATELIMIT
    account_fields: frozenset[bytes] = frozenset()

    def stores(self, target: str) -> bool:
        return False

    def path_model(self, target: str) -> str | None:
        return None

    def ask_usage(self, body: dict[str, Any], quirks: Quirks) -> bool:
        return False


class BaseMeter(Shortcut):
    """The state that all meters have."""

    __slots__ = ("_announced", "failed", "finish", "finished", "model", "running", "unread", "usage")

    def __init__(self) -> None:
        super().__init__()
        self.usage = Usage()
        self.model: str | None = None
        self.finish: str | None = None
        self.failed: str | None = None
        self.unread = 0
        self._announced = b""
        """Tools' names in the events that open a call. They are counted with the content that follows, because an event
        that opens something must not be withheld."""
        # Flags last, beside those of subclasses: see CONTRIBUTING.md, "The compiled build".
        self.finished = False
        self.running = False

    def _note_report(self, output: int | None) -> None:
        """The provider's final report has `output`; None: it should, but does not."""
        if output is None:
            self._reported_at = -1
        else:
            self.usage.output = output
            self._reported_at = self.content_bytes

    def _announce(self, name: str) -> None:
        """The name of a tool that is called."""
        self.calls += 1
        written = name.encode()
        room = MAX_ANNOUNCED - len(self._announced)
        self._announced += written[:room]
        self.unread += len(written[room:])

    def _with_announced(self, written: bytes) -> bytes:
        """Content, after the names that wait for it."""
        if self._announced:
            written = self._announced + written
            self._announced = b""
        return written


class JsonMeter(BaseMeter):
    """A meter for answers of JSON events. Subclasses read them in `_read` and `_read_whole`, which may raise any of
    `NONSENSE`."""

    __slots__ = ()

    def read(self, name: bytes, data: bytes) -> bool | bytes:
        try:
            event = orjson.loads(data)
        except ValueError:
            self.unread += unread_size(data)
        else:
            self._try(self._read, event)
        return True

    def read_whole(self, body: bytes) -> bool:
        try:
            answer = orjson.loads(body)
        except ValueError:
            return False
        return self._try(self._read_whole, answer)

    def _try(self, read: Callable[[Any], None], value: Any) -> bool:
        """Returns whether it made sense, at least in part."""
        before = self.content_bytes
        makes_sense = True
        try:
            read(value)
        except NONSENSE:
            makes_sense = False
        if self.content_bytes != before:
            self.content_events += 1
            makes_sense = True
        return makes_sense

    def _read(self, event: Any) -> None:
        raise NotImplementedError

    def _read_whole(self, answer: Any) -> None:
        raise NotImplementedError

    def _add(self, text: str) -> None:
        """Generated content. Raises AttributeError for anything but a text."""
        if written := text.encode():
            written = self._with_announced(written)
            self.content_bytes += len(written)
            self.content.add(written)

    def _add_call(self, name: str, arguments: str) -> None:
        """A complete tool call."""
        self._add(name + arguments)
        self.calls += 1

    def _add_reasoning(self, text: str) -> None:
        written = text.encode()
        self.content_bytes += len(written)
        self.reasoning_bytes += len(written)
        self.content.add(written)
