"""One request of a tenant, from its key to its charge. No I/O: directory and limiter answer by callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count

from ..dialects.base import RequestParams
from ..dialects.model_list import listed_model, visible_models
from ..errors import RelayError
from ..http.messages import RequestHead
from .identify import QuotaContext, session_of, user_of
from .lease import TokenLease
from .limits import MAX_MONEY, SMALL_MONEY, Decision, MoneyQuota, Quota, money_stream
from .money import PICO, nano_dollars
from .prices import MoneyTerms
from .refusals import FALLBACK_MODELS, model_refused, path_refused, refusal
from .tenants import LimitProfile, Tenant, allows_model, allows_path, key_of

_NUMBERS = count(1)
"""With the process's prefix these make unique ids of streams in a shared store. Random bytes for each would cost 17 us.
"""


class QuotaSession:
    """One request of a tenant: `identify` with the head, `choose_limits` when the body is read, then `admit`. From then
    on it uses `lease`, which is settled at the end."""

    __slots__ = (
        "_context",
        "_profile",
        "key",
        "lease",
        "lists_models",
        "money",
        "quota_left",
        "session",
        "tenant",
        "user",
    )

    def __init__(self, context: QuotaContext) -> None:
        self._context = context
        self._profile: LimitProfile | None = None
        self.key: bytes | None = None
        """The tenant's key, as sent by the client; None before it is identified."""
        self.tenant: Tenant | None = None
        self.user: str | None = None
        self.session: str | None = None
        self.lists_models = False
        """Whether the answer is a list of models, of which the tenant may see only some."""
        self.lease: TokenLease | None = None
        """None until `admit`."""
        self.money: TokenLease | None = None
        """The lease of nano-dollars; None: money is not limited, or `admit` was not called yet."""
        self.quota_left: int | None = None
        """Tokens that the quotas allowed the answer at its admission; None: there are no quotas."""

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self._context.now()

    def identify(self, request: RequestHead, done: Callable[[RelayError | None], None], *, counted: bool) -> None:
        """Find the tenant. `done` is called at once or later; with an error if the request must be refused. `counted`:
        its API's tokens are counted."""

        def identified(found: Tenant | RelayError) -> None:
            if isinstance(found, RelayError):
                done(found)
                return
            self.tenant = found
            self.key = key_of(request)
            self.user, self.session = user_of(request, None), session_of(request)
            if not allows_path(found, request, counted=counted):
                done(path_refused(found, request.path.decode("latin-1")))
            else:
                done(None)

        self._context.identify(request, identified)

    def choose_limits(self, tenant: Tenant, request: RequestHead, params: RequestParams) -> RelayError | None:
        """Choose the limits of `tenant` for this user, session and model. Returns an error if the tenant may not use
        the model."""
        model = params.model
        if not self._may_use(tenant, request, model):
            return model_refused(model)
        if self.user is None:
            self.user = user_of(request, params.user)
        context = self._context
        self._profile = context.profiles.find(
            tenant, user=self.user, session=self.session, model=model, now=context.now()
        )
        if params.has_fallbacks and (tenant.models or tenant.model_limits or self.limits_money):
            return FALLBACK_MODELS
        return None

    def _may_use(self, tenant: Tenant, request: RequestHead, model: str | None) -> bool:
        """Whether `tenant` may use `model`. A request that generates nothing needs no model; a list of models is
        filtered."""
        if request.has_body or request.is_tunnel or request.method not in (b"GET", b"HEAD"):
            return allows_model(tenant, model)
        listed = listed_model(request.target.decode("ascii"))
        self.lists_models = listed is not None and bool(tenant.models)
        return not listed or allows_model(tenant, listed) or not tenant.models

    @property
    def stream_budget(self) -> int | None:
        """Tokens that the chosen limits allow one answer; None: no bound."""
        return self._profile.budget if self._profile is not None else None

    @property
    def limits_money(self) -> bool:
        """Whether one of the chosen limits is in money."""
        return self._profile is not None and bool(self._profile.money)

    def admit(
        self,
        need: int,
        done: Callable[[RelayError | None], None],
        resume: Callable[[], None],
        *,
        terms: MoneyTerms | None = None,
    ) -> None:
        """Request a first lease of at least `need` tokens, and of money by `terms` if that is limited. `done` is called
        at once or later. `resume` is called when events that waited for either may pass."""
        profile, limiter = self._profile, self._context.limiter
        assert profile is not None
        # Not the request id, which clients may choose: two requests with the same id would share a lease.
        stream_id = f"{profile.tag}:{self._context.streams}-{next(_NUMBERS)}"
        if terms is None or not profile.money:
            self._admit_tokens(profile, stream_id, need, done, resume)
            return

        def decided(decision: Decision) -> None:
            if decision.admitted:
                self.quota_left = _money_left(decision, terms)
                self._admit_tokens(profile, stream_id, need, done, resume)
            else:
                done(refusal(decision))

        # Before the rest, since a lease can be given back, and a request that was counted can't.
        size = max(SMALL_MONEY, nano_dollars(max(limiter.lease, terms.whole) * terms.token))
        self.money = TokenLease(limiter, money_stream(stream_id), resume=resume, size=min(size, MAX_MONEY))
        self.money.ask(profile.money, need=terms.need, done=decided)

    def _admit_tokens(
        self,
        profile: LimitProfile,
        stream_id: str,
        need: int,
        done: Callable[[RelayError | None], None],
        resume: Callable[[], None],
    ) -> None:
        def decided(decision: Decision) -> None:
            if decision.admitted:
                self.quota_left = _least(self.quota_left, _left_of_quotas(decision, need))
                done(None)
                return
            if self.money is not None:
                self.money.settle(0)
            done(refusal(decision))

        self.lease = TokenLease(self._context.limiter, stream_id, resume=resume)
        self.lease.ask(profile.limits, need=need, done=decided)

    @property
    def refused_by(self) -> str | None:
        """The key of the limit that refused the request; None: none did."""
        for lease in (self.money, self.lease):
            if lease is not None and lease.decision is not None and lease.decision.refused_by is not None:
                return lease.decision.refused_by.key
        return None

    def sweep(self, now: float) -> None:
        """Called about once a second."""
        if self.lease is not None:
            self.lease.sweep(now)
        if self.money is not None:
            self.money.sweep(now)

    def settle(self, tokens: int, cost: int) -> None:
        """The exchange is over: charge `tokens`, and `cost` nano-dollars."""
        if self.lease is not None:
            self.lease.settle(tokens)
        if self.money is not None:
            self.money.settle(cost)

    def visible_models(self, body: bytes, aliases: Mapping[str, list[str]]) -> bytes:
        """A list of models, filtered to what the tenant may see. `aliases`: a provider's model names to the names that
        the relay's clients use."""
        tenant = self.tenant
        return visible_models(body, lambda name: tenant is None or allows_model(tenant, name), aliases)


def _left_of_quotas(decision: Decision, need: int) -> int | None:
    left = [state.remaining for state in decision.states if isinstance(state.limit, Quota)]
    return max(1, min(left) + decision.granted - need) if left else None


def _money_left(decision: Decision, terms: MoneyTerms) -> int | None:
    """The same for quotas of money: tokens that the money left pays for."""
    left = [state.remaining for state in decision.states if isinstance(state.limit, MoneyQuota)]
    if not left or not terms.token:
        return None
    return max(1, (min(left) + decision.granted - terms.need) * PICO // terms.token)


def _least(one: int | None, other: int | None) -> int | None:
    """The smaller one; None means no bound."""
    return other if one is None else one if other is None else min(one, other)
