"""`flowserver top`: what a running relay does, in a terminal."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import orjson

from .admin_client import AdminClient, AskError, add_place, given_place
from .exit_status import FAILURE, complain
from .top_state import BY_COLUMN, TopState
from .usage import Parser

ROWS = 100
"""Streams that the relay is asked for, of whatever number."""
MISSING = "rich is not installed: pip install rich; `flowserver top --once --json` does without"


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Returns the exit status: 0 for success, 1 where the relay can't be asked, 2 for wrong usage."""
    reader = parser()
    options = reader.read(argv)
    if options.json and not options.once:
        reader.error("--json needs --once")
    state = TopState(sort=BY_COLUMN[options.sort], filter=options.filter)
    state.is_descending = state.sort.is_descending
    try:
        client = AdminClient(_where(options, environ))
        if options.once:
            _once(client, state, as_json=options.json)
        else:
            _watch(client, state, options.interval)
    except AskError as error:
        complain([str(error)])
        return FAILURE
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def parser() -> Parser:
    made = Parser(
        prog="flowserver top",
        description="Shows what a running relay does: its streams, providers and memory. `?` shows the keys.",
        epilog="Without --url and --socket, the relay is asked at FLOW_ADMIN_LISTEN.",
    )
    add_place(made)
    made.add_argument("--interval", type=_seconds, default=1.0, metavar="SECONDS", help="between looks; 1 at least")
    made.add_argument("--sort", choices=list(BY_COLUMN), default="trouble", help="the order of the streams")
    made.add_argument("--filter", default="", metavar="WORDS", help="show streams with these, such as tenant:acme")
    made.add_argument("--once", action="store_true", help="print one table, and end")
    made.add_argument("--json", action="store_true", help="with --once: print what the relay tells, as JSON")
    return made


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1.0 <= value <= 3600.0:
        raise argparse.ArgumentTypeError(f"invalid value {text!r}: expected seconds from 1 to 3600")
    return value


def _where(options: argparse.Namespace, environ: Mapping[str, str]) -> str:
    place = given_place(options)
    if place is not None:
        return place
    address = environ.get("FLOW_ADMIN_LISTEN", "").strip() or "127.0.0.1:9090"
    if address.startswith("unix:"):
        return address
    if address == "off":
        raise AskError("FLOW_ADMIN_LISTEN is off; give --url URL or --socket PATH")
    host, _, port = address.rpartition(":")
    anywhere = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
    return f"http://{anywhere.get(host, host)}:{port}"


def _once(client: AdminClient, state: TopState, *, as_json: bool) -> None:
    body = client.ask("GET", f"/live?once&{state.query(ROWS)}")
    try:
        live = orjson.loads(body)
        live["streams"], live["totals"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise AskError(f"{client.where} does not answer as a relay does") from None
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(live, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        sys.stdout.flush()
        return
    _need_rich()
    from rich.console import Console

    from .top_view import once

    console = Console(width=None if sys.stdout.isatty() else _columns())
    console.print(once(live, state, console.width), crop=False)


def _columns() -> int:
    """Of a table that goes into a file or a pipe."""
    text = os.environ.get("COLUMNS", "")
    return max(80, int(text)) if text.isdecimal() and len(text) < 5 else 160


def _watch(client: AdminClient, state: TopState, interval: float) -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise AskError("this is no terminal; --once prints one table")
    _need_rich()
    from .top_screen import run

    run(client, state, interval=interval, rows=ROWS)


def _need_rich() -> None:
    if find_spec("rich") is None:
        raise AskError(MISSING)
