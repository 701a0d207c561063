"""How many cores this process may use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

Reader = Callable[[Path], Iterator[float]]

V1_FOLDERS = ("cpu", "cpu,cpuacct")
"""Where version 1 of cgroups is mounted for this controller."""


def usable_cores(root: Path = Path("/")) -> int:
    """The cores of this process's affinity, or fewer if a cgroup gives it less time than those have (cpu.max), at least
    1. A part of a core counts for nothing, as a worker would be stopped for the rest of each period. `root` has /proc
    and /sys."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The cores' worth of time that each cgroup above this process allows."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield from _each(root / "sys/fs/cgroup", path, _v2)
            elif "cpu" in controllers.split(","):
                for folder in V1_FOLDERS:
                    yield from _each(root / "sys/fs/cgroup" / folder, path, _v1)


def _each(mount: Path, path: str, read: Reader) -> Iterator[float]:
    """Of the cgroup `path` and those above it. Inside of a container the path may be the host's, of which nothing but
    the mount itself is to be seen."""
    inner = PurePosixPath(path.lstrip("/"))
    for folder in dict.fromkeys((mount / inner, *(mount / above for above in inner.parents), mount)):
        with contextlib.suppress(OSError, ValueError):
            yield from read(folder)


def _v2(folder: Path) -> Iterator[float]:
    quota, period = (folder / "cpu.max").read_text().split()
    if quota != "max":
        yield int(quota) / int(period)


def _v1(folder: Path) -> Iterator[float]:
    quota = int((folder / "cpu.cfs_quota_us").read_text())
    if quota > 0:
        yield quota / int((folder / "cpu.cfs_period_us").read_text())
