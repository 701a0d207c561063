"""The account of one exchange: a facade for its request, quota and token count. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ..dialects.base import Format, Meter, RequestParams, Usage
from ..dialects.limit_fields import X_RATELIMIT
from ..dialects.realtime import RealtimeUsage, is_realtime
from ..errors import EndReason, RelayError
from ..http.messages import Headers, RequestHead, ResponseHead, response_for_downstream
from ..quota.charged_answers import ChargedAnswers
from ..quota.identify import QuotaContext
from ..quota.lease import TokenLease, Verdict, worse
from ..quota.limit_fields import for_tenants, limit_fields
from ..quota.money import nano_dollars
from ..quota.prices import MoneyTerms
from ..quota.refusals import UNCOUNTED_TUNNEL, price_missing
from ..quota.session import QuotaSession
from ..quota.tenants import Tenant
from ..quota.traffic_class import INTERACTIVE, TrafficClass, lower
from .answer_cost import names_of
from .cors import is_preflight, with_cors
from .event_filter import AnyFilter, ModelListFilter
from .provider import Provider
from .request_reading import RequestReading
from .request_rewrite import RequestRewrite
from .request_trace import RequestTrace
from .token_count import CountSettings, TokenCount
from .tunnel_cost import TunnelCost


@dataclass(frozen=True, slots=True)
class AccountSettings(CountSettings):
    """What the accounts of a process share."""

    quota: QuotaContext | None = None
    """None: no tenants, all clients may use the relay without limits."""
    charged: ChargedAnswers = field(default_factory=ChargedAnswers)
    """Belongs to the process: it is kept through reloads."""


_ALWAYS_TOLD = 4096
"""Tokens. A request without a bound gets the rest of its quota as its bound only if that is at most this many:
providers refuse a bound above their model's maximum (every model allows this much), and changing a request costs
CPU."""

_LONG_ANSWER = 16_384
"""Tokens: what many models can have at most. A whole answer without a bound may have as many."""


class Account:
    """Created with the request's head; feed `request` the body. Call `ask` for each attempt at a provider, `open` with
    the answer's head, `settle` at the end."""

    __slots__ = (
        "_answered",
        "_due",
        "_method",
        "_model_list",
        "_sent",
        "_settings",
        "_terms",
        "budget",
        "cors",
        "count",
        "format",
        "is_limited",
        "is_preflight",
        "is_repeated",
        "quota",
        "realtime",
        "realtime_cost",
        "request",
        "trace",
        "traffic_class",
        "wants_body",
    )

    def __init__(self, settings: AccountSettings, known: Format | None, request: RequestHead) -> None:
        quota = settings.quota
        self._settings = settings
        self._method = request.method
        self.format = known
        """None: the format is unknown, so nothing is counted."""
        self.request = RequestReading(request, known)
        self._sent = RequestRewrite(request, self.request, has_tenants=quota is not None)
        self.quota = QuotaSession(quota) if quota is not None else None
        """None: there are no tenants."""
        self.realtime = RealtimeUsage() if request.is_tunnel and is_realtime(request.target.decode("ascii")) else None
        """Usage of a WebSocket whose events are read; None: it is not such a request."""
        self.realtime_cost: TunnelCost | None = None
        """None: no provider has answered, there are no prices, or it is not such a WebSocket."""
        # Flags side by side: see CONTRIBUTING.md, "The compiled build".
        self.is_preflight = is_preflight(request)
        self.is_limited = quota is not None and not self.is_preflight
        """Whether `identify` and `request_permit` apply. Browsers send preflights without a key, and providers answer
        them without one."""
        self.wants_body = known is not None or self.is_limited or request.is_tunnel
        """Whether the body must be read: to count it, or because it may name a model that the tenant may not use."""
        self.is_repeated = False
        """Whether the answer was charged before, and is now fetched again."""
        self._answered = False
        """Whether a provider took the request on."""
        self.cors: Headers | None = None
        """The relay's CORS fields; None: the provider decides who may read the answer."""
        self.budget: int | None = None
        """Most tokens of the answer; None: no bound."""
        self._due: int | None = None
        """Nano-dollars that it is charged once it is over, where that is not what the answer costs; None: it is."""
        self._terms: MoneyTerms | None = None
        """None: its tenant has no limits in money."""
        self.count: TokenCount | None = None
        """None before the answer begins, and if it is not counted."""
        self._model_list: ModelListFilter | None = None
        """None: the answer is not a list of models, or the client may see all of it."""
        self.traffic_class = INTERACTIVE
        """The highest class that its client, tenant and route allow, as far as they are known."""
        self.trace: RequestTrace | None = None
        """None: tracing is off."""

    # --- the request -----------------------------------------------------------------------------------------------

    @property
    def params(self) -> RequestParams:
        """The parameters of the request, as far as they are known."""
        return self.request.params

    @property
    def awaits_whole(self) -> bool:
        """Whether the answer is known not to be a stream."""
        return self.format is not None and self.request.values is not None and not self.params.stream

    def bound(self, most: int | None) -> None:
        """End the answer at `most` tokens, unless another bound is lower."""
        if most is not None:
            self.budget = most if self.budget is None else min(self.budget, most)

    def lower_class(self, most: TrafficClass) -> None:
        """Lower the request's class to at most `most`."""
        self.traffic_class = lower(self.traffic_class, most)

    def identify(self, request: RequestHead, done: Callable[[RelayError | None], None]) -> None:
        """Find the request's tenant. `done` is called at once or later; with an error if the request must be
        refused."""
        if self.quota is None:
            done(None)
            return

        def identified(error: RelayError | None) -> None:
            if self.tenant is not None:
                self.lower_class(self.tenant.traffic_class)
            done(error)

        self.quota.identify(request, identified, counted=self.format is not None or self.realtime is not None)

    def request_error(self) -> RelayError | None:
        """Why the request must be refused. Call this once its tenant and its body are known."""
        limited = self.tenant is not None and self.tenant.has_limits
        return self.request.error(limited=limited or (self.budget is not None and self.format is not None))

    def request_permit(
        self,
        request: RequestHead,
        done: Callable[[RelayError | None], None],
        resume: Callable[[], None],
        *,
        providers: Iterable[Provider],
    ) -> None:
        """Ask for admission, for one of `providers`. `done` is called at once or later. `resume` is called when events
        that waited for tokens may pass."""
        quota, tenant = self.quota, self.tenant
        if quota is None or tenant is None:
            done(None)
            return
        error = quota.choose_limits(tenant, request, self.params)
        if error is not None:
            done(error)
            return
        self.bound(quota.stream_budget)
        if quota.limits_money:
            terms = self._money_terms(providers, request)
            if isinstance(terms, RelayError):
                done(terms)
                return
            self._terms = terms

        def admitted(error: RelayError | None) -> None:
            left = quota.quota_left
            tells = left is not None and (left <= _ALWAYS_TOLD or self.params.max_tokens is not None)
            if tells and self.realtime is None:
                self.bound(left)  # the provider gets it as the bound, and ends the answer by itself
            done(error)

        quota.admit(self._least_input, admitted, resume, terms=self._terms)

    @property
    def _least_input(self) -> int:
        """Tokens that must be left for it to start."""
        return 1 if self.realtime is not None else self.input  # 0 would be admitted by an exhausted quota

    def _money_terms(self, providers: Iterable[Provider], request: RequestHead) -> MoneyTerms | RelayError:
        """The highest price of `providers` counts, as any of them may get the request. Returns an error if the cost
        can't be known."""
        if request.is_tunnel and self.realtime is None:
            return UNCOUNTED_TUNNEL
        prices, model, tokens = self._settings.prices, self.params.model, self._least_input
        is_counted = self.format is not None or model is not None  # what is not counted costs nothing
        generates = self.realtime is not None or (request.has_body and is_counted)
        need = token = 0
        for provider in providers:
            tariff = prices.tariff(provider.name, names_of(provider, model)) if prices is not None else None
            if tariff is not None:
                price = tariff.at(tokens)
                need = max(need, nano_dollars(tokens * price.input))
                token = max(token, price.dearest_output)
            elif generates:
                return price_missing(model, provider.name)
        return MoneyTerms(need, token, self._whole_tokens if self.awaits_whole else 0)

    @property
    def _whole_tokens(self) -> int:
        """Tokens that an answer may have that can't be ended."""
        params = self.params
        most = params.max_tokens * params.answers if params.max_tokens else _LONG_ANSWER
        return most if self.budget is None else min(most, self.budget)

    # --- the request as a provider gets it -------------------------------------------------------------------------

    def ask(self, target: Provider, pieces: Sequence[bytes], *, repeatable: bool) -> tuple[list[bytes], int] | None:
        """`RequestRewrite.body` for an attempt at `target`, bounded by the budget."""
        return self._sent.body(target, pieces, most=self.budget, repeatable=repeatable)

    @property
    def asks_usage(self) -> bool:
        """Whether the relay added the option for a usage report to the last attempt."""
        return self._sent.asks_usage

    @property
    def upstream(self) -> Provider | None:
        """The provider of the last attempt; None before the first."""
        return self._sent.upstream

    def sent_to(self, target: Provider, *, asks_usage: bool) -> None:
        """Of several attempts under way, the one at `target` counts; `asks_usage` is what it was for that attempt."""
        self._sent.sent_to(target, asks_usage=asks_usage)

    @property
    def is_signed(self) -> bool:
        """Whether the request has an AWS signature that may be passed to a provider."""
        return self._sent.is_signed

    def signature_error(self, targets: Iterable[Provider]) -> RelayError | None:
        """Why none of `targets` can accept the client's signature; None: one may."""
        return self._sent.signature_error(targets)

    def target_for(self, target: Provider) -> bytes:
        """The request's target as `target` gets it."""
        return self._sent.target(target, self.key)

    def credential(self, target: Provider) -> tuple[bytes, bytes] | None:
        """The field with the provider's key; None: the client's own key passes, or there is none."""
        return None if self.is_preflight else self._sent.credential(target)

    def hidden_fields(self, target: Provider) -> frozenset[bytes]:
        """The names of fields that `target` does not get."""
        return self._sent.hidden_fields(target, cors=self.cors is not None)

    # --- the tenant ------------------------------------------------------------------------------------------------

    @property
    def tenant(self) -> Tenant | None:
        return self.quota.tenant if self.quota is not None else None

    @property
    def key(self) -> bytes | None:
        """The relay key that the client sends; None: it sends none, or keys are the providers'."""
        return self.quota.key if self.quota is not None else None

    @property
    def lease(self) -> TokenLease | None:
        return self.quota.lease if self.quota is not None else None

    def sweep(self, now: float) -> None:
        """Called about once a second."""
        if self.quota is not None:
            self.quota.sweep(now)

    # --- the answer ------------------------------------------------------------------------------------------------

    def open(self, head: ResponseHead) -> bool:
        """Read the answer's head. Returns whether the body's first bytes are needed before it is passed on, because it
        does not determine the format."""
        self._answered = 200 <= head.status < 300
        self.request.forget()
        prices, upstream = self._settings.prices, self.upstream
        if self.realtime is not None and prices is not None and upstream is not None:
            self.realtime_cost = TunnelCost(prices, upstream, self.params.model, self.realtime)
        if not self._answered:
            return False
        quota = self.quota
        if quota is not None and quota.lists_models:
            self._model_list = ModelListFilter(lambda body: quota.visible_models(body, self._aliases))
        if self.format is None or self.upstream is None:
            return False
        self.count = TokenCount(self._settings, self._sent, budget=self.budget, quota=quota)
        return self.count.open(head)

    def look(self, head: ResponseHead, first: bytes, *, is_all: bool = False) -> bool:
        """Decide by the body's first bytes how it is read. Returns False if they are too few; `is_all`: no more will
        follow."""
        return self.count is None or self.count.look(head, first, is_all=is_all)

    @property
    def _aliases(self) -> dict[str, list[str]]:
        """The provider's model names, mapped to the names that the relay's clients use."""
        aliases: dict[str, list[str]] = {}
        for alias, name in self.upstream.settings.models.items() if self.upstream is not None else ():
            aliases.setdefault(name, []).append(alias)
        return aliases

    def read_event(self, text: bytes, size: int) -> None:
        """An event of a WebSocket, see `realtime`."""
        assert self.realtime is not None
        report = self.realtime.read(text, size)
        if report is not None and self.realtime_cost is not None:
            self.realtime_cost.add(report)

    def verdict(self) -> Verdict:
        """Whether such a WebSocket may continue, by the tokens and the money that it has used."""
        quota = self.quota
        if quota is None:
            return Verdict.PASS
        lease, money = self.lease, quota.money
        verdict = Verdict.PASS if lease is None else lease.verdict(self.input + self.output)
        return verdict if money is None else worse(verdict, money.verdict(self.cost or 0))

    def passed_head(self, head: ResponseHead, request_id: bytes, upstream_id: bytes | None) -> ResponseHead:
        """A provider's head as the client gets it. If the relay's key was sent, cookies are dropped: they belong to no
        single client."""
        passes_cookies = self.upstream is None or not self._sent.hides_keys(self.upstream)
        passed = response_for_downstream(
            head, request_id=request_id, upstream_id=upstream_id, passes_cookies=passes_cookies
        )
        passed.headers = self.answer_fields(passed.headers)
        return passed

    def answer_fields(self, headers: Headers) -> Headers:
        """An answer's fields as the client gets them: a tenant's own limits replace the provider's."""
        quota = self.quota
        if quota is not None:
            headers = for_tenants(headers) + limit_fields(
                quota.lease.decision if quota.lease is not None else None,
                self.format.limit_fields if self.format is not None else X_RATELIMIT,
                now=quota.now,
            )
        return headers if self.cors is None else with_cors(headers, self.cors)

    def error(self, error: RelayError) -> bytes:
        """The body of an error answer."""
        return error.body() if self.format is None else self.format.error(error)

    def failure(self, error: RelayError) -> bytes:
        """The event that reports a failure mid-stream; b"": the format has none."""
        return self.count.failure(error) if self.count is not None else b""

    def ending(self) -> bytes:
        """The bytes that end the stream at its budget."""
        return self.count.ending() if self.count is not None else b""

    # --- its figures -----------------------------------------------------------------------------------------------

    @property
    def event_filter(self) -> AnyFilter | None:
        return self.count.event_filter if self.count is not None else self._model_list

    @property
    def meter(self) -> Meter | None:
        """None before the answer begins, and if it is not counted."""
        return self.count.meter if self.count is not None else None

    @property
    def heartbeat(self) -> bytes | None:
        """The bytes of a heartbeat between two events of the answer; None: none is possible, or the answer has not
        begun."""
        return self.count.heartbeat if self.count is not None else None

    @property
    def input(self) -> int:
        """Tokens of the request: as reported, until then as estimated."""
        if self.realtime is not None:
            return self.realtime.input
        return self.count.input if self.count is not None else self.request.input_estimate

    @property
    def output(self) -> int:
        """Tokens emitted so far: the provider's count where it has reported one for this point, else an estimate."""
        if self.realtime is not None:
            return self.realtime.output
        return self.count.output if self.count is not None else 0

    @property
    def cost(self) -> int | None:
        """Nano-dollars so far, in the end without what an answer was charged before; None: there is no price, or
        nothing is counted and charged."""
        if self._due is not None:
            return self._due
        if self.realtime_cost is not None:
            return self.realtime_cost.total
        if self.count is not None:
            return self.count.cost
        return (self._request_cost or None) if self.realtime is None else None

    @property
    def usage(self) -> Usage:
        """The provider's report so far."""
        return self.count.meter.usage if self.count is not None else Usage()

    @property
    def model(self) -> str | None:
        """The model as named by the answer, else by the request."""
        return (self.count.meter.model if self.count is not None else None) or self.params.model

    @property
    def cut_at(self) -> int | None:
        """Tokens that had passed when the relay cut the stream; None: it was not cut."""
        return self.count.cut_at if self.count is not None else None

    @property
    def cut_reason(self) -> EndReason:
        """Why the answer was cut."""
        return self.count.cut_reason if self.count is not None else EndReason.BUDGET

    # --- the end ---------------------------------------------------------------------------------------------------

    def settle(self, size: int = 0) -> None:
        """The exchange is over, after `size` bytes of the answer: charge what it used, and learn from the provider's
        report."""
        count = self.count
        if count is not None:
            count.close(size)
        elif self._model_list is not None:
            self._model_list.close()
        tokens, cost = self._charge()
        if self.quota is not None:
            self.quota.settle(tokens, cost)
        if count is not None:
            count.learn()

    @property
    def _request_cost(self) -> int:
        """Nano-dollars that are charged where the answer is not counted."""
        return self._terms.need if self._terms is not None and self._answered else 0

    def _charge(self) -> tuple[int, int]:
        """Tokens and nano-dollars to charge: none if no provider accepted the request; only the request if its API is
        not counted. An answer that is fetched by its id is charged once."""
        count = self.count
        if self.realtime is not None:
            return self.realtime.total, 0 if self._terms is None else self.cost or 0
        if count is None:
            return (self.request.input_estimate, self._request_cost) if self._answered else (0, 0)
        tokens, whole = count.input + count.output, count.cost
        cost = whole or 0
        answer_id = count.meter.answer_id
        if answer_id is None:
            return tokens, cost
        tenant = self.tenant.name if self.tenant is not None else ""
        charged = self._settings.charged
        if self._method != b"GET":  # generated, not fetched
            charged.note(tenant, answer_id, tokens, cost)
            return tokens, cost
        tokens, cost = charged.due(tenant, answer_id, tokens, cost)
        self.is_repeated = tokens == 0
        if whole is not None:
            self._due = cost
        return tokens, cost
