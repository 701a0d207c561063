"""The errors that refused clients get. No I/O."""

from __future__ import annotations

import math

from ..errors import EndReason, Party, RelayError, bad_request
from ..names import PATH_BYTES, bounded
from .limits import Cause, Decision, MoneyQuota
from .tenants import Tenant


def refusal(decision: Decision) -> RelayError:
    """The error for a refused request. An exhausted quota is distinguished from a rate, since only with a rate does
    waiting help."""
    wait = decision.retry_after
    after = max(1, math.ceil(wait)) if wait is not None else None
    name = decision.refused_by.key if decision.refused_by is not None else ""
    if decision.cause is Cause.UNAVAILABLE:
        return NO_STORE
    if decision.cause is Cause.QUOTA:
        unit = "money" if isinstance(decision.refused_by, MoneyQuota) else "tokens"
        text = f"The quota of {unit} is used up ({_short(name)}). It is renewed when its period is over."
        return _limited("insufficient_quota", text, after)
    if decision.cause is Cause.CONCURRENCY:
        text = f"The limit of concurrent requests is reached ({_short(name)}). Try again when one of them has ended."
        return _limited("concurrency_limit_exceeded", text, after or 1)
    text = f"The rate limit is reached ({_short(name)}). Try again after the time in retry-after."
    return _limited("rate_limit_exceeded", text, after)


def model_refused(model: str | None) -> RelayError:
    text = f"This key may not use the model {model!r}, or there is no such model."
    return RelayError(404, "model_not_found", text, Party.CLIENT, EndReason.LIMITED)


FALLBACK_MODELS = bad_request(
    "The body names models to fall back on (`models` or `fallbacks`), and this key's use is limited by model or in "
    "money. Name one model, in `model`.",
    code="ambiguous_model",
)


def price_missing(model: str | None, upstream: str) -> RelayError:
    """The error for a tenant with limits in money whose request has no price: it would pass uncounted."""
    what = f"the model {model!r}" if model is not None else "a request that names no model"
    text = (
        f"There is no price for {what} at {upstream!r}, and this key has limits in money. The relay's operator can add "
        "one: a [[prices]] table whose `models` match, in the file of FLOW_CONFIG or in its "
        "`prices_file`."
    )
    return RelayError(403, "price_missing", text, Party.CLIENT, EndReason.LIMITED)


UNCOUNTED_TUNNEL = RelayError(
    403,
    "not_counted",
    "This key has limits in money, and the traffic of this WebSocket can't be counted.",
    Party.CLIENT,
    EndReason.LIMITED,
)


def path_refused(tenant: Tenant, path: str) -> RelayError:
    text = f"This key may not use {bounded(path, PATH_BYTES)}."
    if not tenant.paths:
        text += (
            " It may use the APIs whose tokens are counted, and the list of models. The relay's operator can add"
            " other paths in the tenant's `paths`."
        )
    return RelayError(403, "permission_denied", text, Party.CLIENT, EndReason.LIMITED)


def _short(key: str) -> str:
    """A limit's name without its tenant."""
    return key.partition("}:")[2].replace(":", " ")


def _limited(code: str, text: str, after: int | None) -> RelayError:
    return RelayError(429, code, text, Party.CLIENT, EndReason.LIMITED, retry_after=after)


NO_KEY = RelayError(
    401,
    "missing_api_key",
    "This relay requires a relay key, in the API's own field for keys (Authorization: Bearer ...).",
    Party.CLIENT,
    EndReason.LIMITED,
)
SIGNED_WITHOUT_KEY = RelayError(
    401,
    "missing_api_key",
    "This relay requires a relay key, and can't check an AWS signature. Send the key as Authorization: Bearer, which "
    "AWS SDKs do when AWS_BEARER_TOKEN_BEDROCK is set to it.",
    Party.CLIENT,
    EndReason.LIMITED,
)
UNKNOWN_KEY = RelayError(
    401,
    "invalid_api_key",
    "The key is unknown to this relay, or no longer valid. Ask the relay's operator for another one.",
    Party.CLIENT,
    EndReason.LIMITED,
)
NO_STORE = RelayError(
    503,
    "limits_unavailable",
    "Limits can't be checked now, and nothing may pass unchecked. Try again shortly.",
    Party.RELAY,
    EndReason.LIMITED,
    retry_after=1,
)
