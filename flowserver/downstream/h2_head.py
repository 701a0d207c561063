"""Request heads of HTTP/2, checked before they become a request upstream (RFC 9113 section 8.3).

h2 lets through a method or path with blanks, an absolute URL as path, userinfo in the authority, control bytes in
values, and odd names: each would write another request into an HTTP/1.1 connection. Here h2's own checks are off, since
they end the whole connection; what is malformed costs its sender one stream.
"""

from __future__ import annotations

import re

from ..errors import RelayError, bad_request
from ..messages import Headers, RequestHead
from .head import AUTHORITY, MAX_HEADERS, MAX_URI, METHOD, check_expect, uri_too_long

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_PATH = re.compile(rb"/[\x21\x22\x24-\x7e]*")
_PSEUDO = (b":method", b":scheme", b":authority", b":path")
_CONNECTION_SPECIFIC = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"http2-settings")
)


class Malformed(Exception):
    """The stream must be reset with PROTOCOL_ERROR (RFC 9113 section 8.1.1)."""


def parse_h2_head(headers: Headers, *, ended: bool) -> RequestHead | RelayError:
    """The request that `headers` are; `ended` tells that no body follows.

    Raises Malformed. A RelayError is a request in good form that is not served.
    """
    pseudo, fields = _split(headers)
    method, path = pseudo.get(b":method"), pseudo.get(b":path")
    if method is None or not METHOD.fullmatch(method):
        raise Malformed("no proper :method")
    if method in (b"CONNECT", b"TRACE"):
        return bad_request(f"{method.decode()} is not served here.", status=405, code="method_not_allowed")
    if pseudo.get(b":scheme") not in (b"http", b"https"):
        raise Malformed("no proper :scheme")
    if not path:
        raise Malformed("no :path")
    _check_authority(pseudo.get(b":authority"), [value for name, value in fields if name == b"host"])
    length = _content_length(fields, ended=ended)
    if len(path) > MAX_URI:
        return uri_too_long()
    if not _PATH.fullmatch(path):
        if path == b"*" and method == b"OPTIONS":
            return bad_request("OPTIONS * is not served here.")
        raise Malformed("no proper :path")
    if len(fields) > MAX_HEADERS:
        return bad_request(f"The request has more than {MAX_HEADERS} headers.", status=431, code="too_many_headers")
    error = check_expect(fields)
    if error is not None:
        return error
    return RequestHead(
        method, path, _join_cookies(fields), http_version=b"2", content_length=length, has_body=not ended
    )


def check_trailers(headers: Headers) -> None:
    """Trailers are dropped, but malformed ones must not pass for an end. Raises Malformed."""
    pseudo, _ = _split(headers)
    if pseudo:
        raise Malformed("a pseudo-header field in trailers")


def _split(headers: Headers) -> tuple[dict[bytes, bytes], Headers]:
    """Pseudo-header fields and the others, all of proper form."""
    pseudo: dict[bytes, bytes] = {}
    fields: Headers = []
    for name, value in headers:
        if not _VALUE.fullmatch(value):
            raise Malformed("a value with control characters, or with blanks around it")
        if name.startswith(b":"):
            if fields or name in pseudo or name not in _PSEUDO:
                raise Malformed("a pseudo-header field that is late, repeated or unknown")
            pseudo[name] = value
            continue
        if not _NAME.fullmatch(name):
            raise Malformed("no proper field name")
        if name in _CONNECTION_SPECIFIC or (name == b"te" and value.lower() != b"trailers"):
            raise Malformed("a field of HTTP/1.1 connections")
        fields.append((name, value))
    return pseudo, fields


def _check_authority(authority: bytes | None, hosts: list[bytes]) -> None:
    """One of both, without userinfo; where both are there they must agree (RFC 9113 section 8.3.1)."""
    if len(hosts) > 1:
        raise Malformed("more than one host field")
    name = authority if authority is not None else hosts[0] if hosts else None
    if name is None or not AUTHORITY.fullmatch(name):
        raise Malformed("no proper :authority")
    if hosts and hosts[0].lower() != name.lower():
        raise Malformed("host and :authority differ")


def _content_length(fields: Headers, *, ended: bool) -> int | None:
    lengths = [value for name, value in fields if name == b"content-length"]
    if not lengths:
        return None
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,15}", lengths[0]):
        raise Malformed("no proper content-length")
    length = int(lengths[0])
    if ended and length:
        raise Malformed("a content-length without a body")
    return length


def _join_cookies(fields: Headers) -> Headers:
    """HTTP/1.1 wants one cookie field (RFC 9113 section 8.2.3)."""
    crumbs = [value for name, value in fields if name == b"cookie"]
    if len(crumbs) < 2:
        return fields
    return [*(field for field in fields if field[0] != b"cookie"), (b"cookie", b"; ".join(crumbs))]
