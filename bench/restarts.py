"""New versions under load: whether a client notices a restart.

A relay is replaced again and again, in each of the three ways, as soon as the replacement before has taken over. Those
that were replaced finish their streams beside it. Load and simulator are as elsewhere, but nothing is pinned: up to a
few dozen relays drain at once.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.figures import CaseResult, Collector
from bench.processes import free_port, python_module, repository
from bench.provider import simulator
from bench.restart_load import Load, Tally

READY_TIME = 60.0
"""Seconds that a relay may take to start."""
NAME = "flowserver"
_PASS = """
import os, sys
end = sys.argv.index("--")
for to, descriptor in enumerate(sys.argv[1:end], 3):
    os.dup2(int(descriptor), to)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[end + 1], sys.argv[end + 1:])
"""
"""Puts descriptors where a program looks for those that it is passed, and runs it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`restarts` by each way; `failures` are attempts with a configuration that is invalid."""

    restarts: int = 100
    failures: int = 10
    new_per_second: float = 200
    long_streams: int = 500
    long_seconds: float = 20.0
    kept: int = 50


QUICK = Settings(restarts=5, failures=2, new_per_second=100, long_streams=100, long_seconds=5, kept=20)


@dataclass(slots=True)
class Outcome:
    """What one way did under load."""

    tally: Tally
    seconds: list[float] = field(default_factory=list)
    """From the signal, or the start of the new process, until it serves."""
    failed: int = 0
    """Attempts of which the old process said that they failed."""
    left: int = 0
    """Processes beside the last one when all streams had ended."""


class LogFile:
    """The log of one relay, or of several."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a+b")
        self._read_to = 0
        self._rest = b""

    def fileno(self) -> int:
        return self._file.fileno()

    def lines(self) -> Iterator[dict[str, Any]]:
        """Those that are new, without access lines."""
        size = os.fstat(self._file.fileno()).st_size
        data = self._rest + os.pread(self._file.fileno(), size - self._read_to, self._read_to)
        self._read_to = size
        *lines, self._rest = data.split(b"\n")
        for line in lines:
            if line.startswith(b"{") and b'"event":"access"' not in line:
                yield json.loads(line)

    async def next(self, *events: str) -> dict[str, Any]:
        """The next line of one of these events."""
        deadline = time.monotonic() + READY_TIME
        while time.monotonic() < deadline:
            for line in self.lines():
                if line["event"] in events:
                    return line
            await asyncio.sleep(0.005)
        raise RuntimeError(f"no {' or '.join(events)} in the log:\n{self.path.read_text()[-2000:]}")

    def close(self) -> None:
        self._file.close()


