"""The tokens of one exchange: what its request asks for, what its answer is made of, and when it has to end. No I/O."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any

import orjson

from ..dialects.base import BEARER, Asked, Format, Meter, Usage
from ..dialects.estimate import Count, Ratios
from ..errors import EndReason, RelayError
from ..eventstream import EventStreamScanner
from ..limits.store import Decision, Quota
from ..messages import Headers, RequestHead, ResponseHead
from ..names import model_name
from ..sse import NdjsonScanner, Scanner, SseScanner
from .limiting import Limiting, limit_fields, model_refused, path_refused, refusal, session_of, user_of
from .permit import Permit, Verdict
from .tap import Tap, WholeTap
from .target import Target
from .tenants import Tenant, allows_model, allows_path

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
    limiting: Limiting | None = None
    """None: no tenants, all clients may use the relay without limits."""


_PROCESS = os.urandom(8).hex()
_NUMBERS = count(1)
"""Together the ids of streams in a store that relays share. Random bytes for each would cost 17 us."""

_NOTHING_YET = Asked()

_TOLD = 4096
"""Tokens. What is left of a quota becomes the bound of a request that has none only up to here: more than its model can
have is an error to a provider (every model can have this much), and to write a request anew has its price."""


class Account:
    """Made with the request's head. `read_request` when its body is there, `ask` for each attempt at a provider, `open`
    with the answer's head, `settle` at the end."""

    __slots__ = (
        "_answered",
        "_asks_usage",
        "_body",
        "_count",
        "_input_estimate",
        "_quota_left",
        "_settings",
        "_target",
        "_unreadable",
        "asked",
        "budget",
        "cut_at",
        "estimated",
        "format",
        "heartbeat",
        "is_limited",
        "meter",
        "permit",
        "session",
        "tap",
        "tenant",
        "upstream",
        "user",
        "wants_body",
    )

    def __init__(self, settings: AccountSettings, known: Format | None, target: str) -> None:
        self._settings = settings
        self.is_limited = settings.limiting is not None
        """Whether the relay has tenants: then `identify` and `request_permit` have something to say."""
        self.wants_body = known is not None or self.is_limited
        """Whether what the request asks for is of interest."""
        self._target = target
        self._body: dict[str, Any] | None = None
        """The request's body; None: not known, or no JSON object."""
        self._asks_usage = False
        self._unreadable = False
        self._answered = False
        """Whether a provider took the request on."""
        self._count: Count | None = None
        """Of a stream; None for answers that are none."""
        self.format = known
        """None: no format that is known, so nothing is counted."""
        self.budget: int | None = None
        """Tokens that the answer may have; None: no bound."""
        self.asked = _NOTHING_YET
        self._input_estimate: int | None = None
        """Of the request; None: nobody asked for it yet."""
        self._quota_left: int | None = None
        """Tokens that the answer may have by its tenant's quotas, as they were when it began; None: there are none."""
        self.tenant: Tenant | None = None
        self.user: str | None = None
        self.session: str | None = None
        self.permit: Permit | None = None
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

    def identify(self, request: RequestHead, done: Callable[[RelayError | None], None]) -> None:
        """Whose request is it? `done` hears at once or later; with an error where it may not use this relay."""
        limiting = self._settings.limiting
        if limiting is None:
            done(None)
            return

        def identified(found: Tenant | RelayError) -> None:
            if isinstance(found, RelayError):
                done(found)
                return
            self.tenant = found
            if not allows_path(found, request, counted=self.format is not None):
                done(path_refused(found, request.path.decode("latin-1")))
            else:
                done(None)

        limiting.identify(request, identified)

    def request_permit(
        self,
        request: RequestHead,
        done: Callable[[RelayError | None], None],
        resume: Callable[[], None],
    ) -> None:
        """May it start? `done` hears at once or later. `resume` is called when events that waited for tokens may
        pass."""
        limiting, tenant = self._settings.limiting, self.tenant
        if limiting is None or tenant is None:
            done(None)
            return
        model = self.asked.model
        if not allows_model(tenant, model):
            done(model_refused(model))
            return
        self.user, self.session = user_of(request, self.asked.user), session_of(request)
        kind = limiting.kinds.find(tenant, user=self.user, session=self.session, model=model, now=limiting.now())
        self.bound(kind.budget)
        # Not the request's id: one of the client's own choice may come twice, and would share the first one's lease.
        stream_id = f"{kind.tag}:{_PROCESS}-{next(_NUMBERS)}"
        self.permit = Permit(limiting.limiter, stream_id, resume=resume)

        def decided(decision: Decision) -> None:
            if decision.admitted:
                self._quota_left = left = self._left_of_quotas(decision)
                if left is not None and (left <= _TOLD or self.asked.max_tokens is not None):
                    self.bound(left)
                done(None)
            else:
                done(refusal(decision))

        self.permit.ask(kind.limits, need=self.input, done=decided)

    def _left_of_quotas(self, decision: Decision) -> int | None:
        """Tokens that the answer may have by its quotas: the provider is told (see `_TOLD`), and ends it by itself."""
        left = [state.remaining for state in decision.states if isinstance(state.limit, Quota)]
        return max(1, min(left) + decision.granted - self.input) if left else None

    @property
    def input(self) -> int:
        """Tokens of the request: as reported, until then as estimated."""
        reported = self.usage.input
        return self._estimated_input if reported is None else reported

    @property
    def _estimated_input(self) -> int:
        if self._input_estimate is None:
            self._input_estimate = estimate_input(self._body)
        return self._input_estimate

    def with_limits(self, headers: Headers) -> Headers:
        """A response's fields, with the tenant's own limits in place of the provider's."""
        limiting, permit = self._settings.limiting, self.permit
        if limiting is None:
            return headers
        own = limit_fields(
            permit.decision if permit is not None else None,
            anthropic=self.format is not None and self.format.name.startswith("anthropic"),
            now=limiting.now(),
        )
        return [field for field in headers if field[0].find(b"ratelimit") < 0] + own

    def sweep(self, now: float) -> None:
        """About once a second."""
        if self.permit is not None:
            self.permit.sweep(now)

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
            self.asked = Asked(model=model_name(parsed.get("model")))

    def ask(self, target: Target) -> bytes | None:
        """The request's body for this provider; None: as it came."""
        self.upstream = target
        self._asks_usage = False
        if self._body is None:
            return None
        settings = target.settings
        renamed = settings.models.get(self.asked.model) if self.asked.model is not None else None
        if renamed is None and self.budget is None and not (settings.asks_usage and self.asked.stream):
            return None
        body = {name: dict(value) if isinstance(value, dict) else value for name, value in self._body.items()}
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
        name, prefix = BEARER if self.format is None else self.format.key_field
        return name, prefix + key

    # --- the answer ------------------------------------------------------------------------------------------------

    def open(self, head: ResponseHead) -> Tap | WholeTap | None:
        """How the answer's body is to be read; None: it passes unread."""
        self._answered = head.status == 200
        if self.format is None or self.upstream is None or not self._answered:
            return None
        if head.find(b"content-encoding") not in (None, b"identity"):
            self._unreadable = True
            return None
        kind = _media_type(head.find(b"content-type") or b"")
        quirks = self.upstream.settings.quirks
        settings = self._settings
        if kind == _WHOLE:
            self.meter = self.format.meter(self.asked, quirks, cuttable=False)
            self.tap = WholeTap(self.meter, settings.max_event)
        elif (scanner := _SCANNERS.get(kind)) is not None:
            cuttable = self.budget is not None or self.permit is not None
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

    def verdict(self) -> Verdict:
        """May the event pass that was just counted?"""
        output = self.output
        if self.budget is not None and output > self.budget:
            return Verdict.END
        return Verdict.PASS if self.permit is None else self.permit.verdict(self.input + output)

    def room(self) -> int:
        """Bytes of content that pass for sure before `verdict` has more to say than yes."""
        output = self.output
        tokens = [] if self.budget is None else [self.budget - output]
        if self.permit is not None:
            tokens.append(self.permit.room(self.input + output))
        return self._count.units_within(min(tokens)) if self._count is not None and tokens else 0

    @property
    def cut_reason(self) -> EndReason:
        """Why the answer was cut."""
        by_budget = self.permit is None or (
            self.budget is not None and self.budget == self.cut_at and self.budget != self._quota_left
        )
        return EndReason.BUDGET if by_budget else EndReason.QUOTA

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
        bounds = [self.output]
        if self.budget is not None:
            bounds.append(self.budget)
        if self.permit is not None and self.permit.counts:
            bounds.append(max(0, self.permit.granted - self.input))
        self.cut_at = min(bounds)
        return self.meter.ending(self.cut_at)

    def failure(self, error: RelayError) -> bytes:
        """What tells the client in mid-stream of a failure; b"": nothing can."""
        if self.meter is None or self.tap is None or not self.tap.at_boundary or self.meter.finished:
            return b""
        return self.meter.failure(error)

    def error(self, error: RelayError) -> bytes:
        """The body of an error answer."""
        return error.body() if self.format is None else self.format.error(error)

    @property
    def _charge(self) -> int:
        """What its limits are charged: nothing for what no provider took on; the request alone where the answer can't
        be read."""
        if self.meter is not None:
            return self.input + self.output
        return self._estimated_input if self._answered else 0

    def settle(self) -> None:
        """The exchange is over: charge what it used, and learn from what the provider reported."""
        if self.permit is not None:
            self.permit.settle(self._charge)
        meter, counted = self.meter, self._count
        if meter is None or counted is None or self.format is None or self.upstream is None or self.is_estimate:
            return
        if not meter.running:
            self.estimated = counted.tokens(meter)
        self._settings.ratios.learn(self.format, meter, upstream=self.upstream.name, model=self.asked.model)


@lru_cache(64)
def _media_type(field: bytes) -> bytes:
    """Of a content-type, without its parameters."""
    return field.partition(b";")[0].strip().lower()


_LONG = 2000
_ATTACHED = 1000
"""Tokens that a long text without blanks counts for: an image or a file, whose bytes say nothing."""
_DEPTH = 32


def estimate_input(value: object, depth: int = 0) -> int:
    """Tokens of a request's texts, until its provider tells: about four bytes each."""
    if isinstance(value, str):
        if len(value) > _LONG and " " not in value[:_LONG]:
            return _ATTACHED
        return (len(value) if value.isascii() else len(value.encode(errors="replace"))) // 4
    if isinstance(value, dict):
        value = list(value.values())
    if depth >= _DEPTH or not isinstance(value, list):
        return 0
    tokens = 0
    for each in value:
        tokens += estimate_input(each, depth + 1)
    return tokens
