"""Replaces a running process by a new version of its program, on the same listening sockets.

The successor is started with this process's command line and environment, from what is on disk now. It inherits the
listening sockets, and answers through a pipe once it accepts connections. From then on both processes may accept from
the same queue, so no connection finds it closed. Only then does the old one begin to drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto

from ..telemetry.log import Log
from .inherited import HANDOVER, READY, handover_value
from .listening import ListeningSockets

READY_TIME = 60.0
"""Seconds within which a successor must be ready."""
_LOOKS, _LOOK = 20, 0.05
"""How often a successor that has closed its pipe is polled for its end, and the seconds in between."""
_ANSWER_BYTES = 4096
"""Most bytes that are read of an answer."""


class Phase(Enum):
    SERVING = auto()
    STARTING = auto()
    """A successor was started and has not answered yet."""
    OVER = auto()
    """A successor serves, or this process is ending."""


def own_command() -> list[str]:
    """The command line that this process was started with."""
    return [sys.executable, *sys.orig_argv[1:]]


class Handover:
    """Starts a successor and waits for its answer. Works for a process that serves clients and for the parent of
    workers: `on_taken_over` makes the difference."""

    def __init__(
        self,
        log: Log,
        sockets: ListeningSockets,
        on_taken_over: Callable[[int], None],
        *,
        command: Sequence[str] | None = None,
        ready_time: float = READY_TIME,
    ) -> None:
        """`on_taken_over` is called with the successor's process id once the successor serves; it must close the
        listening sockets and drain what is open here. `command`: None is this process's own."""
        self._log = log
        self._sockets = sockets
        self._on_taken_over = on_taken_over
        self._command = list(command) if command is not None else own_command()
        self._ready_time = ready_time
        self._phase = Phase.SERVING
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._began = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        successor = f" {self._process.pid}" if self._process is not None else ""
        return f"<Handover {self._phase.name.lower()}{successor}>"

    def begin(self) -> None:
        """Start a successor, unless there is one. Never raises: failures are logged, and this process continues."""
        if self._phase is not Phase.SERVING:
            reason = "a successor is being started" if self._phase is Phase.STARTING else "this process is ending"
            self._log.write("warning", "handover_ignored", reason=reason)
        elif os.getpid() == 1:
            # A container, with all processes in it, ends when its first process ends.
            self._log.write("error", "handover_failed", reason="this is process 1; start a new container instead")
        else:
            self._start()

    def end(self) -> None:
        """This process is ending: a successor that is not ready is ended too, and no other will be started."""
        if self._phase is Phase.STARTING:
            self._stop_waiting()
            self._kill()
            self._log.write("warning", "handover_failed", reason="the old process was told to end")
        self._phase = Phase.OVER

    def _start(self) -> None:
        self._began = time.monotonic()
        reading, writing = os.pipe()
        sockets = self._sockets.by_use()
        descriptors = [descriptor for _, descriptor in sockets]
        environ = dict(os.environ) | {HANDOVER: handover_value(sockets, writing)}
        environ.pop("WATCHDOG_PID", None)  # it is this process's id
        try:
            self._process = subprocess.Popen(
                self._command, pass_fds=(*descriptors, writing), env=environ, stdin=subprocess.DEVNULL
            )
        except OSError as error:
            os.close(reading)
            self._log.write("error", "handover_failed", reason=f"{self._command[0]}: {error.strerror}")
            return
        finally:
            os.close(writing)
        self._phase = Phase.STARTING
        self._pipe = reading
        loop = asyncio.get_running_loop()
        loop.add_reader(reading, self._on_answer)
        self._timer = loop.call_later(self._ready_time, self._on_timeout)
        self._log.write("info", "handover_started", successor=self._process.pid, command=self._command)

    def _on_answer(self) -> None:
        answer = os.read(self._pipe, _ANSWER_BYTES)
        self._stop_waiting()
        if answer != READY:
            self._await_end(answer.decode(errors="replace"), _LOOKS)
        elif self._process is not None:
            self._phase = Phase.OVER
            seconds = round(time.monotonic() - self._began, 3)
            self._log.write("info", "handed_over", successor=self._process.pid, seconds=seconds)
            self._on_taken_over(self._process.pid)

    def _await_end(self, reason: str, looks: int) -> None:
        """The successor is ending: wait until it has, so that its last lines reach the log. `reason`: empty if it gave
        none."""
        if self._process is None:  # this process ends too
            return
        if self._process.poll() is None and looks:
            self._timer = asyncio.get_running_loop().call_later(_LOOK, self._await_end, reason, looks - 1)
        else:
            self._fail(reason or _describe_end(self._process.returncode))

    def _on_timeout(self) -> None:
        self._stop_waiting()
        self._fail(f"the successor was not ready after {self._ready_time:g} s")

    def _fail(self, reason: str) -> None:
        assert self._process is not None
        pid = self._process.pid
        self._kill()
        self._phase = Phase.SERVING
        self._log.write("error", "handover_failed", successor=pid, reason=reason)

    def _stop_waiting(self) -> None:
        if self._pipe >= 0:
            asyncio.get_running_loop().remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = -1
        if self._timer is not None:
            self._timer.cancel()

    def _kill(self) -> None:
        """End a successor that does not serve, so that it does not become ready later."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()


def _describe_end(status: int | None) -> str:
    if status is None:
        return "the successor closed its pipe without an answer"
    if status < 0:
        return f"the successor was killed by {signal.Signals(-status).name}"
    return f"the successor ended with status {status}; its last messages are in this log or on standard error"
