"""Pictures of results, as SVG files. Needs matplotlib.

Axes are linear and begin at zero, quantities have their units, and each line or dot has its name beside it: there is no
legend to look up.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.figures import CaseResult, Figure, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "flowserver": "#0b7a75",
    "nginx": "#7a8793",
    "haproxy": "#a9b4bd",
    "envoy": "#b784c9",
    "caddy": "#d9a441",
    "litellm": "#c0504d",
    "direct": "#c9ced3",
    "naive": "#c0504d",
    "drain": "#d9a441",
    "budget": "#c0504d",
}

DARKER = {"haproxy": "#5f6b73", "direct": "#6b747b", "drain": "#96701f", "caddy": "#96701f", "envoy": "#8a56a0"}
"""For names, where the colour of the line is too light to be read."""

DOTS = {
    "events": ("CPU per event, evenly",),
    "h2_events": ("CPU per event, 5 connections",),
    "unary": ("CPU per answer, at full load",),
}
"""Case -> the quantities that are drawn as dots."""

DASHED = ("budget",)
"""Lines that are a bound and no relay's."""

PANELS = 3
"""Of one row."""

FEW = 8
"""Points up to which each is drawn."""

OFF_SCALE = 6
"""A dot that is so many times as far out as the next one lies beyond the axis, which would leave the others no room."""


def draw(results: Sequence[CaseResult], folder: Path, name: str) -> list[Path]:
    """Write `folder`/`name`-<case>.svg for each result that can be drawn. [] where there is no matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "bench", "font.size": 9, "axes.spines.top": False})
    matplotlib.rcParams.update({"axes.spines.right": False, "figure.facecolor": "white"})
    drawn = [(result, _figure(result)) for result in results]
    paths = []
    for result, figure in drawn:
        if figure is not None:
            path = folder / f"{name}-{result.name}.svg"
            figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
            paths.append(path)
    return paths


def _figure(result: CaseResult) -> Any:
    """A matplotlib figure; None where there is nothing to draw."""
    if any(series.points for series in result.series):
        return _curves(result)
    figures = [figure for figure in result.figures if figure.what in DOTS.get(result.name, ())]
    return _dots(result, figures) if len(figures) > 1 else None


def _curves(result: CaseResult) -> Any:
    """One panel for each quantity, one line for each relay, with its name and last value where it ends."""
    from matplotlib.figure import Figure as Canvas

    quantities = list(dict.fromkeys(series.what for series in result.series if series.points))
    columns = min(PANELS, len(quantities))
    rows = -(-len(quantities) // columns)
    width = 4.1 * columns if columns > 1 else 6.6
    canvas = Canvas(figsize=(width, 2.7 * rows if rows > 1 else 3.0), layout="constrained")
    for number, what in enumerate(quantities):
        shown = [series for series in result.series if series.what == what and series.points]
        axes = canvas.add_subplot(rows, columns, number + 1)
        _panel(axes, shown)
        title = f"{what}, {shown[0].unit}"
        axes.set_title(f"{title}: {result.title}" if len(quantities) == 1 else title, fontsize=9, loc="left")
    return canvas


def _panel(axes: Axes, shown: Sequence[Series]) -> None:
    top = max(y for series in shown for _, y in series.points) or 1.0
    right = max(x for series in shown for x, _ in series.points) or 1.0
    whole = [series for series in shown if series.points[-1][0] > 0.9 * right]
    places = apart([series.points[-1][1] for series in whole], top / 11)
    beside = dict(zip((series.relay for series in whole), places, strict=True))
    for series in shown:
        horizontal, vertical = zip(*series.points, strict=True)
        colour = COLOURS.get(series.relay)
        line = "--" if series.relay in DASHED else "-"
        mark = "o" if len(series.points) <= FEW else ""
        axes.plot(horizontal, vertical, color=colour, linewidth=1.8, linestyle=line, marker=mark, markersize=4)
        ends_early = series.relay not in beside
        axes.annotate(
            f"{series.relay} {number(vertical[-1])}",
            (horizontal[-1], beside.get(series.relay, vertical[-1])),
            (4, 5 if ends_early else 0),
            textcoords="offset points",
            color=DARKER.get(series.relay, colour),
            va="bottom" if ends_early else "center",
            fontsize=8,
            annotation_clip=False,
        )
    axes.set_xlabel(shown[0].x)
    axes.set_xlim(0, right)
    axes.set_ylim(0, max(top * 1.12, *places))
    axes.grid(alpha=0.25)


def apart(positions: Sequence[float], least: float) -> list[float]:
    """The same positions, moved up where two are nearer to each other than `least`."""
    moved = list(positions)
    order = sorted(range(len(moved)), key=lambda index: moved[index])
    for below, above in pairwise(order):
        moved[above] = max(moved[above], moved[below] + least)
    return moved


def number(value: float) -> str:
    """Three digits or so, as a person writes them."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def axis_end(values: Sequence[float]) -> float:
    """Where an axis from zero ends: behind the largest value, or before it where that leaves the others no room."""
    ordered = sorted(values)
    if len(ordered) > 2 and ordered[-1] > OFF_SCALE * ordered[-2]:
        return ordered[-2] * 2
    return ordered[-1] * 1.25


def _dots(result: CaseResult, figures: Sequence[Figure]) -> Any:
    """A dot for each median, on a line from the lowest to the highest round. One beyond the axis is an arrow."""
    from matplotlib.figure import Figure as Canvas

    ordered = sorted(figures, key=lambda figure: figure.median, reverse=True)
    canvas = Canvas(figsize=(6.2, 0.34 * len(ordered) + 0.9), layout="constrained")
    axes = canvas.add_subplot()
    end = axis_end([figure.median for figure in ordered])
    for row, figure in enumerate(ordered):
        colour, median, unit = COLOURS.get(figure.relay, "#7a8793"), figure.median, figure.unit
        label = f"{number(median)} {unit}"
        if median > end:
            axes.annotate("", (end, row), (end * 0.9, row), arrowprops={"arrowstyle": "->", "color": colour})
            axes.text(end * 0.89, row, f"{label}, beyond this axis", ha="right", va="center", fontsize=8)
            continue
        axes.plot([min(figure.values), max(figure.values)], [row, row], color=colour, linewidth=2)
        axes.plot([median], [row], "o", color=colour, markersize=8)
        axes.annotate(label, (max(figure.values), row), (8, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(ordered)), [figure.relay for figure in ordered])
    axes.set_ylim(-0.6, len(ordered) - 0.4)
    axes.set_xlim(0, end)
    axes.set_xlabel(f"{ordered[0].unit}; the line is from the lowest to the highest round")
    axes.grid(axis="x", alpha=0.25)
    axes.set_title(f"{ordered[0].what}: {result.title}", fontsize=9, loc="left")
    return canvas
