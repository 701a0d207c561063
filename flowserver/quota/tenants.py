"""Who may use the relay, and how much of it: tenants, their keys and their limits. No I/O.

Only the SHA-256 of a key is stored. A key is random and long, so a plain hash protects it; it is looked up by its hash,
so the time of a look-up reveals nothing about other keys.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import NamedTuple

from ..dialects import recognise
from ..dialects.api_paths import is_model_list, without_parameters
from ..dialects.key_fields import KEY_FIELDS
from ..http.messages import RequestHead
from ..names import digest, user_name
from .limits import Limit, MoneyQuota, Quota, RequestBucket, Slots, TokenBucket, tenant_key
from .query_keys import key_in_query
from .traffic_class import INTERACTIVE, TrafficClass

DAY = 86_400
"""Seconds."""

_ISSUED = re.compile(rb"flow-[A-Za-z0-9_-]{43}")
_WILDCARD = re.compile(r"[*?]|\[!?\]?[^\]]*\]")
_PLAIN = re.compile(r"[!-\"$-9;-z|~]{1,64}")
"""Names that are used unchanged in a limit's key: short, and without spaces, colons, braces or a hash sign."""


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """The limits of a tenant, user or model. None: no limit."""

    requests_per_minute: int | None = None
    request_burst: int | None = None
    """Requests in a burst; None: as many as per minute."""
    tokens_per_minute: int | None = None
    token_burst: int | None = None
    """Tokens in a burst; None: as many as per minute."""
    concurrent: int | None = None
    """Concurrent requests."""
    tokens_per_stream: int | None = None
    """Of one answer; see `stream_budget`: no store has to count it."""
    tokens_per_session: int | None = None
    """Within a day from the session's first request."""
    tokens_per_day: int | None = None
    """Until midnight, UTC."""
    tokens_per_month: int | None = None
    usd_per_session: int | None = None
    """Nano-dollars, like the next ones; the periods are those of tokens."""
    usd_per_day: int | None = None
    usd_per_month: int | None = None


NO_LIMITS = TenantLimits()


@dataclass(frozen=True, slots=True)
class TenantKey:
    sha256: bytes
    """32 bytes."""
    expires_at: float | None = None
    """Seconds since the epoch; None: never."""


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """Limits for all models that match one of the patterns, together."""

    models: tuple[str, ...]
    limits: TenantLimits


@dataclass(frozen=True, slots=True)
class Tenant:
    name: str
    keys: tuple[TenantKey, ...] = ()
    disabled: bool = False
    models: tuple[str, ...] = ()
    """Shell patterns, as for the paths; empty: all."""
    paths: tuple[str, ...] = ()
    """Empty: the paths of the counted APIs and of the list of models."""
    limits: TenantLimits = TenantLimits()
    """For all its requests together."""
    user: TenantLimits = TenantLimits()
    """For each of its users. Requests that name no user count as one user."""
    model_limits: tuple[ModelLimits, ...] = ()
    traffic_class: TrafficClass = INTERACTIVE
    """The highest class that its requests may have."""
    weight: int = 1
    """Its share of a provider's places, relative to other waiting tenants."""

    @property
    def has_limits(self) -> bool:
        """Whether it has any limit."""
        return bool(self.models or self.model_limits or self.limits != NO_LIMITS or self.user != NO_LIMITS)


class Tenants:
    """The tenants of the configuration, by their keys."""

    __slots__ = ("_by_key", "all")

    def __init__(self, tenants: Iterable[Tenant]) -> None:
        self.all = tuple(tenants)
        self._by_key = {key.sha256: tenant for tenant in self.all for key in tenant.keys}

    def find(self, key: bytes, now: float) -> Tenant | None:
        """The tenant of `key`; None if it is unknown or expired, or its tenant is disabled. `now` in seconds since the
        epoch."""
        digest = digest_of(key)
        tenant = self._by_key.get(digest)
        return tenant if tenant is not None and refusal(tenant, digest, now) is None else None


def refusal(tenant: Tenant | None, digest: bytes, now: float) -> str | None:
    """Why a key can't be used: `unknown`, `expired` or `disabled`; None: it can."""
    keys = tenant.keys if tenant is not None else ()
    key = next((key for key in keys if hmac.compare_digest(key.sha256, digest)), None)
    if tenant is None or key is None:
        return "unknown"
    if key.expires_at is not None and key.expires_at <= now:
        return "expired"
    return "disabled" if tenant.disabled else None


