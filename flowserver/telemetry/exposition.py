"""Metric families, and their form in Prometheus' text format (version 0.0.4), written line by line, so that the event
loop can do other things in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

from prometheus_client.utils import floatToGoString

from ..relay.histogram import Histogram

Labels = dict[str, str]
Sample = tuple[Labels, Sequence[float]]
"""One number; for a histogram the number of values in each bucket, including beyond the last bound, and their sum."""


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Merge(StrEnum):
    """How the figures of several workers are combined on one page. Counters and histograms are always summed."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"
    EACH = "each"
    """Each worker's own, with its name as label `worker`."""


class Family:
    """One metric. Its samples may be generated while they are written."""

    __slots__ = ("bounds", "kind", "merge", "name", "samples", "text")

    def __init__(
        self, kind: Kind, name: str, text: str, merge: Merge, samples: Iterable[Sample], bounds: Sequence[str] = ()
    ) -> None:
        """`bounds`: of a histogram's buckets, ascending, without `+Inf`."""
        self.kind = kind
        self.name = name
        """For a counter, without `_total`."""
        self.text = text
        self.merge = merge
        self.samples = samples
        self.bounds = bounds

    @property
    def title(self) -> str:
        """The exposed name."""
        return f"{self.name}_total" if self.kind is Kind.COUNTER else self.name


def counters(name: str, text: str, values: Iterable[tuple[Labels, float]]) -> Family:
    return Family(Kind.COUNTER, name, text, Merge.SUM, _single(values))


def counter(name: str, text: str, value: float) -> Family:
    return counters(name, text, [({}, value)])


def gauges(name: str, text: str, values: Iterable[tuple[Labels, float]], merge: Merge) -> Family:
    return Family(Kind.GAUGE, name, text, merge, _single(values))


def gauge(name: str, text: str, value: float, merge: Merge) -> Family:
    return gauges(name, text, [({}, value)], merge)


def histograms(name: str, text: str, bounds: Sequence[float], found: Iterable[tuple[Labels, Histogram]]) -> Family:
    """A family of histograms with the same `bounds`."""
    return Family(Kind.HISTOGRAM, name, text, Merge.SUM, _read(found), [str(bound) for bound in bounds])


def _single(values: Iterable[tuple[Labels, float]]) -> Iterator[Sample]:
    for labels, value in values:
        yield labels, [value]


def _read(found: Iterable[tuple[Labels, Histogram]]) -> Iterator[Sample]:
    for labels, histogram in found:
        yield labels, histogram.figures()


def written(family: Family) -> Iterator[bytes]:
    """The lines of a family; each piece is one line or two."""
    title = family.title
    text = family.text.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {title} {text}\n# TYPE {title} {family.kind}\n".encode()
    for labels, figures in family.samples:
        if family.kind is Kind.HISTOGRAM:
            yield from _histogram_lines(family, labels, figures)
        else:
            yield _line(title, labels, figures[0])


def _histogram_lines(family: Family, labels: Labels, figures: Sequence[float]) -> Iterator[bytes]:
    name, count = family.name, 0.0
    for bound, number in zip((*family.bounds, "+Inf"), figures, strict=False):
        count += number
        yield _line(f"{name}_bucket", {**labels, "le": bound}, count)
    yield _line(f"{name}_count", labels, count)
    yield _line(f"{name}_sum", labels, figures[-1])


def _line(name: str, labels: Labels, value: float) -> bytes:
    return f"{name}{_labels(labels)} {_number(value)}\n".encode()


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join([f'{name}="{_escaped(value)}"' for name, value in sorted(labels.items())]) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]
