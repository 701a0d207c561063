"""A request and its answer on an HTTP/1.1 connection: states, framing, ends. No I/O.

Nearly all requests are plain: HTTP/1.1, with a length or without a body, on a persistent connection. Their states are
implemented here; h11, which a small answer would spend a third of its time in, handles all others. A test compares the
two.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import h11

from ..errors import RelayError, bad_request
from .h1_chunked import FramingError
from .h1_fields import UPGRADE, encode_head, head_for_h11, insert_fields
from .h1_request_body import ChunkedBody
from .h1_request_head import MAX_HEAD, UPGRADE_NOT_SUPPORTED, parse_head
from .messages import Headers, RequestHead, ResponseHead, has_no_body, keeps_alive
from .websocket import asks_for_websocket

MAX_SKIPPED = 64 * 1024
"""If no more than this is left of a request's body after an early answer, in bytes, it is dropped and the connection
kept. That costs less than a new connection, over TLS a tenth."""

_BODY = tuple[bytes, bool, bytes]
"""Bytes of the body, whether the request is now complete, and what follows it."""


class Message(Protocol):
    """One request, whose head has been read, and its answer."""

    chunked: bool
    """Whether the answer is chunked; known once its head is sent, like the next field."""
    bodiless: bool
    """Whether the answer has no body, regardless of its head."""

    @property
    def head_sent(self) -> bool: ...

    @property
    def is_tunnel(self) -> bool:
        """Whether it has become a tunnel, which all bytes belong to, in both directions."""

    @property
    def reusable(self) -> bool:
        """Whether request and answer are complete, and another request may follow."""

    @property
    def may_skip(self) -> bool:
        """Whether so little of the body is left, if any, that the connection can be kept."""

    def skip(self) -> int:
        """The answer was early. Returns how many bytes of the body to drop, after which another request may follow; 0
        if none may."""

    @property
    def awaits_continue(self) -> bool:
        """Whether the client sends its body only after a 100 (RFC 9110 section 10.1.1)."""

    def interim(self, head: ResponseHead) -> bytes:
        """A 1xx response."""

    def head(self, head: ResponseHead, *, closes: bool) -> bytes:
        """The final head. `closes`: the connection ends with this answer."""

    def body(self, data: bytes) -> bytes:
        """Body bytes of an answer that is not chunked, as sent."""

    def end(self) -> bytes:
        """The bytes that end the answer on the wire, if any."""

    def feed(self, data: bytes) -> _BODY:
        """The body bytes in `data`. Raises FramingError or h11.RemoteProtocolError if they are malformed."""


def read_request(raw: bytes) -> tuple[RequestHead, Message] | RelayError:
    """Check the complete head `raw`."""
    head = parse_head(raw)
    if isinstance(head, RelayError):
        return head
    if _is_plain(head):
        return head, PlainMessage(head)
    if b"upgrade" in head.fields and head.fields[b"upgrade"].strip().lower() == b"websocket":
        return _read_handshake(head)
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    try:
        connection.receive_data(head_for_h11(raw[: raw.find(b"\r\n") + 2], head.headers))
        event = connection.next_event()
    except h11.RemoteProtocolError as failure:
        return bad_request(f"The request is malformed: {failure}.", status=failure.error_status_hint)
    if not isinstance(event, h11.Request):
        return bad_request("The request is malformed.")
    return head, H11Message(head, connection)


def _read_handshake(head: RequestHead) -> tuple[RequestHead, Message] | RelayError:
    if not asks_for_websocket(head):
        return UPGRADE_NOT_SUPPORTED
    if head.has_body:
        return bad_request("A WebSocket handshake must not have a body.")
    head.is_tunnel = head.has_body = True
    return head, UpgradeMessage(head)


def _is_plain(head: RequestHead) -> bool:
    fields = head.fields
    if head.http_version != b"1.1" or b"transfer-encoding" in fields or b"expect" in fields or b"upgrade" in fields:
        return False  # left to h11
    return b"connection" not in fields or keeps_alive(head.headers)


class PlainMessage:
    """A `Message` without h11."""

    __slots__ = ("_closes", "_ended", "_left", "_method", "bodiless", "chunked", "head_sent")

    awaits_continue: ClassVar[bool] = False
    is_tunnel: ClassVar[bool] = False

    def __init__(self, request: RequestHead) -> None:
        self._method = request.method
        self._left = request.content_length or 0
        self.head_sent = False
        self.chunked = self.bodiless = False
        self._closes = False
        self._ended = False

    @property
    def reusable(self) -> bool:
        return self._ended and not self._left and not self._closes

    @property
    def may_skip(self) -> bool:
        return self._left <= MAX_SKIPPED

    def skip(self) -> int:
        if self._closes:
            return 0
        left, self._left = self._left, 0
        return left

    def interim(self, head: ResponseHead) -> bytes:
        return encode_head(head.status, head.reason, head.headers)

    def head(self, head: ResponseHead, *, closes: bool) -> bytes:
        self.head_sent = True
        self._closes = closes
        self.bodiless = bodiless = has_no_body(self._method, head.status)
        framing = b""
        if head.content_length is not None:
            framing = b"content-length: %d\r\n" % head.content_length
        elif head.status not in (204, 304):  # to HEAD the fields are those of GET (RFC 9112 section 6.1)
            self.chunked = not bodiless
            framing = b"transfer-encoding: chunked\r\n"
        if closes:
            framing += b"connection: close\r\n"
        return encode_head(head.status, head.reason, head.headers, framing)

    def body(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes:
        self._ended = True
        return b"0\r\n\r\n" if self.chunked else b""

    def feed(self, data: bytes) -> _BODY:
        left = self._left
        size = len(data)
        if size <= left:
            self._left = left - size
            return data, size == left, b""
        self._left = 0
        return data[:left], True, data[left:]


class UpgradeMessage:
    """A `Message`: a handshake and its answer. From the 101 on all bytes are the tunnel's, in both directions. Any
    other answer ends the connection: bytes after the handshake were meant for the tunnel."""

    __slots__ = ("_plain", "bodiless", "chunked", "is_tunnel")

    may_skip = False
    awaits_continue = False
    reusable = False

    def __init__(self, request: RequestHead) -> None:
        self._plain = PlainMessage(request)
        self.chunked = self.bodiless = False
        self.is_tunnel = False

    @property
    def head_sent(self) -> bool:
        return self.is_tunnel or self._plain.head_sent

    def skip(self) -> int:
        return 0

    def interim(self, head: ResponseHead) -> bytes:
        return self._plain.interim(head)

    def head(self, head: ResponseHead, *, closes: bool) -> bytes:
        if head.status == 101:
            self.is_tunnel = True
            return encode_head(101, b"Switching Protocols", head.headers, UPGRADE)
        raw = self._plain.head(head, closes=True)
        self.chunked, self.bodiless = self._plain.chunked, self._plain.bodiless
        if head.status == 426:  # RFC 9110 section 15.5.22
            raw = raw.replace(b"connection: close\r\n", b"upgrade: HTTP/1.1\r\nconnection: close, upgrade\r\n", 1)
        return raw

    def body(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes:
        return b"" if self.is_tunnel else self._plain.end()

    def feed(self, data: bytes) -> _BODY:
        if data and not self.is_tunnel:
            raise FramingError("bytes of a WebSocket before its handshake was answered")
        return data, False, b""


class H11Message:
    """A `Message` by h11. Chunks are read and written without it (see `h1_chunked`)."""

    __slots__ = ("_h11", "_is_1_1", "_method", "_upload", "bodiless", "chunked")

    may_skip = False
    is_tunnel = False

    def __init__(self, request: RequestHead, connection: h11.Connection) -> None:
        self._h11 = connection
        self._method = request.method
        self._is_1_1 = request.http_version == b"1.1"
        self._upload = ChunkedBody() if request.has_body and request.content_length is None else None
        """Reads a body that comes in chunks; None for others."""
        self.chunked = self.bodiless = False

    @property
    def head_sent(self) -> bool:
        return self._h11.our_state is not h11.SEND_RESPONSE

    @property
    def reusable(self) -> bool:
        return self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    def skip(self) -> int:
        return 0

    @property
    def awaits_continue(self) -> bool:
        return bool(self._h11.they_are_waiting_for_100_continue)

    def interim(self, head: ResponseHead) -> bytes:
        if not self._is_1_1:
            return b""  # RFC 9110 section 15.2
        event = h11.InformationalResponse(status_code=head.status, headers=head.headers, reason=head.reason)
        return self._h11.send(event) or b""

    def head(self, head: ResponseHead, *, closes: bool) -> bytes:
        framing: Headers = []
        if head.content_length is not None:
            framing.append((b"content-length", b"%d" % head.content_length))
        if closes:
            framing.append((b"connection", b"close"))
        self.bodiless = has_no_body(self._method, head.status)
        # With neither a length nor chunks (HTTP/1.0) the connection's end is the body's end.
        self.chunked = head.content_length is None and self._is_1_1
        # The other fields were checked on arrival and bypass h11.
        event = h11.Response(status_code=head.status, headers=framing, reason=head.reason, _parsed=True)
        return insert_fields(self._h11.send(event) or b"", head.headers)

    def body(self, data: bytes) -> bytes:
        return self._h11.send(h11.Data(data=data)) or b""

    def end(self) -> bytes:
        return self._h11.send(h11.EndOfMessage()) or b""

    def feed(self, data: bytes) -> _BODY:
        connection = self._h11
        pieces: list[bytes] = []
        if self._upload is not None and data:
            body, data = self._upload.feed(data)
            pieces.append(body)
        if data:
            connection.receive_data(data)
        while connection.their_state is h11.SEND_BODY:
            event: Any = connection.next_event()
            if isinstance(event, h11.EndOfMessage):
                return b"".join(pieces), True, connection.trailing_data[0]
            if event is h11.NEED_DATA:
                break
            pieces.append(bytes(event.data))  # a bytearray, though h11's types say bytes
        return b"".join(pieces), False, b""
