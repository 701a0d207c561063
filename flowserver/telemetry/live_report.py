"""The report of one process for the live feed: figures, then the rows of each view. Lines of JSON, so that it is
written and read in small pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson

from ..flow.memory_budget import UNBOUNDED
from ..relay.record import ExchangeRecord, RecordedExchange
from . import live_upstreams
from .live_census import Census, Choice, Rates
from .live_streams import figures
from .live_tenants import TenantFigures
from .live_views import SortKey, views_of
from .memory import MemoryFigures
from .metrics import Metrics

ENDS = 20
"""Number of last ends that are reported."""


class LiveReport:
    """Makes the reports of one process. It remembers the last scan of each stream, to compute rates."""

    __slots__ = ("_clock", "_metrics", "_rates", "_tenants", "_wall")

    def __init__(
        self, metrics: Metrics, tenants: TenantFigures | None, *, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        """`clock`: the exchanges' clock; `wall`: seconds since the epoch. `tenants` None: there are none."""
        self._metrics = metrics
        self._tenants = tenants
        self._clock = clock
        self._wall = wall
        self._rates = Rates()

    def lines(self, question: bytes) -> Iterator[bytes]:
        """The report on the views in `question` (see `live_views.question_of`): figures, then for each view
        `{"matching": 12}`, and for each of its rows a line with a list of its sort key (empty: the followed stream) and
        the row. Yields empty pieces in between."""
        metrics, clock = self._metrics, self._clock
        census = Census(views_of(question))
        ended_tokens = metrics.ended_tokens
        yield from census.look(metrics.open, self._rates, clock)
        rate = self._rates.total(ended_tokens, clock())
        if self._tenants is not None:
            yield from self._tenants.refresh(census.tenants)
        yield _line(self._figures(census, rate))
        for choice in census.choices:
            yield from self._rows(choice)

    def _rows(self, choice: Choice) -> Iterator[bytes]:
        yield _line({"matching": choice.matching})
        chosen: list[tuple[list[SortKey], RecordedExchange]] = [([key], each) for key, each in choice.chosen()]
        if choice.followed is not None:
            chosen.append(([], choice.followed))
        for key, exchange in chosen:
            if exchange not in self._metrics.open:
                continue
            now = self._clock()
            row = figures(exchange, now)
            row["tokens_per_second"] = round(self._rates.last(exchange), 1)
            yield _line(key) + _line(row)

    def _figures(self, census: Census, rate: float | None) -> dict[str, Any]:
        metrics = self._metrics
        now, wall = self._clock(), self._wall()
        process = metrics.process.summary()
        return {
            "process": {**process, "connections": metrics.connections},
            "upstreams": live_upstreams.rows(metrics, census.upstreams, now),
            "tenants": [] if self._tenants is None else self._tenants.rows(census.tenants),
            "memory": {
                "resident_bytes": process.get("resident_bytes", 0),
                "held_bytes": census.all.held,
                "uploads_held_bytes": metrics.uploads.held if metrics.uploads is not None else 0,
                **_budget(metrics.memory),
            },
            "lag_ms": round(metrics.last_lag * 1000, 2),
            "ends": [_end(record, now, wall) for record in list(metrics.last_ends)[: -ENDS - 1 : -1]],
            "ends_by_reason": {str(reason): count for reason, count in metrics.ends.items() if count},
            "totals": census.totals(rate),
        }


def _budget(memory: MemoryFigures | None) -> dict[str, Any]:
    """The budget of FLOW_MEMORY, and how close the process is to it; empty without a bound."""
    if memory is None or memory.budget.limit >= UNBOUNDED:
        return {}
    budget = memory.budget
    return {"budget_bytes": budget.limit, "used_bytes": budget.used, "level": budget.level.name.lower()}


def _end(record: ExchangeRecord, now: float, wall: float) -> dict[str, Any]:
    ended_at = record.ended_at if record.ended_at is not None else now
    return {
        "time": round(wall - (now - ended_at), 3),
        "request_id": record.request_id.decode("ascii"),
        "end": record.end,
        "status": record.status or None,
        "code": record.error.code if record.error is not None else None,
        "path": record.request.path.decode("latin-1"),
        "client": record.client,
        "upstream": record.upstream,
        "model": record.account.model,
        "tenant": record.account.tenant,
        "tokens": record.account.output,
        "duration_seconds": round(ended_at - record.started_at, 3),
        "pauses": record.pauses,
        "paused_seconds": round(record.paused_seconds, 3),
    }


def _line(told: object) -> bytes:
    return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)
