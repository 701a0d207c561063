"""The cost of a WebSocket with the Realtime API. No I/O."""

from __future__ import annotations

from ..dialects.base import Usage
from ..dialects.realtime import RealtimeUsage
from ..quota.money import nano_dollars
from ..quota.prices import PriceTable
from .answer_cost import names_of
from .provider import Provider


class TunnelCost:
    """Prices each report like a request of its size, and what is not reported yet at the highest price."""

    __slots__ = ("_counted", "_reported", "tariff")

    def __init__(self, prices: PriceTable, provider: Provider, model: str | None, counted: RealtimeUsage) -> None:
        """`model`: as named by the client."""
        self.tariff = prices.tariff(provider.name, names_of(provider, model))
        """None: there is no price."""
        self._counted = counted
        self._reported = 0
        """Nano-dollars of all reports."""

    def add(self, report: Usage) -> None:
        """Charge for an answer whose report `_counted` has just read."""
        if self.tariff is not None:
            tokens = report.input or 0
            self._reported += self.tariff.at(tokens).cost(tokens, report.output or 0, report)

    @property
    def total(self) -> int | None:
        """Nano-dollars so far; None: there is no price."""
        if self.tariff is None:
            return None
        tokens, output = self._counted.unreported
        price = self.tariff.at(tokens)
        return self._reported + nano_dollars(tokens * price.input + output * price.dearest_output)
