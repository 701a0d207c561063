"""Prometheus' text format, held to what prometheus_client writes and reads."""

from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from flowserver.relay.histogram import Histogram
from flowserver.telemetry.exposition import Merge, counter, counters, gauge, gauges, histograms, written


class One:
    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> list[Metric]:
        return [self._family]


def theirs(family: Metric) -> bytes:
    registry = CollectorRegistry()
    registry.register(One(family))
    return generate_latest(registry)


NASTY = ["plain", 'a"b', "a\\b", "a\nb", "{}=,", "", "\N{SNOWMAN}", "a\\nb"]


@pytest.mark.parametrize("value", [0, 1, 1.5, -2, 1e6, 123456789.0, 1e300, 2**64, math.inf, -math.inf, math.nan])
def test_numbers(value: float) -> None:
    family = GaugeMetricFamily("flow_x", "Some figure.", value=value)
    assert b"".join(written(gauge("flow_x", "Some figure.", value, Merge.SUM))) == theirs(family)


def test_labels_and_texts() -> None:
    text = 'A "text"\nwith \\ all.'
    values = [({"z": value, "a": value[::-1]}, 3.0) for value in NASTY]
    ours = (counters("flow_x", text, values), gauges("flow_x", text, values, Merge.SUM))
    for kind, made in zip((CounterMetricFamily, GaugeMetricFamily), ours, strict=True):
        family = kind("flow_x", text, labels=["z", "a"])
        for value in NASTY:
            family.add_metric([value, value[::-1]], 3)
        assert b"".join(written(made)) == theirs(family)


def test_families_are_those_of_prometheus() -> None:
    histogram = Histogram((0.5, 1.0))
    for value in (0.1, 0.7, 0.8, 9.0):
        histogram.observe(value)
    family = HistogramMetricFamily("flow_h", "Times.", labels=["model"])
    family.add_metric(["m"], [("0.5", 1), ("1.0", 3), ("+Inf", 4)], 10.6)
    ours = histograms("flow_h", "Times.", (0.5, 1.0), [({"model": "m"}, histogram)])
    assert b"".join(written(ours)) == theirs(family)
    for kind, labelled in (
        (CounterMetricFamily, counters("flow_c", "Things.", [({"model": "m"}, 2)])),
        (GaugeMetricFamily, gauges("flow_c", "Things.", [({"model": "m"}, 2)], Merge.MAX)),
    ):
        expected = kind("flow_c", "Things.", labels=["model"])
        expected.add_metric(["m"], 2)
        assert b"".join(written(labelled)) == theirs(expected)
    for kind, plain in (
        (CounterMetricFamily, counter("flow_c", "Things.", 2)),
        (GaugeMetricFamily, gauge("flow_c", "Things.", 2, Merge.EACH)),
    ):
        assert b"".join(written(plain)) == theirs(kind("flow_c", "Things.", value=2))


def test_no_piece_is_long() -> None:
    found = [({"model": name}, Histogram((1.0, 2.0))) for name in map(str, range(500))]
    pieces = list(written(histograms("flow_h", "Times.", (1.0, 2.0), found)))
    assert max(piece.count(b"\n") for piece in pieces) <= 2
    [family] = text_string_to_metric_families(b"".join(pieces).decode())
    assert len(family.samples) == 500 * 5
