"""What the commands return to whoever started them, besides 0 for success and argparse's 2 for wrong usage."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from ..config.errors import ConfigError, NotNowError

FAILURE = 1
"""Starting again may help: an address is in use, Redis does not answer."""
MISCONFIGURED = os.EX_CONFIG
"""78, see sysexits(3). It will not: service managers are told not to try."""


def complain(problems: Iterable[str]) -> None:
    for problem in problems:
        print(f"flowserver: {problem}", file=sys.stderr)


def refused(error: ConfigError) -> int:
    """Print what is wrong with the configuration. Returns the exit status."""
    complain(error.problems)
    return FAILURE if isinstance(error, NotNowError) else MISCONFIGURED
