"""Cores by affinity and cgroups, with files made up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flowserver.workers.cores import usable_cores

ALLOWED = len(os.sched_getaffinity(0))


def group(root: Path, quota: str, path: str = "a/b") -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/a/b\n")
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True)
    (folder / "cpu.max").write_text(quota)
    return root


def test_the_affinity_counts_where_there_is_no_cgroup(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == ALLOWED


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000\n", ALLOWED),
        ("100000 100000\n", 1),
        ("199999 100000\n", 1),
        ("50000 100000\n", 1),
        ("100000000 100000\n", ALLOWED),
        ("nonsense\n", ALLOWED),
    ],
)
@pytest.mark.parametrize("path", ["a/b", "a", "."], ids=["own", "above", "mount"])
def test_cpu_max_of_any_group_above(tmp_path: Path, quota: str, cores: int, path: str) -> None:
    assert usable_cores(group(tmp_path, quota, path)) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", ALLOWED), ("100000", 1)])
def test_version_1(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/x\n3:cpu,cpuacct:/x\n")
    folder = tmp_path / "sys/fs/cgroup/cpu,cpuacct/x"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text(quota)
    (folder / "cpu.cfs_period_us").write_text("100000")
    assert usable_cores(tmp_path) == cores
