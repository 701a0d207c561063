"""`flowserver ctl`: controls a running relay, over its control socket or its admin listener."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from ..config.secrets import resolve
from .admin_client import AdminClient, AskError, add_place, given_place, read_token
from .exit_status import FAILURE, complain
from .rows import print_rows
from .usage import Parser

UNPROCESSABLE = 422
"""The status of a reload that failed."""
LEVELS = ("debug", "info", "warning", "error")


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Run one command. Returns the exit status: 0 for success, 1 if the relay can't be reached or refuses, 2 for wrong
    usage."""
    options = parser().read(argv)
    try:
        client = _client(options, environ)
        _COMMANDS[options.command](client, options)
    except AskError as error:
        complain([str(error)])
        return FAILURE
    return 0


def parser() -> Parser:
    made = Parser(
        prog="flowserver ctl",
        description="Controls a running relay.",
        epilog="Without --socket and --url, the socket of FLOW_CONTROL_SOCKET is used.",
    )
    add_place(made)
    made.add_argument(
        "--token-file", metavar="FILE", help="file with the token for --url; default: the token in FLOW_ADMIN_TOKEN"
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("drain", help="let it finish its streams and end, as SIGTERM does")
    end = commands.add_parser("end", help="end a stream")
    end.add_argument("id", metavar="ID", help="its request id")
    for name, about in (("out", "give a provider no new requests"), ("in", "give it requests again")):
        commands.add_parser(name, help=about).add_argument("name", metavar="NAME", help="the provider's name")
    level = commands.add_parser("log-level", help="set its log level, until it ends")
    level.add_argument("level", metavar="LEVEL", choices=LEVELS, help=", ".join(LEVELS))
    config = commands.add_parser("config", help="show its configuration, and where each value comes from")
    config.add_argument("--json", action="store_true", help="as JSON")
    reload = commands.add_parser("reload", help="make it read its configuration again, and show what has changed")
    reload.add_argument("--show", action="store_true", help="only show the result of the last reload")
    streams = commands.add_parser("streams", help="list its open streams")
    streams.add_argument("--json", action="store_true", help="as JSON, with all fields")
    return made


def _client(options: argparse.Namespace, environ: Mapping[str, str]) -> AdminClient:
    place = given_place(options)
    if place is not None:
        if options.url is None:  # a socket needs no token
            return AdminClient(place)
        token = read_token(options.token_file) if options.token_file is not None else _own_token(environ)
        return AdminClient(place, token)
    where = environ.get("FLOW_CONTROL_SOCKET", "").strip()
    if not where or where == "off":
        raise AskError("which relay? Give --socket PATH or --url URL, or set FLOW_CONTROL_SOCKET")
    return AdminClient(where)


def _own_token(environ: Mapping[str, str]) -> str | None:
    text = environ.get("FLOW_ADMIN_TOKEN", "")
    try:
        return resolve(text, environ, Path()) or None
    except ValueError as error:
        raise AskError(f"FLOW_ADMIN_TOKEN: {text}: {error}") from None


def _told(client: AdminClient, method: str, path: str, body: bytes | None = None) -> Any:
    try:
        return orjson.loads(client.ask(method, path, body))
    except orjson.JSONDecodeError:
        raise AskError(f"{client.where} does not answer as a relay does") from None


# --- commands ---


def _drain(client: AdminClient, options: argparse.Namespace) -> None:
    told = _told(client, "POST", "/drain")
    print(f"draining, {_counted(told['streams'], 'stream')} open")


def _end(client: AdminClient, options: argparse.Namespace) -> None:
    told = _told(client, "POST", "/streams/end", os.fsencode(options.id))
    print(f"ended {_counted(told['ended'], 'stream')}")


def _move(client: AdminClient, options: argparse.Namespace) -> None:
    told = _told(client, "POST", f"/upstreams/{quote(options.name)}/{options.command}")
    print(f"{told['upstream']} gets {'no new requests' if told['out'] else 'requests'}")


def _log_level(client: AdminClient, options: argparse.Namespace) -> None:
    told = _told(client, "PUT", "/log-level", options.level.encode())
    print(f"the log level is {told['log_level']}")


def _config(client: AdminClient, options: argparse.Namespace) -> None:
    told = _told(client, "GET", "/config")
    if options.json:
        _print_json(told)
        return
    _print_values(told["settings"])
    for kind in ("upstreams", "routes", "tenants"):
        for number, table in enumerate(told[kind]):
            print(f"\n{kind}[{number}]")
            _print_values(table)
    if told["out"]:
        print(f"\nout: {', '.join(told['out'])}")


def _reload(client: AdminClient, options: argparse.Namespace) -> None:
    try:
        told = _told(client, "GET" if options.show else "POST", "/reload")
    except AskError as error:
        if error.status != UNPROCESSABLE:
            raise
        raise AskError("\n  ".join(["the reload failed:", *orjson.loads(str(error))["problems"]])) from None
    if told["result"] == "none":
        print("no reload since it started")
        return
    print(f"{told['result']} at {told['time']}")
    for line in told["problems"] or told["changes"] or ["no differences"]:
        print(f"  {line}")


def _streams(client: AdminClient, options: argparse.Namespace) -> None:
    told = _told(client, "GET", "/streams")
    if options.json:
        _print_json(told)
        return
    rows: list[tuple[str, ...]] = [
        ("id", "state", "slow", "age", "tokens", "held", "pauses", "client", "provider", "model")
    ]
    for each in sorted(told, key=lambda stream: -float(stream["age_seconds"])):
        figures = (f"{each['age_seconds']:.1f} s", each["tokens"], each["held_bytes"], each["pauses"])
        names = (each["client"], each["upstream"], each["model"])
        shown = (each["request_id"], each["state"], each["slow"], *figures, *names)
        rows.append(tuple("-" if value is None else str(value) for value in shown))
    print_rows(rows)


_COMMANDS: dict[str, Callable[[AdminClient, argparse.Namespace], None]] = {
    "drain": _drain,
    "end": _end,
    "out": _move,
    "in": _move,
    "log-level": _log_level,
    "config": _config,
    "reload": _reload,
    "streams": _streams,
}


# --- output ---


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _print_values(values: Mapping[str, Mapping[str, Any]]) -> None:
    print_rows([(name, _shown(each["value"]), each["origin"]) for name, each in values.items()])


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _print_json(told: Any) -> None:
    sys.stdout.write(orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode())
