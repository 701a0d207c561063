"""Heads of requests and responses, and the hygiene between the two sides (RFC 9110 section 7.6, RFC 9112 section 6).

Header names are lower-case bytes everywhere behind the parsers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from typing import Final

Headers = list[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    )
)
"""Fields that end at this hop (RFC 9110 section 7.6.1), the non-standard but common ones included."""

BUDGET: Final = b"x-flow-max-tokens"
"""A client's own limit on the tokens of its answer; it can lower the relay's, not raise it."""

USER = b"x-flow-user"
"""The user within a tenant; counted separately if users have limits."""
SESSION = b"x-flow-session"
"""The session of the request; counted separately if sessions have limits."""

CLASS: Final = b"x-flow-class"
"""`interactive` or `batch`: the client says whether somebody waits for the answer."""

PSEUDO_AUTHORITY = b":authority"
"""A pseudo-header field of HTTP/2, in the place of HTTP/1.1's Host."""

REQUEST_OWN = frozenset(
    (b"host", b"content-length", b"expect", b"accept-encoding", b"x-request-id", b"via", BUDGET, USER, SESSION, CLASS)
)
"""Request fields that the relay writes itself."""

CREDENTIALS: Final = frozenset(
    (
        b"authorization",
        b"x-api-key",
        b"api-key",
        b"x-goog-api-key",
        b"x-amz-security-token",
        b"x-amz-date",
        b"x-amz-content-sha256",
    )
)
"""Fields in which providers' APIs expect keys, and those of an AWS signature."""

PRIVATE = frozenset(
    (
        b"cookie",
        b"cookie2",
        b"referer",
        b"forwarded",
        b"x-real-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-original-forwarded-for",
        b"x-envoy-external-address",
        b"true-client-ip",
        b"fastly-client-ip",
        b"cf-connecting-ip",
        b"cf-connecting-ipv6",
    )
)
"""Request fields that reveal the user or the network in front of the relay. Not for providers, like those that begin
with `x-forwarded-`."""
_FORWARDED: Final = b"x-forwarded-"

METHOD_OVERRIDES = frozenset((b"x-http-method-override", b"x-http-method", b"x-method-override"))
"""Fields that override the method for some servers; the relay decides by the request's own."""

UPSTREAM_ID: Final = b"x-upstream-request-id"
"""The provider's own id of a request, as sent to clients."""
_UPSTREAM_IDS: Final = (
    b"x-request-id",
    b"request-id",
    b"x-amzn-requestid",
    b"apim-request-id",
    b"x-goog-request-id",
    UPSTREAM_ID,  # of another relay
)

_ENDS_HERE_OF_REQUESTS: Final = HOP_BY_HOP | REQUEST_OWN | METHOD_OVERRIDES | PRIVATE
COOKIES = frozenset((b"set-cookie", b"set-cookie2"))
_ENDS_HERE_OF_RESPONSES: Final = HOP_BY_HOP | {b"content-length", b"x-request-id", UPSTREAM_ID}
_ENDS_HERE_WITH_COOKIES: Final = _ENDS_HERE_OF_RESPONSES | COOKIES

_ID_BYTES: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/+=-"
_LONGEST_ID: Final = 128
_DOT_SEGMENT: Final = re.compile(rb"(?:.*/)?\.\.?(?:/|\Z)")
_TRACE_IDS = rb"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_TRACEPARENT = re.compile(rb"00%b|(?!00|ff)[0-9a-f]{2}%b(?:-[!-~]*)?" % (_TRACE_IDS, _TRACE_IDS))
"""Version 00, and the part of later versions that must be understood (W3C Trace Context section 4)."""


_FORGOTTEN: Headers = []


