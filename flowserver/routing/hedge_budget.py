"""How many of a route's requests may be hedged. No I/O."""

from __future__ import annotations

MOST_REQUESTS = 10.0
"""Most hedges that can be saved up, and so begin at once after a time without any."""
MOST_TOKENS = 1 << 20
"""Most input tokens that can be saved up for them."""


_ONE = 1 - 1e-9
"""In floats, ten times a tenth is less than one."""


class HedgeBudget:
    """Two token buckets, which each request of a route fills by `share`: hedges are at most this share of all requests,
    and of all input tokens, plus what was saved up.

    Both start empty. Each worker has its own, so the share holds across all of them.
    """

    __slots__ = ("_requests", "_tokens", "share")

    def __init__(self, share: float) -> None:
        self.share = share
        self._requests = 0.0
        self._tokens = 0.0

    def __repr__(self) -> str:
        return f"<HedgeBudget share={self.share:g} requests={self._requests:.2f} tokens={self._tokens:.0f}>"

    def note_request(self) -> None:
        """Count a request."""
        self._requests = min(MOST_REQUESTS, self._requests + self.share)

    def note_tokens(self, tokens: int) -> None:
        """Count the input tokens of a request."""
        self._tokens = min(MOST_TOKENS, self._tokens + self.share * tokens)

    def allows(self, tokens: int) -> bool:
        """Whether a request with `tokens` input tokens may be hedged now."""
        return self._requests >= _ONE and self._tokens >= tokens

    def spend(self, tokens: int) -> None:
        """A hedge begins, after `allows` has permitted it."""
        self._requests -= 1.0
        self._tokens -= tokens
