"""What memory there is: cgroups of both versions, in containers and outside, and what each process may have."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowserver.app.machine_memory import Allocator, ResidentMemory, available, cgroup_limits
from flowserver.app.memory import PARENT, share_of
from flowserver.config.environment import load
from flowserver.config.errors import ConfigError
from flowserver.config.settings import Config
from flowserver.flow.memory_budget import UNBOUNDED

MB = 1 << 20
NEW = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
OLD = "34 25 0:29 {root} /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n"
OTHER = "33 25 0:28 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"


def system(root: Path, groups: str, mounts: str, limits: dict[str, str]) -> Path:
    """A machine's files below `root`."""
    files = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **limits}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_tightest_limit_of_a_cgroup_and_those_above_it_holds(tmp_path: Path) -> None:
    limits = {
        "sys/fs/cgroup/a.slice/memory.max": f"{300 * MB}\n",
        "sys/fs/cgroup/a.slice/b.service/memory.max": "max\n",
    }
    root = system(tmp_path, "0::/a.slice/b.service\n", OTHER + NEW.format(root="/"), limits)
    assert list(cgroup_limits(root)) == [300 * MB]
    assert available(root) == 300 * MB


def test_version_1_has_other_names(tmp_path: Path) -> None:
    limits = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": f"{200 * MB}\n",
    }
    groups = "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n0::/\n"
    root = system(tmp_path, groups, OTHER + OLD.format(root="/"), limits)
    assert min(cgroup_limits(root)) == 200 * MB
    assert available(root) == 200 * MB


@pytest.mark.parametrize("group", ["/", "/docker/x", "/../elsewhere"])
def test_a_container_sees_its_own_group_at_the_top(tmp_path: Path, group: str) -> None:
    limits = {"sys/fs/cgroup/memory.max": f"{100 * MB}\n"}
    root = system(tmp_path, f"0::{group}\n", NEW.format(root="/docker/x"), limits)
    assert list(cgroup_limits(root)) == [100 * MB]


@pytest.mark.parametrize(("groups", "mounts"), [("", ""), ("0::/\n", ""), ("nonsense\n", "nonsense\n")])
def test_without_cgroups_there_is_the_machine_s_memory(tmp_path: Path, groups: str, mounts: str) -> None:
    root = system(tmp_path, groups, mounts, {})
    assert list(cgroup_limits(root)) == []
    assert available(root) > 100 * MB
    assert available(tmp_path / "nowhere") == available(root)


def test_the_process_has_memory() -> None:
    resident = ResidentMemory()
    before = resident.read()
    assert before > 10 * MB
    held = bytearray(b"x" * (64 * MB))
    assert resident.read() >= before + 60 * MB
    del held
    Allocator().trim()
    assert resident.read() < before + 30 * MB
    resident.close()


def config(memory: str) -> Config:
    return load({"FLOW_UPSTREAM": "http://provider", "FLOW_MEMORY": memory})


def share(memory: str, workers: int = 1) -> int:
    warnings: list[str] = []
    found = share_of(config(memory), workers, warnings.append)
    assert warnings == []
    return found


def test_workers_share_evenly_what_the_parent_leaves() -> None:
    assert share("4g") == 4 << 30
    assert share("4g", 3) == ((4 << 30) - PARENT) // 3
    assert 3 * share("4g", 3) + PARENT <= 4 << 30


def test_by_default_it_is_most_of_what_there_is() -> None:
    assert share("auto") == available() * 4 // 5
    assert share("off") == UNBOUNDED


@pytest.mark.parametrize("workers", [1, 4])
def test_a_budget_that_the_process_itself_fills_is_refused(workers: int) -> None:
    with pytest.raises(ConfigError) as caught:
        share_of(config("10m"), workers, lambda problem: None)
    [problem] = caught.value.problems
    assert problem.startswith("FLOW_MEMORY: too small")
    assert ("workers" in problem) is (workers > 1)
    needed = problem.partition("at least ")[2].partition(",")[0]
    assert share(needed, workers) > 0


def test_where_the_machine_has_too_little_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowserver.app.memory.available", lambda: 20 * MB)
    warnings: list[str] = []
    assert share_of(config("auto"), 1, warnings.append) > 20 * MB
    [warning] = warnings
    assert "16m" in warning
