"""The fields of answers in which APIs report their remaining rate limits. No I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LimitFields:
    """The rate limit fields of one API."""

    requests: tuple[bytes, bytes, bytes]
    """Names: the limit, what remains of it, and when it is full again."""
    tokens: tuple[bytes, bytes, bytes]
    reset: Callable[[float, float], bytes]
    """Formats the third one, from `now` in seconds since the epoch and the seconds until then."""
    prefix: bytes
    """The prefix of all names of remaining amounts."""
    remaining: re.Pattern[bytes]
    """Matches these names; its group is the kind of limit, such as "tokens"."""


def _span(now: float, seconds: float) -> bytes:
    """As OpenAI writes it: 12ms, 1.5s, 6m0s, 2h0m0s."""
    if seconds < 1:
        return b"%dms" % math.ceil(seconds * 1000)
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".").encode() + b"s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return b"%dh%dm%ds" % (hours, minutes, rest) if hours else b"%dm%ds" % (minutes, rest)


X_RATELIMIT = LimitFields(
    requests=(b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests"),
    tokens=(b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens"),
    reset=_span,
    prefix=b"x-ratelimit-remaining-",
    remaining=re.compile(rb"x-ratelimit-remaining-(requests|tokens)"),
)
"""OpenAI's, which most APIs have."""
