"""Cross-origin requests of browsers (Fetch Standard, "CORS protocol"): which pages may use the relay. No I/O."""

from __future__ import annotations

import re
from typing import Final

from ..dialects import TABLE
from ..errors import RelayError, bad_request
from ..http.messages import Headers, RequestHead

ANY = "*"
"""Means all origins."""
REQUEST_FIELDS: Final = frozenset((b"origin", b"access-control-request-method", b"access-control-request-headers"))
"""The request fields of cross-origin requests, for whoever answers them, the relay or the provider."""

_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_MAX_AGE = b"7200"
"""Seconds for which a browser may cache a preflight's answer: Chromium's maximum."""
_NAMES = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")
_EXPOSED = b", ".join(
    (
        b"x-request-id",
        b"x-upstream-request-id",
        b"request-id",
        b"retry-after",
        b"retry-after-ms",
        b"x-should-retry",
        *TABLE.limit_fields,
    )
)
"""Fields of an answer that pages may read, in addition to the safelisted ones."""


def is_preflight(request: RequestHead) -> bool:
    """Whether it is a browser's preflight. Preflights never carry a key."""
    if request.method != b"OPTIONS" or request.has_body:
        return False
    return request.find(b"origin") is not None and request.find(b"access-control-request-method") is not None


def with_cors(headers: Headers, cors: Headers) -> Headers:
    """An answer's fields with the relay's own CORS fields, `cors`, in place of the provider's."""
    return [field for field in headers if not field[0].startswith(b"access-control-")] + cors


class Cors:
    """`origins`: in the form that browsers send, in lower case, or `ANY`."""

    __slots__ = ("_any", "_origins")

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._any = ANY in origins
        self._origins = frozenset(origin.encode("ascii") for origin in origins)

    def allows(self, origin: bytes) -> bool:
        return self._any or origin.lower() in self._origins

    def fields(self, request: RequestHead) -> Headers:
        """The CORS fields for an answer to `request`."""
        varies = (b"vary", b"Origin")
        origin = request.find(b"origin")
        if origin is None or not self.allows(origin):
            return [varies]
        return [varies, (b"access-control-allow-origin", origin), (b"access-control-expose-headers", _EXPOSED)]

    def preflight(self, request: RequestHead) -> Headers | RelayError:
        """The fields of the answer to a preflight."""
        origin = request.find(b"origin") or b""
        if not self.allows(origin):
            shown = origin[:80].decode("latin-1")
            message = f"Pages from {shown} may not use this relay. FLOW_CORS_ORIGINS lists the origins that may."
            return bad_request(message, status=403, code="origin_not_allowed")
        fields: Headers = [
            (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-max-age", _MAX_AGE),
        ]
        wanted = request.find(b"access-control-request-headers")
        if wanted is not None and _NAMES.fullmatch(wanted):
            fields.append((b"access-control-allow-headers", wanted))
        return fields
