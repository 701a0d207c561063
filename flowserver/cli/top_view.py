"""What `flowserver top` draws: an object of the live feed, as text of a terminal. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .top_state import SORT_KEYS, TopState

Live = Mapping[str, Any]
"""One object of the feed."""
MOST_UPSTREAMS = 6
"""Lines of providers."""
MOST_TENANTS = 3
"""Lines of tenants: those that are nearest to the end of one of their limits."""
_SLOW = {"client": "yellow", "network": "magenta", "provider": "cyan", "relay": "red"}
_STATES = {"paused": "yellow", "waiting_for_tokens": "red", "waiting": "blue", "abandoned": "dim", "flushing": "dim"}
_SHORT_STATES = {"waiting_for_tokens": "no tokens"}
_HEALTH = {"closed": ("● ", "green"), "half_open": ("◐ ", "yellow"), "open": ("○ ", "red")}
_KEYS = " q quit  space pause  / filter  r turn  ? keys"


class Column(NamedTuple):
    title: str
    field: str
    width: int
    """Of its cells. 0: it gets what is left."""
    least: int
    """Columns of the terminal from which on it is shown."""
    is_number: bool = True
    sort: str = ""
    """What of the feed's sorts is marked here; empty: that of `field`."""


COLUMNS = (
    Column("request", "request_id", 10, 0, is_number=False),
    Column("state", "state", 9, 0, is_number=False),
    Column("slow", "slow", 8, 0, is_number=False),
    Column("age", "age_seconds", 6, 0),
    Column("tok/s", "tokens_per_second", 6, 0),
    Column("tokens", "tokens", 7, 0),
    Column("held", "held_bytes", 6, 0),
    Column("pauses", "pauses", 6, 0),
    Column("paused", "paused_seconds", 6, 90),
    Column("bytes", "bytes_down", 6, 100),
    Column("provider", "upstream", 14, 115, is_number=False),
    Column("tenant", "tenant", 12, 130, is_number=False),
    Column("client", "client", 15, 150, is_number=False),
    Column("cost", "cost_usd", 9, 165),
    Column("model", "model", 0, 0, is_number=False),
)


def screen(live: Live | None, state: TopState, *, width: int, height: int, trouble: str = "") -> RenderableType:
    """All of the terminal. `live` None: nothing has come yet; `trouble`: why nothing comes."""
    lines: list[RenderableType] = []
    if live is not None:
        lines += header(live, width)
    elif not trouble:
        lines.append(Text("waiting for the relay", style="dim"))
    if trouble:
        lines.append(Text(f"{trouble}; trying again", style="bold red", no_wrap=True, overflow="ellipsis"))
    bottom = footer(live, state, width)
    if state.shows_help:
        return Group(*lines, *_help(), bottom)
    if live is None:
        return Group(*lines, bottom)
    room = max(1, height - len(lines) - 2)
    rows = live["streams"]
    state.first = min(state.first, max(0, len(rows) - room))
    shown = rows[state.first : state.first + room]
    padding = [Text("")] * (room - len(shown))
    return Group(*lines, streams(shown, state, width), *padding, bottom)


def once(live: Live, state: TopState, width: int) -> RenderableType:
    """The same for a terminal that is not taken over: all rows, and no keys."""
    return Group(*header(live, width), streams(live["streams"], state, width))


# --- the header ---


def header(live: Live, width: int) -> list[RenderableType]:
    return [
        _process(live),
        _totals(live),
        _memory(live),
        *[_upstream(row, width) for row in live["upstreams"][:MOST_UPSTREAMS]],
        *_more(live["upstreams"]),
        *_tenants(live["tenants"], width),
        _ends(live),
    ]


