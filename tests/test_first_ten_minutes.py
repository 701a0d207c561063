"""docs/first-ten-minutes.md does what it says, block by block."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

import flowserver
from tests.support.tour import Step, Tour, command_on_path, missing, steps_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "first-ten-minutes.md"
PORTS = ("8080", "9090", "9000", "9001")
"""That the page uses: clients', admin's, and of two providers."""


def free_ports(count: int) -> list[str]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [str(each.getsockname()[1]) for each in sockets]


def environment(folder: Path, ports: dict[str, str]) -> dict[str, str]:
    package = str(Path(flowserver.__file__).parent.parent)
    command = command_on_path(folder / "bin", "flowserver", [sys.executable, "-m", "flowserver"])
    return {
        "HOME": str(folder),
        "PATH": f"{command}:{os.environ['PATH']}",
        "PYTHONPATH": package,
        "FLOW_LISTEN": f"127.0.0.1:{ports['8080']}",
        "FLOW_ADMIN_LISTEN": f"127.0.0.1:{ports['9090']}",
    }


def moved(step: Step, ports: dict[str, str]) -> Step:
    """The same with these ports in place of the page's."""
    text = re.sub(r"flowserver simulate$", "flowserver simulate --listen 127.0.0.1:9000", step.text, flags=re.MULTILINE)
    text = re.sub(rf"\b({'|'.join(PORTS)})\b", lambda port: ports[port[1]], text)
    return Step(step.kind, text, step.where)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_every_block_does_what_the_page_says(tmp_path: Path) -> None:
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    tour = Tour(environment(tmp_path, ports))
    try:
        await tour.run([moved(step, ports) for step in steps_of(PAGE.read_text(encoding="utf-8"))])
    finally:
        await tour.close()


def test_only_installations_are_left_out() -> None:
    page = PAGE.read_text(encoding="utf-8")
    steps = steps_of(page)
    kinds = [step.kind for step in steps]
    assert page.count("```sh") == sum(kind in ("run", "start", "skip") for kind in kinds)
    reasons = {step.where for step in steps if step.kind == "skip"}
    assert reasons <= {
        "installs packages of the system",
        "installs the package",
        "installs a service",
        "changes the user's files",
    }
    assert min(kinds.count("run"), kinds.count("start"), kinds.count("expect")) >= 5


def test_lines_that_are_missing_are_seen() -> None:
    assert missing("a\n  b ...\n", "x\na\nb 1\ny\n") == []
    assert missing("b ...\na\n", "x\na\nb 1\n") == ["a"]
    assert missing("a.c\n", "abc\n") == ["a.c"]
    assert missing("a\na\n", "a\n") == ["a"]


MADE_UP = """
```sh
echo one >file
```
```sh title="Terminal 1"
echo listening; sleep 60  # flowserver
```
<!-- not run: why -->
```sh
exit 1
```
```sh
cat file; kill -0 "$$"
```
```text title="Output"
one
```
<!-- ends: Terminal 1 -->
"""


async def test_a_made_up_page_runs(tmp_path: Path) -> None:
    await _run(MADE_UP, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('```text title="Output"\none', '```text title="Output"\ntwo', r"not in the output: \['two'\]"),
        ("cat file", "cat none", "failed"),
        ("<!-- not run: why -->", "", "failed"),
        ("echo listening", "echo no", "failed"),
    ],
)
async def test_a_page_that_is_not_true_fails(old: str, new: str, said: str, tmp_path: Path) -> None:
    assert old in MADE_UP
    with pytest.raises(AssertionError, match=said):
        await _run(MADE_UP.replace(old, new), tmp_path)


async def _run(page: str, home: Path) -> None:
    tour = Tour({"HOME": str(home), "PATH": os.environ["PATH"]})
    try:
        await tour.run(steps_of(page))
    finally:
        await tour.close()
