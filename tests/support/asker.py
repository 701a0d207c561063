"""A request that asks for a place at a provider, and says what it heard."""

from __future__ import annotations

from flowserver.routing.claim import Claim, Refusal


class Asker:
    """A `Waiter`."""

    def __init__(self, claim: Claim | None = None) -> None:
        self.claim = claim or Claim()
        self.places = 0
        self.sent_away = 0
        self.refusal: Refusal | None = None

    def on_place(self) -> None:
        self.places += 1

    def on_no_place(self, refusal: Refusal | None) -> None:
        self.refusal = refusal
        self.sent_away += 1

    def on_busy(self) -> None:
        raise AssertionError("places of one process are known")