def digest_of(key: bytes) -> bytes:
    return sha256(key).digest()


def was_issued(key: bytes) -> bool:
    """Whether it looks like a key made by `flowserver tenants`; a directory has no others."""
    return _ISSUED.fullmatch(key) is not None


def key_of(request: RequestHead) -> bytes | None:
    """The key that a client sends, in whichever field its API accepts one, else in the query as `?key=`; None: there is
    none."""
    fields = request.fields
    for name in KEY_FIELDS:
        value = fields.get(name)
        if value is not None and name == b"authorization":
            scheme, _, value = value.partition(b" ")
            if scheme.lower() != b"bearer":
                continue
        if value is not None and (key := value.strip()):
            return key
    return key_in_query(request.target)


def allows_path(tenant: Tenant, request: RequestHead, *, counted: bool) -> bool:
    """`counted`: the request's API is counted. Patterns must match the path both with and without its `;parameters`, as
    the provider may read it either way."""
    if not tenant.paths and counted:
        return True
    path = request.path.decode("latin-1")
    if tenant.paths:
        return _fits(tenant.paths, path) and _fits(tenant.paths, without_parameters(path))
    return request.method in (b"GET", b"HEAD") and is_model_list(path)


def is_pattern(text: str) -> bool:
    """Whether it may match more than one text."""
    return _WILDCARD.search(text) is not None


def may_be_uncounted(pattern: str) -> bool:
    """Whether a pattern in `paths` matches requests whose tokens are not counted, apart from the list of models."""
    filled = [_WILDCARD.sub(text, pattern) for text in ("x", "x/x")]
    return not all(recognise(path) is not None or is_model_list(path) for path in filled)


def allows_model(tenant: Tenant, model: str | None) -> bool:
    return not tenant.models or _fits(tenant.models, model)


def stream_budget(tenant: Tenant, model: str | None) -> int | None:
    """Tokens of one answer at most; None: as many as it has."""
    each = [tenant.limits, tenant.user, *(kind.limits for kind in tenant.model_limits if _is_limited(kind, model))]
    return min((limits.tokens_per_stream for limits in each if limits.tokens_per_stream is not None), default=None)


def limits_for(tenant: Tenant, *, user: str | None, session: str | None, model: str | None, now: float) -> list[Limit]:
    """All limits that a request must pass, each with a key of its own. `now` in seconds since the epoch.

    None: the request names no user, session or model. Without a session the session limits do not apply.
    """
    found = _limits(tenant, tenant.limits, (), session, now)
    found += _limits(tenant, tenant.user, ("user", _name(user)), session, now)
    for kind in tenant.model_limits:
        if _is_limited(kind, model):
            found += _limits(tenant, kind.limits, _place(kind), session, now)
    return found


class LimitProfile(NamedTuple):
    """The limits of all requests of one tenant, user, session and model."""

    tenant: Tenant
    until: float
    """When it expires because quotas are renewed; seconds since the epoch."""
    limits: list[Limit]
    """All except those in money. Do not modify."""
    money: list[Limit]
    """The limits in money, which have a lease of their own."""
    budget: int | None
    """See `stream_budget`."""
    tag: str
    """Prefix of the ids of its streams."""


_Names = tuple[str, str | None, str | None, str | None]
"""Of a tenant, user, session and model."""


class LimitProfileCache:
    """A cache of profiles, as making one takes 10 us. It keeps `size` of them, and forgets those made longest ago."""

    __slots__ = ("_known", "_size")

    def __init__(self, size: int = 4096, known: Mapping[_Names, LimitProfile] | None = None) -> None:
        """`known`: what it begins with; None: nothing."""
        self._size = size
        self._known: dict[_Names, LimitProfile] = dict(known or {})

    @property
    def tenants(self) -> dict[str, Tenant]:
        """Tenants with cached profiles, by name, each as in its newest profile."""
        return {profile.tenant.name: profile.tenant for profile in self._known.values()}

    def without(self, tenants: Collection[str]) -> LimitProfileCache:
        """A cache with the same profiles, except those of the tenants with these names."""
        rest = {names: profile for names, profile in self._known.items() if names[0] not in tenants}
        return LimitProfileCache(self._size, rest)

    def find(
        self, tenant: Tenant, *, user: str | None, session: str | None, model: str | None, now: float
    ) -> LimitProfile:
        """`now` in seconds since the epoch."""
        names = (tenant.name, user, session, model)
        profile = self._known.get(names)
        if profile is not None and profile.tenant is tenant and now < profile.until:
            return profile
        each = limits_for(tenant, user=user, session=session, model=model, now=now)
        limits = [limit for limit in each if not isinstance(limit, MoneyQuota)]
        money: list[Limit] = [limit for limit in each if isinstance(limit, MoneyQuota)]
        budget = stream_budget(tenant, model)
        profile = LimitProfile(tenant, end_of_day(now), limits, money, budget, tenant_key(tenant.name))
        self._known.pop(names, None)  # so that the newest is last
        self._known[names] = profile
        if len(self._known) > self._size:
            del self._known[next(iter(self._known))]
        return profile


