"""Listening on a Unix socket: a file, which outlives the process that created it (unix(7))."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat

_MASK = 0o117
"""The umask for the file. Connecting needs write permission: only owner and group have it, since anyone who can connect
may use the relay."""
_OWNERS_MASK = 0o177
"""The umask for a socket of the relay's own user."""
_IN_USE = "another process listens on it"
_GONE = (-1, -1)
_NO_SOCKET = "there is a file with this name that is not a socket"


class SocketFile:
    """The file of a Unix socket that this process has bound or inherited."""

    __slots__ = ("_identity", "_path")

    def __init__(self, path: str) -> None:
        """Raises OSError if it is gone."""
        self._path = path
        self._identity = _identity(path)

    def remove(self) -> None:
        """Remove it, once, unless it belongs to another process by now. Call this while the socket is open, since its
        inode number may be reused after that."""
        with contextlib.suppress(OSError):
            if _identity(self._path) == self._identity:
                self._identity = _GONE
                os.unlink(self._path)


def listen_on_path(path: str, backlog: int, *, is_owners: bool = False) -> socket.socket:
    """A listening socket at `path`, replacing one left by a dead process. `is_owners`: the group may not connect.
    Raises OSError."""
    mask = _OWNERS_MASK if is_owners else _MASK
    with contextlib.ExitStack() as undo:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        undo.callback(listening.close)
        try:
            _bind(listening, path, mask)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path)
            _bind(listening, path, mask)
        undo.callback(os.unlink, path)
        listening.listen(backlog)
        listening.setblocking(False)
        undo.pop_all()
    return listening


def _bind(listening: socket.socket, path: str, mask: int) -> None:
    before = os.umask(mask)  # not by chmod afterwards: until then anybody could connect
    try:
        listening.bind(path)
    finally:
        os.umask(before)


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on. Raises OSError for any other file."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(errno.EADDRINUSE, _NO_SOCKET)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(path)
    if code in (0, errno.EAGAIN, errno.EPROTOTYPE):  # EAGAIN: its queue is full
        raise OSError(errno.EADDRINUSE, _IN_USE)
    if code not in (errno.ECONNREFUSED, errno.ENOENT):
        raise OSError(code, os.strerror(code))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino
