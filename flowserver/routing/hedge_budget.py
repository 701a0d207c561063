"""How many of a route's requests may be hedged. No I/O."""

from __future__ import annotations

MOST_REQUESTS = 10.0
"""Hedges that may be saved up: so many can begin at once after a time without any."""
MOST_TOKENS = 1 << 20
"""Input tokens that may be saved up for them."""


_ONE = 1 - 1e-9
"""Ten times a tenth is less than one."""


class HedgeBudget:
    """Two token buckets, which each request of a route fills by its `share`: hedges are at most this share of all
    requests, and their input tokens of all input tokens, but for what was saved up.

    Both are empty at first. Each worker has its own, so the share holds over all of them.
    """

    __slots__ = ("_requests", "_tokens", "share")

    def __init__(self, share: float) -> None:
        self.share = share
        self._requests = 0.0
        self._tokens = 0.0

    def __repr__(self) -> str:
        return f"<HedgeBudget share={self.share:g} requests={self._requests:.2f} tokens={self._tokens:.0f}>"

    def note(self, tokens: int) -> None:
        """A request with so many input tokens."""
        self._requests = min(MOST_REQUESTS, self._requests + self.share)
        self._tokens = min(MOST_TOKENS, self._tokens + self.share * tokens)

    def allows(self, tokens: int) -> bool:
        """Whether a request with so many input tokens may be hedged now."""
        return self._requests >= _ONE and self._tokens >= tokens

    def spend(self, tokens: int) -> None:
        """A hedge begins, as `allows` permits."""
        self._requests -= 1.0
        self._tokens -= tokens
