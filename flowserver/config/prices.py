"""The `[[prices]]` tables, in the main file and in the one that `prices_file` names. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from ..quota.prices import Price, PriceRow
from .entries import Key, Kind, suggestion
from .tables import PATTERNS, SOME_PATTERNS, TEXT, TableReader, decimal_number, tables_of_keys, whole_number

PLACES = 6
"""Most decimals of a price in dollars per million tokens: one token then costs a whole number of pico-dollars."""
MOST_PRICE = 1_000_000
"""Highest price, in dollars per million tokens."""

_PRICE = decimal_number(PLACES, MOST_PRICE, "a price in dollars per million tokens such as 2.5 or '0.0375'")


def _currency(value: Any) -> str:
    if value != "USD":
        raise ValueError("expected 'USD': all prices and limits are in US dollars")
    return "USD"


PRICE_KEYS = (
    Key(
        "models",
        SOME_PATTERNS,
        "Models that have these prices, such as `gpt-4o*`; the first matching table holds.",
        required=True,
    ),
    Key(
        "upstreams",
        Kind("list of names", PATTERNS.parse, PATTERNS.schema),
        "Providers to which they apply; all by default.",
    ),
    Key("input", _PRICE, "Dollars per million input tokens.", required=True),
    Key("output", _PRICE, "Dollars per million output tokens.", required=True),
    Key("cached_input", _PRICE, "The same for input that is read from the provider's cache; by default as `input`."),
    Key("cache_write", _PRICE, "The same for input that is written to the cache; by default as `input`."),
    Key("reasoning", _PRICE, "The same for reasoning output; by default as `output`."),
    Key(
        "above_input_tokens",
        whole_number(1, 1_000_000_000),
        "They apply only to requests with more input tokens than this. A later table for the same models has the "
        "others' prices.",
    ),
    Key("currency", Kind("`USD`", _currency, {"const": "USD"}), "The only currency."),
)
PRICES_FILE_KEYS = (Key("prices", tables_of_keys(PRICE_KEYS), "Tables as in the main file.", required=True),)


def price_table(price: Price) -> dict[str, str]:
    """The prices as in a file."""
    return {name: _text(pico) for name, pico in asdict(price).items()}


def price_row_table(row: PriceRow) -> dict[str, Any]:
    """The table with all its keys."""
    return {
        "models": list(row.models),
        "upstreams": list(row.upstreams),
        "above_input_tokens": row.above,
        **price_table(row.price),
    }


def _text(pico: int) -> str:
    whole, rest = divmod(pico, 10**PLACES)
    return f"{whole}.{rest:0{PLACES}d}".rstrip("0").rstrip(".")


class PriceReader(TableReader):
    """Reads `[[prices]]` tables."""

    def prices(self, tables: Sequence[dict[str, Any]], upstreams: Collection[str]) -> list[PriceRow]:
        """The rows of `tables`, without invalid ones. `upstreams`: the names of all providers."""
        rows = (self._row(table, f"prices[{number}]", upstreams) for number, table in enumerate(tables))
        return [row for row in rows if row is not None]

    def _row(self, table: dict[str, Any], place: str, upstreams: Collection[str]) -> PriceRow | None:
        before = len(self.problems)
        values = self.read(table, place, PRICE_KEYS)
        for name in values.get("upstreams", ()):
            if name not in upstreams:
                hint = suggestion(name, upstreams) or f"; expected one of {', '.join(upstreams)}"
                self.problems.append(f"{place}.upstreams: there is no upstream {name!r}{hint}")
        if len(self.problems) > before:
            return None
        price = Price(
            input=values["input"],
            output=values["output"],
            cached_input=values.get("cached_input", values["input"]),
            cache_write=values.get("cache_write", values["input"]),
            reasoning=values.get("reasoning", values["output"]),
        )
        return PriceRow(values["models"], price, values.get("upstreams", ()), values.get("above_input_tokens", 0))


PRICES_FILE = Key(
    "prices_file",
    TEXT,
    "Must be above the first table. A TOML file of further `[[prices]]` tables, relative to this file, whose tables "
    "come first.",
)
