"""The tokens of one exchange: what its request asks for, what its answer is made of, and when it has to end. No I/O."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from ..dialects.base import Format, Meter, RequestParams, Usage
from ..dialects.estimate import Count, Ratios
from ..dialects.key_fields import auth_for, key_field
from ..dialects.model_list import listed_model, visible_models
from ..errors import EndReason, RelayError
from ..events.eventstream import EventStreamScanner
from ..events.json_array import JsonArrayScanner
from ..events.ndjson import NdjsonScanner
from ..events.registry import BodyKind, body_kind, claimed_kind
from ..events.scanner import Scanner
from ..events.sse import SseScanner
from ..http.aws_signature import has_signature
from ..http.messages import CREDENTIALS, Headers, RequestHead, ResponseHead, response_for_downstream
from ..quota.charged_answers import ChargedAnswers
from ..quota.identify import QuotaContext, session_of, user_of
from ..quota.lease import TokenLease, Verdict
from ..quota.limit_fields import for_tenants, limit_fields
from ..quota.limits import Decision, Quota
from ..quota.query_keys import without_keys
from ..quota.refusals import model_refused, path_refused, refusal
from ..quota.tenants import Tenant, allows_model, allows_path, key_of
from .cors import REQUEST_FIELDS, is_preflight, with_cors
from .event_filter import AnyFilter, BodyCollector, EventFilter, ModelListFilter, OpaqueFilter
from .provider import Provider
from .request_reading import RequestReading
from .signatures import signature_error

_SCANNERS: dict[BodyKind, Callable[[int], Scanner]] = {
    BodyKind.SSE: SseScanner,
    BodyKind.NDJSON: NdjsonScanner,
    BodyKind.ARRAY: JsonArrayScanner,
    BodyKind.EVENTSTREAM: EventStreamScanner,
}

MOST_INPUT = 20_000_000
"""Tokens of a request that are believed: several times what models take."""
MOST_OUTPUT = 1_000_000
"""Tokens of an answer to a request without a bound that are believed: several times what models can have."""
_BYTES_A_TOKEN = 32
"""Most bytes of content that one token of an answer makes, on average: blanks, dashes and the like have the longest."""
_SILENT = 16_384
"""Bytes of an answer that may well have no content: heads of streams, signs of life, pictures on their way."""
_SLACK = 64
"""Tokens that a report may have beyond the request's own bound: some providers count what frames an answer."""


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """`max_event` bytes of one event, or of an answer that is no stream, are looked into; `hold` bytes of an unfinished
    event wait where one may have to be left out."""

    ratios: Ratios
    max_event: int
    hold: int
    quota: QuotaContext | None = None
    """None: no tenants, all clients may use the relay without limits."""
    charged: ChargedAnswers = field(default_factory=ChargedAnswers)
    """Of the process: it is handed on when the configuration is read again."""


_NOTHING: frozenset[bytes] = frozenset()
_HIDDEN_OF_TENANTS = CREDENTIALS | {b"openai-organization", b"openai-project"}
"""With whose account is charged: that is for the provider's configuration to say."""

_PROCESS = os.urandom(8).hex()
_NUMBERS = count(1)
"""Together the ids of streams in a store that relays share. Random bytes for each would cost 17 us."""

_TOLD = 4096
"""Tokens. What is left of a quota becomes the bound of a request that has none only up to here: a bound above what its
model can have is an error to a provider (every model can have this much), and changing a request costs CPU."""


