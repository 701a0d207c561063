"""Responses on an HTTP/1.1 connection, from the client's side: heads, framing, ends. No I/O.

Nearly all responses are plain: HTTP/1.1 on a connection that stays, framed by one length, by chunks or by nothing.
These are read here; h11, which a small response would spend a third of its time in, reads all others. Property tests
hold both to the same results.
"""

from __future__ import annotations

import re
from typing import Any, Final, Protocol, cast

import h11

from .h1_chunked import ChunkDecoder
from .h1_fields import BARE_LINE_FEED, UPGRADE, VALUE, has_strict_fields, head_for_h11, is_length, write_fields
from .h1_response_head import MAX_HEADERS, read_response_head
from .messages import Headers, RequestHead, ResponseHead, has_no_body

MAX_HEAD: Final = 64 * 1024
MAX_INTERIM: Final = 10
"""1xx responses before the final one; a provider that sends more is broken."""

_FIELD_VALUE = re.compile(VALUE)


class ResponseError(Exception):
    """The bytes are not a response. The text says what the sender did: "sent a malformed trailer"."""


def encode_request_head(request: RequestHead) -> bytes:
    """The head as it is sent. Framing is derived anew (RFC 9112 section 6); the other fields were checked on
    arrival."""
    framing = b""
    if request.content_length is not None:
        framing = b"content-length: %d\r\n" % request.content_length
    elif request.has_body:
        framing = b"transfer-encoding: chunked\r\n"
    elif request.is_tunnel:
        framing = UPGRADE
    fields = write_fields(request.headers)
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (request.method, request.target, fields, framing)


class ResponseBody(Protocol):
    """The body of one response.

    `feed` takes bytes until `ended`; after that, call `read_end` after each `feed` until the response is complete.
    """

    @property
    def ended(self) -> bool:
        """Whether all bytes of the body have arrived."""

    @property
    def at_boundary(self) -> bool:
        """Whether a chunk begins next."""

    @property
    def until_close(self) -> bool:
        """Whether the body ends with the connection."""

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection can carry another request once the response is complete: False if surplus bytes
        followed."""

    def feed(self, data: bytes) -> bytes:
        """The body bytes in `data`. Raises FramingError where chunks are malformed, else ResponseError."""

    def read_end(self) -> bool:
        """Whether the response is complete. Raises ResponseError."""


class SizedBody:
    """A `ResponseBody` of known length."""

    __slots__ = ("_left", "ended", "keeps_alive")

    at_boundary = False
    until_close = False

    def __init__(self, length: int) -> None:
        self._left = length
        self.ended = not length
        self.keeps_alive = True

    def feed(self, data: bytes) -> bytes:
        left = self._left
        if len(data) > left:
            self.keeps_alive = False
            data = data[:left]
        self._left = left = left - len(data)
        self.ended = not left
        return data

    def read_end(self) -> bool:
        return True


class BodyUntilClose:
    """A `ResponseBody` that ends with the connection."""

    __slots__ = ()

    at_boundary = False
    ended = False
    keeps_alive = False
    until_close = True

    def feed(self, data: bytes) -> bytes:
        return data

    def read_end(self) -> bool:
        return False


class ChunkedBody(ChunkDecoder):
    """A `ResponseBody` in chunks. `feed` is the decoder's own, since every token passes it."""

    __slots__ = ("_h11", "_is_whole", "_scanned", "keeps_alive")

    until_close = False

    def __init__(self, connection: h11.Connection | None) -> None:
        """`connection` has read the head and reads the end; None: the response is plain."""
        super().__init__()
        self._is_whole = False
        self.keeps_alive = True
        self._h11 = connection
        self._scanned = 0
        """Bytes of `rest` already searched for bare line feeds."""

    def read_end(self) -> bool:
        """Read the last chunk's size line, trailers, which are dropped, and a blank line (RFC 9112 section 7.1.2)."""
        if self._is_whole:
            self.keeps_alive = False
        elif self._h11 is not None:
            self._read_end_by_h11(self._h11)
        else:
            self._read_plain_end()
        if self._is_whole or self._h11 is not None:
            self.rest = b""
        return self._is_whole

    def _read_plain_end(self) -> None:
        rest = self.rest
        end = rest.find(b"\r\n\r\n")
        if end < 0:
            if len(rest) > MAX_HEAD:
                raise ResponseError(f"sent trailers of more than {MAX_HEAD} bytes")
            if BARE_LINE_FEED.search(rest, self._scanned):
                raise ResponseError("sent trailers with bare line feeds")
            self._scanned = len(rest)
            return
        if not has_strict_fields(rest[rest.find(b"\n") + 1 : end + 4]):
            raise ResponseError("sent a malformed trailer")
        self._is_whole = True
        self.keeps_alive = end + 4 == len(rest)

    def _read_end_by_h11(self, connection: h11.Connection) -> None:
        try:
            connection.receive_data(self.rest)
            self._is_whole = isinstance(connection.next_event(), h11.EndOfMessage)
        except h11.RemoteProtocolError as error:
            raise _malformed(error) from None
        self.keeps_alive = self._is_whole and _is_reusable(connection)


