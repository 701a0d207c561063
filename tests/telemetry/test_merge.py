"""Snapshots of several workers as one page: each gauge by its rule, and no sum ever falls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.relay.histogram import Histogram
from flowserver.telemetry.exposition import Family, Merge, counter, counters, gauges, histograms, written
from flowserver.telemetry.merge import MAX_PAST, Ledger
from flowserver.telemetry.snapshot import encoded

from ..support.exposed import broken_rules
from ..support.lab import samples


def told(*families: Family) -> bytes:
    return b"".join(line for family in families for line in encoded(family))


def done(work: Iterator[bytes]) -> None:
    assert set(work) <= {b""}


def take(ledger: Ledger, name: str, number: int, *families: Family) -> None:
    done(ledger.take(name, number, told(*families)))


def page(ledger: Ledger) -> dict[str, float]:
    text = b"".join(line for family in ledger.families() for line in written(family)).decode()
    assert broken_rules(text) == []
    return samples(text)


def histogram(*values: float) -> Histogram:
    made = Histogram((1.0, 2.0))
    for value in values:
        made.observe(value)
    return made


def test_counters_and_histograms_are_summed_by_their_labels() -> None:
    ledger = Ledger()
    take(
        ledger,
        "0",
        1,
        counters("c", "x", [({"a": "1"}, 3), ({"a": "2"}, 4)]),
        histograms("h", "x", (1.0, 2.0), [({}, histogram(0.5, 1.5))]),
    )
    take(
        ledger,
        "1",
        2,
        counters("c", "x", [({"a": "2"}, 5), ({"a": "3"}, 6)]),
        histograms("h", "x", (1.0, 2.0), [({}, histogram(1.5, 9.0))]),
    )
    assert page(ledger) == {
        'c_total{a="1"}': 3,
        'c_total{a="2"}': 9,
        'c_total{a="3"}': 6,
        'h_bucket{le="1.0"}': 1,
        'h_bucket{le="2.0"}': 3,
        'h_bucket{le="+Inf"}': 4,
        "h_count": 4,
        "h_sum": 12.5,
    }


@pytest.mark.parametrize(
    ("merge", "expected"),
    [
        (Merge.SUM, {'g{a="1"}': 7, 'g{a="2"}': 4}),
        (Merge.MAX, {'g{a="1"}': 5, 'g{a="2"}': 4}),
        (Merge.MIN, {'g{a="1"}': 2, 'g{a="2"}': 4}),
        (Merge.EACH, {'g{a="1",worker="0"}': 5, 'g{a="1",worker="1"}': 2, 'g{a="2",worker="1"}': 4}),
    ],
)
def test_gauges_go_by_their_rule(merge: Merge, expected: dict[str, float]) -> None:
    ledger = Ledger()
    take(ledger, "0", 1, gauges("g", "x", [({"a": "1"}, 5)], merge))
    take(ledger, "1", 2, gauges("g", "x", [({"a": "1"}, 2), ({"a": "2"}, 4)], merge))
    assert page(ledger) == expected


def test_of_a_worker_that_is_gone_the_counters_stay_and_the_gauges_vanish() -> None:
    ledger = Ledger()
    for name, number in (("0", 1), ("1", 2)):
        take(
            ledger,
            name,
            number,
            counter("c", "x", 10),
            counters("only", "x", [({"a": name}, 1)]),
            histograms("h", "x", (1.0, 2.0), [({}, histogram(0.5))]),
            gauges("g", "x", [({}, 3)], Merge.SUM),
            gauges("e", "x", [({}, 4)], Merge.EACH),
        )
    done(ledger.keep([2]))
    after = page(ledger)
    assert after["c_total"] == 20
    assert after['only_total{a="0"}'] == 1
    assert after["h_count"] == 2
    assert after["g"] == 3
    assert [name for name in after if name.startswith("e")] == ['e{worker="1"}']


def test_no_sum_changes_by_a_rounding_when_a_worker_goes() -> None:
    """0.1 + 0.2 + 0.3 is more than 0.3 + 0.1 + 0.2."""
    ledger = Ledger()
    for number, seconds in enumerate((0.1, 0.2, 0.3)):
        take(ledger, str(number), number, counter("c", "x", seconds))
    before = page(ledger)
    for left in ([0, 1], [0], []):
        done(ledger.keep(left))
        assert page(ledger) == before


def test_who_takes_the_place_counts_from_zero() -> None:
    ledger = Ledger()
    take(ledger, "0", 1, counter("c", "x", 10))
    take(ledger, "0", 2, counter("c", "x", 25))
    assert page(ledger) == {"c_total": 35}
    take(ledger, "0", 2, counter("c", "x", 26))
    assert page(ledger) == {"c_total": 36}


def test_a_series_that_a_worker_lets_go_and_begins_again_goes_on() -> None:
    ledger = Ledger()
    take(ledger, "0", 1, counters("c", "x", [({"a": "1"}, 10), ({"a": "2"}, 1)]))
    take(ledger, "0", 1, counters("c", "x", [({"a": "2"}, 2)]))
    assert page(ledger) == {'c_total{a="1"}': 10, 'c_total{a="2"}': 2}
    take(ledger, "0", 1, counters("c", "x", [({"a": "1"}, 4), ({"a": "2"}, 3)]))
    assert page(ledger) == {'c_total{a="1"}': 14, 'c_total{a="2"}': 3}
    take(ledger, "0", 1, counters("c", "x", [({"a": "1"}, 3), ({"a": "2"}, 3)]))
    assert page(ledger) == {'c_total{a="1"}': 17, 'c_total{a="2"}': 3}


def test_what_clients_make_up_is_not_kept_without_bound() -> None:
    ledger = Ledger()
    take(ledger, "1", 0, counters("c", "x", [({"a": "0"}, 1)]))
    for number in range(1, 13):
        take(ledger, "0", number, counters("c", "x", [({"a": f"{number}/{each}"}, 1.0) for each in range(1000)]))
        take(ledger, "0", number, counters("c", "x", []))
        done(ledger.keep([0, number]))
    after = page(ledger)
    assert after['c_total{a="0"}'] == 1
    assert len(after) == MAX_PAST + 1


def test_what_is_still_counted_is_never_dropped() -> None:
    ledger = Ledger()
    values = [({"a": str(each)}, 1.0) for each in range(MAX_PAST + 10)]
    for number in (1, 2):
        take(ledger, "0", number, counters("c", "x", values))
        done(ledger.keep([number]))
    assert set(page(ledger).values()) == {2.0}
    assert len(page(ledger)) == MAX_PAST + 10


def test_all_steps_are_small() -> None:
    ledger = Ledger()
    values = [({"a": str(each)}, 1.0) for each in range(2000)]
    assert len(list(ledger.take("0", 1, told(counters("c", "x", values))))) >= 100
    assert len(list(ledger.take("0", 2, told(counters("c", "x", values))))) >= 100 + 40
    assert len(list(ledger.keep([]))) >= 40


SERIES = ("a", "b", "c")
ANY = st.floats(0, 1e6, allow_subnormal=False)


@dataclass
class Life:
    """A worker process."""

    number: int
    counts: dict[str, float] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    """What the ledger was told last."""


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("count"), st.integers(0, 2), st.sampled_from(SERIES), ANY),
        st.tuples(st.just("crash"), st.integers(0, 2), st.sampled_from(SERIES), ANY),
        st.tuples(st.just("scrape"), st.integers(0, 7), st.sampled_from(SERIES), ANY),
        st.tuples(st.just("forget"), st.integers(0, 2), st.sampled_from(SERIES), ANY),
    ),
    max_size=60,
)


def of(life: Life) -> Iterable[Family]:
    yield counters("c", "x", [({"a": name}, value) for name, value in life.counts.items()])


@given(STEPS)
def test_no_sum_falls_whatever_becomes_of_the_workers(steps: list[tuple[str, int, str, float]]) -> None:
    """Not by a rounding either. Who is scraped: `place` has a bit for each that answers."""
    ledger, lives, started = Ledger(), [Life(0), Life(1), Life(2)], 3
    kept: dict[str, list[float]] = {name: [] for name in SERIES}
    before: dict[str, float] = {}
    for what, place, name, value in steps:
        if what == "count":
            lives[place].counts[name] = lives[place].counts.get(name, 0.0) + value
        elif what == "crash":
            for each, count in lives[place].seen.items():
                kept[each].append(count)
            lives[place], started = Life(started), started + 1
        elif what == "forget":
            if name in lives[place].counts:
                del lives[place].counts[name]
                kept[name].append(lives[place].seen.pop(name, 0.0))
                # What was let go shows where it is missing, or less, in what is told next.
                take(ledger, str(place), lives[place].number, *of(lives[place]))
                lives[place].seen = lives[place].counts.copy()
        else:
            for number, life in enumerate(lives):
                if place & 1 << number:
                    take(ledger, str(number), life.number, *of(life))
                    life.seen = life.counts.copy()
            done(ledger.keep([life.number for life in lives]))
            now = page(ledger)
            assert [each for each in before if now[each] < before[each]] == []
            for each in SERIES:
                expected = sum(kept[each]) + sum(life.seen.get(each, 0.0) for life in lives)
                assert now.get(f'c_total{{a="{each}"}}', 0.0) == pytest.approx(expected)
            before = now
