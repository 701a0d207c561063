"""Whose request it is, whether it may start, and what its answer tells of limits. No I/O."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

from ..errors import EndReason, Party, RelayError
from ..http.messages import SESSION, USER, Headers, RequestHead
from ..names import PATH_BYTES, bounded, user_name
from ..routing.signatures import has_signature
from .lease import Limiter
from .limits import Cause, Decision, LimitState, RequestBucket, Slots
from .tenants import KnownKinds, Tenant, Tenants, key_of


class Directory(Protocol):
    """Tenants that are kept elsewhere."""

    def find(self, key: bytes, done: Callable[[Tenant | None, bool], None]) -> None:
        """Whose `key` is, at once or later. The second is False when that could not be found out."""


@dataclass(frozen=True, slots=True)
class Limiting:
    """What the exchanges of a relay with tenants share. `directory` None: all tenants are in the configuration. `now`
    is seconds since the epoch."""

    tenants: Tenants
    limiter: Limiter
    now: Callable[[], float]
    directory: Directory | None = None
    kinds: KnownKinds = field(default_factory=KnownKinds)

    def identify(self, request: RequestHead, done: Callable[[Tenant | RelayError], None]) -> None:
        """Whose request it is, at once or later."""
        key = key_of(request)
        if key is None:
            done(SIGNED_WITHOUT_KEY if has_signature(request) else NO_KEY)
            return
        tenant = self.tenants.find(key, self.now())
        if tenant is not None:
            done(tenant)
        elif self.directory is None:
            done(UNKNOWN_KEY)
        else:
            self.directory.find(key, lambda found, known: done(found or (UNKNOWN_KEY if known else NO_STORE)))


def user_of(request: RequestHead, asked: str | None) -> str | None:
    """The user within a tenant: by header, else as the request's own field says."""
    value = request.find(USER)
    return user_name(_text(value)) if value else user_name(asked)


def session_of(request: RequestHead) -> str | None:
    value = request.find(SESSION)
    return user_name(_text(value)) if value else None


def _text(value: bytes) -> str:
    """A name in UTF-8, as bodies have it; else each byte is a character."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def refusal(decision: Decision) -> RelayError:
    """What a refused client is told: an exhausted quota is not a rate, and waiting helps with one of them only."""
    wait = decision.retry_after
    after = max(1, math.ceil(wait)) if wait is not None else None
    name = decision.refused_by.key if decision.refused_by is not None else ""
    if decision.cause is Cause.UNAVAILABLE:
        return NO_STORE
    if decision.cause is Cause.QUOTA:
        text = f"The quota of tokens is used up ({_short(name)}). It begins anew when its time is over."
        return _limited("insufficient_quota", text, after)
    if decision.cause is Cause.CONCURRENCY:
        text = f"As many streams as are allowed run at once ({_short(name)}). Try again when one is over."
        return _limited("concurrency_limit_exceeded", text, after or 1)
    text = f"The rate limit is reached ({_short(name)}). Try again after the time in retry-after."
    return _limited("rate_limit_exceeded", text, after)


def model_refused(model: str | None) -> RelayError:
    text = f"This key may not use the model {model!r}, or there is no such model."
    return RelayError(404, "model_not_found", text, Party.CLIENT, EndReason.LIMITED)


def path_refused(tenant: Tenant, path: str) -> RelayError:
    text = f"This key may not use {bounded(path, PATH_BYTES)}."
    if not tenant.paths:
        text += (
            " It may use the APIs whose tokens are counted, and the list of models. Whoever runs the relay has to list"
            " other paths in the tenant's `paths`."
        )
    return RelayError(403, "permission_denied", text, Party.CLIENT, EndReason.LIMITED)


def for_tenants(headers: Headers) -> Headers:
    """An answer's fields without what tells of the account at the provider: its limits, its organisation."""
    return [field for field in headers if not _is_of_account(field[0])]


@lru_cache(1024)
def _is_of_account(name: bytes) -> bool:
    return name in _OF_ACCOUNTS or any(part in name for part in _PARTS_OF_ACCOUNTS)


