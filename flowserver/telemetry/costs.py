"""Metrics of money: what the exchanges that have ended cost by the prices. Sums are of whole nano-dollars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ..quota.money import usd_number
from ..relay.record import ExchangeRecord
from .exposition import Family, counters


class CostMetrics:
    """By provider and model, whose labels are those of the tokens."""

    __slots__ = ("_cost", "_unknown")

    def __init__(self) -> None:
        self._cost: dict[tuple[str, str], Counter[str]] = {}
        """By provider and model, then by tenant."""
        self._unknown: Counter[tuple[str, str]] = Counter()
        """Answers."""

    def exchange_ended(self, exchange: ExchangeRecord, upstream: str, model: str, tenant: str) -> None:
        """`model` and `tenant` are labels."""
        account, tokens = exchange.account, exchange.tokens
        key = (upstream, model)
        if account.cost is not None:
            self._cost.setdefault(key, Counter())[tenant] += account.cost
        elif tokens is not None and tokens.is_unpriced:
            self._unknown[key] += 1

    def forget(self, model: str) -> None:
        """Its series end: it has no label any more."""
        for tables in (self._cost, self._unknown):
            for key in [key for key in tables if key[1] == model]:
                del tables[key]

    def collect(self) -> Iterator[Family]:
        costs = [
            ({"upstream": upstream, "model": model, "tenant": tenant}, usd_number(nano))
            for (upstream, model), tenants in sorted(self._cost.items())
            for tenant, nano in sorted(tenants.items())
        ]
        yield counters("flow_cost_usd", "Dollars that ended exchanges cost, by the prices.", costs)
        unknown = [
            ({"upstream": upstream, "model": model}, answers)
            for (upstream, model), answers in sorted(self._unknown.items())
        ]
        text = "Answers of models without a price, whose cost is in no sum."
        yield counters("flow_cost_unknown", text, unknown)
