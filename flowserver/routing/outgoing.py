"""The head of a request as one provider gets it. No I/O."""

from __future__ import annotations

from ..http.messages import RequestHead, request_for_upstream
from ..relay.account import Account
from .routes import join_target
from .upstream_host import UpstreamHost


def outgoing_head(
    request: RequestHead, host: UpstreamHost, account: Account, *, request_id: bytes, pseudonym: bytes
) -> RequestHead:
    """`request` for `host`: with its names and its key, without what concerns only the relay or the client."""
    settings = host.settings
    return request_for_upstream(
        request,
        authority=host.authority,
        target=join_target(settings.url.path, account.target_for(host)),
        pseudonym=pseudonym,
        request_id=request_id,
        credential=account.credential(host),
        extra=settings.headers,
        hidden=account.hidden_fields(host),
        secret=account.key,
    )