_OF_ACCOUNTS = frozenset((b"openai-project", b"anthropic-workspace-id", b"x-goog-user-project", b"x-amzn-account-id"))
_PARTS_OF_ACCOUNTS = (b"ratelimit", b"organization", b"organisation")


def limit_fields(decision: Decision | None, *, anthropic: bool, now: float) -> Headers:
    """Fields that tell what is left, as the API's own client libraries read them: the tightest limit of each kind."""
    if decision is None:
        return []
    fields: Headers = []
    for (limit, remaining, reset), state in zip(_ANTHROPIC if anthropic else _OPENAI, _tightest(decision), strict=True):
        if state is not None:
            seconds = state.reset or 0.0
            fields += (
                (limit, b"%d" % state.limit.limit),
                (remaining, b"%d" % state.remaining),
                (reset, _moment(math.ceil(now + seconds)) if anthropic else _span(seconds)),
            )
    if not decision.admitted and decision.retry_after is not None:
        fields.append((b"retry-after-ms", b"%d" % math.ceil(decision.retry_after * 1000)))
    return fields


def _tightest(decision: Decision) -> tuple[LimitState | None, LimitState | None]:
    """What is left least of requests, and of tokens."""
    requests: LimitState | None = None
    tokens: LimitState | None = None
    for state in decision.states:
        kind = type(state.limit)
        if kind is RequestBucket:
            if requests is None or state.remaining < requests.remaining:
                requests = state
        elif kind is not Slots and (tokens is None or state.remaining < tokens.remaining):
            tokens = state
    return requests, tokens


_KINDS = (b"requests", b"tokens")
_OPENAI = [[b"x-ratelimit-%b-%b" % (what, kind) for what in (b"limit", b"remaining", b"reset")] for kind in _KINDS]
_ANTHROPIC = [
    [b"anthropic-ratelimit-%b-%b" % (kind, what) for what in (b"limit", b"remaining", b"reset")] for kind in _KINDS
]
LIMIT_FIELDS = tuple(name for names in (*_OPENAI, *_ANTHROPIC) for name in names)
"""The names of all fields that tell a tenant of its limits."""


@lru_cache(256)
def _moment(seconds: int) -> bytes:
    """Kept, as quotas end at the same moment for all, and full buckets are full now."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode("ascii")


def _span(seconds: float) -> bytes:
    """As OpenAI writes it: 12ms, 1.5s, 6m0s, 2h0m0s."""
    if seconds < 1:
        return b"%dms" % math.ceil(seconds * 1000)
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".").encode() + b"s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return b"%dh%dm%ds" % (hours, minutes, rest) if hours else b"%dm%ds" % (minutes, rest)


def _short(key: str) -> str:
    """A limit's name without its tenant."""
    return key.partition("}:")[2].replace(":", " ")


def _limited(code: str, text: str, after: int | None) -> RelayError:
    return RelayError(429, code, text, Party.CLIENT, EndReason.LIMITED, retry_after=after)


NO_KEY = RelayError(
    401,
    "missing_api_key",
    "This relay wants a key of its own, in the field where the API takes keys (Authorization: Bearer ...).",
    Party.CLIENT,
    EndReason.LIMITED,
)
SIGNED_WITHOUT_KEY = RelayError(
    401,
    "missing_api_key",
    "This relay needs a key of its own, and can't check an AWS signature. Send the key as Authorization: Bearer, which "
    "AWS SDKs do when AWS_BEARER_TOKEN_BEDROCK is set to it.",
    Party.CLIENT,
    EndReason.LIMITED,
)
UNKNOWN_KEY = RelayError(
    401,
    "invalid_api_key",
    "This relay does not know the key, or it is no longer valid. Ask whoever runs the relay for another.",
    Party.CLIENT,
    EndReason.LIMITED,
)
NO_STORE = RelayError(
    503,
    "limits_unavailable",
    "Limits can't be checked now, and nothing may pass without. Try again shortly.",
    Party.RELAY,
    EndReason.LIMITED,
    retry_after=1,
)
