"""Which metrics and labels a PromQL query names. No parser: it knows what the queries of this project are made of."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(rf"({_NAME})?\s*\{{([^}}]*)\}}")
_MATCHER = re.compile(rf'({_NAME})\s*(?:=~|!~|!=|=)\s*"')
_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "group_left", "group_right", "inf", "nan", "by", "on"})


@dataclass(frozen=True)
class Query:
    """`matched`: metric and label of each matcher; `grouped`: labels behind by, on, and the like."""

    metrics: frozenset[str]
    matched: frozenset[tuple[str, str]]
    grouped: frozenset[str]


def parsed(query: str) -> Query:
    """Variables of Grafana in texts and durations are no trouble. ValueError: there are braces without a name."""
    matched: set[tuple[str, str]] = set()
    metrics: set[str] = set()

    def selector(found: re.Match[str]) -> str:
        name, matchers = found[1], found[2]
        if name is None:
            raise ValueError(f"a selector without a name: {found[0]}")
        metrics.add(name)
        matched.update((name, label) for label in _MATCHER.findall(matchers))
        return " "

    rest = _SELECTOR.sub(selector, query)
    grouped = {label.strip() for _, labels in _GROUPING.findall(rest) for label in labels.split(",") if label.strip()}
    rest = _GROUPING.sub(" ", rest)
    rest = re.sub(r"\[[^\]]*\]", " ", rest)
    metrics |= {
        name
        for name, behind in re.findall(rf"(?<![\w.$])({_NAME})\s*(\(?)", rest)
        if not behind and name.lower() not in _WORDS
    }
    return Query(frozenset(metrics), frozenset(matched), frozenset(grouped))
