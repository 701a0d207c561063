"""Prometheus' text format (version 0.0.4), a line at a time, so that the event loop can do other things in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from .histogram import Histogram

Labels = dict[str, str]


class Family(Protocol):
    """One metric with its samples: a `Series`, or a family of prometheus_client's own collectors."""

    @property
    def name(self) -> str: ...

    @property
    def documentation(self) -> str: ...

    @property
    def type(self) -> str: ...

    @property
    def samples(self) -> Iterable[Sample]: ...


class Series:
    """A family whose samples may be made while they are written."""

    def __init__(self, kind: str, name: str, text: str, samples: Iterable[Sample]) -> None:
        self.name = name
        self.documentation = text
        self.type = kind
        self.samples = samples


def counters(name: str, text: str, values: Iterable[tuple[Labels, float]]) -> Series:
    return Series("counter", name, text, (Sample(f"{name}_total", labels, value) for labels, value in values))


def counter(name: str, text: str, value: float) -> Series:
    return counters(name, text, [({}, value)])


def gauges(name: str, text: str, values: Iterable[tuple[Labels, float]]) -> Series:
    return Series("gauge", name, text, (Sample(name, labels, value) for labels, value in values))


def gauge(name: str, text: str, value: float) -> Series:
    return gauges(name, text, [({}, value)])


def histograms(name: str, text: str, found: Iterable[tuple[Labels, Histogram]]) -> Series:
    return Series("histogram", name, text, _histogram_samples(name, found))


def _histogram_samples(name: str, found: Iterable[tuple[Labels, Histogram]]) -> Iterator[Sample]:
    for labels, histogram in found:
        buckets, total = histogram.buckets(), histogram.sum  # of one moment
        for bound, count in buckets:
            yield Sample(f"{name}_bucket", {**labels, "le": bound}, count)
        yield Sample(f"{name}_count", labels, buckets[-1][1])
        yield Sample(f"{name}_sum", labels, total)


def written(family: Family) -> Iterator[bytes]:
    """The lines of a family; each piece is one line or two."""
    name = f"{family.name}_total" if family.type == "counter" else family.name
    text = family.documentation.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {name} {text}\n# TYPE {name} {family.type}\n".encode()
    for sample in family.samples:
        yield f"{sample.name}{_labels(sample.labels)} {_number(sample.value)}\n".encode()


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join([f'{name}="{_escaped(value)}"' for name, value in sorted(labels.items())]) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]
