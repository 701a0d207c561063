"""The tokens of one exchange: what its request asks for, what its answer is made of, and when it has to end. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from ..dialects.base import Asked, Format, Meter, Usage
from ..dialects.estimate import Count, Ratios
from ..errors import RelayError
from ..eventstream import EventStreamScanner
from ..messages import ResponseHead, find
from ..sse import NdjsonScanner, Scanner, SseScanner
from .tap import Tap, WholeTap
from .target import Target

_EVENTS = b"text/event-stream"
_SCANNERS: dict[bytes, Callable[[int], Scanner]] = {
    _EVENTS: SseScanner,
    b"application/x-ndjson": NdjsonScanner,
    b"application/ndjson": NdjsonScanner,
    b"application/jsonl": NdjsonScanner,
    b"application/stream+json": NdjsonScanner,
    b"application/vnd.amazon.eventstream": EventStreamScanner,
}
_WHOLE = b"application/json"


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """`max_event` bytes of one event, or of an answer that is no stream, are looked into; `hold` bytes of an unfinished
    event wait where one may have to be left out."""

    ratios: Ratios
    max_event: int
    hold: int


_KEY_FIELDS = {"anthropic-messages": (b"x-api-key", b""), "gemini": (b"x-goog-api-key", b"")}
_BEARER = (b"authorization", b"Bearer ")


class Account:
    """Made with the request's head. `read_request` when its body is there, `ask` for each attempt at a provider, `open`
    with the answer's head, `settle` at the end."""

    __slots__ = (
        "_asks_usage",
        "_body",
        "_count",
        "_settings",
        "_target",
        "_unreadable",
        "asked",
        "budget",
        "cut_at",
        "estimated",
        "format",
        "heartbeat",
        "meter",
        "tap",
        "upstream",
    )

    def __init__(self, settings: AccountSettings, known: Format | None, target: str) -> None:
        self._settings = settings
        self._target = target
        self._body: dict[str, Any] | None = None
        """The request's body; None: not known, or no JSON object."""
        self._asks_usage = False
        self._unreadable = False
        self._count: Count | None = None
        """Of a stream; None for answers that are none."""
        self.format = known
        """None: no format that is known, so nothing is counted."""
        self.budget: int | None = None
        """Tokens that the answer may have; None: no bound."""
        self.asked = Asked()
        self.upstream: Target | None = None
        """Who was asked last."""
        self.meter: Meter | None = None
        """Of the answer; None before, and where it is not counted."""
        self.tap: Tap | WholeTap | None = None
        self.heartbeat: bytes | None = None
        """What may be put between two events of the answer; None: nothing, or it is not there yet."""
        self.cut_at: int | None = None
        """Tokens that had passed when the budget ended the stream; None: it did not."""
        self.estimated: int | None = None
        """What was estimated of a stream whose provider reported in the end; None: nothing to compare."""

    def bound(self, most: int | None) -> None:
        """Have the answer end at `most` tokens, or before by another bound."""
        if most is not None:
            self.budget = most if self.budget is None else min(self.budget, most)

    # --- the request -----------------------------------------------------------------------------------------------

    def read_request(self, body: bytes) -> None:
        """What does not look like a request is the provider's to refuse."""
        try:
            parsed = orjson.loads(body)
        except orjson.JSONDecodeError:
            return
        if not isinstance(parsed, dict):
            return
        self._body = parsed
        if self.format is not None:
            self.asked = self.format.asked(self._target, parsed)
        else:
            model = parsed.get("model")
            self.asked = Asked(model=model if isinstance(model, str) else None)

    def ask(self, target: Target) -> bytes | None:
        """The request's body for this provider; None: as it came."""
        self.upstream = target
        self._asks_usage = False
        if self._body is None:
            return None
        settings = target.settings
        body = {name: dict(value) if isinstance(value, dict) else value for name, value in self._body.items()}
        renamed = settings.models.get(self.asked.model) if self.asked.model is not None else None
        changed = renamed is not None and "model" in body  # some have it in the path
        if changed:
            body["model"] = renamed
        if self.format is not None:
            if settings.asks_usage and self.format.ask_usage(body, settings.quirks):
                self._asks_usage = changed = True
            if self.budget is not None and self.format.limit(body, self.budget, settings.quirks):
                changed = True
        return self._written(body) if changed else None

    def _written(self, body: dict[str, Any]) -> bytes | None:
        try:
            return orjson.dumps(body)
        except TypeError:  # nested deeper than can be written, though it could be read
            self._asks_usage = False
            return None

    def credential(self, target: Target) -> tuple[bytes, bytes] | None:
        """The field with the provider's key, where this API takes it; None: the client's own passes."""
        key = target.settings.api_key
        if key is None:
            return None
        name, prefix = _KEY_FIELDS.get(self.format.name if self.format is not None else "", _BEARER)
        return name, prefix + key

    # --- the answer ------------------------------------------------------------------------------------------------

    def open(self, head: ResponseHead) -> Tap | WholeTap | None:
        """How the answer's body is to be read; None: it passes unread."""
        if self.format is None or self.upstream is None or head.status != 200:
            return None
        if find(head.headers, b"content-encoding") not in (None, b"identity"):
            self._unreadable = True
            return None
        kind = (find(head.headers, b"content-type") or b"").partition(b";")[0].strip().lower()
        quirks = self.upstream.settings.quirks
        settings = self._settings
        if kind == _WHOLE:
            self.meter = self.format.meter(self.asked, quirks, cuttable=False)
            self.tap = WholeTap(self.meter, settings.max_event)
        elif (scanner := _SCANNERS.get(kind)) is not None:
            cuttable = self.budget is not None
            self.meter = self.format.meter(self.asked, quirks, cuttable=cuttable)
            ratio = settings.ratios.ratio(self.format, upstream=self.upstream.name, model=self.asked.model)
            self._count = Count(ratio)
            if kind == _EVENTS:
                self.heartbeat = self.format.heartbeat
            self.tap = Tap(
                scanner(settings.max_event),
                self.meter,
                hold=settings.hold,
                withholds=self._asks_usage,
                budget=self if cuttable else None,
            )
        return self.tap

    def is_spent(self) -> bool:
        """Whether more than the budget has come."""
        return self.budget is not None and self.output > self.budget

    @property
    def output(self) -> int:
        """Tokens emitted so far: the provider's count where it has told one for this point, else an estimate."""
        meter = self.meter
        if meter is None:
            return 0
        if self.cut_at is not None:
            return self.cut_at
        reported = meter.usage.output or 0
        if self._count is None or not self.is_estimate:
            return reported
        return max(reported, self._count.tokens(meter))

    @property
    def is_estimate(self) -> bool:
        """Whether `output` is, at least in part, the relay's own: the provider has not told its last."""
        meter = self.meter
        if meter is None or self._count is None:
            return False
        return self.cut_at is not None or meter.finish is None or meter.usage.output is None

    @property
    def uncounted(self) -> int:
        """Events that could not be looked into; a compressed answer is one."""
        return self.tap.uncounted if self.tap is not None else int(self._unreadable)

    @property
    def usage(self) -> Usage:
        return self.meter.usage if self.meter is not None else Usage()

    @property
    def model(self) -> str | None:
        """As the answer names it, else as it was asked for."""
        return (self.meter.model if self.meter is not None else None) or self.asked.model

    def ending(self) -> bytes:
        """What ends the stream here, at its budget."""
        if self.meter is None:
            return b""
        self.cut_at = self.output if self.budget is None else min(self.output, self.budget)
        return self.meter.ending(self.cut_at)

    def failure(self, error: RelayError) -> bytes:
        """What tells the client in mid-stream of a failure; b"": nothing can."""
        if self.meter is None or self.tap is None or not self.tap.at_boundary or self.meter.finished:
            return b""
        return self.meter.failure(error)

    def error(self, error: RelayError) -> bytes:
        """The body of an error answer."""
        return error.body() if self.format is None else self.format.error(error)

    def settle(self) -> None:
        """The exchange is over: learn from what the provider reported."""
        meter, count = self.meter, self._count
        if meter is None or count is None or self.format is None or self.upstream is None or self.is_estimate:
            return
        if not meter.running:
            self.estimated = count.tokens(meter)
        self._settings.ratios.learn(self.format, meter, upstream=self.upstream.name, model=self.asked.model)
