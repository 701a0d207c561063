"""What the answers of providers mean that refuse a request, and what a request is told that no route serves. No I/O."""

from __future__ import annotations

from ..errors import RelayError, bad_request
from ..http.messages import RequestHead, ResponseHead
from ..names import PATH_BYTES, bounded
from ..relay.account import Account
from ..relay.failures import retry_after
from .context import RoutingContext
from .upstream_host import UpstreamHost

REFUSALS = (400, 422)
"""Statuses that say: there is something in the request that should not be."""
UNHEALTHY = frozenset((429, 502, 503, 504, 529))
"""Statuses that say: not now. Another provider is asked, if there is one."""


def note_refusal(
    host: UpstreamHost,
    head: ResponseHead,
    subjects: tuple[tuple[str, bytes], tuple[str, str | None]],
    context: RoutingContext,
) -> float | None:
    """Account for a status that says: not now. Returns the seconds that the provider asks for, or None."""
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
    return bad_request(f"No route leads on from {path}{named}.", status=404, code="no_route")
