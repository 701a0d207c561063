"""Metrics of money: the cost of ended exchanges by the prices. Sums are in whole nano-dollars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ..quota.money import usd_number
from ..relay.record import ExchangeRecord
from .exposition import Family, counters


class CostMetrics:
    """Costs by provider and model, with the labels of the token metrics."""

    __slots__ = ("_cost", "_unknown")

    def __init__(self) -> None:
        self._cost: dict[tuple[str, str], Counter[str]] = {}
        """By provider and model, then by tenant."""
        self._unknown: Counter[tuple[str, str]] = Counter()
        """Number of answers."""

    def exchange_ended(self, exchange: ExchangeRecord, upstream: str, model: str, tenant: str) -> None:
        """`model` and `tenant` are labels."""
        account, tokens = exchange.account, exchange.tokens
        key = (upstream, model)
        if account.cost is not None:
            self._cost.setdefault(key, Counter())[tenant] += account.cost
        elif tokens is not None and tokens.is_unpriced:
            self._unknown[key] += 1

    def forget(self, model: str) -> None:
        """End the series of a model that has lost its label."""
        for tables in (self._cost, self._unknown):
            for key in [key for key in tables if key[1] == model]:
                del tables[key]

    def collect(self) -> Iterator[Family]:
        costs = [
            ({"upstream": upstream, "model": model, "tenant": tenant}, usd_number(nano))
            for (upstream, model), tenants in sorted(self._cost.items())
            for tenant, nano in sorted(tenants.items())
        ]
        yield counters("flow_cost_usd", "Cost of ended exchanges in dollars, by the prices.", costs)
        unknown = [
            ({"upstream": upstream, "model": model}, answers)
            for (upstream, model), answers in sorted(self._unknown.items())
        ]
        text = "Answers of models without a price, whose cost is unknown."
        yield counters("flow_cost_unknown", text, unknown)
