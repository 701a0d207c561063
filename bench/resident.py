"""Resident memory of a relay over time."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

from bench.processes import process_tree

_SOCKET_MEMORY = re.compile(r"skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f(\d+),w(\d+),o\d+,bl(\d+)")

PAGE = os.sysconf("SC_PAGE_SIZE")

STEP = 0.1
"""Seconds between two looks."""


def resident_bytes(pid: int) -> int:
    """Of the process and its descendants together; a page that two share counts twice."""
    total = 0
    for member in process_tree(pid):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{member}/statm").read_text().split()[1]) * PAGE
    return total


def peak_bytes(pid: int) -> int:
    """The most that they have ever had, each of them: the kernel's own account (VmHWM), which misses no moment."""
    total = 0
    for member in process_tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{member}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1]) * 1024
    return total


def kernel_bytes(port: int, upstream: int) -> int:
    """What the kernel's buffers take of the sockets of a relay that listens on `port` and connects to `upstream`, as a
    cgroup counts them; 0 without iproute2."""
    program = shutil.which("ss")
    if program is None:
        return 0
    command = [program, "-tnmH", f"( sport = :{port} or dport = :{upstream} )"]
    return socket_bytes(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def socket_bytes(text: str) -> int:
    """The sum of what came and was not read, what is kept in advance, what is queued to be sent, and the backlog."""
    return sum(sum(map(int, found)) for found in _SOCKET_MEMORY.findall(text))


class Resident:
    """Looks every STEP, from a thread. A relay that has `most` bytes is over the edge: `is_over`, and its owner is to
    end it."""

    def __init__(self, pid: int, most: int) -> None:
        self._pid = pid
        self._most = most
        self._started = time.monotonic()
        self.points: list[tuple[float, float]] = []
        """(seconds, MB of 1024 KB)"""
        self.is_over = False

    def run(self, stop: threading.Event) -> None:
        """For `in_background`."""
        while not stop.wait(STEP):
            size = resident_bytes(self._pid)
            self.points.append((time.monotonic() - self._started, size / 1024**2))
            if size >= self._most:
                self.is_over = True
                return

    def peak(self) -> int:
        """Bytes. 0 where nothing was seen."""
        return max(peak_bytes(self._pid), round(1024**2 * max((size for _, size in self.points), default=0)))
