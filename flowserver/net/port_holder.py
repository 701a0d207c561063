"""Finds the process that listens on an address (proc(5)), as far as this process may see it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_LISTENING = "0A"
"""TCP_LISTEN in /proc/net/tcp."""


class Holder(NamedTuple):
    """A process that listens."""

    pid: int
    command: str
    """Its command line, shortened."""

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})"


def holder_of(port: int, path: str = "") -> Holder | None:
    """The process that listens at a TCP port, of any address, or at the Unix socket `path`. None: there is none, or
    another user's."""
    wanted = {f"socket:[{inode}]" for inode in (_of_path(path) if path else _of_port(port))}
    if not wanted:
        return None
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if any(os.readlink(file) in wanted for file in (folder / "fd").iterdir()):
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                return Holder(int(folder.name), " ".join(words).strip()[:60])
    return None


def _of_port(port: int) -> Iterator[str]:
    for row in (*_rows("tcp"), *_rows("tcp6")):
        if len(row) > 9 and row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port:
            yield row[9]


def _of_path(path: str) -> Iterator[str]:
    for row in _rows("unix"):
        if len(row) > 7 and row[7] == path:
            yield row[6]


def _rows(table: str) -> list[list[str]]:
    try:
        return [line.split() for line in Path("/proc/net", table).read_text().splitlines()[1:]]
    except OSError:
        return []
