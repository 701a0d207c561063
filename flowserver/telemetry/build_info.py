"""Version and build of the running program."""

from __future__ import annotations

import platform

from .. import __version__
from ..http import messages
from .exposition import Family, Merge, gauges

BUILD = "pure" if messages.__file__.endswith(".py") else "compiled"
"""See setup.py."""


def build_info() -> Family:
    labels = {"version": __version__, "build": BUILD, "python": platform.python_version()}
    return gauges("flow_build_info", "Always 1; the labels tell version, build and Python.", [(labels, 1.0)], Merge.MAX)
