"""Pictures of results, as SVG files, for a README on a light or a dark page. Needs matplotlib."""

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

BARS = {
    "events": ("CPU per event, evenly",),
    "h2_events": ("CPU per event, 5 connections",),
    "unary": ("CPU per answer, at full load",),
}
"""Case -> the quantities that are drawn as bars."""

LABELLED = ("pressure", "hostile")
"""Cases whose curves have one axis from zero, and their names beside them."""

PANELS = 4
"""Of one row."""

LOGARITHMIC = 20
"""Ratio of the largest to the smallest value from which on an axis is logarithmic."""


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
        return _labelled(result) if result.name in LABELLED else _curves(result)
    bars = [figure for figure in result.figures if figure.what in BARS.get(result.name, ())]
    return _bars(result, bars) if len(bars) > 1 else None


def _curves(result: CaseResult) -> Any:
    """One panel for each quantity, one line for each relay."""
    from matplotlib.figure import Figure as Canvas

    quantities = list(dict.fromkeys(series.what for series in result.series if series.points))
    columns = min(PANELS, len(quantities))
    rows = -(-len(quantities) // columns)
    canvas = Canvas(figsize=(3.3 * columns, 2.7 * rows), layout="constrained")
    for number, what in enumerate(quantities):
        axes = canvas.add_subplot(rows, columns, number + 1)
        shown = [series for series in result.series if series.what == what and series.points]
        for series in shown:
            horizontal, vertical = zip(*series.points, strict=True)
            axes.plot(horizontal, vertical, label=series.relay, color=COLOURS.get(series.relay), linewidth=1.8)
        _label(axes, shown)
        if number == 0:
            axes.legend(frameon=False)
    return canvas


def _labelled(result: CaseResult) -> Any:
    """One quantity, from zero: a line for each relay with its name where it ends."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6.6, 3.4), layout="constrained")
    axes = canvas.add_subplot()
    shown = [series for series in result.series if series.points]
    ends = apart([series.points[-1][1] for series in shown], max(y for each in shown for _, y in each.points) / 18)
    for series, end in zip(shown, ends, strict=True):
        horizontal, vertical = zip(*series.points, strict=True)
        colour = COLOURS.get(series.relay)
        dashed = "--" if series.relay == "budget" else "-"
        axes.plot(horizontal, vertical, color=colour, linewidth=1.8, linestyle=dashed)
        axes.annotate(f" {series.relay}", (horizontal[-1], end), color=colour, va="center", fontsize=8)
    axes.set_title(f"{shown[0].what}, {shown[0].unit}: {result.title}", fontsize=9, loc="left")
    axes.set_xlabel(shown[0].x)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    return canvas


def apart(positions: Sequence[float], least: float) -> list[float]:
    """The same positions, moved up where two are nearer to each other than `least`."""
    moved = list(positions)
    order = sorted(range(len(moved)), key=lambda index: moved[index])
    for below, above in pairwise(order):
        moved[above] = max(moved[above], moved[below] + least)
    return moved


def _label(axes: Axes, shown: Sequence[Series]) -> None:
    series = shown[0]
    axes.set_title(f"{series.what}, {series.unit}", fontsize=9, loc="left")
    axes.set_xlabel(series.x)
    axes.grid(alpha=0.25)
    values = [value for line in shown for _, value in line.points if value > 0]
    if values and max(values) / min(values) >= LOGARITHMIC:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)


def _bars(result: CaseResult, figures: Sequence[Figure]) -> Any:
    """Medians, with lines from the lowest to the highest round."""
    from matplotlib.figure import Figure as Canvas

    ordered = sorted(figures, key=lambda figure: figure.median, reverse=True)
    canvas = Canvas(figsize=(5.6, 0.34 * len(ordered) + 0.7), layout="constrained")
    axes = canvas.add_subplot()
    medians = [figure.median for figure in ordered]
    spread = [
        [value - min(figure.values) for value, figure in zip(medians, ordered, strict=True)],
        [max(figure.values) - value for value, figure in zip(medians, ordered, strict=True)],
    ]
    names = [figure.relay for figure in ordered]
    bars = axes.barh(names, medians, xerr=spread, color=[COLOURS.get(name, "#7a8793") for name in names], height=0.7)
    axes.bar_label(bars, labels=[f"{value:.3g}" for value in medians], padding=4, fontsize=8)
    if max(medians) / min(medians) >= LOGARITHMIC:
        axes.set_xscale("log")
    axes.set_title(f"{ordered[0].what}, {ordered[0].unit}: {result.title}", fontsize=9, loc="left")
    return canvas
