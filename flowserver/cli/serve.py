"""`flowserver serve`: runs the relay."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import uvloop

from ..config.errors import ConfigError
from ..config.parsers import Auto
from ..config.settings import Config
from .descriptors import raise_limit
from .exit_status import refused
from .flags import ABOUT, add_flags, flags_of
from .loading import doubts, loaded, warn
from .usage import Parser

if TYPE_CHECKING:
    from ..app.inherited import Inherited
    from ..telemetry.sink import Sink


def parser() -> Parser:
    parser = Parser(
        prog="flowserver serve",
        usage="flowserver serve [--SETTING VALUE ...]",
        description=f"Run the relay. {ABOUT}",
        epilog="docs/settings.md describes each in full.",
    )
    add_flags(parser)
    return parser


def main(arguments: list[str]) -> int:
    """Run until a signal ends it. Returns the exit status."""
    reader = parser()
    flags = flags_of(reader.read(arguments), reader)
    try:
        _serve(flags)
    except ConfigError as error:
        return refused(error)
    return 0


def _serve(flags: Mapping[str, str]) -> None:
    """Raises ConfigError."""
    from ..app.inherited import Inherited, inherited
    from ..app.parent import serve_with_workers
    from ..telemetry.sink import standard_output
    from ..workers.cores import usable_cores

    sink = standard_output()
    given = Inherited()
    try:
        given = inherited(os.environ)
        config, topology = loaded(flags)
        raise_limit()
        warn(doubts(config, topology))
        workers = usable_cores() if isinstance(config.workers, Auto) else config.workers
        config = replace(config, workers=workers)
        if workers > 1:
            serve_with_workers(config, workers, given)
        else:
            _serve_alone(config, sink, given)
    except ConfigError as error:
        given.failed(error.problems)
        raise


def _serve_alone(config: Config, sink: Sink, given: Inherited) -> None:
    from ..app.open_log import open_log
    from ..app.serve import serve

    log = open_log(config, sink=sink)
    try:
        uvloop.run(serve(config, log, given=given))
    finally:
        log.close()
