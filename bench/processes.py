"""Processes that the bench starts, and what /proc says of them.

Every process is started here and ended by its own pid. CPU is the scheduler's own account in nanoseconds, summed over
threads and child processes; memory is the proportional set size, which counts a page shared by two processes half.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

START_TIMEOUT = 60.0
"""Seconds that a process may take until its port accepts."""

STOP_TIMEOUT = 3.0
"""Seconds that a process may take to end on SIGTERM before it is killed."""

QUIET = 0.1
"""Share of one core up to which a machine is quiet."""

LOOK = 0.4
"""Seconds for which it has to be quiet."""
QUIET_TIMEOUT = 5.0
"""Seconds that are waited for it."""

REST = 0.02
"""Share of one core up to which the bench's processes are at rest. A provider that sends a single stream takes more."""
REST_LOOK = 0.1
"""Seconds for which they have to be."""
REST_TIMEOUT = 10.0
"""Seconds that are waited for it."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, below the range that the kernel gives to outgoing connections."""
    for port in random.sample(range(20000, 32000), 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port between 20000 and 32000")


def repository() -> Path:
    """Where `python -m bench` and `python -m flowserver` can be run."""
    return Path(__file__).resolve().parent.parent


def python_module(*arguments: str) -> list[str]:
    """The command line of `python -m ...` with the interpreter that runs the bench."""
    return [sys.executable, "-m", *arguments]


class Process:
    """A process that listens on `port` of 127.0.0.1; a context manager that ends it. `cpus` pins it."""

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        *,
        environment: Mapping[str, str] | None = None,
        cpus: frozenset[int] | None = None,
    ) -> None:
        self.port = port
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        # A process group of its own: Ctrl-C reaches the bench alone, which then ends each process in order.
        self._process = subprocess.Popen(
            command,
            cwd=repository(),
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid
        try:
            if cpus:
                os.sched_setaffinity(self.pid, cpus)
            self._wait_until_it_accepts()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the process and waits for it. Harmless when it has ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                # Some drain for minutes while streams are open: nothing here is worth the wait.
                for pid in process_tree(self.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self._process.wait()
        self._output.close()

    def output(self) -> str:
        """What it has written so far, the last 4000 bytes."""
        end = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, end - 4000))
        text = self._output.read().decode(errors="replace")
        self._output.seek(0, os.SEEK_END)
        return text

    def _wait_until_it_accepts(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"{self._process.args!r} exited during its start:\n{self.output()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.5):
                return
            time.sleep(0.02)
        raise RuntimeError(f"{self._process.args!r} does not accept connections on port {self.port}:\n{self.output()}")


def process_tree(pid: int) -> list[int]:
    """`pid` and its descendants, those that still run."""
    found = []
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        children = list(_children(current))
        if Path(f"/proc/{current}").exists():
            found.append(current)
        waiting += children
    return found


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, task.read_text().split())


def cpu_ns(pid: int) -> int:
    """Nanoseconds of CPU, user and system, of the process and its descendants so far."""
    total = 0
    for member in process_tree(pid):
        for task in Path(f"/proc/{member}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(task.read_text().split()[0])
    return total


def own_cpu_ns(pid: int) -> int:
    """The same of the process alone."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks)


def memory_bytes(pid: int) -> int:
    """Proportional set size in bytes of the process and its descendants. The kernel's socket buffers are not in it."""
    total = 0
    for member in process_tree(pid):
        for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def machine_cpu_ns() -> int:
    """Nanoseconds that all CPUs together were busy since boot, in steps of a clock tick (10 ms)."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def allow_many_files(wanted: int = 200_000) -> int:
    """Raise this process's limit of open files, and that of those it starts, as far as it may. Returns the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, wanted), max(hard, wanted)))
        return max(hard, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def wait_until_quiet() -> None:
    """Wait, for a while, until the machine does nothing else. To be called when the bench's own processes rest."""
    deadline = time.monotonic() + QUIET_TIMEOUT
    while time.monotonic() < deadline:
        started, before = time.monotonic(), machine_cpu_ns()
        time.sleep(LOOK)
        if (machine_cpu_ns() - before) / 1e9 / (time.monotonic() - started) < QUIET:
            return


def wait_until_at_rest() -> None:
    """Wait until the processes that the bench has started do nothing, whatever else the machine does: a relay whose
    clients have gone has let go of its provider. Raises RuntimeError if they go on."""
    deadline = time.monotonic() + REST_TIMEOUT
    while time.monotonic() < deadline:
        started, before = time.monotonic(), _cpu_of_descendants()
        time.sleep(REST_LOOK)
        if (_cpu_of_descendants() - before) / 1e9 / (time.monotonic() - started) < REST:
            return
    raise RuntimeError("the provider or the relay still works although its clients have left")


def _cpu_of_descendants() -> int:
    return sum(cpu_ns(child) for child in _children(os.getpid()))
