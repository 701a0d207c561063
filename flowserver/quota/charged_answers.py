"""Answers that can be fetched again by their id, and what they were charged, so that each is charged once. No I/O."""

from __future__ import annotations

from collections import OrderedDict

MOST = 20_000
"""Most answers that are remembered; those charged longest ago are forgotten, and charged again if they are fetched."""


class ChargedAnswers:
    """The charged answers of one process. Other relays do not share them: an answer that is fetched through another
    relay is charged there again, rather than nowhere."""

    __slots__ = ("_charged",)

    def __init__(self) -> None:
        self._charged: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()

    def due(self, tenant: str, answer_id: str, tokens: int, cost: int) -> tuple[int, int]:
        """What is still to be charged of the `tokens` and of the `cost` (nano-dollars) that a fetched answer has;
        remembered as charged from now on. That prices have risen makes no answer dearer that was charged in full."""
        had, paid = self._charged.get((tenant, answer_id), (0, 0))
        self.note(tenant, answer_id, max(had, tokens), max(paid, cost))
        more = max(0, tokens - had)
        return more, max(0, cost - paid) if more else 0

    def note(self, tenant: str, answer_id: str, tokens: int, cost: int) -> None:
        """An answer was generated, and is charged in full, even if its id was used before: some servers let clients
        choose ids."""
        self._charged.pop((tenant, answer_id), None)
        self._charged[tenant, answer_id] = (tokens, cost)
        if len(self._charged) > MOST:
            self._charged.popitem(last=False)