class Account:
    """Made with the request's head; `request` is fed its body. `ask` for each attempt at a provider, `open` with the
    answer's head, `settle` at the end."""

    __slots__ = (
        "_answered",
        "_count",
        "_foreign",
        "_has_tenants",
        "_head",
        "_input_estimate",
        "_is_over_budget",
        "_is_preflight",
        "_kind",
        "_lists_for",
        "_quota_left",
        "_settings",
        "budget",
        "cors",
        "cut_at",
        "estimated",
        "event_filter",
        "format",
        "heartbeat",
        "is_limited",
        "is_repeated",
        "is_signed",
        "key",
        "lease",
        "meter",
        "request",
        "session",
        "tenant",
        "upstream",
        "user",
        "wants_body",
    )

    def __init__(self, settings: AccountSettings, known: Format | None, request: RequestHead) -> None:
        self._settings = settings
        self._has_tenants = settings.quota is not None
        self._is_preflight = is_preflight(request)
        self.is_limited = self._has_tenants and not self._is_preflight
        """Whether `identify` and `request_permit` have something to say. Browsers send preflights without a key, and
        providers answer them without one."""
        self._head = request
        self.is_signed = not self._has_tenants and has_signature(request)
        """Whether it has an AWS signature, which a provider may get. That of a tenant passes to none."""
        self.key: bytes | None = None
        """The key of the relay's own that the client shows; None: it has none, or keys are the providers'."""
        self.cors: Headers | None = None
        """The fields with the relay's word on who may read the answer; None: that is the provider's."""
        self.wants_body = known is not None or self.is_limited
        """Whether the body has to be read: it is counted, or it names a model that a tenant may not use."""
        self.request = RequestReading(request, known)
        self._answered = False
        """Whether a provider took the request on."""
        self._kind: BodyKind | None = None
        """Of the answer's body; None: not known yet, or not of interest."""
        self._lists_for: Tenant | None = None
        """Whose the list of models is that is asked for; None: none, or all may be seen."""
        self._count: Count | None = None
        self.format = known
        """None: no format that is known, so nothing is counted."""
        self.budget: int | None = None
        """Tokens that the answer may have; None: no bound."""
        self._foreign = 0
        """Bytes of an answer that had no content where its API has it, and no report."""
        self._is_over_budget = False
        """Whether the budget ended the answer, not the lease."""
        self._input_estimate: int | None = None
        """Of the request; None: nobody asked for it yet."""
        self._quota_left: int | None = None
        """Tokens that the answer may have by its tenant's quotas, as they were when it began; None: there are none."""
        self.tenant: Tenant | None = None
        self.user: str | None = None
        self.session: str | None = None
        self.lease: TokenLease | None = None
        self.upstream: Provider | None = None
        """Who was asked last."""
        self.meter: Meter | None = None
        """Of the answer; None before, and where it is not counted."""
        self.event_filter: AnyFilter | None = None
        self.heartbeat: bytes | None = None
        """What may be put between two events of the answer; None: nothing, or it is not there yet."""
        self.cut_at: int | None = None
        """Tokens that had passed when the budget ended the stream; None: it did not."""
        self.is_repeated = False
        """Whether the answer was charged before, and is fetched again."""
        self.estimated: int | None = None
        """What was estimated of a stream whose provider reported in the end; None: nothing to compare."""

    @property
    def params(self) -> RequestParams:
        """What the request wants, as far as it is known."""
        return self.request.params

    def bound(self, most: int | None) -> None:
        """Have the answer end at `most` tokens, or before by another bound."""
        if most is not None:
            self.budget = most if self.budget is None else min(self.budget, most)

    # --- the request -----------------------------------------------------------------------------------------------

    def identify(self, request: RequestHead, done: Callable[[RelayError | None], None]) -> None:
        """Whose request is it? `done` hears at once or later; with an error where it may not use this relay."""
        quota = self._settings.quota
        if quota is None:
            done(None)
            return

        def identified(found: Tenant | RelayError) -> None:
            if isinstance(found, RelayError):
                done(found)
                return
            self.tenant = found
            self.key = key_of(request)
            self.user, self.session = user_of(request, None), session_of(request)
            if not allows_path(found, request, counted=self.format is not None):
                done(path_refused(found, request.path.decode("latin-1")))
            else:
                done(None)

        quota.identify(request, identified)

    def request_permit(
        self,
        request: RequestHead,
        done: Callable[[RelayError | None], None],
        resume: Callable[[], None],
    ) -> None:
        """May it start? `done` hears at once or later. `resume` is called when events that waited for tokens may
        pass."""
        quota, tenant = self._settings.quota, self.tenant
        if quota is None or tenant is None:
            done(None)
            return
        model = self.params.model
        if not self._may_use(tenant, request, model):
            done(model_refused(model))
            return
        if self.user is None:
            self.user = user_of(request, self.params.user)
        kind = quota.profiles.find(tenant, user=self.user, session=self.session, model=model, now=quota.now())
        self.bound(kind.budget)
        # Not the request's id: one of the client's own choice may come twice, and would share the first one's lease.
        stream_id = f"{kind.tag}:{_PROCESS}-{next(_NUMBERS)}"
        self.lease = TokenLease(quota.limiter, stream_id, resume=resume)

        def decided(decision: Decision) -> None:
            if decision.admitted:
                self._quota_left = left = self._left_of_quotas(decision)
                if left is not None and (left <= _TOLD or self.params.max_tokens is not None):
                    self.bound(left)
                done(None)
            else:
                done(refusal(decision))

        self.lease.ask(kind.limits, need=self.input, done=decided)

    def _may_use(self, tenant: Tenant, request: RequestHead, model: str | None) -> bool:
        """Whether `tenant` may use `model`. A request that generates nothing needs none; of a list of models it gets to
        see its own."""
        if request.has_body or request.method not in (b"GET", b"HEAD"):
            return allows_model(tenant, model)
        listed = listed_model(request.target.decode("ascii"))
        if listed is not None and tenant.models:
            self._lists_for = tenant
        return not listed or allows_model(tenant, listed) or not tenant.models

    def _visible(self, tenant: Tenant, body: bytes) -> bytes:
        """What `tenant` sees of a list of models, under the names by which it asks for them."""
        aliases: dict[str, list[str]] = {}
        for alias, name in self.upstream.settings.models.items() if self.upstream is not None else ():
            aliases.setdefault(name, []).append(alias)
        return visible_models(body, lambda name: allows_model(tenant, name), aliases)

    def _left_of_quotas(self, decision: Decision) -> int | None:
        """Tokens that the answer may have by its quotas: the provider is told (see `_TOLD`), and ends it by itself."""
        left = [state.remaining for state in decision.states if isinstance(state.limit, Quota)]
        return max(1, min(left) + decision.granted - self.input) if left else None

    @property
    def input(self) -> int:
        """Tokens of the request: as reported, until then as estimated."""
        return (self.usage.input or 0) if self._has_input_report else self._estimated_input

    @property
    def _has_input_report(self) -> bool:
        """Whether the provider has told the tokens of the request, and the number makes sense."""
        return 0 < (self.usage.input or 0) <= MOST_INPUT

    @property
    def _estimated_input(self) -> int:
        if self._input_estimate is None:
            self._input_estimate = self.request.input_estimate
        return self._input_estimate

    def passed_head(self, head: ResponseHead, request_id: bytes, upstream_id: bytes | None) -> ResponseHead:
        """A provider's head as the client gets it. Cookies go with the key: those that came for one of the relay's are
        no one client's."""
        passes_cookies = self.upstream is None or not self._hides_keys(self.upstream)
        passed = response_for_downstream(
            head, request_id=request_id, upstream_id=upstream_id, passes_cookies=passes_cookies
        )
        passed.headers = self.answer_fields(passed.headers)
        return passed

    def answer_fields(self, headers: Headers) -> Headers:
        """An answer's fields as the client gets them: a tenant has limits of its own in place of the provider's."""
        quota, lease = self._settings.quota, self.lease
        if quota is not None:
            headers = for_tenants(headers) + limit_fields(
                lease.decision if lease is not None else None,
                anthropic=self.format is not None and self.format.name.startswith("anthropic"),
                now=quota.now(),
            )
        return headers if self.cors is None else with_cors(headers, self.cors)

    def sweep(self, now: float) -> None:
        """About once a second."""
        if self.lease is not None:
            self.lease.sweep(now)

    def request_error(self) -> RelayError | None:
        """Why the request may not go on as it is, now that it is known whose it is and what it asks for."""
        limited = self.tenant is not None and self.tenant.has_limits
        return self.request.error(limited=limited or (self.budget is not None and self.format is not None))

    def ask(self, target: Provider, pieces: Sequence[bytes], *, repeatable: bool) -> tuple[list[bytes], int] | None:
        """(`pieces` of the request's body for this provider, how many bytes longer they are); None: as they came.

        `repeatable`: it can be sent again without what the relay adds, if that is refused."""
        self.upstream = target
        if self.is_signed and not self._hides_keys(target):  # nothing that it covers may be changed
            return None
        model = self.params.model
        return self.request.rewrite(
            target, pieces, most=self.budget, may_ask=lambda: target.usage_option.may_ask(model, repeatable=repeatable)
        )

    def _hides_keys(self, target: Provider) -> bool:
        """Whether nothing of the client's credentials reaches `target`, a signature among them."""
        return self._has_tenants or target.settings.holds_key

    def target_for(self, target: Provider) -> bytes:
        """The request's target as `target` gets it."""
        hides_keys = self._hides_keys(target)
        if self.is_signed and not hides_keys:
            return self._head.target
        path = self.request.target_for(target)
        return without_keys(path, self.key) if hides_keys else path

    def credential(self, target: Provider) -> tuple[bytes, bytes] | None:
        """The field with the provider's key; None: the client's own passes, or there is none."""
        settings = target.settings
        if settings.api_key is None or self._is_preflight:
            return None
        auth = auth_for(settings.auth, settings.quirks, self._head.target, self._head.fields)
        return key_field(auth, settings.api_key)

    def hidden_fields(self, target: Provider) -> frozenset[bytes]:
        """The names of fields that are not for `target`."""
        if self._has_tenants:
            names = _HIDDEN_OF_TENANTS
        elif target.settings.holds_key:
            names = CREDENTIALS
        else:
            names = _NOTHING
        return names if self.cors is None else names | REQUEST_FIELDS

    def signature_error(self, targets: Iterable[Provider]) -> RelayError | None:
        """Why none of `targets` could take the request with its client's signature; None: one may."""
        error: RelayError | None = None
        for target in targets:
            error = None if target.settings.holds_key else signature_error(self._head, target)
            if error is None:
                break
        return error

    # --- the answer ------------------------------------------------------------------------------------------------

    def open(self, head: ResponseHead) -> bool:
        """The answer's head is there. Whether its first bytes are to be seen before it is passed on, since it does not
        say what they are."""
        self._answered = 200 <= head.status < 300
        self.request.forget()
        if self._answered and (tenant := self._lists_for) is not None:
            self.event_filter = ModelListFilter(lambda body: self._visible(tenant, body))
        if self.format is None or self.upstream is None or not self._answered:
            return False
        self.meter = self.format.meter(self.params, self.upstream.settings.quirks, cuttable=self._is_cuttable)
        self.meter.read_head(head.fields)
        ratio = self._settings.ratios.ratio(self.format, upstream=self.upstream.name, model=self.params.model)
        self._count = Count(ratio)
        kind = claimed_kind(head.find(b"content-type") or b"", compressed=_is_compressed(head))
        if kind is None:
            return True
        self._read_as(kind)
        return False

    def look(self, head: ResponseHead, first: bytes, *, is_all: bool = False) -> bool:
        """The first bytes of the answer's body are there: decide how it is read. False: they are too few for that, and
        not all that there is."""
        if self.meter is None:
            return True
        media_type = head.find(b"content-type") or b""
        kind = body_kind(media_type, first, compressed=_is_compressed(head))
        if kind is BodyKind.UNDECIDED:
            if not is_all:
                return False
            kind = BodyKind.OPAQUE if first else BodyKind.JSON
        assert self.format is not None
        if kind is BodyKind.JSON and self.params.stream and self.format.streams_lines:
            kind = BodyKind.NDJSON
        elif kind is BodyKind.NDJSON and not self.params.stream and claimed_kind(media_type, compressed=False) is kind:
            kind = BodyKind.JSON
        if kind is not self._kind:
            self._read_as(kind)
        return True

    @property
    def _is_cuttable(self) -> bool:
        return self.budget is not None or self.lease is not None

    def _read_as(self, kind: BodyKind) -> None:
        assert self.format is not None
        assert self.meter is not None
        settings = self._settings
        self._kind = kind
        self.heartbeat = self.format.heartbeat if kind is BodyKind.SSE else None
        if kind is BodyKind.JSON:
            self.event_filter = BodyCollector(self.meter, settings.max_event)
        elif kind is BodyKind.OPAQUE:
            self.event_filter = OpaqueFilter(self.meter, self if self.lease is not None else None)
        else:
            self.event_filter = EventFilter(
                _SCANNERS[kind](settings.max_event),
                self.meter,
                hold=settings.hold,
                withholds=self.request.asks_usage,
                budget=self if self._is_cuttable else None,
            )

    def verdict(self) -> Verdict:
        """May the event pass that was just counted?"""
        output = self.output
        if self.budget is not None and output > self.budget and self._kind is not BodyKind.OPAQUE:
            self._is_over_budget = True
            return Verdict.END
        return Verdict.PASS if self.lease is None else self.lease.verdict(self.input + output)

    def room(self) -> int:
        """Bytes of content that pass for sure before `verdict` has more to say than yes."""
        output = self.output
        tokens = [] if self.budget is None else [self.budget - output]
        if self.lease is not None:
            tokens.append(self.lease.room(self.input + output))
        return self._count.units_within(min(tokens)) if self._count is not None and tokens else 0

    @property
    def cut_reason(self) -> EndReason:
        """Why the answer was cut."""
        by_budget = self.lease is None or (self._is_over_budget and self.budget != self._quota_left)
        return EndReason.BUDGET if by_budget else EndReason.QUOTA

    @property
    def output(self) -> int:
        """Tokens emitted so far: the provider's count where it has told one for this point, else an estimate."""
        meter = self.meter
        if meter is None or self._count is None:
            return 0
        if self.cut_at is not None:
            return self.cut_at
        reported = meter.usage.output or 0
        believable = self._is_believable(reported)
        if believable and meter.is_final:
            return reported
        estimate = self._count.tokens(meter) + self._unread_tokens + self._foreign // 4
        if believable and reported > estimate:
            estimate = reported
        most = self._own_limit
        return estimate if most is None or estimate < most else most

    @property
    def _unread_tokens(self) -> int:
        """Of what could not be read, by its bytes."""
        return self.event_filter.unread_tokens if self.event_filter is not None else 0

    @property
    def _own_limit(self) -> int | None:
        """Tokens that the request's own bound makes possible; None: it has none."""
        params = self.params
        return params.max_tokens * params.answers if params.max_tokens else None  # 0 is no bound to some

    def _is_believable(self, output: int) -> bool:
        """Whether the answer can have so many tokens, by what came of it and by what its request allows."""
        meter = self.meter
        if meter is None or output * _BYTES_A_TOKEN < meter.content_bytes or output > MOST_OUTPUT * self.params.answers:
            return False
        most = self._own_limit
        return most is None or output <= most + most // 10 + _SLACK + (meter.usage.reasoning or 0)

    @property
    def _is_reported(self) -> bool:
        """Whether the provider's last report was read, and is believed."""
        meter = self.meter
        return meter is not None and meter.is_final and self._is_believable(meter.usage.output or 0)

    @property
    def is_disbelieved(self) -> bool:
        """Whether the provider's last report makes no sense."""
        meter = self.meter
        return (
            meter is not None and meter.is_final and not (self._is_reported and (meter.usage.input or 0) <= MOST_INPUT)
        )

    @property
    def is_estimate(self) -> bool:
        """Whether `input` or `output` is the relay's own, at least in part: the provider has not told its last."""
        return self.meter is not None and (
            self.cut_at is not None or not self._is_reported or not self._has_input_report
        )

    @property
    def uncounted(self) -> Mapping[str, int]:
        """What could not be read of the answer, events or all of it, by reason."""
        known = self.event_filter.uncounted if self.event_filter is not None else {}
        return {**known, "foreign": 1} if self._foreign else known

    @property
    def usage(self) -> Usage:
        return self.meter.usage if self.meter is not None else Usage()

    @property
    def model(self) -> str | None:
        """As the answer names it, else as it was asked for."""
        return (self.meter.model if self.meter is not None else None) or self.params.model

    def ending(self) -> bytes:
        """What ends the stream here, at its budget."""
        if self.meter is None:
            return b""
        bounds = [self.output]
        if self.budget is not None:
            bounds.append(self.budget)
        if self.lease is not None and self.lease.counts:
            bounds.append(max(0, self.lease.granted - self.input))
        self.cut_at = min(bounds)
        events = self.meter.ending(self.input, self.cut_at)
        return self.event_filter.framed(events) if isinstance(self.event_filter, EventFilter) else events

    def failure(self, error: RelayError) -> bytes:
        """What tells the client in mid-stream of a failure; b"": nothing can."""
        if self.meter is None or self.event_filter is None or not self.event_filter.at_boundary or self.meter.finished:
            return b""
        return self.meter.failure(error) if self._kind is not BodyKind.ARRAY else b""

    def error(self, error: RelayError) -> bytes:
        """The body of an error answer."""
        return error.body() if self.format is None else self.format.error(error)

    def _charge(self) -> int:
        """What its limits are charged: nothing for what no provider took on; the request alone where its API is none
        that is counted. An answer that is fetched by its id is charged once."""
        meter = self.meter
        if meter is None:
            return self._estimated_input if self._answered else 0
        tokens = self.input + self.output
        if meter.answer_id is None:
            return tokens
        tenant = self.tenant.name if self.tenant is not None else ""
        charged = self._settings.charged
        if self._head.method != b"GET":  # generated, not fetched
            charged.note(tenant, meter.answer_id, tokens)
            return tokens
        due = charged.due(tenant, meter.answer_id, tokens)
        self.is_repeated = due == 0
        return due

    def settle(self, size: int = 0) -> None:
        """The exchange is over, with `size` bytes of an answer: charge what it used, and learn from what the provider
        reported."""
        if self.event_filter is not None:
            self.event_filter.close()
        meter = self.meter
        if (
            meter is not None
            and meter.has_text
            and not (meter.content_bytes or meter.is_final or meter.failed or self._unread_tokens)
        ):
            # JSON of another API's, perhaps: its texts are nowhere where this one has them.
            self._foreign = max(0, size - _SILENT)
        charge = self._charge()
        if self.lease is not None:
            self.lease.settle(charge)
        counted = self._count
        if meter is None or counted is None or self.format is None or self.upstream is None or self.is_estimate:
            return
        if not isinstance(self.event_filter, EventFilter):
            return
        if not meter.running:
            self.estimated = counted.tokens(meter)
        self._settings.ratios.learn(self.format, meter, upstream=self.upstream.name, model=self.params.model)


def _is_compressed(head: ResponseHead) -> bool:
    return head.find(b"content-encoding") not in (None, b"identity", b"")
