"""Request heads of HTTP/1.1: bounded, and checked more strictly than h11 does.

h11 accepts forms that two servers can read in two ways (bare line feeds, Transfer-Encoding beside Content-Length,
control bytes in values, an absolute target that contradicts Host). On a relay each is a way to smuggle a request, so
all are refused.
"""

from __future__ import annotations

import re
from typing import Final

from ..errors import EndReason as _End
from ..errors import Party, RelayError, bad_request
from .h1_fields import BARE_LINE_FEED, TOKEN, has_strict_fields, is_length, split_fields
from .messages import Headers, RequestHead, find, first_values
from .paths import request_target

MAX_HEAD: Final = 64 * 1024
MAX_HEADERS: Final = 100
MAX_URI: Final = 8 * 1024

METHOD = re.compile(TOKEN)
_METHODS = {method: method for method in (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")}
"""One object for all requests: one of its own takes 40 bytes."""
# Methods are short, so a target is recognised as too long before it ends.
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e]+) HTTP/(1\.[01])\r\n")
AUTHORITY: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_HASH: Final = ord("#")
_ABSOLUTE = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE)

_TOO_LONG: Final = bad_request(
    f"The request head is larger than {MAX_HEAD} bytes.", status=431, code="request_head_too_large"
)
_TOO_MANY: Final = bad_request(f"The request has more than {MAX_HEADERS} headers.", status=431, code="too_many_headers")
UPGRADE_NOT_SUPPORTED = RelayError(
    501,
    "upgrade_not_supported",
    "The only protocol this relay upgrades to is WebSocket, by GET over HTTP/1.1 or CONNECT over HTTP/2.",
    Party.CLIENT,
    _End.CLIENT_ERROR,
)
_LINE_FEED: Final = bad_request("A line of the request head ends in a bare line feed. Lines must end in CR LF.")


def whole_head(data: bytes) -> tuple[bytes, bytes] | None:
    """A raw head and what follows it, if `data` begins with a whole one, as nearly every read does. None: `HeadReader`
    must decide."""
    if data[:1] == b"\r":  # a slice takes a quarter of the time of `startswith`
        return None
    end = data.find(b"\r\n\r\n") + 4
    return (data[:end], data[end:]) if 4 <= end <= MAX_HEAD else None


class HeadReader:
    """Collects the bytes of one request head. `feed` until it returns something."""

    __slots__ = ("_buffer", "_skipped")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skipped = False
        """Whether the empty line that may precede a request has been skipped."""

    @property
    def is_empty(self) -> bool:
        """Whether no byte of a head has arrived yet."""
        return not self._buffer

    def feed(self, data: bytes) -> tuple[bytes, bytes] | RelayError | None:
        """A complete raw head and what follows it; an error; or None while the head is incomplete."""
        buffer = self._buffer
        start = max(0, len(buffer) - 3)
        buffer += data
        if buffer[:2] == b"\r\n" and not self._skipped:  # ignored once (RFC 9112 section 2.2)
            del buffer[:2]
            self._skipped = True
            start = 0
        end = buffer.find(b"\r\n\r\n", start)
        head_end = end + 4 if end >= 0 else len(buffer)
        # pos before the new bytes: a line feed may be new while its carriage return is not
        if BARE_LINE_FEED.search(buffer, max(0, start - 1), head_end):
            return _LINE_FEED
        if head_end > MAX_HEAD:
            return _TOO_LONG
        if end < 0:
            return _check_incomplete(buffer)
        raw, rest = bytes(buffer[:head_end]), bytes(buffer[head_end:])
        self._buffer.clear()
        self._skipped = False
        return raw, rest


def _check_incomplete(head: bytearray) -> RelayError | None:
    """Refuses a target that is already too long."""
    if len(head) > MAX_URI + 64 and head.find(b"\r\n", 0, MAX_URI + 64) < 0:
        return uri_too_long()
    return None


def parse_head(raw: bytes) -> RequestHead | RelayError:
    """Parse and check the complete head `raw`."""
    line = _REQUEST_LINE.match(raw)
    if line is None or not has_strict_fields(raw, line.end()) or len(line[2]) > MAX_URI:
        return _malformed(raw, line)
    headers = split_fields(raw, line.end())
    if len(headers) > MAX_HEADERS:
        return _TOO_MANY
    return _check_request(line, headers)


class RepeatedHead:
    """A valid head to compare the next one with: the heads of a connection nearly always differ only in Content-Length.
    Comparing takes a tenth of the time of parsing."""

    __slots__ = ("_after", "_before", "_head", "_place")

    def __init__(self, raw: bytes, head: RequestHead) -> None:
        """`raw` is the text of `head`, which has a Content-Length."""
        length = head.fields[b"content-length"]
        colon = raw.lower().index(b"\r\ncontent-length:") + len(b"\r\ncontent-length")
        start = raw.index(length, colon)
        self._before = raw[:start]
        self._after = raw[start + len(length) :]
        self._place = head.headers.index((b"content-length", length))
        self._head = head.of_length(self._place, length, has_body=head.has_body)  # its exchange forgets the fields
        self._head.keep_passing()

    def read(self, raw: bytes) -> RequestHead | None:
        """The head in `raw`; None if it differs in anything else."""
        before, after = self._before, self._after
        length = raw[len(before) : -len(after)]
        if not raw.startswith(before) or not raw.endswith(after) or not is_length(length):
            return None
        return self._head.of_length(self._place, length, has_body=bool(length.strip(b"0")))


