"""Response heads of HTTP/1.1 that are plain; h11 reads the others. No I/O."""

from __future__ import annotations

import re

from .h1_fields import FIELDS, IS_LENGTH, TOKEN, VALUE, split_fields
from .messages import ResponseHead, first_values

MAX_HEADERS = 200
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-9][0-9]{2}) (" + VALUE + rb")\r\n")
_FIELD = re.compile(rb"(" + TOKEN + rb"):(" + VALUE + rb")").fullmatch
_FRAMING = (b"connection", b"content-length", b"transfer-encoding")


class AnswerHeads:
    """Reads the response heads of one connection.

    They mostly differ in a date, a length and an id only, so lines that are the same as in the head before are not
    parsed again: parsing takes most of the time of a head with twenty fields. The first head is not kept, which saves
    the memory on connections that carry a single stream.
    """

    __slots__ = ("_is_first", "_last", "_lines")

    def __init__(self) -> None:
        self._is_first = True
        self._lines: list[bytes] = []
        self._last: ResponseHead | None = None
        """The head that `_lines` are of, which is plain; None: no such head is known."""

    def read(self, raw: bytes) -> tuple[ResponseHead | None, bool]:
        """Parse the whole head `raw`; None if it is not in strict form. The flag tells whether it is plain: HTTP/1.1,
        framed in one of the usual ways, and on a connection that stays."""
        lines = raw.split(b"\r\n")
        head = self._by_last(lines)
        if head is None:
            head = _parse(raw)
            if head is None or len(head.headers) > MAX_HEADERS or not _is_plain(head):
                self._last = None
                return head, False
        if self._is_first:
            self._is_first = False
        else:
            self._lines, self._last = lines, head
        return head, True

    def _by_last(self, lines: list[bytes]) -> ResponseHead | None:
        """The head, read by way of the last one; None if it differs too much."""
        last, known = self._last, self._lines
        if last is None or len(lines) != len(known):
            return None
        if lines == known:
            return ResponseHead(last.status, last.headers, reason=last.reason, fields=last.fields)
        headers = last.headers.copy()
        for number, line in enumerate(lines):
            if line == known[number]:
                continue
            match = _FIELD(line) if number else None  # 0 is the status line
            if match is None:
                return None
            name, value = match[1].lower(), match[2].strip(b" \t")
            if name != headers[number - 1][0]:
                return None
            if name in _FRAMING and (name != b"content-length" or IS_LENGTH(value) is None):
                return None
            headers[number - 1] = (name, value)
        return ResponseHead(last.status, headers, reason=last.reason, fields=first_values(headers))


def _parse(raw: bytes) -> ResponseHead | None:
    end = raw.find(b"\r\n") + 2
    line = _STATUS_LINE.fullmatch(raw, 0, end)
    if line is None or FIELDS.fullmatch(raw, end) is None:
        return None
    return ResponseHead(int(line[1]), split_fields(raw, end), reason=line[2])


def _is_plain(head: ResponseHead) -> bool:
    """Whether the response is framed in one of the usual ways, and the connection stays."""
    fields = head.fields
    if len(fields) != len(head.headers):
        names = [name for name, _ in head.headers]
        if any(names.count(name) > 1 for name in _FRAMING):
            return False
    if b"connection" in fields and fields[b"connection"].lower() != b"keep-alive":
        return False
    length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
    if coding is not None:
        return coding == b"chunked" and length is None
    return length is None or IS_LENGTH(length) is not None
