"""`python -m bench.dashboards FOLDER`: pictures of the dashboards in deploy/grafana, of what they ask Prometheus.

Not Grafana: its queries and titles, drawn by matplotlib. Prometheus scrapes two relays for a minute or two meanwhile
(`dashboard_load`); the rules of deploy/prometheus are loaded. Needs prometheus and the extra `bench`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.dashboard_load import Scene, live, scene
from bench.processes import Process, free_port, repository

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCRAPE = 2
"""Seconds between two looks at the relays."""
WINDOW = f"{5 * SCRAPE}s"
"""In place of Grafana's `$__rate_interval`: some looks."""
SHOWN = 6
"""Curves of a panel that have a name in its legend."""
WIDTH = 13.0
"""Inches of a picture."""
LETTER, HANDLE = 3.9, 16.0
"""Points that a letter of a legend takes, and the patch before it."""
COLOURS = ("#0b7a75", "#d9a441", "#b784c9", "#c0504d", "#4f81bd", "#7a8793", "#8aa84b", "#5b4a72")
STATE_COLOURS = ("#8aa84b", "#d9a441", "#c0504d")
UNITS = {
    "s": "s", "bytes": "KB", "reqps": "req/s", "percentunit": "%", "currencyUSD": "$", "short": "", "none": "",
}  # fmt: skip
SCALES = {"bytes": 1e-3, "percentunit": 100.0}

