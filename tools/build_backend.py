"""The build backend: that of setuptools, which a compiled build (see setup.py) needs more packages for."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

MYPYC = "mypy[mypyc]>=2.1"


def get_requires_for_build_wheel(config_settings: Mapping[str, object] | None = None) -> list[str]:
    """The compiler, and the dependencies, since it reads their types; nothing for a build in pure Python."""
    if os.environ.get("FLOWSERVER_COMPILE") != "1":
        return []
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    return [MYPYC, *project["dependencies"]]
