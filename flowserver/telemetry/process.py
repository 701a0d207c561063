"""Metrics of the process from /proc, and of Python, under prometheus_client's names. Its own collector lists all
descriptors at once, which stops the event loop for tens of milliseconds if ten thousand are open."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Generator, Iterator
from contextlib import suppress

from .exposition import Family, Merge, counter, counters, gauge

AT_A_TIME = 100
"""Descriptors counted per piece of work."""


class ProcessFigures:
    """Metrics of this process; there are none on systems other than Linux."""

    def __init__(self) -> None:
        self.started_at: float | None = None
        """Seconds since the epoch; None: unknown."""
        with suppress(OSError, IndexError, ValueError):
            self.started_at = _boot_time() + int(_stat()[19]) / os.sysconf("SC_CLK_TCK")

    def summary(self) -> dict[str, float]:
        """Resident bytes and CPU seconds, if known."""
        with suppress(OSError, IndexError, ValueError):
            stat = _stat()
            return {
                "cpu_seconds": (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"),
                "resident_bytes": int(stat[21]) * os.sysconf("SC_PAGE_SIZE"),
            }
        return {}

    def collect(self) -> Generator[bytes, None, list[Family]]:
        """Yields empty pieces in between; returns the families."""
        try:
            families = list(self._plain())
            open_now = yield from _open_descriptors()
        except (OSError, IndexError, ValueError):
            return []
        families.append(gauge("process_open_fds", "Open file descriptors.", open_now, Merge.EACH))
        return families

    def _plain(self) -> Iterator[Family]:
        stat = _stat()
        text = "Virtual memory in bytes."
        yield gauge("process_virtual_memory_bytes", text, int(stat[20]), Merge.EACH)
        text = "Resident memory in bytes."
        pages = int(stat[21])
        yield gauge("process_resident_memory_bytes", text, pages * os.sysconf("SC_PAGE_SIZE"), Merge.EACH)
        if self.started_at is not None:
            text = "When the process started, in seconds since the epoch."
            yield gauge("process_start_time_seconds", text, self.started_at, Merge.EACH)
        ticks = int(stat[11]) + int(stat[12])
        text = "User and system CPU time in seconds."
        yield counter("process_cpu_seconds", text, ticks / os.sysconf("SC_CLK_TCK"))
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield gauge("process_max_fds", "Largest number of open file descriptors.", limit, Merge.EACH)


def garbage_collection() -> Iterator[Family]:
    """The figures of Python's cyclic garbage collector, by generation."""
    stats = [({"generation": str(number)}, found) for number, found in enumerate(gc.get_stats())]
    for name, text, figure in (
        ("python_gc_objects_collected", "Objects collected by the garbage collector.", "collected"),
        ("python_gc_objects_uncollectable", "Objects that the garbage collector could not collect.", "uncollectable"),
        ("python_gc_collections", "Runs of the garbage collector.", "collections"),
    ):
        yield counters(name, text, [(labels, found[figure]) for labels, found in stats])


def _open_descriptors() -> Generator[bytes, None, int]:
    """Since Linux 6.2 their number is the size of the directory; before that, they must be counted."""
    if size := os.stat("/proc/self/fd").st_size:
        return size
    count = -1  # the descriptor of the listing itself
    with os.scandir("/proc/self/fd") as entries:
        for _ in entries:
            count += 1
            if count % AT_A_TIME == 0:
                yield b""
    return count


def _stat() -> list[bytes]:
    """The fields of /proc/self/stat after the program's name: from the third on (proc_pid_stat(5))."""
    with open("/proc/self/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def _boot_time() -> int:
    with open("/proc/stat", "rb") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(b"btime "))