def _line(*parts: str | tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _process(live: Live) -> Text:
    process = live["process"]
    up = [] if "started_at" not in process else [f"  up {span(max(0.0, live['time'] - process['started_at']))}"]
    workers = process.get("workers", 1)
    return _line(
        ("flowserver", "bold green"),
        f" {process.get('version', '')}",
        *up,
        f"  {workers} {'process' if workers == 1 else 'workers'}",
        f"  {process.get('connections', 0)} connections",
        ("  DRAINING", "bold red") if process.get("draining") else "",
    )


def _totals(live: Live) -> Text:
    totals = live["totals"]
    slow = [part for who, count in sorted(totals["slow"].items()) for part in (f" {who} ", (str(count), _style(who)))]
    return _line(
        ("streams ", "dim"),
        (number(totals["streams"]), "bold"),
        ("  paused ", "dim"),
        (number(totals["paused"]), "bold yellow" if totals["paused"] else ""),
        ("  tokens/s ", "dim"),
        (number(totals["tokens_per_second"]), "bold"),
        ("  held ", "dim"),
        size(totals["held_bytes"]),
        ("  slow", "dim") if slow else "",
        *slow,
    )


def _memory(live: Live) -> Text:
    memory = live["memory"]
    budget = memory.get("budget_bytes")
    level = memory.get("level")
    lags = [f" {each['lag_ms']:.0f}" for each in live["loop"]]
    worst = max((each["lag_ms"] for each in live["loop"]), default=0.0)
    return _line(
        ("memory ", "dim"),
        size(memory["resident_bytes"]) + (f" of {size(budget)}" if budget else ""),
        (f" {level}", "bold red") if level not in (None, "normal") else "",
        ("  uploads ", "dim"),
        size(memory.get("uploads_held_bytes", 0)),
        ("  loop lag", "dim"),
        ("".join(lags[:16]) + " ms", "bold red" if worst >= 100 else ""),
    )


def _upstream(row: Mapping[str, Any], width: int) -> Text:
    places = f"/{row['places']}" if row["places"] is not None else ""
    answers, failed = row["answers"], row["failed"]
    head = span(row["head_seconds"] / answers) if answers else "-"
    share = f"{100 * failed / (answers + failed):.1f}%" if answers + failed else "-"
    name = 16 if width < 100 else 26
    return _line(
        _mark(row),
        f"{clipped(row['name'], name):<{name}}",
        (" open ", "dim"),
        f"{str(row['open']) + places:<8}",
        (" wait ", "dim"),
        (f"{row['waiting']:<3}", "yellow" if row["waiting"] else ""),
        (" head ", "dim"),
        f"{head:<5}",
        (" fail ", "dim"),
        (f"{share:<5}", "red" if failed else ""),
        (" tok/s ", "dim"),
        number(row["tokens_per_second"]),
    )


def _mark(row: Mapping[str, Any]) -> tuple[str, str]:
    """Whether it may be asked: taken out, ejected or unhealthy, or as its circuit breaker says."""
    if row.get("out"):
        return "✕ ", "bold red"
    if row.get("unhealthy") is not None or row.get("ejected"):
        return "○ ", "red"
    return _HEALTH.get(row["health"], ("? ", ""))


def _more(upstreams: Sequence[object]) -> list[Text]:
    left = len(upstreams) - MOST_UPSTREAMS
    return [_line((f"  and {left} more providers", "dim"))] if left > 0 else []


def _tenants(rows: Sequence[Mapping[str, Any]], width: int) -> list[Text]:
    limited = sorted((row for row in rows if row["limits"]), key=lambda row: -max(map(_share, row["limits"])))
    return [_tenant(row, width) for row in limited[:MOST_TENANTS]]


def _tenant(row: Mapping[str, Any], width: int) -> Text:
    """With its limits, as far as there is room: first that of which least is left."""
    name = 16 if width < 100 else 26
    line = _line(f"  {clipped(row['name'], name):<{name}}", (" open ", "dim"), f"{row['streams']:<8}")
    for number, limit in enumerate(sorted(row["limits"], key=lambda limit: -_share(limit))):
        text = Text.assemble(*_limit(limit))
        if number and line.cell_len + text.cell_len > width:
            break
        line.append_text(text)
    return line


def _limit(limit: Mapping[str, Any]) -> tuple[tuple[str, str], tuple[str, str]]:
    """`used` of a quota may be more than its limit: a provider has the last word."""
    shown = dollars if limit["name"].startswith("usd_") else number
    share = _share(limit)
    style = "red" if share >= 0.95 else "yellow" if share >= 0.75 else ""
    about = limit["name"].replace("_per_", "/") + (f" ({limit['models']})" if limit["models"] else "")
    return (f" {about} ", "dim"), (f"{shown(limit['used'])} of {shown(limit['limit'])} ", style)


def _share(limit: Mapping[str, Any]) -> float:
    return float(limit["used"] / limit["limit"]) if limit["limit"] else 1.0


def _ends(live: Live) -> Text:
    ends = sorted(live["ends_by_reason"].items(), key=lambda end: -int(end[1]))
    parts = [part for reason, count in ends for part in (f"  {reason} ", (number(count), "bold"))]
    return _line(("ends", "dim"), *parts) if parts else _line(("ends  none yet", "dim"))


# --- the streams ---


def streams(rows: Sequence[Mapping[str, Any]], state: TopState, width: int) -> Table:
    columns = [column for column in COLUMNS if width >= column.least]
    fixed = sum(column.width + 1 for column in columns)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="reverse", width=width)
    for column in columns:
        justify = "right" if column.is_number else "left"
        mark = ("▼" if state.is_descending else "▲") if state.sort.column == column.field else ""
        table.add_column(
            clipped(column.title + mark, column.width or 10) if mark else column.title,
            justify=justify,  # type: ignore[arg-type]
            width=column.width or max(6, width - fixed),
            no_wrap=True,
            overflow="crop",
        )
    for row in rows:
        table.add_row(*[_cell(column, row, column.width or max(6, width - fixed)) for column in columns])
    return table


