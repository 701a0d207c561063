"""The command line: `flowserver COMMAND`."""

from __future__ import annotations

import os
import sys

from ..config.settings import SETTINGS
from .command_table import COMMANDS, module_of
from .exit_status import FAILURE
from .usage import Parser
from .version import version


def run(arguments: list[str]) -> int:
    """Run a command. Returns the exit status."""
    command = arguments[0] if arguments else ""
    if command in COMMANDS:
        return _run(command, arguments[1:])
    whole = parser()
    flag = command.partition("=")[0]
    if flag in {entry.flag for entry in SETTINGS}:
        whole.error(f"{flag} goes after the command: flowserver serve {' '.join(arguments[:2])}")
    whole.read(arguments)
    return 0


def _run(command: str, arguments: list[str]) -> int:
    try:
        status: int = module_of(command).main(arguments)
        if sys.stdout is not None:  # None if it is closed
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    return status


def parser() -> Parser:
    """For `flowserver --help`; each command parses its own arguments."""
    parser = Parser(
        prog="flowserver",
        description="An edge relay for LLM token streams with backpressure that reaches the provider.",
        epilog="Settings come from the environment (FLOW_...), or from flags: `flowserver serve --help` lists them.",
    )
    parser.add_argument("--version", action="version", version=f"flowserver {version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about in COMMANDS.items():
        commands.add_parser(name, help=about)
    return parser
