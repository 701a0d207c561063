"""A terminal of a given size in which a program runs, and what it shows."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from subprocess import Popen
from typing import Any

_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
LEAVES = b"\x1b[?1049l"
"""Back from the screen that a program has for itself."""
SHOWS_CURSOR = b"\x1b[?25h"


class Terminal:
    """`python -m flowserver` with `arguments`, in a terminal of its own."""

    def __init__(self, *arguments: str, rows: int = 24, columns: int = 80) -> None:
        self._ours, theirs = pty.openpty()
        self.theirs = theirs
        """Kept open, to see how the program leaves it."""
        self.resize(rows, columns)
        self.before = self.settings()
        self.output = b""
        """All that was written."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("FLOW_", "COLUMNS", "LINES"))
        }
        self.process = Popen(
            [sys.executable, "-m", "flowserver", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**inherited, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.set_blocking(self._ours, False)
        asyncio.get_running_loop().add_reader(self._ours, self._read)

    def settings(self) -> list[Any]:
        """Of the terminal: how it treats what is typed."""
        return termios.tcgetattr(self.theirs)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def forget(self) -> None:
        """What was written so far does not count any more."""
        self.output = b""

    @property
    def text(self) -> str:
        """What was written, without colours and moves."""
        return _ESCAPES.sub(b"", self.output).decode("utf-8", "replace")

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._ours)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self.theirs)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.output += os.read(self._ours, 1 << 16)
