"""Views of the live feed: which streams a viewer sees, in which order, and how many. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import orjson

from ..relay.record import ExchangeRecord

MOST_ROWS = 500
"""Most rows of one view."""
ROWS = 100
"""The default number of rows."""
MOST_WORDS = 8
MOST_TEXT = 200
"""Most characters of a filter."""

STALLED = 5.0
"""Seconds without progress on the client's side after which a stream comes first by `trouble`. Then follow those whose
providers were paused for longest, which keeps the order stable, then the oldest."""

SortKey = float | str | tuple[float, float, float]


class Look(NamedTuple):
    """One stream as it is scanned."""

    record: ExchangeRecord
    tokens_per_second: float
    age: float
    """Seconds."""


Sort = Callable[[Look], SortKey]

SORTS: dict[str, Sort] = {
    "trouble": lambda look: (_stalled(look.record.held_seconds), look.record.paused_seconds, look.age),
    "age_seconds": lambda look: look.age,
    "tokens": lambda look: look.record.account.output,
    "tokens_per_second": lambda look: look.tokens_per_second,
    "bytes_down": lambda look: look.record.bytes_down,
    "held_bytes": lambda look: look.record.held,
    "held_seconds": lambda look: look.record.held_seconds,
    "pauses": lambda look: look.record.pauses,
    "paused_seconds": lambda look: look.record.paused_seconds,
    "request_id": lambda look: look.record.request_id.decode("ascii"),
    "client": lambda look: look.record.client or "",
    "upstream": lambda look: look.record.upstream or "",
    "model": lambda look: look.record.account.model or "",
    "tenant": lambda look: look.record.account.tenant or "",
    "state": lambda look: look.record.state,
    "slow": lambda look: look.record.slow or "",
}
FIELDS: dict[str, Callable[[ExchangeRecord], str | None]] = {
    "id": lambda record: record.request_id.decode("ascii"),
    "path": lambda record: record.request.path.decode("latin-1"),
    "client": lambda record: record.client,
    "upstream": lambda record: record.upstream,
    "model": lambda record: record.account.model,
    "tenant": lambda record: record.account.tenant,
    "user": lambda record: record.account.user,
    "session": lambda record: record.account.session,
    "state": lambda record: record.state,
    "slow": lambda record: record.slow,
}
"""The fields of a filter, by name."""


class View(NamedTuple):
    """Hashable, so that viewers of the same view share it."""

    limit: int = ROWS
    sort: str = "trouble"
    descending: bool = True
    words: tuple[str, ...] = ()
    """All must match a stream; in lower case. `tenant:acme` matches only that field, `acme` any."""
    follow: str = ""
    """The id of a request that is always shown; empty: none."""

    def fits(self, record: ExchangeRecord) -> bool:
        return all(_fits(word, record) for word in self.words)

    def key(self, look: Look) -> SortKey:
        return SORTS[self.sort](look)


class BadView(ValueError):
    """The query is invalid. The message says what is wrong, and what is expected."""


def view_of(target: bytes) -> View:
    """The view in a request's target: `?limit=`, `&sort=`, `&filter=`, `&follow=`. Raises BadView."""
    _, _, query = target.decode("latin-1").partition("?")
    asked = dict(parse_qsl(query, keep_blank_values=True))
    sort = asked.get("sort", "-trouble")
    column = sort.removeprefix("-")
    if column not in SORTS:
        raise BadView(f"sort: expected one of {', '.join(SORTS)}, with a minus in front for the largest first")
    text = asked.get("filter", "").lower()
    words = tuple(text.split())
    if len(text) > MOST_TEXT or len(words) > MOST_WORDS:
        raise BadView(f"filter: expected at most {MOST_WORDS} words, {MOST_TEXT} characters in total")
    limit = asked.get("limit", str(ROWS))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 5 and int(limit) <= MOST_ROWS):
        raise BadView(f"limit: expected a number from 0 to {MOST_ROWS}")
    follow = asked.get("follow", "")
    if len(follow) > MOST_TEXT:
        raise BadView(f"follow: expected a request id of at most {MOST_TEXT} characters")
    return View(int(limit), column, sort.startswith("-"), words, follow)


def is_once(target: bytes) -> bool:
    """Whether one object is requested, not a feed."""
    _, _, query = target.decode("latin-1").partition("?")
    return "once" in dict(parse_qsl(query, keep_blank_values=True))


def question_of(views: list[View]) -> bytes:
    """The views as one line, for a worker."""
    return orjson.dumps([tuple(view) for view in views])


def views_of(text: bytes) -> list[View]:
    views: list[list[Any]] = orjson.loads(text)
    return [View(limit, sort, descending, tuple(words), follow) for limit, sort, descending, words, follow in views]


def _stalled(seconds: float) -> float:
    return seconds if seconds >= STALLED else 0.0


def _fits(word: str, record: ExchangeRecord) -> bool:
    name, colon, wanted = word.partition(":")
    field = FIELDS.get(name) if colon else None
    if field is not None:
        return wanted in (field(record) or "").lower()
    return any(word in (each(record) or "").lower() for each in FIELDS.values())
