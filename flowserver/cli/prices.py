"""`flowserver prices`: converts a price list to the file that `prices_file` names."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..config.price_lists import ListError, read_list, toml_of
from .exit_status import FAILURE, complain
from .usage import Parser


def main(argv: Sequence[str]) -> int:
    """Returns the exit status: 0 for success, 2 for wrong usage, and see `exit_status`."""
    options = parser().read(argv)
    try:
        found = read_list(options.source.read_text(encoding="utf-8-sig"))
        if not found.prices:
            raise ListError("it has no price per token")
    except (OSError, ListError, UnicodeDecodeError) as error:
        complain([f"--from: {options.source} can't be read: {error}"])
        return FAILURE
    text = toml_of(found)
    if options.to is None:
        sys.stdout.write(text)
    else:
        try:
            _replace(options.to, text)
        except OSError as error:
            complain([f"--to: {options.to} can't be written: {error}"])
            return FAILURE
    left_out = f"; {found.left_out} entries without a price were skipped" if found.left_out else ""
    print(f"flowserver: {len(found.prices)} tables of prices per token{left_out}", file=sys.stderr)
    return 0


def parser() -> Parser:
    parser = Parser(prog="flowserver prices", description="Manages the prices of tokens.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    update = commands.add_parser(
        "update",
        help="convert a price list to [[prices]] tables",
        description="Converts a price list to the TOML file that `prices_file` names. Needs no network.",
    )
    update.add_argument(
        "--from",
        dest="source",
        type=Path,
        required=True,
        metavar="FILE",
        help="LiteLLM's model_prices_and_context_window.json, or CSV with the columns model, input, output (dollars "
        "per million tokens)",
    )
    update.add_argument("--to", type=Path, metavar="FILE", help="the file to write; standard output by default")
    return parser


def _replace(path: Path, text: str) -> None:
    """Write `path` atomically: a relay may read it at any time."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(text, encoding="utf-8")
        if path.exists():
            new.chmod(path.stat().st_mode)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
