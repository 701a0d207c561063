"""Runs a page of shell blocks as its reader would: one shell for most of them, a terminal for those that are named
after one.

Between the blocks, HTML comments say what a reader does by hand:

    <!-- ends: Terminal 2 -->            presses Ctrl-C there
    <!-- not run: needs the network -->  the next block is not for this
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PART = re.compile(
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$'
    r"|^<!-- (?P<word>ends|not run): (?P<what>[^\n]+) -->$",
    re.MULTILINE | re.DOTALL,
)
_SECONDS = 60.0
"""That a block may take."""


@dataclass(frozen=True, slots=True)
class Step:
    """`kind`: `run` in the one shell, `start` in a terminal, `expect` of the block before, `end` a terminal, `skip`.
    `where` is the terminal, or why a block is skipped."""

    kind: str
    text: str
    where: str = ""


def steps_of(page: str) -> list[Step]:
    """What a page has its reader do, in order. Blocks in other languages than `sh` and `text` are none of it."""
    steps: list[Step] = []
    excuse = ""
    for part in _PART.finditer(page):
        if part["word"] == "ends":
            steps.append(Step("end", "", part["what"]))
        elif part["word"] == "not run":
            excuse = part["what"]
        elif part["language"] == "sh":
            kind = "skip" if excuse else "start" if part["title"] else "run"
            steps.append(Step(kind, part["text"], excuse or part["title"] or ""))
            excuse = ""
        elif part["language"] == "text" and part["title"] == "Output":
            steps.append(Step("expect", part["text"]))
    return steps


def missing(expected: str, seen: str) -> list[str]:
    """The lines of `expected` that do not occur in `seen` in this order; `...` stands for anything."""
    rest = [line.strip() for line in seen.splitlines()]
    gone = []
    for line in filter(None, map(str.strip, expected.splitlines())):
        pattern = ".*".join(map(re.escape, line.split("...")))
        at = next((number for number, other in enumerate(rest) if re.fullmatch(pattern, other)), None)
        if at is None:
            gone.append(line)
        else:
            rest = rest[at + 1 :]
    return gone


class Tour:
    """Runs steps with this environment; HOME is where the terminals begin."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._shell: Process | None = None
        self._terminals: dict[str, Process] = {}

    async def run(self, steps: list[Step]) -> None:
        """Raises AssertionError where a block fails, or does not print what the page says."""
        said = ""
        for step in steps:
            if step.kind == "run":
                said = await self._run(step.text)
            elif step.kind == "start":
                await self._start(step)
            elif step.kind == "end":
                await self._end(step.where)
            elif step.kind == "expect":
                gone = missing(step.text, said)
                assert not gone, f"not in the output: {gone}\n{said}"

    async def close(self) -> None:
        for name in list(self._terminals):
            await self._end(name)
        if self._shell is not None and self._shell.returncode is None:
            os.killpg(self._shell.pid, signal.SIGKILL)
            await self._shell.wait()

    async def _process(self, *command: str) -> Process:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
            cwd=self._environment["HOME"],
            env=self._environment,
            start_new_session=True,
            limit=1 << 24,
        )

    async def _run(self, text: str) -> str:
        """What the block prints."""
        if self._shell is None:
            self._shell = await self._process("bash", "-eo", "pipefail")
        shell, mark = self._shell, b"\n== done ==\n"
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(text.encode() + b"printf '\\n== done ==\\n'\n")
        try:
            said = await asyncio.wait_for(shell.stdout.readuntil(mark), _SECONDS)
        except asyncio.IncompleteReadError as ended:
            raise AssertionError(f"failed:\n{text}\n{ended.partial.decode()}") from None
        return said.removesuffix(mark).decode()

    async def _start(self, step: Step) -> None:
        assert step.where not in self._terminals, f"{step.where} is busy"
        process = await self._process("bash", "-ec", step.text)
        self._terminals[step.where] = process
        if "flowserver" in step.text:
            assert process.stdout is not None
            line = await asyncio.wait_for(process.stdout.readline(), _SECONDS)
            assert b"listening" in line, f"failed:\n{step.text}\n{line.decode()}"

    async def _end(self, terminal: str) -> None:
        process = self._terminals.pop(terminal)
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGINT)
        await asyncio.wait_for(process.communicate(), _SECONDS)


def command_on_path(folder: Path, name: str, command: list[str]) -> Path:
    """A folder for PATH that has `command` by this name."""
    folder.mkdir()
    script = folder / name
    script.write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n')
    script.chmod(0o755)
    return folder
