"""Requests that clients have signed for AWS. No I/O."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from .messages import RequestHead
from .paths import is_signed

_QUESTION_MARK: Final = ord("?")
_NAMES = re.compile(rb"SignedHeaders=([^,\s]+)")
_NAMES_IN_QUERY = re.compile(rb"(?:^|&)X-Amz-SignedHeaders=([^&]+)", re.IGNORECASE)


def has_signature(request: RequestHead) -> bool:
    """Whether the client has signed `request`. Usually decided by a single look-up."""
    shown = request.find(b"authorization")
    if (shown is None or shown[:1] not in (b"A", b"a")) and _QUESTION_MARK not in request.target:
        return False
    return is_signed(request.target, request.headers)


def signed_fields(request: RequestHead) -> list[bytes]:
    match = _NAMES.search(request.find(b"authorization") or b"")
    if match is None:
        match = _NAMES_IN_QUERY.search(request.target.partition(b"?")[2])
    return unquote_to_bytes(match[1]).lower().split(b";") if match is not None else []
