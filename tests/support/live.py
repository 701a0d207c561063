"""What tells of a process' streams, made for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from flowserver.telemetry.live_objects import common
from flowserver.telemetry.live_report import LiveReport
from flowserver.telemetry.live_tenants import TenantFigures
from flowserver.telemetry.metrics import Metrics
from flowserver.telemetry.slices import Slices
from flowserver.telemetry.sources import OwnPages


def live_report(metrics: Metrics, clock: Callable[[], float], tenants: TenantFigures | None = None) -> LiveReport:
    return LiveReport(metrics, tenants, clock=clock, wall=lambda: 1000.0 + clock())


def own_pages(
    metrics: Metrics, slices: Slices, clock: Callable[[], float], is_draining: Callable[[], bool] = lambda: False
) -> OwnPages:
    return OwnPages(
        metrics,
        slices,
        live_report(metrics, clock),
        clock=clock,
        unready=lambda: "draining" if is_draining() else None,
        common=lambda: common(metrics.process, is_draining=is_draining()),
    )


def events(body: bytes) -> list[dict[str, Any]]:
    """The objects of a feed, as far as they are whole."""
    *whole, _ = body.split(b"\n\n")
    return [orjson.loads(event.removeprefix(b"data: ")) for event in whole if event.startswith(b"data: ")]
