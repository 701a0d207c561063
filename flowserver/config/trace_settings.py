"""The settings of traces: the part of `settings.Config` that has a file of its own."""

from __future__ import annotations

from dataclasses import dataclass

from .addresses import Url
from .entries import setting
from .groups import TRACES
from .kinds import FILE, HEADERS, RATIO, URL


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """As in `settings.Config`."""

    otlp_endpoint: Url | None = setting(
        "",
        URL,
        TRACES,
        doc="Base URL of a collector that gets a span for each request, by OTLP over HTTP (protobuf), at `/v1/traces`. "
        "Empty: nothing is traced.",
    )
    otlp_headers: tuple[tuple[str, str], ...] = setting(
        "",
        HEADERS,
        TRACES,
        secret=True,
        refers=True,
        doc="Header fields sent to the collector, such as `authorization=Bearer%20...`, separated by commas; values "
        "are percent-encoded.",
    )
    otlp_ca: str | None = setting(
        "",
        FILE,
        TRACES,
        doc="PEM file of the authorities that the collector's certificate must be signed by. Empty: those of the "
        "system.",
    )
    trace_sample: float = setting(
        "1",
        RATIO,
        TRACES,
        doc="Share of requests that are traced, from 0 to 1. If the client sends a `traceparent`, its own decision "
        "holds instead.",
    )
