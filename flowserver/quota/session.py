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
"""With the relay's own prefix the ids of streams in a store that relays share. Random bytes for each would cost 17 us.
"""


class QuotaSession:
    """`identify` by the head, `choose_limits` when the body is read, then `admit`. From then on `lease` is
    drawn on, and settled at the end."""

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
        """The tenant's key, as the client shows it; None before it is identified."""
        self.tenant: Tenant | None = None
        self.user: str | None = None
        self.session: str | None = None
        self.lists_models = False
        """Whether the answer is a list of models, of which the tenant may see some only."""
        self.lease: TokenLease | None = None
        """None until the request asks to be admitted."""
        self.money: TokenLease | None = None
        """The lease of nano-dollars; None: no money is limited, or it was not asked for yet."""
        self.quota_left: int | None = None
        """Tokens that the answer may have by the quotas, as they were when it was admitted; None: there are none."""

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self._context.now()

    def identify(self, request: RequestHead, done: Callable[[RelayError | None], None], *, counted: bool) -> None:
        """Find the tenant. `done` is called at once or later; with an error where the request may not go on. `counted`:
        its API is one whose tokens are counted."""

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
        """Choose the limits of `tenant` that hold for this user, session and model. An error: the model is not the
        tenant's to use."""
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
        """Whether `tenant` may use `model`. A request that generates nothing needs none; of a list of models it gets to
        see its own."""
        if request.has_body or request.is_tunnel or request.method not in (b"GET", b"HEAD"):
            return allows_model(tenant, model)
        listed = listed_model(request.target.decode("ascii"))
        self.lists_models = listed is not None and bool(tenant.models)
        return not listed or allows_model(tenant, listed) or not tenant.models

    @property
    def stream_budget(self) -> int | None:
        """Tokens that one answer may have by the chosen limits; None: no bound."""
        return self._profile.budget if self._profile is not None else None

    @property
    def limits_money(self) -> bool:
        """Whether one of the chosen limits is of money."""
        return self._profile is not None and bool(self._profile.money)

    def admit(
        self,
        need: int,
        done: Callable[[RelayError | None], None],
        resume: Callable[[], None],
        *,
        terms: MoneyTerms | None = None,
    ) -> None:
        """Ask for a first lease of `need` tokens and more, and of money where that is limited, by these `terms`. `done`
        is called at once or later. `resume` is called when events that waited for either may pass."""
        profile, limiter = self._profile, self._context.limiter
        assert profile is not None
        # Not the request's id, which clients may choose: two requests with the same one would share a lease.
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
        """About once a second."""
        if self.lease is not None:
            self.lease.sweep(now)
        if self.money is not None:
            self.money.sweep(now)

    def settle(self, tokens: int, cost: int) -> None:
        """The exchange is over, and is charged `tokens`, and `cost` nano-dollars."""
        if self.lease is not None:
            self.lease.settle(tokens)
        if self.money is not None:
            self.money.settle(cost)

    def visible_models(self, body: bytes, aliases: Mapping[str, list[str]]) -> bytes:
        """What the tenant may see of a list of models. `aliases`: a provider's names to those by which the relay's
        clients ask for them."""
        tenant = self.tenant
        return visible_models(body, lambda name: tenant is None or allows_model(tenant, name), aliases)


def _left_of_quotas(decision: Decision, need: int) -> int | None:
    left = [state.remaining for state in decision.states if isinstance(state.limit, Quota)]
    return max(1, min(left) + decision.granted - need) if left else None


def _money_left(decision: Decision, terms: MoneyTerms) -> int | None:
    """The same by quotas of money: tokens that what is left pays for."""
    left = [state.remaining for state in decision.states if isinstance(state.limit, MoneyQuota)]
    if not left or not terms.token:
        return None
    return max(1, (min(left) + decision.granted - terms.need) * PICO // terms.token)


def _least(one: int | None, other: int | None) -> int | None:
    """None is no bound."""
    return other if one is None else one if other is None else min(one, other)
