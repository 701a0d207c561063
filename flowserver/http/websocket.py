"""Handshakes of WebSockets: RFC 6455 section 4 over HTTP/1.1, RFC 8441 over HTTP/2. No I/O.

Once parsed, a handshake looks the same over both: a GET without a body, `is_tunnel`, with its key in the same field as
other requests.
"""

from __future__ import annotations

import base64
import binascii
import os
from hashlib import sha1

from .messages import Headers, RequestHead, ResponseHead

KEY = b"sec-websocket-key"
ACCEPT = b"sec-websocket-accept"
PROTOCOLS = b"sec-websocket-protocol"
EXTENSIONS = b"sec-websocket-extensions"

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_PROTOCOL = b"openai-insecure-api-key."
"""Browsers can't set fields of a handshake: they send a key to OpenAI's API as one of the subprotocols."""


def asks_for_websocket(head: RequestHead) -> bool:
    """Whether an HTTP/1.1 request with an Upgrade field is a handshake (RFC 6455 section 4.2.1)."""
    if head.method != b"GET" or head.http_version != b"1.1" or head.fields[b"upgrade"].strip().lower() != b"websocket":
        return False
    options = b",".join(value for name, value in head.headers if name == b"connection")
    return any(option.strip().lower() == b"upgrade" for option in options.split(b","))


def handshake(request: RequestHead, *, is_read: bool) -> RequestHead:
    """`request`, which `is_tunnel`, in the form of all others: over HTTP/1.1, without a body, and with a key from its
    subprotocols moved to the usual field. `is_read`: the relay reads the messages, so no extension may change them."""
    headers = request.headers
    if is_read:
        headers = [field for field in headers if field[0] != EXTENSIONS]
    if any(name == PROTOCOLS and value.find(_KEY_PROTOCOL) >= 0 for name, value in headers):
        headers = _with_shown_key(headers)
    if request.http_version == b"2":
        nonce = base64.b64encode(os.urandom(16))
        headers = [*(field for field in headers if field[0] not in (KEY, ACCEPT)), (KEY, nonce)]
    head = RequestHead(b"GET", request.target, headers)
    head.http_version = request.http_version
    head.is_tunnel = True
    return head


def _with_shown_key(headers: Headers) -> Headers:
    key, kept = None, []
    for value in (value for name, value in headers if name == PROTOCOLS):
        for protocol in map(bytes.strip, value.split(b",")):
            if protocol.startswith(_KEY_PROTOCOL):
                key = protocol.removeprefix(_KEY_PROTOCOL)
            elif protocol:
                kept.append(protocol)
    headers = [field for field in headers if field[0] != PROTOCOLS]
    if kept:
        headers.append((PROTOCOLS, b", ".join(kept)))
    if key and not any(name == b"authorization" for name, _ in headers):
        headers.append((b"authorization", b"Bearer " + key))
    return headers


def is_accepted(request: RequestHead, head: ResponseHead) -> bool:
    """Whether `head`, of status 101, accepts the handshake `request` (RFC 6455 section 4.1)."""
    key, upgrade = request.find(KEY), head.find(b"upgrade")
    if key is None or upgrade is None or upgrade.lower() != b"websocket":
        return False
    digest = sha1(key + _GUID, usedforsecurity=False).digest()
    return head.find(ACCEPT) == binascii.b2a_base64(digest, newline=False)


def close_frame(code: int, reason: str) -> bytes:
    """A server's Close frame (RFC 6455 section 5.5.1). `reason` is cut if it is too long."""
    payload = code.to_bytes(2, "big") + reason.encode()[:123].decode(errors="ignore").encode()
    return bytes((0x88, len(payload))) + payload
