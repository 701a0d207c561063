"""What tokens cost: the price tables, and which of them applies to an answer. No I/O.

Amounts are whole pico-dollars (see `money`), so a bill is exact, and is rounded once: up, to a nano-dollar.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from re import Pattern, compile
from typing import NamedTuple

from ..dialects.base import Usage
from .money import nano_dollars
from .tenants import is_pattern

ANY = "*"
"""The pattern for models that no other table matches."""
MOST_FOUND = 4096
"""Most look-ups that are remembered: clients may invent model names."""


@dataclass(frozen=True, slots=True)
class Price:
    """Prices of one token of each kind, in pico-dollars."""

    input: int
    output: int
    cached_input: int
    """Input that was read from the provider's cache."""
    cache_write: int
    """Input that was written to the cache."""
    reasoning: int
    """Output that was reasoning."""

    @property
    def dearest_output(self) -> int:
        """The highest price of an output token: while an answer runs nobody knows which tokens are reasoning."""
        return max(self.output, self.reasoning)

    def of_input(self, tokens: int, usage: Usage) -> int:
        """Pico-dollars of a request of `tokens` tokens; `usage` says how many of them were cached."""
        cached = min(max(0, usage.cached or 0), tokens)
        written = min(max(0, usage.cache_written or 0), tokens - cached)
        plain = tokens - cached - written
        return plain * self.input + cached * self.cached_input + written * self.cache_write

    def cost(self, input: int, output: int, usage: Usage) -> int:
        """Nano-dollars of `input` and `output` tokens; `usage` says how many of them were cached or reasoning."""
        reasoning = min(max(0, usage.reasoning or 0), output)
        pico = self.of_input(input, usage) + (output - reasoning) * self.output + reasoning * self.reasoning
        return nano_dollars(pico)


@dataclass(frozen=True, slots=True)
class PriceRow:
    """One `[[prices]]` table."""

    models: tuple[str, ...]
    """Shell patterns."""
    price: Price
    upstreams: tuple[str, ...] = ()
    """Names of providers; empty: all."""
    above: int = 0
    """It applies only to requests with more input tokens than this."""


class MoneyTerms(NamedTuple):
    """The terms for admitting a request whose money is limited, before its cost is known."""

    need: int
    """Nano-dollars of the request itself."""
    token: int
    """Pico-dollars of each token of its answer, at most."""
    whole: int = 0
    """Tokens that the answer may have before anybody can end it; 0: it is a stream."""


class Tariff:
    """The prices of one model at one provider, by the size of the request."""

    __slots__ = ("_base", "_steps", "is_for_all")

    def __init__(self, rows: Sequence[PriceRow]) -> None:
        """`rows` in the order of the tables; the last one applies to requests of any size."""
        self._base = rows[-1].price
        self.is_for_all = ANY in rows[-1].models
        """Whether it is the tariff for all models without another one."""
        self._steps = [(row.above, row.price) for row in rows[:-1]]

    def at(self, input: int) -> Price:
        """The price of a request of `input` tokens."""
        for above, price in self._steps:
            if input > above:
                return price
        return self._base


class PriceTable:
    """The `[[prices]]` tables in their order: the first that fits holds. In any case: to some providers it does not
    matter, and a model that is spelled in another way must not have the price of others."""

    __slots__ = ("_found", "_literal", "_patterns", "_rows")

    def __init__(self, rows: Iterable[PriceRow]) -> None:
        self._rows = list(rows)
        self._literal: dict[str, list[int]] = {}
        """The rows that name a model as it is, by its name in lower case: lists of prices are long, and most of them is
        names."""
        self._patterns: list[tuple[int, Pattern[str]]] = []
        for number, row in enumerate(self._rows):
            for model in row.models:
                if is_pattern(model):
                    self._patterns.append((number, compile(translate(model.casefold()))))
                else:
                    self._literal.setdefault(model.casefold(), []).append(number)
        self._found: dict[tuple[str, str], Tariff | None] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def tariff(self, upstream: str, models: Iterable[str | None]) -> Tariff | None:
        """The tariff at `upstream` of the first of `models`, names of one model, that has one; None: none has. A table
        for all models (`ANY`) applies if no name has another, and to a model without a name (None)."""
        for_all: Tariff | None = None
        for model in models:
            tariff = self._known(upstream, model or "")
            if tariff is not None:
                if not tariff.is_for_all:
                    return tariff
                for_all = for_all or tariff
        return for_all

    def _known(self, upstream: str, model: str) -> Tariff | None:
        found, key = self._found, (upstream, model)
        if key not in found:
            if len(found) >= MOST_FOUND:
                found.clear()
            found[key] = self._find(upstream, model)
        return found[key]

    def _find(self, upstream: str, model: str) -> Tariff | None:
        name = model.casefold()
        numbers = {*self._literal.get(name, ()), *(number for number, fits in self._patterns if fits.match(name))}
        rows: list[PriceRow] = []
        for number in sorted(numbers):
            row = self._rows[number]
            if not row.upstreams or upstream in row.upstreams:
                rows.append(row)
                if not row.above:
                    return Tariff(rows)
        return None  # tables for large requests only do not price the others
