"""Reads TOML tables, key by key. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from math import isfinite
from typing import Any

from .entries import Key, Kind, invalid, suggestion


class TableReader:
    """Collects problems instead of stopping at the first; each begins with its place, such as `upstreams[1].url`."""

    def __init__(self, top_level: Sequence[str] = ()) -> None:
        """`top_level`: keys that belong above the first table, a common mistake that gets a message of its own."""
        self._top_level = top_level
        self.problems: list[str] = []
        self.given: set[str] = set()
        """The places of all values that were read."""

    def read(self, table: dict[str, Any], place: str, keys: Sequence[Key]) -> dict[str, Any]:
        """The values of `table`, which is at `place` (empty: the file itself), without invalid ones."""
        where = f"{place}." if place else ""
        known = {key.name: key for key in keys}
        for name in table:
            if place and name in self._top_level:
                self.problems.append(f"{where}{name}: must be above the first table")
            elif name not in known:
                hint = suggestion(name, known) or f": expected one of {', '.join(known)}"
                self.problems.append(f"{where}{name}: unknown key{hint}")
        values: dict[str, Any] = {}
        for name, key in known.items():
            if name not in table:
                if key.required:
                    self.problems.append(f"{where}{name}: is required")
                continue
            try:
                values[name] = key.kind.parse(table[name])
                self.given.add(f"{where}{name}")
            except ValueError as error:
                self.problems.append(f"{where}{name}: {invalid(table[name], error, secret=key.secret)}")
        return values


def repeated(names: Sequence[str]) -> list[str]:
    """Names that occur more than once."""
    return sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []


# --- kinds of values that several tables have ---


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("expected text")
    if not value.isprintable():
        raise ValueError("expected text without control characters")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _patterns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(pattern, str) and pattern for pattern in value):
        raise ValueError("expected a list of patterns such as ['gpt-*']")
    return tuple(value)


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("expected a table")
    return value


def _tables(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise ValueError("expected a list of tables")
    return value


def whole_number(low: int, high: int, remark: str = "") -> Kind:
    """Whole numbers within these bounds; `remark` is appended to the message about others."""

    def parse(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}{remark}")
        return value

    return Kind("number", parse, {"type": "integer", "minimum": low, "maximum": high})


def _some_patterns(value: Any) -> tuple[str, ...]:
    patterns = _patterns(value)
    if not patterns:
        raise ValueError("expected a list of patterns such as ['gpt-*']")
    return patterns


def decimal_number(places: int, most: int, expected: str, *, least: int = 0) -> Kind:
    """Amounts up to `most`, numbers or text, as whole multiples of the last decimal place; `least` in these. A float is
    taken as written."""
    unit: int = 10**places

    def parse(value: Any) -> int:
        text = format(Decimal(repr(value)), "f") if isinstance(value, float) and isfinite(value) else str(value)
        found = _DECIMAL.fullmatch(text) if not isinstance(value, bool) else None
        if found is None:
            raise ValueError(f"expected {expected}")
        whole, decimals = found[1], (found[2] or "").rstrip("0")
        if len(decimals) > places:
            raise ValueError(f"expected at most {places} decimals")
        amount: int = int(whole) * unit + int(decimals.ljust(places, "0"))
        if not least <= amount <= most * unit:
            raise ValueError(f"expected {'0' if not least else 'more than 0'} to {most}")
        return amount

    low = {"minimum": 0} if least == 0 else {"exclusiveMinimum": 0}
    number = {"type": "number", **low, "maximum": most}
    return Kind("amount", parse, {"anyOf": [number, {"type": "string", "pattern": f"^{_DECIMAL.pattern}$"}]})


_DECIMAL = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,40}))?")

TEXT = Kind("text", _text, {"type": "string", "minLength": 1})
FLAG = Kind("true or false", _flag, {"type": "boolean"})
PATTERNS = Kind("list of patterns", _patterns, {"type": "array", "items": {"type": "string", "minLength": 1}})
SOME_PATTERNS = Kind("list of patterns", _some_patterns, {**PATTERNS.schema, "minItems": 1})


def table_of_keys(keys: Sequence[Key]) -> Kind:
    """A table within a table."""
    return Kind("table", _table, table_schema(keys))


def tables_of_keys(keys: Sequence[Key]) -> Kind:
    """A list of such tables."""
    return Kind("tables", _tables, {"type": "array", "items": table_schema(keys)})


def table_schema(keys: Sequence[Key]) -> dict[str, Any]:
    """The JSON Schema of a table with these keys."""
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {key.name: {**key.kind.schema, "description": key.doc} for key in keys},
        "additionalProperties": False,
    }
    required = [key.name for key in keys if key.required]
    return {**schema, "required": required} if required else schema
