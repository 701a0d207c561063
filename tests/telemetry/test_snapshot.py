"""What a process tells of its metrics is what its own page has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowserver.relay.histogram import Histogram
from flowserver.telemetry.exposition import Family, Merge, counters, gauges, histograms, written
from flowserver.telemetry.snapshot import decoded, encoded

from ..support.snapshots import read_snapshot

NAMES = st.sampled_from(["model", "le_", "a", "z"])
TEXTS = st.text(st.characters(codec="utf-8"), max_size=5)
LABELS = st.dictionaries(NAMES, TEXTS, max_size=3)
NUMBERS = st.one_of(st.integers(0, 2**63), st.floats(allow_nan=False, allow_infinity=False))
BOUNDS = (0.005, 1.0, 250.0)


def histogram(values: list[float]) -> Histogram:
    made = Histogram(BOUNDS)
    for value in values:
        made.observe(value)
    return made


def unique(values: list[tuple[dict[str, str], float]]) -> list[tuple[dict[str, str], float]]:
    return list({tuple(sorted(labels.items())): (labels, value) for labels, value in values}.values())


@given(
    st.lists(st.tuples(LABELS, NUMBERS)).map(unique),
    st.lists(st.floats(0, 1000)),
    TEXTS,
    st.sampled_from(Merge),
)
def test_what_is_read_is_what_was_told(
    values: list[tuple[dict[str, str], float]], observed: list[float], text: str, merge: Merge
) -> None:
    def made() -> list[Family]:
        return [
            counters("flow_c", text, values),
            gauges("flow_g", text, values, merge),
            histograms("flow_h", text, BOUNDS, [({"model": "m"}, histogram(observed))]),
        ]

    tables = read_snapshot(b"".join(line for family in made() for line in encoded(family)))
    assert list(tables) == ["flow_c", "flow_g", "flow_h"]
    assert tables["flow_g"].merge is merge
    for table, family in zip(tables.values(), made(), strict=True):
        assert b"".join(written(table.family())) == b"".join(written(family))


def test_it_is_told_and_read_a_little_at_a_time() -> None:
    family = counters("flow_c", "Things.", [({"model": str(number)}, number) for number in range(1000)])
    lines = list(encoded(family))
    assert {line.count(b"\n") for line in lines} == {1}
    assert len(list(decoded(b"".join(lines)))) >= 50


def test_nothing_told_is_nothing() -> None:
    assert read_snapshot(b"") == {}
