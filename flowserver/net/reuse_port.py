"""Leaves a group of sockets that listen on one address by SO_REUSEPORT, without losing a connection.

The kernel spreads connections over the group by a hash. Connections that wait at a socket are reset when it closes, and
so are handshakes under way. So before that, a program of one instruction steers new connections to another socket: it
returns a number, counted from 0 in the order in which the sockets began to listen; the last one takes the number of one
that leaves. Numbers beyond the end fall back to the hash.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

_ATTACH_PROGRAM = 51
"""SO_ATTACH_REUSEPORT_CBPF; Python's socket module has no name for it."""
_DETACH_PROGRAM = 68
"""SO_DETACH_REUSEPORT_BPF."""
_RETURN = 0x06
"""The instruction BPF_RET | BPF_K of classic BPF."""
_LISTEN = "0A"
"""A listening socket's state in /proc/net/tcp."""
_PROBE_TIME = 100
"""Milliseconds for a connection to this machine."""
_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}


QUIET = 1.0
"""Seconds without a new connection after which a listening socket may be closed: a handshake that was under way then is
older than the first repetition of its packets."""
LONGEST_LEAVE = 10.0
"""Seconds after which it is closed all the same."""
_LOOK = 0.1
"""Seconds between two checks for new connections."""
_MOST_WAITING = 1 << 16
"""Most connections that are accepted at once."""

Adopt = Callable[[socket.socket], None]
"""Takes over a connection that was accepted here."""


async def leave(sockets: Sequence[socket.socket], adopt: Adopt, accepted: Callable[[], int]) -> bool:
    """Steer new connections to other processes until none is under way at `sockets`, which may then be closed.
    Meanwhile the caller must go on accepting; `accepted` returns the number of connections so far. Returns False at
    once if no other process listens there.

    A client whose SYN was answered here has only this socket to complete its handshake with.
    """
    if not _steer_all_away(sockets, adopt):
        return False
    began = quiet_since = time.monotonic()
    seen = accepted()
    while (now := time.monotonic()) - quiet_since < QUIET and now - began < LONGEST_LEAVE:
        await asyncio.sleep(_LOOK)
        if accepted() != seen:  # others came or went, and with them the numbers of the sockets
            _steer_all_away(sockets, adopt)
            seen, quiet_since = accepted(), time.monotonic()
    accept_waiting(sockets, adopt)
    return True


def accept_waiting(sockets: Iterable[socket.socket], adopt: Adopt, *, most: int = _MOST_WAITING) -> None:
    """Accept connections that wait in the kernel, which would be reset when the listening socket closes; `most` of
    each."""
    for listening in sockets:
        for _ in range(most):
            try:
                adopt(listening.accept()[0])
            except OSError:
                break


def _steer_all_away(sockets: Iterable[socket.socket], adopt: Adopt) -> bool:
    """Returns whether another process listens on any of the addresses."""
    found = [steer_away(each, adopt) for each in sockets if each.family in (socket.AF_INET, socket.AF_INET6)]
    return True in found


def join(listening: socket.socket) -> None:
    """Remove a program set by processes that have left: all sockets of the group get connections again."""
    with contextlib.suppress(OSError):  # nothing is set
        listening.setsockopt(socket.SOL_SOCKET, _DETACH_PROGRAM, 0)


def steer_away(listening: socket.socket, adopt: Adopt) -> bool:
    """Steer new connections to another socket of the group, the newest if that is not `listening` itself. Returns False
    if there is no other, or the kernel refuses. `adopt` gets the connections that are accepted meanwhile.

    The number of `listening` is not known, and others may change theirs: so a test connection shows whether it comes
    back.
    """
    try:
        size = _group_size(listening)
        for number in reversed(range(size if size > 1 else 0)):
            _attach(listening, number)
            if _goes_elsewhere(listening, adopt):
                return True
    except OSError:
        pass
    join(listening)
    return False


def _attach(listening: socket.socket, number: int) -> None:
    instruction = ctypes.create_string_buffer(struct.pack("=HBBI", _RETURN, 0, 0, number))
    program = struct.pack("@HP", 1, ctypes.addressof(instruction))  # struct sock_fprog
    listening.setsockopt(socket.SOL_SOCKET, _ATTACH_PROGRAM, program)


def _goes_elsewhere(listening: socket.socket, adopt: Adopt) -> bool:
    """Whether a new connection goes to another socket. Raises OSError if that can't be found out."""
    host, *rest = listening.getsockname()
    with socket.socket(listening.family, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            probe.connect((_LOCAL.get(host, host), *rest))
        poll = select.poll()
        poll.register(probe, select.POLLOUT)
        if not poll.poll(_PROBE_TIME):
            raise TimeoutError
        if error := probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, "no connection")
        return not _accepts(listening, probe.getsockname()[1], adopt)


def _accepts(listening: socket.socket, port: int, adopt: Adopt) -> bool:
    """Whether the connection from the local `port` is among those that wait."""
    found = False
    while True:
        try:
            connection, peer = listening.accept()
        except BlockingIOError:
            return found
        if peer[1] == port and peer[0] == connection.getsockname()[0]:
            found = True
            connection.close()
        else:
            adopt(connection)


def _group_size(listening: socket.socket) -> int:
    """How many sockets listen on the address of `listening`. Raises OSError if the kernel does not tell."""
    host, port = listening.getsockname()[:2]
    packed = socket.inet_pton(listening.family, host.partition("%")[0])
    words = (int.from_bytes(packed[at : at + 4], sys.byteorder) for at in range(0, len(packed), 4))
    address = "".join(f"{word:08X}" for word in words) + f":{port:04X}"
    size = 0
    with Path("/proc/net/tcp6" if listening.family == socket.AF_INET6 else "/proc/net/tcp").open() as table:
        next(table, None)
        for line in table:
            local, _, state = line.split()[1:4]
            if state != _LISTEN:  # those that listen come first, and there may be many others
                break
            size += local == address
    return size
