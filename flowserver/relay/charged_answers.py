"""Answers that can be fetched again by their id, and what they were charged: each is paid for once. No I/O."""

from __future__ import annotations

from collections import OrderedDict

MOST = 20_000
"""Answers that are remembered; the ones charged longest ago are forgotten, and charged anew when they are fetched."""


class ChargedAnswers:
    """Of one process. Other relays know nothing of it: an answer that is fetched through another one is charged there
    again, rather than nowhere."""

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens: OrderedDict[tuple[str, str], int] = OrderedDict()

    def due(self, tenant: str, answer_id: str, tokens: int) -> int:
        """What is still to be charged of the `tokens` that an answer has; remembered as charged from now on."""
        key = tenant, answer_id
        before = self._tokens.pop(key, 0)
        self._tokens[key] = max(before, tokens)
        if len(self._tokens) > MOST:
            self._tokens.popitem(last=False)
        return max(0, tokens - before)
