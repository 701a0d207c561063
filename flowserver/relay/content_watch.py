"""Detects the first content of an answer, in any format. No I/O."""

from __future__ import annotations

from ..dialects.base import Format, Meter, Quirks, RequestParams
from ..events.registry import SCANNERS, BodyKind, is_blank
from ..events.scanner import Scanner
from ..http.messages import ResponseHead
from .token_count import kind_by_bytes, kind_by_head

_MAX_EVENT = 1 << 16
"""Bytes of an event that is read whole. A larger one has content, or echoes the request, which a scanner reduces."""


class ContentWatch:
    """Watches one answer: call `open` with its head, then `feed` until it shows content.

    Content is output of the model in any form: text, reasoning, a tool call, audio, an image. Heartbeats, comments,
    roles, and whatever else providers send before they generate do not count. The end of an answer, an error in it, and
    unreadable data count as content, since nothing better will follow. So does the first byte that is not whitespace of
    an answer that is not a stream, or in an unknown format.
    """

    __slots__ = ("_first", "_format", "_head", "_meter", "_params", "_quirks", "_scanner")

    def __init__(self, known: Format | None, params: RequestParams, quirks: Quirks) -> None:
        """`known` None: the format is unknown."""
        self._format = known
        self._params = params
        self._quirks = quirks
        self._meter: Meter | None = None
        self._scanner: Scanner | None = None
        """None, like the meter: it is not a stream of events, or this is not known yet."""
        self._head: ResponseHead | None = None
        self._first = b""
        """The first bytes of the body, while they are too few to determine its format."""

    def __repr__(self) -> str:
        kind = "undecided" if self._scanner is None else type(self._scanner).__name__
        return f"<ContentWatch {kind} first={len(self._first)}>"

    def open(self, head: ResponseHead) -> None:
        """Read the answer's head."""
        self._head = head

    def feed(self, data: bytes) -> bool:
        """Read more of the body. Returns whether content has been seen."""
        known, scanner, meter = self._format, self._scanner, self._meter
        if known is None or self._head is None:
            return not _is_nothing(data)
        if scanner is None or meter is None:
            data = self._first = self._first + data
            kind = kind_by_head(self._head) or self._kind_by_bytes(self._head, data, known)
            if kind is BodyKind.UNDECIDED:
                return False
            if kind not in SCANNERS:
                return not _is_nothing(data)
            self._scanner = scanner = SCANNERS[kind](_MAX_EVENT)
            self._meter = meter = known.meter(self._params, self._quirks, cuttable=False)
            self._first = b""
        for name, payload, _ in scanner.feed(data):
            meter.read(name, payload)
        return scanner.broken or scanner.oversized > 0 or _shows_output(meter)

    def _kind_by_bytes(self, head: ResponseHead, first: bytes, known: Format) -> BodyKind:
        return kind_by_bytes(head, first, known, stream=self._params.stream)


def _is_nothing(data: bytes) -> bool:
    """Whether this is only whitespace, which some providers send to show that they are working."""
    return not data or is_blank(data)


def _shows_output(meter: Meter) -> bool:
    said = meter.content_events or meter.calls or meter.citations or meter.other_output
    over = meter.finished or meter.finish is not None or meter.failed is not None
    return bool(said) or over or meter.unread > 0
