"""A request's head as one provider gets it. No I/O."""

from __future__ import annotations

from ..http.messages import RequestHead, request_for_upstream
from ..relay.account import Account
from .routes import join_target
from .upstream_host import UpstreamHost


def outgoing_head(
    request: RequestHead, target: UpstreamHost, account: Account, *, request_id: bytes, pseudonym: bytes
) -> RequestHead:
    """`request` for `target`: its names, its key, and nothing that is the relay's or the client's own business."""
    settings = target.settings
    return request_for_upstream(
        request,
        authority=target.authority,
        target=join_target(settings.url.path, account.target_for(target)),
        pseudonym=pseudonym,
        request_id=request_id,
        credential=account.credential(target),
        extra=settings.headers,
        hidden=account.hidden_fields(target),
        secret=account.key,
    )
