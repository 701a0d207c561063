"""Memory as Linux reports it: of the process, its cgroup, and the machine. Sizes in bytes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD, _M_ARENA_MAX = -3, -1, -8
"""Parameters of mallopt(3)."""
RETURNED = 128 * 1024
"""Size from which freed blocks are returned to the system at once. It is malloc's initial threshold, which would grow
with each such block that is freed, so that blocks of large bodies would be kept."""


class ResidentMemory:
    """The resident memory of this process."""

    __slots__ = ("_descriptor",)

    def __init__(self) -> None:
        """Raises OSError where there is no /proc."""
        self._descriptor = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> int:
        """Takes 1.4 us."""
        return int(os.pread(self._descriptor, 64, 0).split()[1]) * _PAGE

    def close(self) -> None:
        os.close(self._descriptor)


class Allocator:
    """C's malloc. glibc keeps freed memory until `trim` is called; other C libraries decide for themselves."""

    __slots__ = ("_trim",)

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        self._trim = getattr(libc, "malloc_trim", None)
        tune = getattr(libc, "mallopt", None)
        if tune is not None:
            tune(_M_MMAP_THRESHOLD, RETURNED)
            tune(_M_TRIM_THRESHOLD, 2 * RETURNED)
            tune(_M_ARENA_MAX, 2)  # each thread that looks up a name may have an arena, and each takes time to trim

    def trim(self) -> None:
        """Return free memory to the system."""
        if self._trim is not None:
            self._trim(0)


def available(root: Path = Path("/")) -> int:
    """The memory that the process may use: the smallest limit of its cgroup and its ancestors, or the machine's
    memory."""
    machine = os.sysconf("SC_PHYS_PAGES") * _PAGE
    return min([machine, *cgroup_limits(root)])


def cgroup_limits(root: Path = Path("/")) -> Iterator[int]:
    """The limits of the process's cgroup and of its ancestors, as far as they are visible (cgroups(7))."""
    with suppress(OSError, ValueError):
        groups = dict(_groups((root / "proc/self/cgroup").read_text()))
        for line in (root / "proc/self/mountinfo").read_text().splitlines():
            mount, _, kind = line.partition(" - ")
            subtree, at = mount.split()[3:5]
            file_system, _, options = kind.split(maxsplit=2)
            is_new = file_system == "cgroup2"
            group = groups.get("" if is_new else "memory")
            if group is None or not (is_new or (file_system == "cgroup" and "memory" in options.split(","))):
                continue
            name = "memory.max" if is_new else "memory.limit_in_bytes"
            yield from _limits(root / at.lstrip("/"), _below(group, subtree), name)


def _groups(text: str) -> Iterator[tuple[str, str]]:
    """The process's groups by controller; "" for version 2."""
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _below(group: str, subtree: str) -> str:
    """The path of a group within a mount that shows only `subtree`, as in a container."""
    if subtree == "/":
        return group.lstrip("/")
    return group[len(subtree) :].lstrip("/") if f"{group}/".startswith(f"{subtree}/") else ""


def _limits(mount: Path, group: str, name: str) -> Iterator[int]:
    folder = mount / group
    while True:
        with suppress(OSError, ValueError):  # the root has no such file, and `max` is not a number
            yield int((folder / name).read_text())
        if folder in (mount, folder.parent):
            return
        folder = folder.parent
