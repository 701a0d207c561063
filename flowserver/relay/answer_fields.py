"""Which fields of an answer are for the client, and which for the holder of the provider's key. No I/O."""

from __future__ import annotations

from functools import lru_cache

from ..messages import COOKIES, Headers

_HOLDERS = frozenset((b"openai-project", b"anthropic-workspace-id", b"x-goog-user-project", b"x-amzn-account-id"))
_PARTS_OF_HOLDERS = (b"ratelimit", b"organization", b"organisation")


@lru_cache(1024)
def _is_of_holder(name: bytes) -> bool:
    return name in COOKIES or name in _HOLDERS or any(part in name for part in _PARTS_OF_HOLDERS)


def for_tenants(headers: Headers) -> Headers:
    """Without what tells of the account at the provider, or ties its cookies to a client: limits, organisation,
    cookies."""
    return [field for field in headers if not _is_of_holder(field[0])]


def with_cors(headers: Headers, cors: Headers) -> Headers:
    """With the relay's own word on origins in place of the provider's."""
    return [field for field in headers if not field[0].startswith(b"access-control-")] + cors