def shared_limits(tenant: Tenant, now: float) -> list[Limit]:
    """The limits that do not depend on user and session, for all models, for display."""
    found = _limits(tenant, tenant.limits, (), None, now)
    for kind in tenant.model_limits:
        found += _limits(tenant, kind.limits, _place(kind), None, now)
    return found


def user_limits(tenant: Tenant, user: str | None, now: float) -> list[Limit]:
    """The limits of one user. `user`: the full name, as written by an operator."""
    return _limits(tenant, tenant.user, ("user", _name(user_name(user))), None, now)


def _limits(
    tenant: Tenant, limits: TenantLimits, place: tuple[str, ...], session: str | None, now: float
) -> list[Limit]:
    """Keys end with the settings' names, since clients and operators read them."""
    begin = tenant_key(tenant.name, *place)
    found: list[Limit] = []
    if (rate := limits.requests_per_minute) is not None:
        found.append(RequestBucket(f"{begin}:requests_per_minute", limits.request_burst or rate, rate))
    if (rate := limits.tokens_per_minute) is not None:
        found.append(TokenBucket(f"{begin}:tokens_per_minute", limits.token_burst or rate, rate))
    if limits.concurrent is not None:
        found.append(Slots(f"{begin}:concurrent", limits.concurrent))
    for quota, unit, per_session, per_day, per_month in (
        (Quota, "tokens", limits.tokens_per_session, limits.tokens_per_day, limits.tokens_per_month),
        (MoneyQuota, "usd", limits.usd_per_session, limits.usd_per_day, limits.usd_per_month),
    ):
        if per_session is not None and session:
            found.append(quota(f"{begin}:session:{_name(session)}:{unit}_per_session", per_session, ttl=DAY))
        if per_day is not None:
            found.append(quota(f"{begin}:{unit}_per_day", per_day, ends_at=end_of_day(now)))
        if per_month is not None:
            found.append(quota(f"{begin}:{unit}_per_month", per_month, ends_at=end_of_month(now)))
    return found


def scope_and_name(key: str) -> tuple[str, str]:
    """The scope of the limit with this key ("tenant", "user" or "model"), and the name of its setting."""
    place, *rest = key.partition("}:")[2].split(":")
    return place if rest and place in ("user", "model") else "tenant", rest[-1] if rest else place


def models_and_name(key: str) -> tuple[str | None, str]:
    """The models of the limit with this key (None: it is of all), and the name of its setting. Not for limits of users
    and sessions."""
    _, *place, name = key.split(":")
    return place[1] if place else None, name


def end_of_day(now: float) -> float:
    """The next midnight, UTC, in seconds since the epoch."""
    return (now // DAY + 1) * DAY


def end_of_month(now: float) -> float:
    today = datetime.fromtimestamp(now, UTC)
    year, month = (today.year + 1, 1) if today.month == 12 else (today.year, today.month + 1)
    return datetime(year, month, 1, tzinfo=UTC).timestamp()


def _place(kind: ModelLimits) -> tuple[str, str]:
    return "model", _name(",".join(kind.models))


def _name(text: str | None) -> str:
    """A name for use in a key: clients choose names of any length, and a colon could make a key look like another's."""
    if not text:
        return ""
    if _PLAIN.fullmatch(text):
        return text
    return digest(text)


def _is_limited(kind: ModelLimits, model: str | None) -> bool:
    """In any case: to some providers it does not matter."""
    if model is None:
        return False
    return _fits(tuple(pattern.casefold() for pattern in kind.models), model.casefold())


def _fits(patterns: tuple[str, ...], text: str | None) -> bool:
    return text is not None and any(fnmatchcase(text, pattern) for pattern in patterns)
