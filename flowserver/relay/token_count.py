"""Counts the tokens of one answer as it passes, and decides how it is read and when it must end. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..dialects.base import Format
from ..dialects.estimate import Count, Ratios
from ..errors import EndReason, RelayError
from ..events.registry import SCANNERS, BodyKind, body_kind, claimed_kind
from ..http.messages import ResponseHead
from ..quota.lease import TokenLease, Verdict, worse
from ..quota.prices import PriceTable
from ..quota.session import QuotaSession
from .answer_cost import AnswerCost
from .event_filter import AnyFilter, BodyCollector, EventFilter, OpaqueFilter
from .request_rewrite import RequestRewrite

MAX_INPUT: Final = 20_000_000
"""Most tokens of a request that a report may state: several times what models accept."""
MAX_OUTPUT: Final = 1_000_000
"""Most tokens of an answer that a report may state if the request has no bound: several times what models can
generate."""
_BYTES_PER_TOKEN: Final = 32
"""Most bytes of content per token of an answer, on average: runs of spaces, dashes and the like are the longest."""
_SILENT = 16_384
"""Bytes of an answer that may plausibly have no content: heads of streams, heartbeats, partial images."""
_SLACK: Final = 64
"""Tokens that a report may have beyond the request's own bound: some providers count what frames an answer."""
_ERROR = 32
"""Tokens by which an estimate may be more than twice too high. What is beyond that was generated: the provider does not
go by the request's own bound, as some ignore one of the names that a bound may have."""


@dataclass(frozen=True, slots=True)
class CountSettings:
    """How answers are read: events of up to `max_event` bytes are parsed, and up to `hold` bytes of an unfinished event
    wait if it may have to be removed."""

    ratios: Ratios
    max_event: int
    hold: int
    prices: PriceTable | None = None
    """None: no model has a price."""


class FinalCount:
    """The final figures of an answer: the properties of `TokenCount` with the same names."""

    __slots__ = ("input", "is_disbelieved", "is_estimate", "output")

    def __init__(self, input: int, output: int, *, is_estimate: bool, is_disbelieved: bool) -> None:
        self.input = input
        self.output = output
        self.is_estimate = is_estimate
        self.is_disbelieved = is_disbelieved


