"""Rate-limit fields of an answer: the tenant's own replace those of the provider's account. No I/O."""

from __future__ import annotations

import math

from ..dialects import TABLE
from ..dialects.limit_fields import LimitFields
from ..http.messages import Headers
from ..names import cached
from .limits import Decision, LimitState, RequestBucket, Slots


def for_tenants(headers: Headers) -> Headers:
    """An answer's fields without those about the relay's account at the provider: its limits, its organisation."""
    return [field for field in headers if not _is_of_account(field[0])]


@cached
def _is_of_account(name: bytes) -> bool:
    known = name in TABLE.account_fields or name in TABLE.limit_fields
    return known or any(part in name for part in _PARTS_OF_ACCOUNTS)


_PARTS_OF_ACCOUNTS = (b"ratelimit", b"organization", b"organisation")


def limit_fields(decision: Decision | None, names: LimitFields, *, now: float) -> Headers:
    """Fields with the remaining amounts, in the form that the API's client libraries read: the tightest limit of each
    kind."""
    if decision is None:
        return []
    fields: Headers = []
    for (limit, remaining, reset), state in zip((names.requests, names.tokens), _tightest(decision), strict=True):
        if state is not None:
            fields += (
                (limit, b"%d" % state.limit.limit),
                (remaining, b"%d" % state.remaining),
                (reset, names.reset(now, state.reset or 0.0)),
            )
    if not decision.admitted and decision.retry_after is not None:
        fields.append((b"retry-after-ms", b"%d" % math.ceil(decision.retry_after * 1000)))
    return fields


def _tightest(decision: Decision) -> tuple[LimitState | None, LimitState | None]:
    """The limit with the least left, for requests and for tokens."""
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
