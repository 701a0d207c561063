"""Chunked request bodies, read as strictly as heads are.

The chunks are decoded by `h1_chunked`. The body's end (last chunk and trailers) goes to h11, but only whole and
checked: h11 accepts bare line feeds and control bytes in trailers, and size lines of any length that come in one piece.
Each is a way to disagree with the server in front about where this request ends.
"""

from __future__ import annotations

from .h1_chunked import ChunkDecoder, FramingError
from .h1_fields import BARE_LINE_FEED, has_strict_fields
from .h1_request_head import MAX_HEAD

_FORBIDDEN = (b"content-length", b"transfer-encoding", b"host")
"""Trailers must not define framing or routing (RFC 9110 section 6.5.1)."""


class ChunkedBody:
    """The chunked body of one request. `feed` until it returns an end."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = ChunkDecoder()

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Returns the body bytes in `data`, and the body's end with everything after it (b"" until that is complete).
        Raises FramingError."""
        body = self._decoder.feed(data)
        end = self._decoder.rest
        return body, _check_end(end) if end else b""


def _check_end(end: bytes) -> bytes:
    """`end` when it is complete, else b"". Raises FramingError."""
    blank = end.find(b"\r\n\r\n")
    trailers = end[end.find(b"\n") + 1 : blank + 4 if blank >= 0 else len(end)]
    if BARE_LINE_FEED.search(trailers):
        raise FramingError("a trailer ends in a bare line feed")
    if len(trailers) > MAX_HEAD:
        raise FramingError("the trailers are too long")
    if blank < 0:
        return b""
    if not has_strict_fields(trailers):
        raise FramingError("a trailer is malformed")
    for line in trailers.split(b"\r\n"):
        if line.partition(b":")[0].lower() in _FORBIDDEN:
            raise FramingError("a trailer has a field that is only allowed in a head")
    return end