class TokenCount:
    """Created for an answer of a known API. Call `open` with the head, then `look` with the first bytes until they
    determine the format; `event_filter` then reads the answer and gets a `verdict` on each event with content. Call
    `close` at the end."""

    __slots__ = (
        "_budget",
        "_cost",
        "_count",
        "_final",
        "_foreign",
        "_format",
        "_is_over_budget",
        "_kind",
        "_lease",
        "_money",
        "_params",
        "_quota_left",
        "_reading",
        "_request_bound",
        "_settings",
        "_withholds",
        "cut_at",
        "estimated",
        "event_filter",
        "heartbeat",
        "meter",
        "upstream",
    )

    def __init__(
        self, settings: CountSettings, sent: RequestRewrite, *, budget: int | None, quota: QuotaSession | None
    ) -> None:
        """`sent`: the request as its provider got it. `budget`: most tokens of the answer; None: no bound."""
        known, upstream = sent.reading.format, sent.upstream
        assert known is not None
        assert upstream is not None
        self._settings = settings
        self._reading = sent.reading
        self._params = params = sent.reading.params
        # Flags side by side: see CONTRIBUTING.md, "The compiled build".
        self._withholds = sent.asks_usage
        self._is_over_budget = False
        """Whether the budget, not the lease, ended the answer."""
        self.upstream = upstream.name
        self._format = known
        self._budget = budget
        self._lease = quota.lease if quota is not None else None
        self._money = quota.money if quota is not None else None
        self._quota_left = quota.quota_left if quota is not None else None
        self._count = Count(settings.ratios.ratio(known, upstream=upstream.name, model=params.model))
        self._request_bound = params.max_tokens * params.answers if params.max_tokens else None  # or 0
        """Most tokens by the request's own bound; None: it has none."""
        self._kind: BodyKind | None = None
        """None: not known yet."""
        self._foreign = 0
        """Bytes of an answer without a report, and without content where its API has it."""
        self._final: FinalCount | None = None
        """None: the answer is not over yet."""
        self.meter = known.meter(params, upstream.settings.quirks, cuttable=self._is_cuttable)
        prices = settings.prices
        self._cost = AnswerCost(prices, upstream, params.model, self.meter) if prices is not None else None
        self.event_filter: AnyFilter | None = None
        """None until the answer's format is known."""
        self.heartbeat: bytes | None = None
        """The bytes of a heartbeat between two events; None: none is possible, or the format is not known yet."""
        self.cut_at: int | None = None
        """Tokens that had passed when the relay cut the stream; None: it was not cut."""
        self.estimated: int | None = None
        """The relay's estimate for a stream whose provider reported at the end; None: nothing to compare."""

    @property
    def _is_cuttable(self) -> bool:
        return self._budget is not None or self._lease is not None

    # --- how the answer is read ------------------------------------------------------------------------------------

    def open(self, head: ResponseHead) -> bool:
        """Read the answer's head. Returns whether the body's first bytes are needed, because the head does not
        determine the format."""
        self.meter.read_head(head.fields)
        kind = kind_by_head(head)
        if kind is None:
            return True
        self._read_as(kind)
        return False

    def look(self, head: ResponseHead, first: bytes, *, is_all: bool) -> bool:
        """Decide by the body's first bytes how it is read. Returns False if they are too few; `is_all`: no more will
        follow."""
        kind = kind_by_bytes(head, first, self._format, stream=self._params.stream)
        if kind is BodyKind.UNDECIDED:
            if not is_all:
                return False
            kind = BodyKind.OPAQUE if first else BodyKind.JSON
        if kind is not self._kind:
            self._read_as(kind)
        return True

    def _read_as(self, kind: BodyKind) -> None:
        settings = self._settings
        self._kind = kind
        self.heartbeat = self._format.heartbeat if kind is BodyKind.SSE else None
        if kind is BodyKind.JSON:
            self.event_filter = BodyCollector(self.meter, settings.max_event)
        elif kind is BodyKind.OPAQUE:
            self.event_filter = OpaqueFilter(self.meter, self if self._lease is not None else None)
        else:
            self.event_filter = EventFilter(
                SCANNERS[kind](settings.max_event),
                self.meter,
                hold=settings.hold,
                withholds=self._withholds,
                budget=self if self._is_cuttable else None,
            )

    # --- how far it may go: `event_filter.Budget` ------------------------------------------------------------------

    def verdict(self) -> Verdict:
        """Whether the event that was just counted may pass."""
        output = self.output
        if self._budget is not None and output > self._budget and self._kind is not BodyKind.OPAQUE:
            self._is_over_budget = True
            return Verdict.END
        if self._lease is None:
            return Verdict.PASS
        verdict = self._lease.verdict(self.input + output)
        return verdict if self._money is None else self._money_verdict(self._money, output, verdict)

    def _money_verdict(self, money: TokenLease, output: int, verdict: Verdict) -> Verdict:
        """The stricter of `verdict` and the verdict on the money. Both leases are checked, so that each is extended in
        time."""
        cost = self._cost.reserved(self.input, output) if self._cost is not None else 0
        return worse(verdict, money.verdict(cost))

    def room(self) -> int:
        """Bytes of content that may pass for certain before `verdict` must be called again."""
        output = self.output
        if self._request_bound is not None:
            output = max(output, self._estimate)  # which counts from where it disproves the bound
        tokens = [] if self._budget is None else [self._budget - output]
        if self._lease is not None:
            tokens.append(self._lease.room(self.input + output))
            if self._money is not None and self._cost is not None:
                spent = self._cost.reserved(self.input, output)
                more = self._cost.tokens_within(spent + self._money.room(spent), self.input)
                tokens += [] if more is None else [more - output]
        return self._count.bytes_within(min(tokens)) if tokens else 0

    @property
    def cut_reason(self) -> EndReason:
        """Why the answer was cut."""
        by_budget = self._lease is None or (self._is_over_budget and self._budget != self._quota_left)
        return EndReason.BUDGET if by_budget else EndReason.QUOTA

    def ending(self) -> bytes:
        """The bytes that end the stream at its budget."""
        bounds = [self.output]
        if self._budget is not None:
            bounds.append(self._budget)
        if self._lease is not None and self._lease.counts:
            bounds.append(max(0, self._lease.granted - self.input))
        if self._money is not None and self._cost is not None:
            paid = self._cost.tokens_within(self._money.granted, self.input)
            bounds += [] if paid is None else [paid]
        self.cut_at = min(bounds)
        events = self.meter.ending(self.input, self.cut_at)
        return self.event_filter.framed(events) if isinstance(self.event_filter, EventFilter) else events

    def failure(self, error: RelayError) -> bytes:
        """The event that reports a failure mid-stream; b"": the format has none."""
        event_filter = self.event_filter
        if event_filter is None or not event_filter.at_boundary or self.meter.finished:
            return b""
        return self.meter.failure(error) if self._kind is not BodyKind.ARRAY else b""

    # --- what it is made of ----------------------------------------------------------------------------------------

    @property
    def input(self) -> int:
        """Tokens of the request: as reported, until then as estimated."""
        if self._final is not None:
            return self._final.input
        reported = self.meter.usage.input or 0
        return reported if 0 < reported <= MAX_INPUT else self._reading.input_estimate

    @property
    def output(self) -> int:
        """Tokens emitted so far: the provider's count where it has reported one for this point, else an estimate."""
        if self.cut_at is not None:
            return self.cut_at
        if self._final is not None:
            return self._final.output
        meter = self.meter
        reported = meter.usage.output or 0
        believable = self._is_believable(reported)
        if believable and meter.is_final:
            return reported
        estimate = self._estimate
        if believable and reported > estimate:
            estimate = reported
        most = self._request_bound
        return estimate if most is None or estimate < most or self._exceeds(most) else most

    @property
    def _estimate(self) -> int:
        """Tokens of what came, by its content and by the bytes that could not be read."""
        return self._count.tokens(self.meter) + self._unread_tokens + self._foreign // 4

    def _exceeds(self, most: int) -> bool:
        """Whether the content that came is more than `most` tokens, however wrong the estimate may be."""
        return self._count.tokens(self.meter) > 2 * most + _ERROR

    @property
    def cost(self) -> int | None:
        """Nano-dollars of request and answer, so far or in total; None: there is no price."""
        return self._cost.total(self.input, self.output) if self._cost is not None else None

    @property
    def is_unpriced(self) -> bool:
        """Whether there are prices, but none for this answer."""
        return self._cost is not None and self._cost.tariff is None

    @property
    def _unread_tokens(self) -> int:
        """Tokens of what could not be read, estimated from its bytes."""
        return self.event_filter.unread_tokens if self.event_filter is not None else 0

    def _is_believable(self, output: int) -> bool:
        """Whether the answer can have `output` tokens, by its size and by what its request allows."""
        meter = self.meter
        if output * _BYTES_PER_TOKEN < meter.content_bytes or output > MAX_OUTPUT * self._params.answers:
            return False
        most = self._request_bound
        if most is None or output <= most + most // 10 + _SLACK + (meter.usage.reasoning or 0):
            return True
        return output <= 2 * self._count.tokens(meter)  # what came bears it out

    @property
    def is_disbelieved(self) -> bool:
        """Whether the provider's last report of an answer that is over is impossible."""
        return self._final is not None and self._final.is_disbelieved

    @property
    def is_estimate(self) -> bool:
        """Whether `input` or `output` is the relay's own count, at least in part: the provider's last report was not
        read, or has not arrived yet."""
        return self._final is None or self._final.is_estimate

    @property
    def uncounted(self) -> Mapping[str, int]:
        """What could not be read, single events or the whole answer, by reason."""
        known = self.event_filter.uncounted if self.event_filter is not None else {}
        return {**known, "foreign": 1} if self._foreign else known

    # --- its end ---------------------------------------------------------------------------------------------------

    def close(self, size: int) -> None:
        """The answer is over, after `size` bytes. Call this before `input` and `output` are charged."""
        meter, event_filter = self.meter, self.event_filter
        if event_filter is not None:
            event_filter.close()
        if meter.has_text and not (meter.content_bytes or meter.is_final or meter.failed or self._unread_tokens):
            # Perhaps another API's JSON, with its texts in other places.
            self._foreign = max(0, size - _SILENT)
        self._final = self._conclude()

    def _conclude(self) -> FinalCount:
        usage, is_final = self.meter.usage, self.meter.is_final
        is_reported = is_final and self._is_believable(usage.output or 0)
        is_input_reported = 0 < (usage.input or 0) <= MAX_INPUT
        return FinalCount(
            self.input,
            self.output,
            is_estimate=self.cut_at is not None or not is_reported or not is_input_reported,
            is_disbelieved=is_final and not (is_reported and (usage.input or 0) <= MAX_INPUT),
        )

    def learn(self) -> None:
        """Compare the estimate with the provider's report, if there is one, to correct later estimates."""
        meter = self.meter
        if self.is_estimate or not isinstance(self.event_filter, EventFilter):
            return
        if not meter.running:
            self.estimated = self._count.tokens(meter)
        self._settings.ratios.learn(self._format, meter, upstream=self.upstream, model=self._params.model)


def kind_by_head(head: ResponseHead) -> BodyKind | None:
    """The kind of an answer by its head; None: the body's first bytes are needed."""
    return claimed_kind(head.find(b"content-type") or b"", compressed=_is_compressed(head))


def kind_by_bytes(head: ResponseHead, first: bytes, known: Format, *, stream: bool) -> BodyKind:
    """The kind of an answer of the API `known` by the `first` bytes of its body. `stream`: a stream was requested."""
    media_type = head.find(b"content-type") or b""
    kind = body_kind(media_type, first, compressed=_is_compressed(head))
    if kind is BodyKind.JSON and stream and known.streams_lines:
        return BodyKind.NDJSON
    if kind is BodyKind.NDJSON and not stream and claimed_kind(media_type, compressed=False) is kind:
        return BodyKind.JSON
    return kind


def _is_compressed(head: ResponseHead) -> bool:
    return head.find(b"content-encoding") not in (None, b"identity", b"")
