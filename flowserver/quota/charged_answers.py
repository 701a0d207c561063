"""Answers that can be fetched again by their id, and what they were charged: each is paid for once. No I/O."""

from __future__ import annotations

from collections import OrderedDict

MOST = 20_000
"""Answers that are remembered; the ones charged longest ago are forgotten, and charged again when they are fetched."""


class ChargedAnswers:
    """Of one process. Other relays know nothing of it: an answer that is fetched through another one is charged there
    again, rather than nowhere."""

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens: OrderedDict[tuple[str, str], int] = OrderedDict()

    def due(self, tenant: str, answer_id: str, tokens: int) -> int:
        """What is still to be charged of the `tokens` that a fetched answer has; remembered as charged from now on."""
        before = self._tokens.get((tenant, answer_id), 0)
        self.note(tenant, answer_id, max(before, tokens))
        return max(0, tokens - before)

    def note(self, tenant: str, answer_id: str, tokens: int) -> None:
        """An answer was generated, and is charged in full: its id may be one that came before, as some servers have
        clients choose it."""
        self._tokens.pop((tenant, answer_id), None)
        self._tokens[tenant, answer_id] = tokens
        if len(self._tokens) > MOST:
            self._tokens.popitem(last=False)
