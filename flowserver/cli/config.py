"""`flowserver config schema`: the JSON Schema of the file of FLOW_CONFIG, for editors and other tools."""

from __future__ import annotations

from typing import Any

import orjson

from ..config.file_keys import FILE_KEYS
from ..config.tables import table_schema
from .usage import Parser

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def parser() -> Parser:
    parser = Parser(prog="flowserver config", description="Describe the file of --config (FLOW_CONFIG).")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "schema",
        help="print its JSON Schema",
        description="Print the JSON Schema (2020-12) of the file: the keys of each table. `flowserver check` finds "
        "more.",
    )
    return parser


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    parser().read(arguments)
    print(orjson.dumps(file_schema(), option=orjson.OPT_INDENT_2).decode())
    return 0


def file_schema() -> dict[str, Any]:
    """The JSON Schema, made from the tables of keys and the kinds of their values."""
    return {"$schema": _DIALECT, "title": "flowserver", **table_schema(FILE_KEYS)}
