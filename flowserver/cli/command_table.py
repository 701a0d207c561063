"""The commands. Each is a file here with `parser()`, its command line, and `main(arguments)`, which returns the exit
status. A file is imported only when its command is used, so `serve` does not load the others."""

from __future__ import annotations

import argparse
from importlib import import_module
from types import ModuleType

COMMANDS = {
    "serve": "run the relay",
    "check": "show the settings, and every mistake in them",
    "config": "print the JSON Schema of the file of --config",
    "ctl": "control a running relay: drain, end a stream, reload, ...",
    "top": "show a running relay's streams and providers in a terminal",
    "tenants": "manage tenants, their keys and limits",
    "prices": "convert a price list to [[prices]] tables",
    "demo": "run a simulated provider, a relay and four clients",
    "simulate": "run a simulated provider",
    "completion": "print a script that completes commands and flags",
    "version": "print the version",
}


def module_of(command: str) -> ModuleType:
    return import_module(f"{__package__}.{command}")


def parser_of(command: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = module_of(command).parser()
    return parser