def _cell(column: Column, row: Mapping[str, Any], width: int) -> Text:
    value = row.get(column.field)
    if value is None:
        return Text("-", style="dim")
    match column.field:
        case "request_id":
            return Text(middle(value, width))
        case "state":
            return Text(_SHORT_STATES.get(value, value), style=_STATES.get(value, ""))
        case "slow":
            return Text(value, style=_style(value))
        case "age_seconds" | "paused_seconds":
            return Text(span(value), style="dim" if not value else "")
        case "tokens_per_second":
            return Text(f"{value:.1f}" if value < 1000 else number(value))
        case "held_bytes" | "bytes_down":
            return Text(size(value), style="dim" if not value else "yellow" if column.field == "held_bytes" else "")
        case "tokens" | "pauses":
            return Text(number(value))
        case "cost_usd":
            return Text(dollars(value), style="dim" if not value else "")
    return Text(clipped(str(value), width))


def _style(who: str) -> str:
    return _SLOW.get(who, "")


# --- the footer ---


def footer(live: Live | None, state: TopState, width: int) -> Text:
    if state.typed is not None:
        hint = "  (words; tenant:acme, model:gpt, state:paused, slow:client; enter, esc)"
        return _line(("/", "bold"), state.typed, ("_", "blink"), (hint, "dim"))
    matching = "" if live is None else f" {live['view']['matching']} streams"
    shown = f" by {state.sort.title}{matching}" + (f" with {state.filter!r}" if state.filter else "")
    parts: list[tuple[str, str]] = [(" PAUSED ", "black on yellow")] if state.is_paused else []
    return _line(*parts, (f"{shown}  {_KEYS}".ljust(width), "reverse"))


def _help() -> list[Text]:
    lines = [_line((f"  {sort.key}", "bold"), f"  sort by {sort.title}") for sort in SORT_KEYS]
    others = {
        "r": "turn the order, as the same key again does",
        "/": "filter; esc removes it",
        "j k": "up and down, as the arrows do",
        "space": "pause",
        "q": "quit",
    }
    return [*lines, *[_line((f"  {key}", "bold"), f"  {about}") for key, about in others.items()]]


# --- figures ---


def number(value: float) -> str:
    """Thousands apart, and short above a million."""
    return f"{value / 1e6:.1f}M" if value >= 1e6 else f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes, in at most six characters."""
    for unit in ("B", "K", "M", "G"):
        if value < 1000:
            return f"{value:.0f}{unit}" if unit == "B" or value >= 100 else f"{value:.1f}{unit}"
        value /= 1024
    return f"{value:.1f}T"


def dollars(value: float) -> str:
    """To the cent; small ones, such as of a stream, to a hundredth of it."""
    if 0 < value < 0.0001:
        return "<$0.0001"
    return f"${value:.4f}" if 0 < value < 0.1 else f"${value:,.2f}"


def span(seconds: float) -> str:
    """In at most six characters."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f}ms" if seconds > 0 else "0s"
    if seconds < 100:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{minutes:02}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02}h" if days < 100 else f"{days}d"


def clipped(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def middle(text: str, width: int) -> str:
    """Without its middle: the ids of one relay differ at their ends."""
    if len(text) <= width:
        return text
    end = (width - 1) * 2 // 3
    return f"{text[: width - 1 - end]}…{text[-end:]}"
