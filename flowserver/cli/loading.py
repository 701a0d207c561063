"""Loads the configuration for a command, and warns of doubtful values."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping

from ..config.advice import advice
from ..config.environment import load, unknown_settings
from ..config.file import load_topology
from ..config.settings import Config
from ..config.topology import Topology
from .certificates import certificates_advice
from .descriptors import too_few


def loaded(flags: Mapping[str, str]) -> tuple[Config, Topology]:
    """Load the configuration from environment, flags and file, and warn of unknown variables. Raises ConfigError if it
    is invalid."""
    warn(unknown_settings(os.environ))
    config = load(os.environ, flags)
    return config, load_topology(config, os.environ)


def doubts(config: Config, topology: Topology) -> list[str]:
    """A line for each setting that is valid but probably unintended."""
    shortage = too_few(config)
    return [
        *advice(config, topology),
        *certificates_advice(config, time.time()),
        *([] if shortage is None else [shortage]),
    ]


def warn(lines: Iterable[str]) -> None:
    for line in lines:
        print(f"flowserver: warning: {line}", file=sys.stderr)
