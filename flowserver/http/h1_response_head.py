"""Response heads of HTTP/1.1 that are plain; h11 reads the others. No I/O."""

from __future__ import annotations

import re
from typing import Final

from .h1_fields import VALUE, has_strict_fields, is_length, split_fields
from .messages import ResponseHead

MAX_HEADERS: Final = 200
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([1-9][0-9]{2}) (" + VALUE + rb")\r\n")
_FRAMING: Final = (b"connection", b"content-length", b"transfer-encoding")


def read_response_head(raw: bytes) -> tuple[ResponseHead | None, bool]:
    """Parse the whole head `raw`; None if it is not in strict form. The flag tells whether it is plain: HTTP/1.1,
    framed in one of the usual ways, and on a connection that stays."""
    line = _STATUS_LINE.match(raw)
    if line is None or not has_strict_fields(raw, line.end()):
        return None, False
    head = ResponseHead(int(line[1]), split_fields(raw, line.end()), reason=line[2])
    return head, len(head.headers) <= MAX_HEADERS and _is_plain(head)


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
    return length is None or is_length(length)
