"""The listening sockets that a process inherits: from systemd, or from the process that it replaces.

systemd, and programs with the same protocol, pass descriptors from 3 on and announce them in LISTEN_FDS, LISTEN_PID and
LISTEN_FDNAMES (sd_listen_fds(3)). A process that starts its own successor (see `handover`) names them in
FLOWSERVER_HANDOVER, with the pipe for the successor's answer.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass

from ..config.errors import ConfigError

HANDOVER = "FLOWSERVER_HANDOVER"
CLIENTS, ADMIN, CONTROL = "clients", "admin", "control"
_ANSWER = "answer"
READY = b"ready"
"""A successor's answer if it serves; any other answer is the reason why it can't."""
_FIRST = 3
"""SD_LISTEN_FDS_START."""
_UNSPECIFIC = frozenset({"", "unknown", "connection", "stored"})
"""Names that systemd and systemd-socket-activate give if none was set; the name of the socket unit is another."""


@dataclass(frozen=True, slots=True)
class PassedSocket:
    """A listening socket that was open when the process began."""

    listening: socket.socket
    use: str | None
    """`CLIENTS`, `ADMIN` or `CONTROL`; None: its address decides."""


class Inherited:
    """The sockets that were passed to a process, and the pipe on which its predecessor waits for an answer."""

    def __init__(self, source: str = "", sockets: Iterable[PassedSocket] = (), answer: int | None = None) -> None:
        """`source` is for log and messages. `answer`: a pipe's descriptor; None: nobody waits."""
        self.source = source
        self.sockets = tuple(sockets)
        self._answer = answer

    @property
    def is_successor(self) -> bool:
        """Whether an older process drains as soon as this one is ready."""
        return self._answer is not None

    def ready(self) -> None:
        """Tell the predecessor that this process has taken over."""
        self._tell(READY)

    def failed(self, reasons: Iterable[str]) -> None:
        """Tell the predecessor why this process can't take over."""
        self._tell("; ".join(reasons).encode())

    def _tell(self, answer: bytes) -> None:
        descriptor, self._answer = self._answer, None
        if descriptor is not None:
            with contextlib.suppress(OSError):  # the predecessor has ended
                os.write(descriptor, answer)
            os.close(descriptor)


def inherited(environ: MutableMapping[str, str]) -> Inherited:
    """The sockets that were passed to this process. The variables are removed, so that programs started by this one do
    not take them for theirs. Raises ConfigError if they name something other than listening sockets."""
    handed, count, pid, names = [
        environ.pop(name, "") for name in (HANDOVER, "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
    ]
    if handed:
        return _handed_over(handed)
    if not count or pid != str(os.getpid()):
        return Inherited()
    if not count.isdecimal():
        raise ConfigError([f"LISTEN_FDS: invalid value {count!r}: expected a number"])
    listed = names.split(":") if names else []
    sockets = []
    for at in range(int(count)):
        name = listed[at] if at < len(listed) else ""
        sockets.append(PassedSocket(_socket("LISTEN_FDS", _FIRST + at), _use(name, _FIRST + at)))
    return Inherited("LISTEN_FDS", sockets)


def handover_value(sockets: Iterable[tuple[str, int]], answer: int) -> str:
    """The value of `HANDOVER`: listening sockets by their use and descriptor, and the pipe's writing end."""
    return ",".join(f"{use}:{descriptor}" for use, descriptor in (*sockets, (_ANSWER, answer)))


def _handed_over(value: str) -> Inherited:
    answer = None
    sockets = []
    for part in value.split(","):
        use, _, descriptor = part.partition(":")
        if use == _ANSWER:
            answer = int(descriptor)
            os.set_inheritable(answer, False)
        else:
            sockets.append(PassedSocket(_socket(HANDOVER, int(descriptor)), use))
    return Inherited("the old process", sockets, answer)


def _socket(variable: str, descriptor: int) -> socket.socket:
    try:
        passed = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError([f"{variable}: descriptor {descriptor} is not a socket: {error.strerror}"]) from None
    if passed.type != socket.SOCK_STREAM or not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        passed.detach()
        text = f"{variable}: descriptor {descriptor} is not a listening stream socket; use ListenStream= and Accept=no"
        raise ConfigError([text])
    passed.set_inheritable(False)
    passed.setblocking(False)
    return passed


def _use(name: str, descriptor: int) -> str | None:
    if name in (CLIENTS, ADMIN, CONTROL):
        return name
    if name in _UNSPECIFIC or name.endswith(".socket"):
        return None
    text = f"LISTEN_FDNAMES: invalid name {name!r} of descriptor {descriptor}: expected {CLIENTS}, {ADMIN} or {CONTROL}"
    raise ConfigError([f"{text} (FileDescriptorName= of the socket unit)"])
