"""What the figures of one run say of the aims that this project has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.figures import CaseResult, Figure

OURS = "flowserver"


@dataclass(frozen=True, slots=True)
class Line:
    """One aim: `seen` is None where it was not measured. `most`: the largest value that meets it."""

    what: str
    unit: str
    most: float
    seen: float | None

    @property
    def verdict(self) -> str:
        if self.seen is None:
            return "not measured"
        return "met" if self.seen <= self.most else "missed"


class Results:
    """The cases of a run, by name."""

    def __init__(self, results: Sequence[CaseResult]) -> None:
        self._cases = {result.name: result for result in results}

    def figure(self, case: str, what: str, relay: str = OURS) -> Figure | None:
        result = self._cases.get(case)
        found = [figure for figure in result.figures if figure.what == what] if result is not None else []
        return next((figure for figure in found if figure.relay == relay), None)

    def value(self, case: str, what: str, relay: str = OURS) -> float | None:
        figure = self.figure(case, what, relay)
        return figure.median if figure is not None else None

    def largest(self, case: str, what: str) -> float | None:
        """Of the quantities whose names begin with `what`, in `case` or in a part of it that ran alone."""
        return max(
            (
                figure.median
                for name, result in self._cases.items()
                for figure in result.figures
                if name.startswith(case) and figure.what.startswith(what) and figure.relay == OURS
            ),
            default=None,
        )

    def ratio(self, case: str, what: str, other: str) -> float | None:
        """Median of the ratios round by round, of the rounds that both were measured in."""
        return self._paired(case, what, other, lambda a, b: a / b)

    def excess(self, case: str, what: str, other: str) -> float | None:
        return self._paired(case, what, other, lambda a, b: a - b)

    def _paired(self, case: str, what: str, other: str, of: Callable[[float, float], float]) -> float | None:
        ours, theirs = self.figure(case, what), self.figure(case, what, other)
        if ours is None or theirs is None:
            return None
        return median(of(a, b) for a, b in zip(ours.values, theirs.values, strict=False))


EVENTS, H2, TLS = "CPU per event, evenly", "CPU per event, 5 connections", "CPU per event, h1 -> h1 with TLS"
P50 = "time of an event, evenly, p50"
ANSWER = "CPU per answer, at full load"
H2_ANSWER = f"{ANSWER}, 5 connections"
OVER_READ, CUSTODY, OUTAGE = "over-read of the aim", "custody of the aim", "beside direct: caught up after an outage"
PEAK, LATE = "resident memory, peak, of the budget", "healthy streams: beyond direct, p99"
MISSED, REFUSED = "interactive requests not served whole", "batch refused after, p99"
NORMAL, LEFT = "after the load: back to normal", "2 s after all have left: client connections"
FIVE_THOUSAND = "5000 streams of 2 events/s"


def lines(results: Sequence[CaseResult]) -> list[Line]:
    """All aims, in order."""
    found = Results(results)
    return [
        Line("HTTP/1.1 clients, counting: CPU per event", "x nginx", 1.15, found.ratio("events", EVENTS, "nginx")),
        Line("HTTP/2 clients: CPU per event", "x nginx", 1.3, found.ratio("h2_events", H2, "nginx")),
        Line("TLS to the provider: CPU per event", "x nginx", 1.3, found.ratio("upstream", TLS, "nginx")),
        *(
            Line(f"{way}: CPU per event", f"x {peer}", 1.0, found.ratio(case, what, peer))
            for peer in ("envoy", "caddy")
            for way, case, what in (
                ("HTTP/1.1 clients", "events", EVENTS),
                ("HTTP/2 clients", "h2_events", H2),
                ("TLS to the provider", "upstream", TLS),
            )
        ),
        Line("HTTP/1.1 clients: CPU per event", "x litellm", 1 / 40, found.ratio("events", EVENTS, "litellm")),
        Line("small whole answer, HTTP/1.1: CPU at full load", "us", 120, found.value("unary", ANSWER)),
        Line(
            "small whole answer, HTTP/1.1: CPU at full load",
            "x nginx",
            120 / 18.5,
            found.ratio("unary", ANSWER, "nginx"),
        ),
        Line("small whole answer, HTTP/2: CPU at full load", "us", 150, found.value("h2_unary", H2_ANSWER)),
        Line(
            "small whole answer, HTTP/2: CPU at full load",
            "x nginx",
            150 / 18.5,
            found.ratio("h2_unary", H2_ANSWER, "nginx"),
        ),
        Line("small whole answer: CPU at full load", "x litellm", 1 / 40, found.ratio("unary", ANSWER, "litellm")),
        Line(
            "over-read of a stalled client beyond direct",
            "KB",
            64,
            found.excess("stall", "over-read per stream, median", "direct"),
        ),
        Line("memory per open stream, HTTP/1.1", "KB", 20, found.value("memory", "memory per stream")),
        Line("memory per open stream, HTTP/2", "KB", 12, found.value("h2_memory", "memory per stream, 5 connections")),
        Line("memory of an idle worker", "MB", 50, found.value("memory", "memory before")),
        Line(
            "5000 streams of 2 events/s: streams without events",
            "",
            0,
            found.value("scale", f"streams broken or silent, {FIVE_THOUSAND}"),
        ),
        Line(
            "5000 streams of 2 events/s: time of an event, p99",
            "ms",
            100,
            found.value("scale", f"time of an event, {FIVE_THOUSAND}, p99"),
        ),
        Line("over-read beyond direct, at a distance", "% of its aim", 100, found.largest("wan", OVER_READ)),
        Line("age of a token that a slow reader gets, p99", "% of its aim", 100, found.largest("wan", CUSTODY)),
        Line("after an outage of the client's link: until all is there", "x direct", 1.2, found.largest("wan", OUTAGE)),
        *_under_pressure(found),
        Line("time of an event beyond nginx's, p50", "ms", 0, found.excess("events", P50, "nginx")),
    ]


def _under_pressure(found: Results) -> list[Line]:
    """Of a memory budget: 10 x the load that fits, and hostile clients."""
    both = ("pressure", "10 x the load that fits"), ("hostile", "hostile clients")
    shared = [
        line
        for case, words in both
        for line in (
            Line(f"{words}: resident memory, peak", "% of the budget", 105, found.value(case, PEAK)),
            Line(f"{words}: time of an event beyond direct, p99", "ms", 20, found.value(case, LATE)),
            Line(f"{words}: interactive requests not served whole", "%", 5, found.value(case, MISSED)),
        )
    ]
    return [
        *shared,
        Line("10 x the load that fits: batch refused after, p99", "ms", 10, found.value("pressure", REFUSED)),
        Line("10 x the load that fits: back to normal after", "s", 1, found.value("pressure", NORMAL)),
        Line("hostile clients: connections left afterwards", "", 0, found.value("hostile", LEFT)),
    ]