class Relays:
    """A relay and those that it replaced."""

    def __init__(self, port: int, upstream: int, folder: Path) -> None:
        self.port = port
        self.folder = folder
        self.config = folder / "flowserver.toml"
        self._upstream = upstream
        self._processes: list[subprocess.Popen[bytes]] = []
        self._logs: list[LogFile] = []
        self.pids: list[int] = []
        self.sockets: list[socket.socket] = []
        """Listening ones that are passed to relays."""
        self.repair()

    def repair(self) -> None:
        self.config.write_text(f'[[upstreams]]\nname = "provider"\nurl = "http://127.0.0.1:{self._upstream}"\n')

    def spoil(self) -> None:
        self.config.write_text('[[upstreams]]\nname = "provider"\n')

    async def launch(
        self, settings: Mapping[str, str], sockets: Sequence[socket.socket] = (), names: str = ""
    ) -> LogFile:
        """Start a relay, and wait until it listens."""
        log = self._spawn(settings, sockets, names)
        await log.next("listening")
        return log

    def _spawn(self, settings: Mapping[str, str], sockets: Sequence[socket.socket], names: str) -> LogFile:
        log = LogFile(self.folder / f"log-{len(self._logs)}")
        self._logs.append(log)
        environment = {
            **os.environ,
            "FLOW_LISTEN": f"127.0.0.1:{self.port}",
            "FLOW_CONFIG": str(self.config),
            "FLOW_DRAIN_TIMEOUT": "5m",
            **settings,
        }
        command = python_module("flowserver", "serve")
        if sockets:
            environment |= {"LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names}
            command = [sys.executable, "-c", _PASS, *(str(each.fileno()) for each in sockets), "--", *command]
        process = subprocess.Popen(
            command,
            cwd=repository(),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log.fileno(),
            stderr=log.fileno(),
            pass_fds=[each.fileno() for each in sockets],
            start_new_session=True,
        )
        os.sched_setaffinity(process.pid, range(os.cpu_count() or 1))
        self._processes.append(process)
        self.pids.append(process.pid)
        return log

    def running(self) -> int:
        return sum(_is_running(pid) for pid in self.pids)

    def close(self) -> None:
        for pid in self.pids:
            if _is_running(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()
        for log in self._logs:
            log.close()
        for listening in self.sockets:
            listening.close()


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class BySignal:
    """SIGUSR2: the relay starts its successor."""

    name = "SIGUSR2"

    def __init__(self, relays: Relays) -> None:
        self._relays = relays
        self._log: LogFile | None = None

    async def start(self) -> None:
        self._log = await self._relays.launch({"FLOW_ADMIN_LISTEN": f"127.0.0.1:{free_port()}"})

    async def restart(self) -> bool:
        """Returns whether it was replaced."""
        assert self._log is not None
        os.kill(self._relays.pids[-1], signal.SIGUSR2)
        line = await self._log.next("handed_over", "handover_failed")
        if line["event"] == "handover_failed":
            return False
        self._relays.pids.append(line["successor"])
        return True


class BySocket:
    """LISTEN_FDS: who starts the relay holds the listening sockets, as systemd does, and starts a second one on them
    before the first is told to end."""

    name = "LISTEN_FDS"

    def __init__(self, relays: Relays) -> None:
        self._relays = relays
        relays.sockets += [_listening(port) for port in (relays.port, 0)]

    async def start(self) -> None:
        await self._relays.launch({}, self._relays.sockets, "clients:admin")

    async def restart(self) -> bool:
        old = self._relays.pids[-1]
        await self.start()
        os.kill(old, signal.SIGTERM)
        return True


def _listening(port: int) -> socket.socket:
    """Its descriptor is none of those that the relay is to find it at."""
    with socket.create_server(("127.0.0.1", port), backlog=4096) as listening:
        return socket.socket(fileno=fcntl.fcntl(listening, fcntl.F_DUPFD_CLOEXEC, 20))


class ByPort:
    """FLOW_REUSE_PORT=on: two processes that know nothing of each other."""

    name = "SO_REUSEPORT"

    def __init__(self, relays: Relays) -> None:
        self._relays = relays
        self._admin = free_port()

    async def start(self) -> None:
        await self._relays.launch({"FLOW_REUSE_PORT": "on", "FLOW_ADMIN_LISTEN": f"127.0.0.1:{self._admin}"})

    async def restart(self) -> bool:
        old = self._relays.pids[-1]
        await self.start()
        os.kill(old, signal.SIGTERM)
        return True


Way = BySignal | BySocket | ByPort
WAYS: dict[str, Callable[[Relays], Way]] = {way.name: way for way in (BySignal, BySocket, ByPort)}


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Every way once. Other relays than this project's are not measured."""
    collector = Collector()
    notes = ["Kept connections: whole answers on connections that are used again; lost ones were sent when it closed."]
    for way in WAYS:
        outcome = measure(way, settings)
        tally = outcome.tally
        collector.add(NAME, f"{way}: restarts", "", len(outcome.seconds))
        collector.add(NAME, f"{way}: failed attempts", "", outcome.failed)
        for kind in ("short", "long"):
            collector.add(NAME, f"{way}: {kind} streams, whole", "", tally.whole[kind])
        collector.add(NAME, f"{way}: refused", "", tally.refused)
        collector.add(NAME, f"{way}: broken", "", tally.broken)
        collector.add(NAME, f"{way}: on kept connections, answered", "", tally.whole["kept"])
        collector.add(NAME, f"{way}: on kept connections, lost", "", tally.lost)
        collector.add(NAME, f"{way}: until ready, median", "ms", statistics.median(outcome.seconds) * 1e3)
        collector.add(NAME, f"{way}: until ready, longest", "ms", max(outcome.seconds) * 1e3)
        collector.add(NAME, f"{way}: processes left", "", outcome.left)
        notes += [f"{way}: {problem}" for problem in tally.problems]
    title = (
        f"{settings.restarts} restarts, one after the other, under {settings.new_per_second:g} new streams a second "
        f"and {settings.long_streams} long ones"
    )
    return CaseResult("restarts", title, {**asdict(settings)}, collector.figures(), tuple(notes))


def measure(way: str, settings: Settings) -> Outcome:
    """Replace a relay `settings.restarts` times under load."""
    with simulator() as provider, _folder() as folder:
        relays = Relays(free_port(), provider.port, folder)
        try:
            return asyncio.run(_measure(WAYS[way](relays), relays, settings))
        finally:
            relays.close()


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield Path(folder)


async def _measure(way: Way, relays: Relays, settings: Settings) -> Outcome:
    await way.start()
    load = Load(
        relays.port,
        new_per_second=settings.new_per_second,
        long_streams=settings.long_streams,
        long_seconds=settings.long_seconds,
        kept=settings.kept,
    )
    outcome = Outcome(load.tally)
    load.start()
    await asyncio.sleep(min(6.0, settings.long_seconds))
    for _ in range(settings.restarts):
        began = time.monotonic()
        if not await way.restart():
            raise RuntimeError("a restart failed")
        outcome.seconds.append(time.monotonic() - began)
    if isinstance(way, BySignal):
        relays.spoil()
        outcome.failed = sum([not await way.restart() for _ in range(settings.failures)])
    await load.stop()
    for _ in range(75):
        if relays.running() > 1:
            await asyncio.sleep(0.2)
    outcome.left = relays.running() - 1
    return outcome
