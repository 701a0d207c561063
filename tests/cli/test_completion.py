"""Scripts of shells: each knows all commands, flags and words. bash is asked; zsh and fish where they are installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from flowserver.cli.command_table import COMMANDS
from flowserver.cli.commands import run
from flowserver.cli.completion import script
from flowserver.config.settings import SETTINGS

SHELLS = ("bash", "zsh", "fish")


def ask(shell: str, *arguments: str, text: str = "") -> str:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run(
        [program, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False, env={"HOME": "/"}
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_knows_everything(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    printed = capsys.readouterr().out
    assert printed == script(shell)
    long = "-l {}" if shell == "fish" else "--{}"
    assert [name for name in COMMANDS if name not in printed] == []
    assert [entry.flag for entry in SETTINGS if long.format(entry.flag[2:]) not in printed] == []


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_can_read_its_script(shell: str, tmp_path: Path) -> None:
    file = tmp_path / "completion"
    file.write_text(script(shell), encoding="utf-8")
    assert ask(shell, "--no-execute" if shell == "fish" else "-n", str(file)) == ""


CASES = [
    ("flowserver ch", ["check"]),
    ("flowserver serve --log-l", ["--log-level"]),
    ("flowserver serve --log-level w", ["warning"]),
    ("flowserver tenants a", ["add"]),
    ("flowserver config s", ["schema"]),
    ("flowserver completion z", ["zsh"]),
    ("flowserver tenants add --exp", ["--expires"]),
    ("flowserver serve --exp", []),
]


@pytest.mark.parametrize(("line", "found"), CASES)
def test_bash_completes(line: str, found: list[str], tmp_path: Path) -> None:
    words = " ".join(f"'{word}'" for word in line.split(" "))
    asked = f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _flowserver; echo ${{COMPREPLY[@]}}"
    assert ask("bash", "--norc", text=f"{script('bash')}\n{asked}\n").split() == found


@pytest.mark.parametrize(("line", "found"), CASES)
def test_fish_completes(line: str, found: list[str]) -> None:
    printed = ask("fish", "--no-config", text=f"{script('fish')}\ncomplete -C '{line}'\n")
    assert [each.split("\t")[0] for each in printed.splitlines()] == found
