"""Exit statuses of the commands, besides 0 for success and argparse's 2 for wrong usage."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from ..config.errors import ConfigError, NotNowError

FAILURE = 1
"""Trying again may help: an address is in use, Redis does not answer."""
MISCONFIGURED = os.EX_CONFIG
"""78, see sysexits(3). Trying again does not help: service managers should not restart it."""


def complain(problems: Iterable[str]) -> None:
    for problem in problems:
        print(f"flowserver: {problem}", file=sys.stderr)


def refused(error: ConfigError) -> int:
    """Print the problems of the configuration. Returns the exit status."""
    complain(error.problems)
    return FAILURE if isinstance(error, NotNowError) else MISCONFIGURED
