"""What providers' refusals mean, and the error for a request without a route. No I/O."""

from __future__ import annotations

from typing import Final

from ..errors import RelayError, bad_request
from ..http.messages import RequestHead, ResponseHead
from ..names import PATH_BYTES, bounded
from ..relay.account import Account
from ..relay.failures import retry_after
from .context import RoutingContext
from .upstream_host import UpstreamHost

REFUSALS: Final = (400, 422)
"""Statuses for a request that contains something unexpected."""
UNHEALTHY: Final = frozenset((429, 502, 503, 504, 529))
"""Statuses for "not now". The request goes to another provider, if there is one."""


def note_refusal(
    host: UpstreamHost,
    head: ResponseHead,
    subjects: tuple[tuple[str, bytes], tuple[str, str | None]],
    context: RoutingContext,
) -> float | None:
    """Account for a "not now" status. Returns the seconds that the provider asks to wait, or None."""
    now = context.clock()
    after = retry_after(head, context.wall_clock)
    host.failures[f"status_{head.status}"] += 1
    key, model = subjects
    if head.status == 429:
        host.cooldowns.limited(now, key, after)
    else:
        host.cooldowns.failed(now, model, after)
    return after


def no_route(request: RequestHead, account: Account) -> RelayError:
    if (unread := account.request.unread) is not None:
        return unread
    model = account.params.model
    named = f" for the model {model!r}" if model is not None else ""
    path = bounded(request.path.decode("ascii"), PATH_BYTES)
    return bad_request(f"No route matches {path}{named}.", status=404, code="no_route")
