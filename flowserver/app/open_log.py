"""The log of a process, as it is configured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..config.settings import Config
from ..telemetry.line_format import LineFormat, json_line, text_line
from ..telemetry.line_writer import LineWriter
from ..telemetry.log import Log, LogOptions
from ..telemetry.sink import Sink


def open_log(
    config: Config,
    *,
    sink: Sink | None = None,
    writer: LineWriter | None = None,
    fields: Mapping[str, Any] = MappingProxyType({}),
) -> Log:
    """See `Log` and `LogOptions` for the arguments."""
    options = LogOptions(line_format=_line_format(config), access=config.access_log, fields=fields)
    return Log(config.log_level, sink=sink, writer=writer, options=options)


def _line_format(config: Config) -> LineFormat:
    """Text on a terminal."""
    if config.log_format == "auto":
        return text_line if os.isatty(1) else json_line
    return text_line if config.log_format == "text" else json_line
