"""What the suite says of its figures."""

from __future__ import annotations

import pytest

pytest.importorskip("bench.summary")

from bench.figures import CaseResult, Collector, Figure, rotated
from bench.summary import EVENTS, lines


def result(name: str, *figures: Figure) -> CaseResult:
    return CaseResult(name, name, {}, figures)


def test_nothing_is_claimed_of_what_was_not_measured() -> None:
    assert {line.verdict for line in lines([])} == {"not measured"}


def test_ratios_are_of_rounds_and_not_of_medians() -> None:
    ours = Figure(EVENTS, "flowserver", "us", (10.0, 30.0, 20.0))
    theirs = Figure(EVENTS, "nginx", "us", (10.0, 20.0, 40.0))
    line = lines([result("events", ours, theirs)])[0]
    assert line.seen == 1.0
    assert line.verdict == "met"


def test_an_aim_that_is_missed_says_so() -> None:
    ours = Figure(EVENTS, "flowserver", "us", (13.0,))
    theirs = Figure(EVENTS, "nginx", "us", (10.0,))
    line = lines([result("events", ours, theirs)])[0]
    assert (line.seen, line.verdict) == (1.3, "missed")


def test_rounds_that_both_were_measured_in_are_compared() -> None:
    ours = Figure(EVENTS, "flowserver", "us", (13.0, 14.0))
    theirs = Figure(EVENTS, "nginx", "us", (10.0,))
    assert lines([result("events", ours, theirs)])[0].seen == 1.3


def test_a_figure_has_the_values_of_its_rounds() -> None:
    collector = Collector()
    for value in (3.0, 1.0, 2.0):
        collector.add("nginx", "time", "ms", value)
    (figure,) = collector.figures()
    assert (figure.values, figure.median) == ((3.0, 1.0, 2.0), 2.0)


def test_no_relay_always_goes_first() -> None:
    assert [rotated("abc", number)[0] for number in range(4)] == ["a", "b", "c", "a"]


@pytest.mark.parametrize("case", ["wan", "wan_stalls"])
def test_the_worst_of_several_quantities_is_compared_with_their_aim(case: str) -> None:
    figures = (
        Figure("over-read of the aim, slow", "flowserver", "%", (20.0, 30.0)),
        Figure("over-read of the aim, fast", "flowserver", "%", (100.0, 140.0)),
        Figure("over-read of the aim, fast", "nginx", "%", (900.0,)),
    )
    found = next(line for line in lines([result(case, *figures)]) if line.what.endswith("at a distance"))
    assert (found.seen, found.verdict) == (120, "missed")