def _malformed(raw: bytes, line: re.Match[bytes] | None) -> RelayError:
    """What is wrong with a head; `line` is its first line, None if that is malformed."""
    line_end = raw.find(b"\r\n")
    if BARE_LINE_FEED.search(raw):
        return _LINE_FEED
    if line_end > MAX_URI and (line is None or len(line[2]) > MAX_URI):
        return uri_too_long()
    if line is None:
        return bad_request("The request line is malformed: it must be METHOD /target HTTP/1.1.")
    if raw.count(b"\r\n") - 2 > MAX_HEADERS:
        return _TOO_MANY
    return bad_request(
        "A header is malformed: blanks before the colon, folded lines and control characters are not allowed."
    )


def _check_request(line: re.Match[bytes], headers: Headers) -> RequestHead | RelayError:
    fields = first_values(headers)
    method, target, version = line.groups()
    method = _METHODS.get(method, method)
    error = _check_framing(line, headers, fields) or _check_fields(version, headers, fields)
    if error is not None:
        return error
    if target[:1] != b"/":
        origin_form = _origin_form(target, fields.get(b"host"))
        if isinstance(origin_form, RelayError):
            return origin_form
        target = origin_form
    if _HASH in target:  # `in` of bytes, not of a number, raises and catches a TypeError first
        return _malformed_target()
    canonical = request_target(target, headers)
    if isinstance(canonical, RelayError):
        return canonical
    length = fields.get(b"content-length")
    content_length = int(length) if length is not None else None
    has_body = b"transfer-encoding" in fields or bool(content_length)
    head = RequestHead(method, canonical, headers, content_length=content_length, has_body=has_body, fields=fields)
    if version != b"1.1":
        head.http_version = version
    return head


def _check_framing(line: re.Match[bytes], headers: Headers, fields: dict[bytes, bytes]) -> RelayError | None:
    """The method, and how long the body is (RFC 9112 section 6)."""
    length = fields.get(b"content-length")
    repeats = len(fields) != len(headers)
    if length is not None and (
        not is_length(length) or (repeats and _times(b"content-length", headers) > 1)  # h11 joins equal ones
    ):
        return bad_request("Content-Length appears more than once, or is not a number of a reasonable size. Send one.")
    method = line[1]
    if method in (b"CONNECT", b"TRACE"):
        return bad_request(f"This relay does not serve {method.decode()}.", status=405, code="method_not_allowed")
    if b"transfer-encoding" in fields:
        if length is not None:
            return bad_request("Transfer-Encoding and Content-Length exclude each other. Send one.")
        if line[3] != b"1.1":
            return bad_request("Transfer-Encoding needs HTTP/1.1.")
    return None


def _check_fields(version: bytes, headers: Headers, fields: dict[bytes, bytes]) -> RelayError | None:
    host = fields.get(b"host")
    repeats = len(fields) != len(headers)
    if (host is None and version == b"1.1") or (repeats and _times(b"host", headers) > 1):
        return bad_request("Exactly one Host header is required.")
    if host is not None and not AUTHORITY.fullmatch(host):
        return bad_request("The Host header is malformed.")
    error = _check_upgrade(fields[b"upgrade"]) if b"upgrade" in fields else None
    if error is None and b"expect" in fields:
        error = check_expect(headers)
    return error


def _origin_form(target: bytes, host: bytes | None) -> bytes | RelayError:
    """A target in absolute form (RFC 9112 section 3.2.2) without scheme and authority."""
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        return _malformed_target()
    authority, path = absolute.groups()
    if authority.lower() != (host or authority).lower():
        return bad_request("The request target and the Host header name different hosts.")
    return path if path.startswith(b"/") else b"/" + path


def _times(name: bytes, headers: Headers) -> int:
    return [field for field, _ in headers].count(name)


def _malformed_target() -> RelayError:
    return bad_request("The request target is malformed: it must be /path?query.")


def _check_upgrade(offer: bytes) -> RelayError | None:
    """An offer of h2c may be ignored (RFC 9110 section 7.8); a client that offers any other protocol needs it."""
    return None if offer.strip().lower() in (b"h2c", b"", b"websocket") else UPGRADE_NOT_SUPPORTED


def check_expect(headers: Headers) -> RelayError | None:
    """Only 100-continue is known (RFC 9110 section 10.1.1)."""
    expect = find(headers, b"expect")
    if expect is not None and expect.strip().lower() != b"100-continue":
        return bad_request("The only supported Expect is 100-continue.", status=417, code="expectation_failed")
    return None


def uri_too_long() -> RelayError:
    return bad_request(f"The request target is longer than {MAX_URI} bytes.", status=414, code="uri_too_long")
