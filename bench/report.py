"""Shows results as a table, and keeps them as Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import CaseResult, Figure
from bench.plots import draw
from bench.summary import Line, lines

HEADINGS = ("quantity", "relay", "median", "low - high", "unit", "x nginx", "- direct")

COMPARED = ("us", "ms", "KB", "MB/s")
"""Units of the quantities that are compared."""


def machine() -> str:
    """The machine in words that do not name it."""
    return (
        f"{os.cpu_count()} cores ({_cpu_model()}), Linux {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}"
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def show(result: CaseResult) -> None:
    """Print a case's table: with rich if it is there, else in plain columns."""
    rows = _rows(result)
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(f"\n{result.title}")
        print(_columns(rows))
    else:
        table = Table(title=result.title, title_justify="left")
        for heading in HEADINGS:
            table.add_column(heading, justify="left" if heading in ("quantity", "relay", "unit") else "right")
        for row in rows:
            table.add_row(*row)
        # Off a terminal a table is no narrower than it needs to be.
        Console(width=None if sys.stdout.isatty() else 140).print(table)
    for note in result.notes:
        print(f"  {note}")


def save(results: Sequence[CaseResult], folder: Path) -> Path:
    """Write `folder`/<date>-<machine>.md, .json and plots. Returns the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    release = ".".join(platform.release().split(".")[:2])
    name = f"{time.strftime('%Y-%m-%d')}-{os.cpu_count()}-cores-linux-{release}"
    markdown = folder / f"{name}.md"
    plots = draw(results, folder, name)
    markdown.write_text(_markdown(results, plots))
    (folder / f"{name}.json").write_text(json.dumps(_document(results), indent=1) + "\n")
    return markdown


def _rows(result: CaseResult) -> list[tuple[str, ...]]:
    return [_row(result, figure) for figure in result.figures]


def _row(result: CaseResult, figure: Figure) -> tuple[str, ...]:
    compared = figure.unit in COMPARED
    ratio = result.ratio(figure, "nginx") if compared else None
    excess = result.excess(figure, "direct") if compared else None
    spread = f"{_number(min(figure.values))} - {_number(max(figure.values))}" if len(figure.values) > 1 else ""
    return (
        figure.what,
        figure.relay,
        _number(figure.median),
        spread,
        figure.unit,
        "" if ratio is None else f"{ratio:.2f}",
        "" if excess is None else _number(excess),
    )


def _number(value: float) -> str:
    """Three digits or so."""
    if value == round(value):
        return f"{value:.0f}"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    table = [HEADINGS, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table)


def show_summary(results: Sequence[CaseResult]) -> None:
    """Print what was aimed at and what was seen."""
    for line in lines(results):
        if line.seen is not None:
            print("  ".join(cell.ljust(width) for cell, width in zip(_summary_row(line), (52, 16, 16, 8), strict=True)))


def _summary_row(line: Line) -> tuple[str, str, str, str]:
    seen = "" if line.seen is None else f"{_number(line.seen)} {line.unit}".strip()
    return line.what, f"at most {_number(line.most)} {line.unit}".strip(), seen, line.verdict


def _markdown(results: Sequence[CaseResult], plots: Sequence[Path]) -> str:
    text = [f"# Bench of {time.strftime('%Y-%m-%d %H:%M')}", "", f"{machine()}. {_settings_in_force()}", ""]
    text.append("`x nginx` and `- direct` are medians of the ratios and differences round by round, in this same run.")
    text += ["", _markdown_row(("aim", "wanted", "seen", "")), _markdown_row(["---"] * 4)]
    text += [_markdown_row(_summary_row(line)) for line in lines(results)]
    for result in results:
        text += ["", f"## {result.name}: {result.title}", ""]
        text += [f"![{result.title}]({path.name})\n" for path in plots if path.stem.endswith(f"-{result.name}")]
        text += [_markdown_row(HEADINGS), _markdown_row(["---"] * len(HEADINGS))]
        text += [_markdown_row(row) for row in _rows(result)]
        text += ["", *result.notes]
    return "\n".join(text) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _settings_in_force() -> str:
    settings = [f"{name}={value}" for name, value in _flow_settings().items()]
    return f"flowserver with {' '.join(settings)}." if settings else "flowserver with its defaults."


def _flow_settings() -> dict[str, str]:
    """What the environment sets, keys left out."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith("FLOW_") and "KEY" not in name}


def _document(results: Sequence[CaseResult]) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": machine(),
        "settings": _flow_settings(),
        "cases": [_case(result) for result in results],
    }


def _case(result: CaseResult) -> dict[str, Any]:
    figures = [
        {
            "quantity": figure.what,
            "relay": figure.relay,
            "unit": figure.unit,
            "values": figure.values,
            "median": figure.median,
            "ratio_to_nginx": result.ratio(figure, "nginx"),
            "excess_over_direct": result.excess(figure, "direct"),
        }
        for figure in result.figures
    ]
    series = [
        {"quantity": line.what, "relay": line.relay, "unit": line.unit, "x": line.x, "points": line.points}
        for line in result.series
    ]
    return {
        "name": result.name,
        "title": result.title,
        "settings": result.settings,
        "figures": figures,
        "series": series,
    }
