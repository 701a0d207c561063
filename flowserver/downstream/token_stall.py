"""Counts the tokens that come for a client which takes nothing."""

from __future__ import annotations


class TokenStall:
    """One stream's. Made at the first look, where FLOW_STALL_TOKENS is set."""

    __slots__ = ("_mark", "_tokens")

    def __init__(self) -> None:
        self._mark: tuple[int, int] | None = None
        self._tokens = 0

    def look(self, mark: tuple[int, int] | None, tokens: int) -> int:
        """Returns by how much `tokens` grew since `mark` last changed, to the precision of these calls; 0 while it is
        None: nothing waits for the client."""
        if mark is None or mark != self._mark:
            self._mark = mark
            self._tokens = tokens
        return tokens - self._tokens
