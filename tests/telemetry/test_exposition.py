"""Prometheus' text format, held to what prometheus_client writes and reads."""

from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from flowserver.telemetry.exposition import counter, counters, gauge, gauges, histograms, written
from flowserver.telemetry.histogram import Histogram


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
    assert b"".join(written(family)) == theirs(family)


def test_labels_and_texts() -> None:
    for kind in (CounterMetricFamily, GaugeMetricFamily):
        family = kind("flow_x", 'A "text"\nwith \\ all.', labels=["z", "a"])
        for value in NASTY:
            family.add_metric([value, value[::-1]], 3)
        assert b"".join(written(family)) == theirs(family)


def test_series_are_the_families_of_prometheus() -> None:
    histogram = Histogram((0.5, 1.0))
    for value in (0.1, 0.7, 0.8, 9.0):
        histogram.observe(value)
    family = HistogramMetricFamily("flow_h", "Times.", labels=["model"])
    family.add_metric(["m"], histogram.buckets(), histogram.sum)
    assert b"".join(written(histograms("flow_h", "Times.", [({"model": "m"}, histogram)]))) == theirs(family)
    for kind, make in ((CounterMetricFamily, counters), (GaugeMetricFamily, gauges)):
        labelled = kind("flow_c", "Things.", labels=["model"])
        labelled.add_metric(["m"], 2)
        assert b"".join(written(make("flow_c", "Things.", [({"model": "m"}, 2)]))) == theirs(labelled)
    for kind, make_one in ((CounterMetricFamily, counter), (GaugeMetricFamily, gauge)):
        assert b"".join(written(make_one("flow_c", "Things.", 2))) == theirs(kind("flow_c", "Things.", value=2))


def test_no_piece_is_long() -> None:
    found = [({"model": name}, Histogram((1.0, 2.0))) for name in map(str, range(500))]
    pieces = list(written(histograms("flow_h", "Times.", found)))
    assert max(piece.count(b"\n") for piece in pieces) <= 2
    [family] = text_string_to_metric_families(b"".join(pieces).decode())
    assert len(family.samples) == 500 * 5
