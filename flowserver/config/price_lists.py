"""Converts public price lists to `[[prices]]` tables. No I/O.

It reads LiteLLM's list (a JSON object of models, each with dollars per token) and CSV (dollars per million tokens, with
the names of the tables' keys in its first line). Everything else in them is ignored.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from .prices import MOST_PRICE, PLACES

_PER_TOKEN = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "output_cost_per_reasoning_token": "reasoning",
}
"""LiteLLM's names, and the keys of a table."""
_ABOVE = re.compile(r"(\w+)_above_(\d+)k_tokens", re.ASCII)
"""LiteLLM's names of prices for requests with more than a number of thousand input tokens."""
_KEYS = tuple(_PER_TOKEN.values())
_STEP = Decimal(1).scaleb(-PLACES)
_MILLION = Decimal(1_000_000)
_INPUT_ONLY = "embedding"
"""LiteLLM's mode of models without output, which may have no output price."""


class ListError(ValueError):
    """The list can't be read; the text says why."""


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """One `[[prices]]` table: prices in dollars per million tokens, by key."""

    model: str
    prices: Mapping[str, Decimal]
    above: int = 0


@dataclass(frozen=True, slots=True)
class PriceList:
    """`left_out`: number of entries without a price per token, or without one for their output."""

    prices: tuple[ListedPrice, ...]
    left_out: int


def read_list(text: str) -> PriceList:
    """The prices in `text`, in either format. Raises ListError."""
    return _read_json(text) if text.lstrip().startswith("{") else _read_csv(text)


def toml_of(found: PriceList) -> str:
    """The file that `prices_file` names. The same prices, in any order, give the same file."""
    return _HEAD + "".join(_table(price) for price in found.prices)


_HEAD = "# Written by `flowserver prices update`, which replaces it. Dollars per million tokens.\n"


def _table(price: ListedPrice) -> str:
    lines = ["", "[[prices]]", f"models = [{_quoted(price.model)}]"]
    lines += [f'{key} = "{format(price.prices[key].normalize(), "f")}"' for key in _KEYS if key in price.prices]
    lines += [f"above_input_tokens = {price.above}"] if price.above else []
    return "\n".join(lines) + "\n"


def _quoted(model: str) -> str:
    """A name as a TOML string, with wildcards escaped, since it is not a pattern."""
    return json.dumps(re.sub(r"[*?[]", r"[\g<0>]", model), ensure_ascii=False)


# --- LiteLLM's list ---


def _read_json(text: str) -> PriceList:
    try:
        listed = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    except (ValueError, RecursionError) as error:
        raise ListError(f"it is not JSON: {error}") from None
    entries = {name: entry for name, entry in listed.items() if _is_name(name) and isinstance(entry, dict)}
    entries.pop("sample_spec", None)  # documentation, not a model
    read = {name: _entry(entry) for name, entry in entries.items()}
    left_out = sum(not steps for steps in read.values())
    named = _with_bare_names({name: steps for name, steps in read.items() if steps})
    return PriceList(tuple(_in_order(named)), left_out)


_Steps = dict[int, dict[str, Decimal]]
"""Prices by key, for each number of input tokens above which they hold."""


def _entry(entry: dict[str, Any]) -> _Steps:
    """The prices of an entry; empty if it has no price per token."""
    steps: _Steps = {0: {}}
    for name, value in entry.items():
        found = _ABOVE.fullmatch(name)
        key = _PER_TOKEN.get(found[1] if found else name)
        price = _decimal(value, _MILLION) if key is not None else None
        if key is not None and price is not None:
            steps.setdefault(int(found[2]) * 1000 if found else 0, {})[key] = price
    base = steps[0]
    if entry.get("mode") == _INPUT_ONLY:
        base.setdefault("output", Decimal(0))
    if not {"input", "output"} <= base.keys() or not any(base.values()):
        return {}
    return {above: base | prices for above, prices in steps.items()}


def _with_bare_names(named: dict[str, _Steps]) -> dict[str, _Steps]:
    """`named`, and each name without its provider prefix, unless that is listed or ambiguous: requests name `gpt-x`,
    while the list may have only `azure/gpt-x`."""
    bare: dict[str, list[_Steps]] = {}
    for name, steps in named.items():
        if "/" in name:
            bare.setdefault(name.rpartition("/")[2], []).append(steps)
    clear = {
        name: found[0] for name, found in bare.items() if _is_name(name) and all(each == found[0] for each in found)
    }
    return clear | named


def _in_order(named: Mapping[str, _Steps]) -> Iterator[ListedPrice]:
    """By name; for one model those for the largest requests first, since the first match holds."""
    for name in sorted(named):
        for above in sorted(named[name], reverse=True):
            yield ListedPrice(name, named[name][above], above)


# --- CSV ---


def _read_csv(text: str) -> PriceList:
    rows = csv.DictReader(text.lstrip("\ufeff").splitlines(), skipinitialspace=True)
    columns = rows.fieldnames or ()
    missing = [name for name in ("model", "input", "output") if name not in columns]
    if missing:
        raise ListError(
            "it is neither LiteLLM's JSON nor CSV with the columns model, input, output and, optionally, cached_input, "
            f"cache_write, reasoning, above_input_tokens: {', '.join(missing)} missing"
        )
    named: dict[str, _Steps] = {}
    for number, row in enumerate(_full(rows), 2):
        try:
            above = int(row.get("above_input_tokens") or 0)
            prices = {key: _price(row[key]) for key in _KEYS if row.get(key)}
        except ValueError as error:
            raise ListError(f"line {number}: {error}") from None
        if not {"input", "output"} <= prices.keys() or above < 0 or not _is_name(row["model"]):
            raise ListError(f"line {number}: expected a model, an input price and an output price")
        named.setdefault(row["model"], {})[above] = prices
    return PriceList(tuple(_in_order(named)), 0)


def _full(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """The rows without unnamed columns, and without values that a short line lacks."""
    for row in rows:
        yield {name: value.strip() for name, value in row.items() if isinstance(name, str) and isinstance(value, str)}


def _price(text: str) -> Decimal:
    price = _decimal(text, Decimal(1))
    if price is None:
        raise ValueError(f"invalid price {text[:50]!r}: expected dollars per million tokens, 0 to {MOST_PRICE}")
    return price


def _decimal(value: object, times: Decimal) -> Decimal | None:
    """`value` times `times`, rounded to the decimals of a table, which removes floating-point noise. None: it is not a
    price."""
    try:
        number = Decimal(value) if isinstance(value, str | Decimal) else None
    except InvalidOperation:
        return None
    if number is None or not number.is_finite() or not 0 <= number <= MOST_PRICE / times:
        return None
    return (number * times).quantize(_STEP)


def _is_name(text: str) -> bool:
    return bool(text) and text.isprintable()
