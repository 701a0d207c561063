"""The head of a request as one provider gets it. No I/O."""

from __future__ import annotations

from ..http.messages import Headers, RequestHead, passing_fields, request_for_upstream
from ..relay.account import Account
from .routes import join_target
from .upstream_host import UpstreamHost


def outgoing_head(
    request: RequestHead, host: UpstreamHost, account: Account, *, request_id: bytes, pseudonym: bytes
) -> RequestHead:
    """`request` for `host`: its names, its key, and nothing that is the relay's or the client's own business."""
    settings = host.settings
    passing = passing_fields(request, settings.headers, hidden=account.hidden_fields(host), secret=account.key)
    headers: Headers = [(b"host", host.authority), *passing]
    credential = account.credential(host)
    if credential is not None:
        headers.append(credential)
    headers += settings.headers
    target = join_target(settings.url.path, account.target_for(host))
    return request_for_upstream(request, target, headers, pseudonym=pseudonym, request_id=request_id)
