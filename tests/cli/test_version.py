"""`flowserver version` tells which build is installed."""

from __future__ import annotations

import pytest

from flowserver import __version__
from flowserver.__main__ import main
from flowserver.relay import exchange


def test_the_version_and_the_build(capsys: pytest.CaptureFixture[str]) -> None:
    build = "pure Python" if exchange.__file__.endswith(".py") else "compiled"
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"flowserver {__version__} ({build})\n"
