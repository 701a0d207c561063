"""A real systemd, as process 1 of namespaces of its own, that runs the project's units."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from .lab import eventually
from .peers import program, run

ROOT = Path(__file__).resolve().parent.parent.parent
UNITS = ROOT / "systemd"

_BOOT = r"""
set -e
mount --make-rprivate /
grep -E ' - cgroup2? ' /proc/self/mountinfo | while read -r line; do
    point=$(echo "$line" | cut -d' ' -f5)
    type=$(echo "${line#* - }" | cut -d' ' -f1)
    options=$(echo "${line#* - }" | cut -d' ' -f3 | sed -E 's/^(rw|ro),?//; s/^name=/none,name=/')
    umount -l "$point"
    mount -t "$type" ${options:+-o "$options"} cgroup "$point"  # seen from the namespace's own root
done
mount -t tmpfs tmpfs /run
systemd="$1"
shift
number=0
for place; do  # in a home that others may not enter
    mkdir -p "/run/places/$((number += 1))"
    mount --bind "$place" "/run/places/$number"
done
for home in /root /home; do
    case " $*" in *" $home"/*) mount -t tmpfs -o mode=755 tmpfs "$home" ;; esac
done
number=0
for place; do
    mkdir -p "$place"
    mount --bind "/run/places/$((number += 1))" "$place"
done
mount --make-rshared /  # or what systemd mounts for a service would not be seen there
exec "$systemd" --system --unit=flow.target --log-target=console --show-status=no
"""
_INTO_OWN_GROUPS = r"""
grep -E ' - cgroup2? ' /proc/self/mountinfo | cut -d' ' -f5 | while read -r point; do
    if mkdir -p "$point/$1" 2>/dev/null; then
        for file in cpuset.cpus cpuset.mems; do
            [ ! -e "$point/$1/$file" ] || cat "$point/$file" > "$point/$1/$file"
        done
        echo $$ > "$point/$1/cgroup.procs" || true
    fi
done
shift
exec "$@"
"""
_EXECUTABLES = ("/lib/systemd/systemd", "/usr/lib/systemd/systemd")
_PLACES = sorted({str(ROOT), sys.prefix, sys.base_prefix})
_HIDDEN = [place for place in _PLACES if any(Path(place).is_relative_to(home) for home in ("/root", "/home"))]
_STUBS = ("flow", "sysinit", "basic", "shutdown", "sockets", "network-online", "multi-user")


def systemd_version() -> int:
    """Its major version, as systemd-analyze tells; skips the test without one."""
    said = subprocess.run([program("systemd-analyze"), "--version"], capture_output=True, text=True, check=True).stdout
    return int(said.split()[1])


def install_units(folder: Path, *drop_ins: str, own: str = "") -> None:
    """Put the project's units into `folder`, with some of its drop-ins, and a last one that says `own`."""
    additions = folder / "flowserver.service.d"
    additions.mkdir(parents=True, exist_ok=True)
    for unit in (*UNITS.glob("*.service"), *UNITS.glob("*.socket")):
        shutil.copy(unit, folder)
    names = drop_ins if systemd_version() >= 253 else ("before-253.conf", *drop_ins)
    for name in names:
        shutil.copy(UNITS / name, additions)
    (additions / "zz.conf").write_text(own)


class Systemd:
    """It runs units of `folder`, with this Python and this checkout as the installed flowserver."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._units = folder / "units"
        self._group = f"flowserver-test-{os.getpid()}"
        self._log = folder / "systemd.log"
        self._process: asyncio.subprocess.Process | None = None
        self._init = 0
        """Process 1 of the namespaces, by its id out here."""

    async def start(self, *drop_ins: str, own: str = "", ports: Mapping[str, int] | None = None) -> None:
        """`ports`: of the socket units, on 127.0.0.1. Skips the test where a systemd can't run."""
        executable = next(filter(os.path.exists, _EXECUTABLES), None)
        if executable is None or os.geteuid() != 0:
            pytest.skip("needs systemd, and root")
        self._write_units(drop_ins, own)
        for unit, port in (ports or {}).items():
            addition = self._units / f"{unit}.d"
            addition.mkdir()
            (addition / "zz.conf").write_text(f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n")
        namespaces = [
            f"--{name}" for name in ("mount", "pid", "uts", "ipc", "cgroup", "fork", "kill-child", "mount-proc")
        ]
        boot = [program("unshare"), *namespaces, "sh", "-c", _BOOT, "sh", executable, *_HIDDEN]
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *("sh", "-c", _INTO_OWN_GROUPS, "sh", self._group, *boot),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "container": "test", "SYSTEMD_UNIT_PATH": str(self._units)},
            )
        with contextlib.suppress(AssertionError):
            await eventually(self._is_up, within=10)
        if not self._is_up() or (await self.systemctl("start", "probe.service"))[0]:
            pytest.skip(f"systemd can't run a service here: {self._log.read_text()[-300:]}")

    def _write_units(self, drop_ins: Sequence[str], own: str) -> None:
        self._units.mkdir()
        for name in _STUBS:
            (self._units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        install_units(self._units, *drop_ins, own=self._as_installed() + own)
        unit = (UNITS / "flowserver.service").read_text()
        sandbox = unit.partition("# No account")[2].partition("[Install]")[0]
        command = f"ExecStart={sys.executable} -c 'import flowserver.app.serve'"
        (self._units / "probe.service").write_text(f"[Service]\nType=oneshot\n#{sandbox}{self._paths()}{command}\n")

    def _paths(self) -> str:
        """Where Python and this checkout are, which may be in folders that the unit hides."""
        shown = "ProtectHome=no\n" if _HIDDEN else ""
        return f"{shown}BindReadOnlyPaths={' '.join(_PLACES)}\nEnvironment=PYTHONPATH={ROOT}\nWorkingDirectory=/\n"

    def _as_installed(self) -> str:
        output = f"StandardOutput=append:{self.folder}/stdout\nStandardError=append:{self.folder}/stderr\n"
        command = f"ExecStart=\nExecStart={sys.executable} -m flowserver serve\n"
        return f"[Service]\nEnvironmentFile=\n{self._paths()}{output}{command}"

    def _is_up(self) -> bool:
        if self._process is None or self._process.returncode is not None:
            return False
        with contextlib.suppress(FileNotFoundError):
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            self._init = int(children[0]) if children else 0
        return self._init > 0 and self._seen_inside("/run/systemd/private").exists()

    async def systemctl(self, *arguments: str) -> tuple[int, str]:
        """Its exit status, and all it said."""
        return await self.run("systemctl", *arguments)

    async def run(self, *command: str) -> tuple[int, str]:
        """The exit status of a command that root runs beside the services, and all it said."""
        into = ("nsenter", "--target", str(self._init), "--mount", "--pid", "--cgroup")
        status, out, err = await run(*into, *command)
        return status, (out + err).decode()

    async def show(self, unit: str, *properties: str) -> dict[str, str]:
        _, said = await self.systemctl("show", unit, *(f"--property={name}" for name in properties))
        return dict(line.split("=", 1) for line in said.splitlines())

    def write(self, path: str, text: str) -> None:
        """Write a file as the services see it."""
        self._seen_inside(path).write_text(text)

    def _seen_inside(self, path: str) -> Path:
        return Path("/proc", str(self._init), "root", path.removeprefix("/"))

    def log(self) -> str:
        """What the relay wrote."""
        files = [self.folder / name for name in ("stdout", "stderr")]
        return "".join(file.read_text() for file in files if file.exists())

    async def close(self) -> None:
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)  # `unshare` takes process 1 along, and that all others
        await self._process.wait()
        for group in _groups(self._group):
            await _remove(group)


def _groups(name: str) -> list[Path]:
    """The control groups of this name, one in each hierarchy."""
    root = Path("/sys/fs/cgroup")
    return [group for group in (root / name, *root.glob(f"*/{name}")) if group.is_dir()]


async def _remove(group: Path) -> None:
    """Remove a control group and those in it, once their processes have gone."""

    def removed() -> bool:
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        return not group.exists()

    await eventually(removed, f"{group} is removed")
