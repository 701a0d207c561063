"""The objects of the live feed: one for each view, made of what all processes report."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from io import BytesIO
from operator import itemgetter
from typing import Any

import orjson

from .. import __version__
from ..flow.memory_budget import Level
from . import live_upstreams
from .live_census import Share
from .live_report import ENDS
from .live_views import SortKey, View
from .process import ProcessFigures

AT_A_TIME = 20
"""Rows per piece of work."""

MEMORY = ("resident_bytes", "held_bytes", "uploads_held_bytes")
"""Memory figures that are always present."""

_LEVELS = [level.name.lower() for level in Level]

Report = tuple[str, bytes]
"""A worker's name, empty without workers, and its report."""


def common(process: ProcessFigures, *, is_draining: bool) -> dict[str, Any]:
    """The answering process's part of each object."""
    own = {"version": __version__, "pid": os.getpid(), "draining": is_draining}
    if process.started_at is not None:
        own["started_at"] = round(process.started_at, 3)
    return {"time": round(time.time(), 3), "process": own}


class _Rows:
    """The rows of one view, from all reports."""

    __slots__ = ("followed", "found", "matching")

    def __init__(self) -> None:
        self.matching = 0
        self.followed = b"null"
        self.found: list[tuple[SortKey, bytes]] = []

    def chosen(self, view: View) -> list[bytes]:
        self.found.sort(key=itemgetter(0), reverse=view.descending)
        return [row for _, row in self.found[: view.limit]]


def objects(views: Sequence[View], reports: Sequence[Report], common: Mapping[str, Any]) -> Iterator[bytes]:
    """Makes a line for each view. `common` is part of each; the figures of worker processes are added to its `process`.
    Yields empty pieces in between."""
    rows = [_Rows() for _ in views]
    figures: list[tuple[str, dict[str, Any]]] = []
    for worker, report in reports:
        told = yield from _read(worker, report, rows)
        if told is not None:
            figures.append((worker, told))
    merged = {**common, **_merged(figures)}
    merged["process"] = {**merged["process"], **common["process"]}
    shared = orjson.dumps(merged)[:-1]
    yield b""
    for view, of_view in zip(views, rows, strict=True):
        own = {"limit": view.limit, "sort": view.sort, "descending": view.descending, "filter": " ".join(view.words)}
        told_of_view = orjson.dumps({"view": {**own, "matching": of_view.matching}})[1:-1]
        streams = b",".join(of_view.chosen(view))
        yield b'%b,%b,"followed":%b,"streams":[%b]}\n' % (shared, told_of_view, of_view.followed, streams)


def _read(worker: str, report: bytes, rows: Sequence[_Rows]) -> Generator[bytes, None, dict[str, Any] | None]:
    """Add the rows of a report to `rows`. Returns its figures."""
    lines = BytesIO(report)
    head = lines.readline()
    if not head:
        return None
    beginning = b'{"worker":%b,' % orjson.dumps(worker) if worker else b"{"
    of_view = iter(rows)
    now: _Rows | None = None
    for number, line in enumerate(lines):
        if line.startswith(b"{"):
            now = next(of_view)
            now.matching += orjson.loads(line)["matching"]
            continue
        assert now is not None
        key, row = orjson.loads(line), beginning + lines.readline()[1:-1]
        if key:
            now.found.append((_comparable(key[0]), row))
        else:
            now.followed = row
        if number % AT_A_TIME == 0:
            yield b""
    told: dict[str, Any] = orjson.loads(head)
    return told


def _comparable(key: Any) -> SortKey:
    return tuple(key) if isinstance(key, list) else key


def _merged(told: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    each = [figures for _, figures in told]
    ends = sorted((end for figures in each for end in figures["ends"]), key=itemgetter("time"), reverse=True)
    return {
        "process": _process([figures["process"] for figures in each]),
        "upstreams": live_upstreams.merged([figures["upstreams"] for figures in each]),
        "tenants": _tenants([figures["tenants"] for figures in each]),
        "memory": _memory([figures["memory"] for figures in each]),
        "loop": [{"worker": worker or "0", "lag_ms": figures["lag_ms"]} for worker, figures in told],
        "ends": ends[:ENDS],
        "ends_by_reason": _summed([figures["ends_by_reason"] for figures in each]),
        "totals": _totals([figures["totals"] for figures in each]),
    }


def _memory(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    levels = [memory.pop("level") for memory in told if "level" in memory]
    worst = {"level": max(levels, key=_LEVELS.index)} if levels else {}
    return {**_summed([dict.fromkeys(MEMORY, 0), *told]), **worst}


def _process(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {**_summed(told), "workers": len(told)}


def _totals(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    nested = ("states", "slow")
    plain = [{name: figure for name, figure in totals.items() if name not in nested} for totals in told]
    counts = {name: _summed([totals[name] for totals in told]) for name in nested}
    return {**_summed([Share().figures(), *plain]), **counts}


def _tenants(told: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Merge tenants: each worker reports its own streams, and one of them the usage of limits, which are shared by
    all."""
    found: dict[str, dict[str, Any]] = {}
    for row in (row for rows in told for row in rows):
        known = found.setdefault(row["name"], row)
        if known is not row:
            for name in ("streams", "paused", "held_bytes", "tokens_per_second"):
                known[name] = round(known[name] + row[name], 1)
            known["limits"] = known["limits"] or row["limits"]
    return list(found.values())


def _summed(told: Sequence[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for figures in told:
        for name, figure in figures.items():
            found[name] = found.get(name, 0) + figure
    return {name: round(figure, 3) if isinstance(figure, float) else figure for name, figure in found.items()}
