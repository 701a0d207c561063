"""What an answer's head tells a tenant of limits, and what it does not tell of the account at the provider. No I/O."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import lru_cache

from ..http.messages import Headers
from .limits import Decision, LimitState, RequestBucket, Slots


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
