"""What is kept of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.figures import CaseResult, Figure, Series
from bench.plots import axis_end, draw, number
from bench.report import save

RESULT = CaseResult(
    "events",
    "2 streams",
    {"streams": 2},
    (
        Figure("CPU per event, evenly", "flowserver", "us", (20.0, 22.0, 24.0)),
        Figure("CPU per event, evenly", "nginx", "us", (20.0, 20.0, 20.0)),
    ),
    ("A note.",),
)
CURVES = CaseResult(
    "incident",
    "curves",
    {},
    (),
    (),
    (
        Series("memory", "naive", "MB", "seconds", ((0.0, 30.0), (1.0, 900.0))),
        Series("memory", "flowserver", "MB", "seconds", ((0.0, 30.0), (1.0, 31.0))),
        Series("late", "flowserver", "ms", "seconds", ()),
    ),
)


def test_tables_values_and_aims_are_kept(tmp_path: Path) -> None:
    markdown = save([RESULT, CURVES], tmp_path)
    text = markdown.read_text()
    assert "| CPU per event, evenly | flowserver | 22 | 20 - 24 | us | 1.10 |  |" in text
    assert "at most 1.15 x nginx | 1.10 x nginx | met |" in text
    assert "A note." in text
    document = json.loads(markdown.with_suffix(".json").read_text())
    assert document["cases"][0]["figures"][0]["values"] == [20, 22, 24]
    assert document["cases"][1]["series"][1]["points"] == [[0, 30], [1, 31]]


def test_nothing_that_names_the_machine_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_UPSTREAM_API_KEY", "sk-planted")
    monkeypatch.setenv("FLOW_HIGH_WATER", "4k")
    text = save([RESULT], tmp_path).read_text()
    assert "FLOW_HIGH_WATER=4k" in text
    assert "sk-planted" not in text


def test_dots_and_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = draw([RESULT, CURVES], tmp_path, "run")
    assert [path.name for path in drawn] == ["run-events.svg", "run-incident.svg"]
    assert all(path.read_text().lstrip().startswith("<?xml") for path in drawn)
    # The same figures are the same picture, so that results can be compared.
    first = drawn[0].read_bytes()
    assert draw([RESULT], tmp_path, "run")[0].read_bytes() == first


def test_many_curves_are_drawn_in_rows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    series = tuple(Series(f"quantity {number}", "nginx", "s", "seconds", ((0, 1), (1, 2))) for number in range(9))
    few, many = (CaseResult(f"{count}", "", {}, (), (), series[:count]) for count in (3, 9))
    sizes = []
    for path in draw([few, many], tmp_path, "run"):
        _, _, width, height = map(float, path.read_text().partition('viewBox="')[2].partition('"')[0].split())
        sizes.append((width, height))
    assert sizes[1][0] == pytest.approx(sizes[0][0], rel=0.1)
    assert sizes[1][1] > 2.5 * sizes[0][1]


def test_one_far_value_does_not_squash_the_others() -> None:
    assert axis_end([15.0, 17.0, 25.0, 1316.0]) == 50.0
    assert axis_end([15.0, 17.0, 25.0]) == pytest.approx(31.25)
    assert axis_end([1.0, 100.0]) == 125.0, "of two, none is the odd one out"


@pytest.mark.parametrize(("value", "text"), [(1316.2, "1,316"), (17.46, "17.5"), (0.0477, "0.0477"), (0.0, "0")])
def test_numbers_are_as_a_person_writes_them(value: float, text: str) -> None:
    assert number(value) == text


def test_axes_are_linear_and_lines_have_names(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import matplotlib

    matplotlib.rcParams["svg.fonttype"] = "none"
    try:
        wide = Series("memory", "nginx", "MB", "seconds", ((1.0, 1.0), (2.0, 5000.0)))
        short = Series("memory", "naive", "MB", "seconds", ((1.0, 1.0), (1.5, 70.0)))
        drawn = draw([CaseResult("incident", "curves", {}, (), (), (wide, short))], tmp_path, "run")
    finally:
        matplotlib.rcParams["svg.fonttype"] = "path"
    text = drawn[0].read_text()
    assert "nginx 5,000" in text
    assert "naive 70" in text
    assert ">0<" in text.replace("> 0<", ">0<"), "the axis begins at zero"
    assert "10^" not in text