Panel = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Curve:
    label: str
    times: list[float]
    """Seconds since the beginning."""
    values: list[float]

    @property
    def most(self) -> float:
        return max((value for value in self.values if value == value), default=0.0)

    def scaled(self, factor: float) -> Curve:
        return Curve(self.label, self.times, [value * factor for value in self.values])


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that has looked from `begin` to `end`, in seconds since the epoch."""

    port: int
    begin: float
    end: float

    def curves(self, expression: str, legend: str, *, instant: bool) -> list[Curve]:
        query = expression.replace("$__rate_interval", WINDOW).replace("$__range", f"{int(self.end - self.begin)}s")
        query = re.sub(r"\$\w+", ".*", query)
        asked = {"query": query, "time": str(self.end)}
        if not instant:
            asked = {"query": query, "start": str(self.begin), "end": str(self.end), "step": str(SCRAPE)}
        url = f"http://127.0.0.1:{self.port}/api/v1/query{'' if instant else '_range'}?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            result = json.load(answer)["data"]["result"]
        return [self._curve(each, legend) for each in result]

    def _curve(self, series: dict[str, Any], legend: str) -> Curve:
        labels = series["metric"]
        points = series["values"] if "values" in series else [series["value"]]
        shown = re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend).strip()
        return Curve(
            "" if legend == "__auto" else shown,
            [float(at) - self.begin for at, _ in points],
            [float(value) for _, value in points],
        )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.dashboards", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long the relays are looked at")
    options = parser.parse_args(arguments)
    program = shutil.which("prometheus")
    if program is None:
        print("dashboards: prometheus is not installed (Debian: apt-get install prometheus)", file=sys.stderr)
        return 1
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, scene(Path(name)) as made:
        folder, port = Path(name), free_port()
        (folder / "prometheus.yml").write_text(_settings(made))
        command = [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
        with Process(command, port):
            begin = time.time()
            asyncio.run(live(made, options.seconds))
            source = Prometheus(port, begin, time.time())
            for path in sorted((repository() / "deploy" / "grafana").glob("*.json")):
                target = options.folder / f"{path.stem.replace('flowserver', 'dashboard')}.png"
                _save(_drawn(json.loads(path.read_text(encoding="utf-8")), source), target)
                print(target)
    return 0


def _settings(made: Scene) -> str:
    targets = ", ".join(f'"127.0.0.1:{port}"' for port in made.admin_ports)
    return (
        f"global: {{scrape_interval: {SCRAPE}s, scrape_timeout: {SCRAPE}s, evaluation_interval: {SCRAPE}s}}\n"
        f"rule_files: ['{repository() / 'deploy' / 'prometheus' / 'flowserver.rules.yml'}']\n"
        f"scrape_configs: [{{job_name: flowserver, static_configs: [{{targets: [{targets}]}}]}}]\n"
    )


# --- drawing ---


def _drawn(board: dict[str, Any], source: Prometheus) -> Figure:
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    from matplotlib import pyplot

    panels: list[Panel] = board["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = pyplot.figure(figsize=(WIDTH, 0.36 * height + 0.5))
    figure.suptitle(board["title"], x=0.01, y=0.995, ha="left", fontsize=13, fontweight="bold")
    seconds = round(source.end - source.begin)
    figure.text(0.99, 0.993, f"two relays under load, {seconds} seconds", ha="right", va="top", color="#777777")
    for panel in panels:
        place = panel["gridPos"]
        left, width = place["x"] / 24, place["w"] / 24
        top, tall = 0.975 - 0.965 * place["y"] / height, 0.965 * place["h"] / height
        wide_label = {"bargauge": 0.5, "stat": 0.01 / width}.get(panel["type"], 0.14)
        axes = figure.add_axes((left + width * wide_label, top - tall * 0.78, width * (0.96 - wide_label), tall * 0.58))
        figure.text(left + 0.01, top - tall * 0.03, panel["title"], fontweight="bold", va="top")
        _PAINTERS[panel["type"]](axes, panel, source)
    return figure


def _found(panel: Panel, source: Prometheus) -> list[Curve]:
    scale = SCALES.get(panel["fieldConfig"]["defaults"].get("unit", ""), 1.0)
    found = [
        curve
        for target in panel["targets"]
        for curve in source.curves(target["expr"], target["legendFormat"], instant=target["instant"])
    ]
    return [curve.scaled(scale) for curve in found]


def _unit(panel: Panel) -> str:
    unit: str = panel["fieldConfig"]["defaults"].get("unit", "")
    return unit.removeprefix("suffix:").strip() if unit.startswith("suffix:") else UNITS[unit]


def _paint_series(axes: Axes, panel: Panel, source: Prometheus) -> None:
    curves = sorted(_found(panel, source), key=lambda curve: -curve.most)
    unit, most = _unit(panel), max((curve.most for curve in curves), default=0.0)
    if unit == "s" and 0 < most < 0.5:
        curves, unit = [curve.scaled(1000) for curve in curves], "ms"
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(curves))]
    stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] != "none"
    if stacked and curves:
        grid = sorted({at for curve in curves for at in curve.times})
        rows = [[dict(zip(curve.times, curve.values, strict=True)).get(at, 0.0) for at in grid] for curve in curves]
        rows = [[value if value == value else 0.0 for value in row] for row in rows]
        axes.stackplot(grid, rows, colors=colours, linewidth=0)
    else:
        for curve, colour in zip(curves, colours, strict=True):
            axes.plot(*_with_gaps(curve), color=colour, linewidth=1.4)
    is_whole = panel["fieldConfig"]["defaults"].get("max") == 1
    axes.set_ylim(bottom=0, top=100 if is_whole else 1 if most == 0 else 1.08 * axes.get_ylim()[1])
    _span(axes, source)
    axes.set_ylabel(unit)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    if not curves:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", color="#999999")
        axes.set_yticks([])
        return
    _legend(axes, [(curve.label, colour) for curve, colour in zip(curves, colours, strict=True)])


def _span(axes: Axes, source: Prometheus) -> None:
    axes.set_xlim(0, source.end - source.begin)
    axes.xaxis.set_major_formatter("{x:.0f} s")


def _with_gaps(curve: Curve) -> tuple[list[float], list[float]]:
    """Its points, such that no line is drawn over times without any."""
    times, values = curve.times[:1], curve.values[:1]
    for at, value in zip(curve.times[1:], curve.values[1:], strict=True):
        if at - times[-1] > 1.5 * SCRAPE:
            times.append(at)
            values.append(float("nan"))
        times.append(at)
        values.append(value)
    return times, values


def _legend(axes: Axes, names: list[tuple[str, str]]) -> None:
    from matplotlib.patches import Patch

    shown = [Patch(color=colour, label=label) for label, colour in names[:SHOWN] if label]
    if len(names) > SHOWN:
        shown.append(Patch(color="none", label=f"and {len(names) - SHOWN} more"))
    if shown:
        widest = HANDLE + max(len(str(patch.get_label())) for patch in shown) * LETTER
        width = axes.get_position().width * WIDTH * 72
        columns = min(len(shown), max(1, int(width / widest)))
        axes.legend(
            handles=shown, loc="upper left", bbox_to_anchor=(0, -0.14), ncol=columns, frameon=False, fontsize=6.5,
            handlelength=0.9, handleheight=0.7, columnspacing=1.0, borderaxespad=0.0,
        )  # fmt: skip


def _paint_stat(axes: Axes, panel: Panel, source: Prometheus) -> None:
    axes.axis("off")
    texts: dict[str, str] = {}
    for mapping in panel["fieldConfig"]["defaults"]["mappings"]:
        texts |= {key: value["text"] for key, value in mapping["options"].items()}
    lines = []
    for curve in _found(panel, source):
        value = next((each for each in reversed(curve.values) if each == each), 0.0)
        text = texts.get(f"{value:g}", _figure(value, _unit(panel)))
        lines.append(text + (f"  {curve.label}" if curve.label else ""))
    size = 18 if len(lines) == 1 and len(lines[0]) < 12 else 9
    axes.text(0, 0.5, "\n".join(lines) or "none", transform=axes.transAxes, fontsize=size, va="center", color="#0b7a75")


def _figure(value: float, unit: str) -> str:
    if unit == "$":
        return f"${value:,.2f}"
    return f"{f'{value:,.0f}' if value >= 10 else f'{value:.3g}'} {unit}".strip()


def _paint_bars(axes: Axes, panel: Panel, source: Prometheus) -> None:
    curves = sorted(_found(panel, source), key=lambda curve: curve.values[-1])
    axes.barh([curve.label for curve in curves], [curve.values[-1] for curve in curves], color=COLOURS[0], height=0.6)
    for number, curve in enumerate(curves):
        axes.text(curve.values[-1], number, f" {_figure(curve.values[-1], _unit(panel))}", va="center", fontsize=7)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.margins(x=0.25)
    if not curves:
        axes.set_yticks([])


def _paint_states(axes: Axes, panel: Panel, source: Prometheus) -> None:
    curves = _found(panel, source)
    for number, curve in enumerate(curves):
        for at, value in zip(curve.times, curve.values, strict=True):
            axes.barh(number, SCRAPE, left=at, color=STATE_COLOURS[min(2, round(value))], height=0.6, linewidth=0)
    axes.set_yticks(range(len(curves)), [curve.label for curve in curves])
    _span(axes, source)
    texts = [
        value["text"]
        for mapping in panel["fieldConfig"]["defaults"]["mappings"]
        for value in mapping["options"].values()
    ]
    _legend(axes, list(zip(texts, STATE_COLOURS, strict=True)))


_PAINTERS = {
    "timeseries": _paint_series,
    "stat": _paint_stat,
    "bargauge": _paint_bars,
    "state-timeline": _paint_states,
}


def _save(figure: Figure, path: Path) -> None:
    """Small, with few colours, among them those of the thinnest lines: a median cut would mix them."""
    from PIL import Image

    raw = BytesIO()
    figure.savefig(raw, dpi=95, facecolor="white")
    raw.seek(0)
    Image.open(raw).convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        path, optimize=True
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
