"""`flowserver version`."""

from __future__ import annotations

from .. import __version__
from ..http import messages
from .usage import Parser


def parser() -> Parser:
    return Parser(prog="flowserver version", description="Print the version, and the kind of build.")


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    parser().read(arguments)
    print(f"flowserver {version()}")
    return 0


def version() -> str:
    """The version and the kind of build (see setup.py)."""
    build = "pure Python" if messages.__file__.endswith(".py") else "compiled"
    return f"{__version__} ({build})"
