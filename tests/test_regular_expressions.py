"""Regular expressions that every supported Python reads alike."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest

import flowserver

parser: Any = importlib.import_module("re._parser")
POSSESSIVE = "POSSESSIVE_REPEAT"
BACKTRACKING = {"BRANCH", "MAX_REPEAT", "MIN_REPEAT"}


def patterns() -> Iterator[tuple[str, re.Pattern[Any]]]:
    """All that modules keep, by name, or by a method of theirs."""
    for module in pkgutil.walk_packages(flowserver.__path__, "flowserver."):
        if module.name.endswith("__main__"):
            continue
        try:
            found = importlib.import_module(module.name)
        except ImportError:  # of an extra
            continue
        for name, value in vars(found).items():
            pattern = getattr(value, "__self__", value)
            if isinstance(pattern, re.Pattern):
                yield f"{module.name}.{name}", pattern


def operations(parsed: Any) -> Iterator[tuple[str, Any]]:
    """Those of a parsed expression and of all its parts."""
    for operation, argument in parsed:
        yield str(operation), argument
        for part in parts(argument):
            yield from operations(part)


def parts(argument: Any) -> Iterator[Any]:
    if isinstance(argument, parser.SubPattern):
        yield argument
    elif isinstance(argument, tuple | list):
        for each in argument:
            yield from parts(each)


@pytest.mark.parametrize(
    ("name", "pattern"), list(patterns()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_may_match_in_several_ways_is_repeated_in_an_atomic_group(name: str, pattern: re.Pattern[Any]) -> None:
    """Before Python 3.11.5 a possessive repeat of such a part matches wrongly (cpython issue 106052): Debian 12 has
    3.11.2. `(?>(?:...)*)` means the same."""
    for operation, argument in operations(parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE)):
        if operation == POSSESSIVE:
            inside = {each for each, _ in operations(argument[2])}
            assert not inside & BACKTRACKING, f"{name}: {pattern.pattern!r}"
