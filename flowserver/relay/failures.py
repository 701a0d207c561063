"""What providers' failures mean, and what clients are told. No I/O."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from ..errors import EndReason, Party, RelayError, upstream_error
from ..http.messages import Headers, ResponseHead, find
from .interfaces import Clock

_PROVIDER = "The provider "
"""The beginning of messages from places that do not know the provider's configured name."""
_LONGEST_DATE = 64
_UNREACHABLE = (EndReason.CONNECT_FAILED, EndReason.CONNECT_TIMEOUT)


def is_passing(error: RelayError) -> bool:
    """Whether the provider itself is healthy: it only closed one connection, or accepted no more requests on it."""
    return error.not_processed and error.party is Party.UPSTREAM and error.end not in _UNREACHABLE


def is_unhealthy(error: RelayError) -> bool:
    """Whether a failure counts against the provider. A total timeout is the relay's own decision."""
    return error.party is Party.UPSTREAM and not is_passing(error) and error.end is not EndReason.TOTAL_TIMEOUT


def busy(message: str, *, after: int = 1) -> RelayError:
    return RelayError(503, "no_capacity", message, Party.RELAY, EndReason.REFUSED, retry_after=after)


def named(error: RelayError, name: str | None) -> RelayError:
    """`error` with the provider's configured name in its message. None or "-": the request has gone to no provider
    yet."""
    if name in (None, "-") or not error.message.startswith(_PROVIDER):
        return error
    return replace(error, message=f"{_PROVIDER}{name} {error.message.removeprefix(_PROVIDER)}")


def timeout(what: str, seconds: float, setting: str, end: EndReason) -> RelayError:
    return upstream_error(end.value, f"{what} {seconds:g} s ({setting}).", end, status=504)


def error_head(error: RelayError, request_id: bytes, size: int) -> ResponseHead:
    """The head of an error answer whose body has `size` bytes."""
    headers: Headers = [(b"content-type", b"application/json"), (b"x-request-id", request_id)]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    return answer_head(error.status, headers, size)


def answer_head(status: int, headers: Headers, size: int | None = None) -> ResponseHead:
    """The head of the relay's own answer. `size` None: it has no body."""
    phrase = HTTPStatus(status).phrase.encode("ascii")
    head = ResponseHead(status, headers, reason=phrase, content_length=size)
    head.body_follows = bool(size)
    return head


def retry_after(head: ResponseHead, now: Clock) -> float | None:
    """Seconds that a provider asks to wait: `retry-after-ms`, else `retry-after`, which may be a date (RFC 9110 section
    10.2.3); None if it is invalid. `now` returns seconds since the epoch."""
    for name, unit in ((b"retry-after-ms", 0.001), (b"retry-after", 1.0)):
        value = find(head.headers, name)
        if value is not None and re.fullmatch(rb"[0-9]{1,9}(\.[0-9]{1,9})?", value.strip()):
            return float(value) * unit
    date = find(head.headers, b"retry-after")
    return _seconds_until(date, now()) if date is not None and len(date) <= _LONGEST_DATE else None


def _seconds_until(date: bytes, now: float) -> float | None:
    try:
        moment = parsedate_to_datetime(date.decode("ascii"))
        return max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now)
    except (ValueError, OverflowError):
        return None
