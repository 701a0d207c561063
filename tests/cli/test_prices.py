"""`flowserver prices update`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from flowserver.__main__ import main

LIST = {
    "m": {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "mode": "chat"},
    "image": {"input_cost_per_image": 0.04},
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "list.json"
    path.write_text(json.dumps(LIST))
    return path


def test_it_writes_to_standard_output(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prices", "update", "--from", str(source)]) == 0
    printed = capsys.readouterr()
    assert tomllib.loads(printed.out) == {"prices": [{"models": ["m"], "input": "1", "output": "2"}]}
    assert printed.err == "flowserver: 1 tables of prices per token; 1 entries without a price were skipped\n"


def test_it_replaces_a_file_whole(source: Path, tmp_path: Path) -> None:
    to = tmp_path / "prices.toml"
    to.write_text("old")
    to.chmod(0o640)
    assert main(["prices", "update", "--from", str(source), "--to", str(to)]) == 0
    first = to.read_bytes()
    assert main(["prices", "update", "--from", str(source), "--to", str(to)]) == 0
    assert to.read_bytes() == first
    assert to.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.json", "prices.toml"]


@pytest.mark.parametrize("text", ["{", "{}", "nothing", None])
def test_a_list_that_is_none_changes_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    to = tmp_path / "prices.toml"
    to.write_text("old")
    if text is None:
        source.unlink()
    else:
        source.write_text(text)
    assert main(["prices", "update", "--from", str(source), "--to", str(to)]) == 1
    assert f"--from: {source} can't be read" in capsys.readouterr().err
    assert to.read_text() == "old"


def test_a_file_that_cannot_be_written_is_told(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "nowhere" / "prices.toml"
    assert main(["prices", "update", "--from", str(source), "--to", str(to)]) == 1
    assert f"--to: {to} can't be written" in capsys.readouterr().err