class H11Body:
    """A `ResponseBody` by h11, which has read the head. Not for chunks."""

    __slots__ = ("_h11", "ended", "keeps_alive", "until_close")

    at_boundary = False

    def __init__(self, connection: h11.Connection, *, until_close: bool) -> None:
        self._h11 = connection
        self.until_close = until_close
        self.ended = self.keeps_alive = False
        self._next_data()  # none yet, but the end of a response without a body

    def feed(self, data: bytes) -> bytes:
        if self.ended:
            self.keeps_alive = False
            return b""
        self._h11.receive_data(data)
        return self._next_data()

    def _next_data(self) -> bytes:
        """The body bytes that h11 has."""
        pieces = []
        try:
            while isinstance(event := self._h11.next_event(), h11.Data):
                pieces.append(bytes(cast(Any, event).data))  # a bytearray, though h11's types say bytes
        except h11.RemoteProtocolError as error:
            raise _malformed(error) from None
        if isinstance(event, h11.EndOfMessage):
            self.ended = True
            self.keeps_alive = _is_reusable(self._h11)
        return b"".join(pieces)

    def read_end(self) -> bool:
        return True


class ResponseReader:
    """Reads the heads of one response and says how its body is framed.

    `feed` it until it returns a final head, then call `begin_body` for the body's reader.
    """

    __slots__ = ("_buffer", "_h11", "_interim", "_scanned", "_switches", "method")

    def __init__(self, method: bytes, *, switches: bool = False) -> None:
        """`method`: of the request. `switches`: it asks for another protocol, so 101 is a final head, and all bytes
        after it belong to that protocol."""
        self.method = method
        self._switches = switches
        self._buffer = b""
        self._scanned = 0
        """Bytes of the buffer already searched for bare line feeds."""
        self._interim = 0
        """1xx responses so far."""
        self._h11: h11.Connection | None = None
        """Reads the response; None: it is plain so far."""

    @property
    def is_empty(self) -> bool:
        """Whether no incomplete head is held."""
        return not self._buffer

    def feed(self, data: bytes) -> ResponseHead | None:
        """The next head, interim or final; None: it is incomplete. After an interim one another may be there already:
        call again with b"". Raises ResponseError."""
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if not b"HTTP/1.".startswith(buffer[:7]):
            raise ResponseError("sent something that is not HTTP/1.1")
        if (end if end >= 0 else len(buffer)) > MAX_HEAD:
            raise ResponseError(f"sent a head of more than {MAX_HEAD} bytes")
        if end < 0:
            if BARE_LINE_FEED.search(buffer, self._scanned):  # its end would be waited for in vain
                raise ResponseError("sent a head with bare line feeds")
            self._buffer, self._scanned = buffer, len(buffer)
            return None
        self._buffer, self._scanned = buffer[end + 4 :], 0
        raw = buffer[: end + 4]
        head, plain = read_response_head(raw)
        if head is not None and head.status == 101 and self._switches:
            return head
        if head is None or not plain or self._h11 is not None:
            head = self._read_by_h11(raw, head.headers if head is not None else None)
        if head.status < 200:
            self._interim += 1
            if self._interim > MAX_INTERIM or head.status == 101:
                raise ResponseError("sent too many interim responses or changed the protocol")
        return head

    def begin_body(self, head: ResponseHead) -> tuple[ResponseBody, bytes]:
        """How the body of this final head is framed (RFC 9112 section 6.3), and its first bytes. Raises
        ResponseError."""
        if head.status == 101:
            first, self._buffer = self._buffer, b""
            return BodyUntilClose(), first
        fields = head.fields
        chunked = b"transfer-encoding" in fields
        length = fields.get(b"content-length")
        if chunked and length is not None:
            raise ResponseError("sent both Transfer-Encoding and Content-Length")
        if length is not None and not is_length(length):
            length = length.partition(b",")[0].strip()  # h11 merges equal ones
            if not is_length(length):
                raise ResponseError("sent an invalid Content-Length")
        left = head.content_length = int(length) if length is not None else None
        if has_no_body(self.method, head.status):
            left, chunked = 0, False
        first, self._buffer = self._buffer, b""
        head.body_follows = bool(left and first)
        if chunked:
            return ChunkedBody(self._h11), first
        if self._h11 is not None:
            return H11Body(self._h11, until_close=left is None), first
        return BodyUntilClose() if left is None else SizedBody(left), first

    def _read_by_h11(self, raw: bytes, headers: Headers | None) -> ResponseHead:
        """Read a head that is not plain. `headers` are its fields where they are in strict form; None: folded lines and
        the like, which h11 reads too."""
        if headers is None and raw.count(b"\n") != raw.count(b"\r\n"):  # h11 would see its end elsewhere
            raise ResponseError("sent a head with bare line feeds")
        if self._h11 is None:
            self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
            # It only needs to know the request's method.
            self._h11.send(h11.Request(method=self.method, target=b"/", headers=[(b"host", b"")], _parsed=True))
            self._h11.send(h11.EndOfMessage())
        try:
            line_end = raw.find(b"\r\n") + 2
            self._h11.receive_data(raw if headers is None else head_for_h11(raw[:line_end], headers))
            event = self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise _malformed(error) from None
        assert isinstance(event, h11.InformationalResponse | h11.Response)
        fields = list(event.headers) if headers is None else headers
        if len(fields) > MAX_HEADERS:
            raise ResponseError(f"sent more than {MAX_HEADERS} headers")
        if headers is None and not all(map(_FIELD_VALUE.fullmatch, [event.reason, *(value for _, value in fields)])):
            raise ResponseError("sent control characters in its head")
        return ResponseHead(event.status_code, fields, reason=event.reason)


def _is_reusable(connection: h11.Connection) -> bool:
    return connection.their_state is h11.DONE and not connection.trailing_data[0]


def _malformed(error: Exception) -> ResponseError:
    return ResponseError(f"sent a malformed answer: {error}")
