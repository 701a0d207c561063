"""Access control for the admin listener: control needs the token of FLOW_ADMIN_TOKEN.

It comes in a header that a web page can send to another site only after a preflight (CORS), which the relay does not
answer; there are no cookies. So no page can act on behalf of its reader.
"""

from __future__ import annotations

from hmac import compare_digest

from ..http.messages import RequestHead

_SCHEME = b"bearer "
_READ_ONLY = (
    b"The admin listener is read-only: FLOW_ADMIN_TOKEN is not set. Set it and restart the relay, or use the "
    b"socket of FLOW_CONTROL_SOCKET.\n"
)
_MISSING = b"This needs the token of FLOW_ADMIN_TOKEN: send it as `Authorization: Bearer TOKEN`.\n"
_WRONG = b"This is not the token of FLOW_ADMIN_TOKEN.\n"


class AdminAccess:
    """`token` may change while the relay runs; None: nobody has access."""

    __slots__ = ("token",)

    def __init__(self, token: str | None) -> None:
        self.token = token

    def refusal(self, request: RequestHead) -> tuple[int, bytes] | None:
        """Status and text of a refusal; None: access is granted."""
        if self.token is None:
            return 403, _READ_ONLY
        given = request.fields.get(b"authorization", b"")
        if not given.lower().startswith(_SCHEME):
            return 401, _MISSING
        if not compare_digest(given[len(_SCHEME) :].strip(), self.token.encode("ascii")):
            return 401, _WRONG
        return None