class RequestHead:
    """A request without its body.

    `target` is in origin form, its path canonical (`paths.py`). `content_length` is None when the length is not known
    in advance; `has_body` tells whether a body follows at all.
    """

    __slots__ = (
        "_fields",
        "_passing",
        "awaits_whole",
        "body_follows",
        "content_length",
        "has_body",
        "headers",
        "http_version",
        "is_tunnel",
        "method",
        "target",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        *,
        content_length: int | None = None,
        has_body: bool = False,
        fields: dict[bytes, bytes] | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.http_version = b"1.1"
        """b"1.0", b"1.1" or b"2"."""
        self.content_length = content_length
        self.has_body = has_body
        self.is_tunnel = False
        """Whether it asks for a WebSocket (RFC 6455, RFC 8441)."""
        self.body_follows = False
        """Whether body bytes follow in the same turn of the event loop: head and body may go out in one write."""
        self.awaits_whole = False
        """Whether its answer is known not to be a stream."""
        self._fields = fields
        """First values of `headers`; None: not collected yet, or not any more."""
        self._passing: Headers | None = None
        """None: not kept, see `keep_passing`."""

    def of_length(self, place: int, length: bytes, *, has_body: bool) -> RequestHead:
        """The same head with another Content-Length; `place` is the index of its only such field."""
        headers, fields = self.headers.copy(), self.fields.copy()
        headers[place] = (b"content-length", length)
        fields[b"content-length"] = length
        head = RequestHead(
            self.method,
            self.target,
            headers,
            content_length=int(length),
            has_body=has_body,
            fields=fields,
        )
        head.http_version = self.http_version
        head._passing = self._passing
        return head

    @property
    def passing(self) -> Headers:
        """The fields passed on to a provider, without Content-Length; must not be modified. A malformed traceparent is
        dropped (W3C Trace Context section 3.2.2.3)."""
        if self._passing is not None:
            return self._passing
        kept = end_to_end(self, _ENDS_HERE_OF_REQUESTS)
        passing = [field for field in kept if field[0][: len(_FORWARDED)] != _FORWARDED]
        return _with_sane_trace(passing) if b"traceparent" in self.fields else passing

    def keep_passing(self) -> None:
        """Compute `passing` once, also for the heads made by `of_length` from now on. In a head that is sent only once
        it would take half a kilobyte until the answer begins."""
        self._passing = self.passing

    @property
    def fields(self) -> dict[bytes, bytes]:
        """The first value of each field. Ten of them are looked up per request, which has two or three."""
        fields = self._fields
        if fields is None:
            fields = self._fields = first_values(self.headers)
        return fields

    def find(self, name: bytes) -> bytes | None:
        """The first value of `name` (lower case); None when there is none."""
        fields = self._fields
        return self.fields.get(name) if fields is None else fields.get(name)

    def forget_index(self) -> None:
        """Drop `fields`, which take some 230 bytes until the answer begins. They are collected again if they are needed
        again, for another attempt."""
        self._fields = None

    def forget_fields(self) -> None:
        """Drop the fields, which take 1.4 KB. For a request that is answered: nothing is sent or decided by them any
        more."""
        self.headers = _FORGOTTEN
        self._fields = self._passing = None

    @property
    def path(self) -> bytes:
        """The target without its query, which may hold things that must not be logged (keys, prompts)."""
        return self.target.partition(b"?")[0]


class ResponseHead:
    """A response without its body. `content_length` None: the length is not known in advance."""

    __slots__ = ("_fields", "body_follows", "content_length", "headers", "reason", "status")

    def __init__(
        self,
        status: int,
        headers: Headers,
        *,
        reason: bytes = b"",
        content_length: int | None = None,
        fields: dict[bytes, bytes] | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.reason = reason
        self.content_length = content_length
        self.body_follows = False
        """As in `RequestHead`."""
        self._fields = fields
        """As in `RequestHead`."""

    @property
    def fields(self) -> dict[bytes, bytes]:
        """The first value of each field that the head came with."""
        fields = self._fields
        if fields is None:
            fields = self._fields = first_values(self.headers)
        return fields

    def find(self, name: bytes) -> bytes | None:
        """The first value of `name` (lower case) that the head came with; None when there is none."""
        fields = self._fields
        return self.fields.get(name) if fields is None else fields.get(name)


def find(headers: Headers, name: bytes) -> bytes | None:
    """The first value of `name` (lower case); None when there is none."""
    for field, value in headers:
        if field == name:
            return value
    return None


def first_values(headers: Headers) -> dict[bytes, bytes]:
    """The first value of each name."""
    fields: dict[bytes, bytes] = {}
    for name, value in reversed(headers):  # compiled, it takes half the time of `dict(reversed(headers))`
        fields[name] = value
    return fields


def keeps_alive(headers: Headers) -> bool:
    """Whether the fields of an HTTP/1.1 message leave its connection open (RFC 9112 section 9.3)."""
    return all(value.lower() == b"keep-alive" for name, value in headers if name == b"connection")


def end_to_end(head: RequestHead | ResponseHead, dropped: frozenset[bytes] = HOP_BY_HOP) -> Headers:
    """Its fields without those in `dropped`, which includes the hop-by-hop ones, and those that Connection names."""
    headers = head.headers
    kept = [field for field in headers if field[0] not in dropped]
    if head.find(b"connection") is not None:
        named = [value for name, value in headers if name == b"connection"]
        if named != [b"keep-alive"]:
            options = {option.strip().lower() for value in named for option in value.split(b",")}
            kept = [field for field in kept if field[0] not in options]
    return kept


def given_request_id(request: RequestHead) -> bytes | None:
    """The client's x-request-id if it is sane: short, printable, without quotes or blanks."""
    value = request.find(b"x-request-id")
    return value if value is not None and _is_sane_id(value) else None


def _is_sane_id(value: bytes) -> bool:
    """No dot segments: in a path that names the request they would lead to another one. `translate` checks the bytes in
    half the time that a regular expression takes."""
    if not 0 < len(value) <= _LONGEST_ID or value.translate(None, _ID_BYTES):
        return False
    return value.find(b".") < 0 or _DOT_SEGMENT.match(value) is None


def upstream_request_id(head: ResponseHead, request_id: bytes) -> bytes | None:
    """The provider's own id of the request, which its support asks for. None: it is missing or not sane, or it repeats
    the relay's `request_id`."""
    fields = head.fields
    for name in _UPSTREAM_IDS:
        value = fields.get(name)
        if value is not None and value != request_id and _is_sane_id(value):
            return value
    return None


def passed_through(headers: Headers, pseudonym: bytes) -> bool:
    """Whether a Via field says that this same relay has seen the request before (RFC 9110 section 7.6.3)."""
    return any(name == b"via" and pseudonym in value for name, value in headers)


def passing_fields(
    head: RequestHead,
    replaced: Sequence[tuple[bytes, bytes]] = (),
    *,
    hidden: Set[bytes] = frozenset(),
    secret: bytes | None = None,
) -> Headers:
    """The client's fields that are passed on to the provider.

    Left out are those that `replaced` replaces, those named in `hidden`, and any that contains `secret`, the client's
    key for the relay.
    """
    passing = head.passing
    if secret is not None:
        passing = [field for field in passing if field[0] not in hidden and field[1].find(secret) < 0]
    elif hidden:
        passing = [field for field in passing if field[0] not in hidden]
    if replaced:
        names = {name for name, _ in replaced}
        passing = [field for field in passing if field[0] not in names]
    return passing


def request_for_upstream(
    head: RequestHead, target: bytes, headers: Headers, *, pseudonym: bytes, request_id: bytes
) -> RequestHead:
    """The request as sent to the provider: `headers`, plus those that all requests have.

    It asks for identity encoding, since the relay must read answers to count tokens.
    """
    via = head.http_version + b" " + pseudonym
    if b"via" in head.fields:
        via = b", ".join([*(value for name, value in head.headers if name == b"via"), via])
    headers += ((b"accept-encoding", b"identity"), (b"via", via), (b"x-request-id", request_id))
    sent = RequestHead(head.method, target, headers, content_length=head.content_length, has_body=head.has_body)
    sent.is_tunnel = head.is_tunnel
    return sent


def is_traceparent(value: bytes) -> bool:
    """Whether `value` is well formed, as far as its version is known."""
    return _TRACEPARENT.fullmatch(value) is not None


def _with_sane_trace(headers: Headers) -> Headers:
    sane = [field for field in headers if field[0] != b"traceparent" or is_traceparent(field[1])]
    return sane if len(sane) == len(headers) else [field for field in sane if field[0] != b"tracestate"]


def response_for_downstream(
    head: ResponseHead, *, request_id: bytes, upstream_id: bytes | None = None, passes_cookies: bool = True
) -> ResponseHead:
    """The provider's response head as sent to the client; the framing is derived anew from `content_length`.
    `upstream_id` is the provider's own id of the request."""
    headers = end_to_end(head, _ENDS_HERE_OF_RESPONSES if passes_cookies else _ENDS_HERE_WITH_COOKIES)
    headers.append((b"x-request-id", request_id))
    if upstream_id is not None:
        headers.append((UPSTREAM_ID, upstream_id))
    length = None if head.status == 204 else head.content_length  # RFC 9110 section 8.6
    passed = ResponseHead(head.status, headers, reason=head.reason, content_length=length)
    passed.body_follows = head.body_follows
    return passed


def has_no_body(method: bytes, status: int) -> bool:
    """Whether a response to `method` with `status` never carries a body (RFC 9112 section 6.3)."""
    return method == b"HEAD" or status in (204, 304) or status < 200
