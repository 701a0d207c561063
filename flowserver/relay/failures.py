"""What failures of providers mean, and what a dispatch tells of one. No I/O."""

from __future__ import annotations

import re

from ..errors import EndReason, Party, RelayError, bad_request
from ..messages import ResponseHead, find
from .target import Target

SIGNED_PATH = bad_request(
    "The request has an AWS signature, which covers its path, and its provider has another one before it. "
    "Sign for the provider itself, or send the request without a signature.",
    code="signed_path",
)
_UNREACHABLE = (EndReason.CONNECT_FAILED, EndReason.CONNECT_TIMEOUT)


def is_passing(error: RelayError) -> bool:
    """Whether the provider itself is well: it let go of one connection, or did not take one more request on it."""
    return error.untouched and error.party is Party.UPSTREAM and error.end not in _UNREACHABLE


def is_illness(error: RelayError) -> bool:
    """Whether a failure speaks against the provider. A total timeout is the relay's own wish."""
    return error.party is Party.UPSTREAM and not is_passing(error) and error.end is not EndReason.TOTAL_TIMEOUT


def busy(message: str, *, after: int = 1) -> RelayError:
    return RelayError(503, "no_capacity", message, Party.RELAY, EndReason.REFUSED, retry_after=after)


def retry_after(head: ResponseHead) -> float | None:
    """Seconds that a provider asks to wait: `retry-after-ms`, else `retry-after`; None for a date or nonsense."""
    for name, unit in ((b"retry-after-ms", 0.001), (b"retry-after", 1.0)):
        value = find(head.headers, name)
        if value is not None and re.fullmatch(rb"[0-9]{1,9}(\.[0-9]{1,9})?", value.strip()):
            return float(value) * unit
    return None


class Nobody:
    """Who hears of a dispatch that is over."""

    def on_upstream_interim(self, head: ResponseHead) -> None: ...

    def on_upstream_head(self, head: ResponseHead) -> None: ...

    def on_upstream_data(self, data: bytes) -> None: ...

    def lane(self) -> None:
        return None

    def on_upstream_end(self) -> None: ...

    def on_upstream_failed(self, error: RelayError) -> None: ...

    def on_upstream_full(self) -> None: ...

    def on_upstream_drained(self) -> None: ...

    def on_target(self, target: Target, now: float) -> None: ...

    def on_more_tokens(self) -> None: ...


NOBODY = Nobody()
