"""A request as one provider gets it. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from ..http.messages import Headers, RequestHead, passing_fields, request_for_upstream
from ..relay.account import Account
from .replay_buffer import ReplayBuffer
from .routes import join_target
from .upstream_host import UpstreamHost


def outgoing_request(
    host: UpstreamHost,
    request: RequestHead,
    account: Account,
    replay: ReplayBuffer,
    *,
    repeatable: bool,
    ids: tuple[bytes, bytes],
) -> tuple[RequestHead, Sequence[bytes]]:
    """The head, and the body as far as it came, changed where this provider or the budget requires it.

    `repeatable`: it was not repeated yet without the option for a usage report. `ids`: the request's and the relay's.
    """
    body, longer = replay.pieces, None
    changed = account.ask(host, body, repeatable=repeatable and replay.is_replayable and replay.is_whole)
    if changed is not None:
        body, longer = changed
    head = _head(request, host, account, request_id=ids[0], pseudonym=ids[1])
    if longer is not None:
        head.has_body = True
        length = request.content_length
        if replay.is_whole:
            head.content_length = sum(map(len, body))
        else:
            head.content_length = length + longer if length is not None else None
    head.body_follows = bool(body)
    head.awaits_whole = account.awaits_whole
    return head, body


def _head(
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
