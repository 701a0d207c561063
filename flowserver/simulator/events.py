"""Numbered events: the same bytes again and again, but for their number. No I/O."""

from __future__ import annotations

DIGITS = 6

TOKEN = b"tok%06d "
"""The text of a content event: its number, so that a reader sees that each came once and in order."""

TOKEN_BYTES = len(TOKEN % 0)


def chunk(data: bytes) -> bytes:
    """One chunk of HTTP/1.1 (RFC 9112 section 7.1). `data` must not be empty: that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


class NumberedEvents:
    """Makes event number n: `before`, n in at least six digits, `middle`, padding, `end`.

    An event has `size` bytes, or the least possible when that is more; when n outgrows its digits, the padding gives
    way. With `chunked`, each event leaves as a chunk of its own; `size` counts the event without that framing.
    """

    __slots__ = ("_after", "_batch", "_batch_count", "_before", "_chunked", "_limit", "_parts", "_wanted", "size")

    def __init__(self, parts: tuple[bytes, bytes, bytes], *, size: int, chunked: bool) -> None:
        self._parts = parts
        self._wanted = size
        self._chunked = chunked
        self._build(DIGITS)

    def _build(self, digits: int) -> None:
        before, middle, end = self._parts
        least = len(before) + digits + len(middle) + len(end)
        padding = max(0, self._wanted - least)
        self.size = least + padding
        """Bytes of the event that `one` or `run` gave last."""
        self._limit = 10**digits
        self._before = b"%x\r\n%b" % (self.size, before) if self._chunked else before
        self._after = middle + b"x" * padding + end + (b"\r\n" if self._chunked else b"")
        self._batch = b""
        self._batch_count = 0

    def one(self, number: int) -> bytes:
        """The event as it goes to the transport."""
        if number >= self._limit:
            self._build(len(str(number)))
        return b"%b%06d%b" % (self._before, number, self._after)

    def run(self, number: int, count: int) -> tuple[bytes, int]:
        """`count` events from `number` on as they go to the transport, and their bytes without framing."""
        if number + count > self._limit:
            pieces = []
            size = 0
            for each in range(number, number + count):
                pieces.append(self.one(each))
                size += self.size
            return b"".join(pieces), size
        if count != self._batch_count:
            # One format over a whole batch: 0.1 us an event in place of 0.4.
            one = self._before.replace(b"%", b"%%") + b"%06d" + self._after.replace(b"%", b"%%")
            self._batch = one * count
            self._batch_count = count
        return self._batch % tuple(range(number, number + count)), count * self.size
