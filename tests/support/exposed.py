"""What holds for any page in Prometheus' text format, beside that it can be read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from prometheus_client.parser import text_string_to_metric_families

SUFFIXES = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("",), "gauge": ("",)}


def broken_rules(text: str) -> list[str]:
    """As `promtool check metrics` has them, as far as they are of form: HELP and TYPE once and before the samples,
    each family in one piece, no series twice, counters end in `_total`, histograms are whole."""
    return [*_broken_lines(text), *_broken_histograms(text)]


def _broken_lines(text: str) -> Iterator[str]:
    seen: set[str] = set()
    series: set[str] = set()
    if text and not text.endswith("\n"):
        yield "the last line has no end"
    lines = iter(text.splitlines())
    name, kind = "", ""
    for line in lines:
        if line.startswith("#"):
            _, what, name, said = line.split(" ", 3)
            _, type_, same, kind = next(lines).split(" ", 3)
            if (what, type_, same) != ("HELP", "TYPE", name) or not said:
                yield f"{name}: HELP and TYPE do not come together"
            if name in seen:
                yield f"{name}: twice"
            if (kind == "counter") is not name.endswith("_total"):
                yield f"{name}: a {kind}"
            seen.add(name)
            continue
        labelled = line.rpartition(" ")[0]
        if labelled.partition("{")[0] not in {f"{name}{suffix}" for suffix in SUFFIXES[kind]}:
            yield f"{line}: not of {name}"
        if labelled in series:
            yield f"{labelled}: twice"
        series.add(labelled)


def _broken_histograms(text: str) -> Iterator[str]:
    for family in text_string_to_metric_families(text):
        if family.type != "histogram":
            continue

        def labels(sample: object) -> list[tuple[str, str]]:
            return sorted((key, value) for key, value in sample.labels.items() if key != "le")  # type: ignore[attr-defined]

        for key, group in groupby(family.samples, labels):
            *buckets, count, total = group
            values = [bucket.value for bucket in buckets]
            bounds = [float(bucket.labels["le"]) for bucket in buckets]
            names = [sample.name for sample in (count, total)]
            if names != [f"{family.name}_count", f"{family.name}_sum"] or bounds != sorted(set(bounds)):
                yield f"{family.name} {key}: in disorder"
            if values != sorted(values) or bounds[-1:] != [float("inf")] or values[-1] != count.value:
                yield f"{family.name} {key}: does not add up"
