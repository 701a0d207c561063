"""Notifies systemd of the state of the process, by sd_notify(3): datagrams of NAME=value lines to NOTIFY_SOCKET.

`Notices` makes the notifications, `ServiceManager` sends them. Nothing is sent by forked workers, or by a process that
was not started by a service manager.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum

from ..telemetry.log import Log

BEAT = 5.0
"""Most seconds between two notifications of how many streams are open."""
EXTENSION = 30.0
"""Seconds by which each notification of an ending process extends the time until systemd kills it."""
RETRY = 0.1
"""Seconds after which an unsent notification is retried, for example because systemd's queue was full."""
MOST_UNSENT = 16
"""Most notifications that wait to be sent; beyond that the oldest is lost."""


class Phase(Enum):
    STARTING = "starting"
    READY = "serving"
    RELOADING = "reloading"
    STOPPING = "ending"
    HANDED_OVER = "handed over"
    """Another process speaks for the service."""


_LAST = (Phase.STOPPING, Phase.HANDED_OVER)


class Notices:
    """What to send in each phase. No I/O: each method returns a datagram, which is empty if there is nothing to
    send."""

    __slots__ = ("_clock", "_figures", "_has_watchdog", "_phase", "_problem")

    def __init__(self, figures: Callable[[], str], *, has_watchdog: bool, clock: Callable[[], int]) -> None:
        """`figures` returns what the process does at present, such as `3 streams open`; `clock` returns CLOCK_MONOTONIC
        in microseconds."""
        self._figures = figures
        self._has_watchdog = has_watchdog
        self._clock = clock
        self._phase = Phase.STARTING
        self._problem = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be sent."""
        return self._phase is Phase.HANDED_OVER

    def ready(self, problem: str = "") -> bytes:
        """The process serves, for the first time or after a reload. `problem`: what is wrong with the new
        configuration."""
        if self._phase in _LAST:
            return b""
        self._phase, self._problem = Phase.READY, problem
        return _datagram("READY=1", *self._beat())

    def reloading(self) -> bytes:
        """The process reads its configuration again: `ready` follows."""
        if self._phase in _LAST:
            return b""
        self._phase = Phase.RELOADING
        return _datagram("RELOADING=1", f"MONOTONIC_USEC={self._clock()}", *self._beat())

    def stopping(self) -> bytes:
        """The process has begun to end."""
        if self.is_over:
            return b""
        self._phase, self._problem = Phase.STOPPING, ""
        return _datagram("STOPPING=1", *self._beat())

    def main_process(self, pid: int) -> bytes:
        """Another process is the service's main process, and sends the notifications, from now on."""
        self._phase = Phase.HANDED_OVER
        return _datagram(f"MAINPID={pid}")

    def beat(self) -> bytes:
        """A notification to be sent regularly."""
        return b"" if self.is_over else _datagram(*self._beat())

    def _beat(self) -> list[str]:
        lines = []
        if self._has_watchdog:
            lines.append("WATCHDOG=1")
        if self._phase is Phase.STOPPING:
            lines.append(f"EXTEND_TIMEOUT_USEC={round(EXTENSION * 1e6)}")
        status = "; ".join(part for part in (self._phase.value, self._figures(), self._problem) if part)
        return [*lines, f"STATUS={status}"]


def _datagram(*lines: str) -> bytes:
    return "\n".join(lines).encode()


def watchdog_time(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds within which systemd expects a watchdog ping from process `pid`; None: it expects none
    (sd_watchdog_enabled(3))."""
    time_text, pid_text = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not time_text.isdecimal() or int(time_text) == 0 or (pid_text and pid_text != str(pid)):
        return None
    return int(time_text) / 1e6


class ServiceManager:
    """The service manager that started this process. All methods except the constructor need a running event loop, and
    never wait. While the loop does not run, no watchdog pings are sent."""

    __slots__ = ("_address", "_has_complained", "_interval", "_log", "_notices", "_timer", "_unsent")

    def __init__(self, environ: Mapping[str, str], log: Log, figures: Callable[[], str]) -> None:
        """For `figures` see `Notices`."""
        self._log = log
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        watchdog = watchdog_time(environ, os.getpid())
        self._interval = BEAT if watchdog is None else min(BEAT, watchdog / 2)
        self._notices = Notices(figures, has_watchdog=watchdog is not None, clock=_monotonic_us)
        self._unsent: deque[bytes] = deque(maxlen=MOST_UNSENT)
        self._has_complained = False
        self._timer: asyncio.TimerHandle | None = None

    def ready(self, problem: str = "") -> None:
        """The process serves, for the first time or after a reload; `problem`: what is wrong with the new
        configuration, if the earlier one remains."""
        self._tell(self._notices.ready(problem))

    def reloading(self) -> None:
        """It reads its configuration again. Call `ready` afterwards."""
        self._tell(self._notices.reloading())

    def stopping(self) -> None:
        """It has begun to end. While the event loop runs, systemd gives it as much time as it needs."""
        self._tell(self._notices.stopping())

    def hand_over(self, pid: int) -> None:
        """Process `pid`, a new version of this one, is the service's main process from now on, and this one sends
        nothing more."""
        self._tell(self._notices.main_process(pid))

    def leave(self) -> None:
        """This process no longer belongs to the service: send nothing more."""
        self._address = None
        self.close()

    def close(self) -> None:
        """The process ends: send nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self, notice: bytes) -> None:
        if self._address is None:
            return
        if notice:
            self._unsent.append(notice)
        self._send()
        self._schedule()

    def _schedule(self) -> None:
        self.close()
        if self._notices.is_over and not self._unsent:
            return
        wait = RETRY if self._unsent else self._interval
        self._timer = asyncio.get_running_loop().call_later(wait, self._beat)

    def _beat(self) -> None:
        self._tell(b"" if self._unsent else self._notices.beat())

    def _send(self) -> None:
        """Send what is queued, in order, as far as systemd's queue has room."""
        assert self._address is not None
        try:
            # A new socket each time, so that none is inherited by forked workers.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
                while self._unsent:
                    speaker.sendto(self._unsent[0], socket.MSG_DONTWAIT, self._address)
                    self._unsent.popleft()
        except BlockingIOError:
            pass
        except OSError as error:  # may pass: no descriptor left, for example
            if not self._has_complained:
                self._has_complained = True
                self._log.write("warning", "service_manager_unreachable", address=self._address, error=str(error))


def streams_open(count: int) -> str:
    return "1 stream open" if count == 1 else f"{count} streams open"


def _address(text: str) -> str | None:
    """The address of the socket named in the environment, where `@` begins an abstract one; None: there is none, or of
    a kind that is not supported."""
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else None


def _monotonic_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
