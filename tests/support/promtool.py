"""Prometheus' own check of metrics and rules."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def promtool(*arguments: str, given: bytes = b"", folder: Path | None = None) -> tuple[int, str]:
    """Exit status and all that it says; `given` to its input, run in `folder`."""
    done = subprocess.run(
        ["promtool", *arguments],
        input=given,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.decode()
