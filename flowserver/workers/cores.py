"""How many cores this process may use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

Reader = Callable[[Path], Iterator[float]]

V1_FOLDERS = ("cpu", "cpu,cpuacct")
"""Mount points of this controller in cgroups version 1."""


def usable_cores(root: Path = Path("/")) -> int:
    """The cores of this process's affinity, or fewer if a cgroup allows less CPU time (cpu.max), at least 1. A fraction
    of a core does not count, as a worker would be throttled for the rest of each period. `root` contains /proc and
    /sys."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The CPU time, in cores, that each cgroup of this process allows."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield from _each(root / "sys/fs/cgroup", path, _v2)
            elif "cpu" in controllers.split(","):
                for folder in V1_FOLDERS:
                    yield from _each(root / "sys/fs/cgroup" / folder, path, _v1)


def _each(mount: Path, path: str, read: Reader) -> Iterator[float]:
    """The values of the cgroup `path` and its ancestors. In a container the path may be the host's, of which only the
    mount itself is visible."""
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
