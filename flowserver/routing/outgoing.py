"""Makes the request that a provider gets. No I/O."""

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
    ids: tuple[bytes, bytes],
    *,
    repeatable: bool,
) -> tuple[RequestHead, Sequence[bytes]]:
    """`request` for `host`: with its names and key, and without what concerns only the relay or the client. Returns the
    head, and the body so far, changed if this provider or the budget requires it.

    `ids`: the request id, and the relay's pseudonym. `repeatable`: the request may be repeated without the option for a
    usage report.
    """
    body, longer = replay.pieces, None
    changed = account.ask(host, body, repeatable=repeatable and replay.is_replayable and replay.is_whole)
    if changed is not None:
        body, longer = changed
    settings = host.settings
    passing = passing_fields(request, settings.headers, hidden=account.hidden_fields(host), secret=account.key)
    trace = account.trace
    if trace is not None and not (account.is_signed and b"traceparent" in request.fields):
        passing = trace.carry(passing)
    headers: Headers = [(b"host", host.authority), *passing]
    credential = account.credential(host)
    if credential is not None:
        headers.append(credential)
    headers += settings.headers
    target = join_target(settings.url.path, account.target_for(host))
    head = request_for_upstream(request, target, headers, pseudonym=ids[1], request_id=ids[0])
    if longer is not None:
        head.has_body = True
        head.content_length = _length(request, replay, body, longer)
    head.body_follows = bool(body)
    head.awaits_whole = account.awaits_whole
    request.forget_index()
    return head, body


def _length(request: RequestHead, replay: ReplayBuffer, body: Sequence[bytes], longer: int) -> int | None:
    """The length of a changed body, of which `body` has arrived; None: not known yet."""
    if replay.is_whole:
        return sum(map(len, body))
    length = request.content_length
    return length + longer if length is not None else None
