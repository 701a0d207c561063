"""`flowserver check` shows what a file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowserver.__main__ import main
from tests.support.topology import toml

ROUTES = """
[[routes]]
path = "/v1/*"
models = ["m-*"]
upstreams = [["a", "b"], "c"]
affinity = "session"

[[routes]]
upstreams = ["a"]
"""


def test_check_shows_the_routes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLOW_CONFIG", toml(tmp_path, {name: f"https://{name}.test" for name in "abc"}, ROUTES))
    assert main(["check"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("route ")]
    assert lines == ["route /v1/* for m-* -> a or b, then c, by session", "route * -> a"]
