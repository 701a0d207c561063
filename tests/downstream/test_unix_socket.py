"""The file of a Unix socket: taken over from the dead, never from the living, and removed only while it is ours."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowserver.downstream.unix_socket import SocketFile, listen_on_path


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """Short: a socket's path has 107 bytes at most."""
    before = os.getcwd()
    os.chdir(tmp_path)
    yield "relay.sock"
    os.chdir(before)


def _connects(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


def test_owner_and_group_may_connect_and_nobody_else(path: str) -> None:
    before = os.umask(0)
    try:
        listening = listen_on_path(path, 10)
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    with listening:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        assert _connects(path)


def test_a_socket_that_a_dead_process_left_is_taken_over(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
    assert not _connects(path)
    listening = listen_on_path(path, 10)
    with listening:
        assert _connects(path)


@pytest.mark.parametrize("queue", [0, 1])
def test_a_socket_that_somebody_listens_on_is_left_alone(path: str, queue: int) -> None:
    """Also where its queue of connections is full."""
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as waiting:
        living.bind(path)
        living.listen(queue)
        waiting.connect(path)
        for _ in range(2):
            with pytest.raises(OSError, match="another process listens") as raised:
                listen_on_path(path, 10)
            assert raised.value.errno == errno.EADDRINUSE
        assert os.path.exists(path)


def test_a_socket_of_datagrams_is_left_alone(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        with pytest.raises(OSError, match="another process"):
            listen_on_path(path, 10)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(path: str, kind: str) -> None:
    if kind == "file":
        Path(path).write_text("precious")
    elif kind == "folder":
        os.mkdir(path)
    else:
        os.symlink("nowhere", path)
    with pytest.raises(OSError, match="not a socket"):
        listen_on_path(path, 10)
    assert os.path.lexists(path)


def test_it_is_removed_while_it_is_ours(path: str) -> None:
    listening, file = listen_on_path(path, 10), SocketFile(path)
    with listening:
        file.remove()
        assert not os.path.exists(path)
        file.remove()


def test_it_is_left_to_another_that_has_its_name_by_now(path: str) -> None:
    first, file = listen_on_path(path, 10), SocketFile(path)
    with first:
        os.unlink(path)
        second = listen_on_path(path, 10)
        with second:
            file.remove()
            assert _connects(path)


def test_a_folder_that_is_not_there_is_told(path: str) -> None:
    with pytest.raises(OSError, match="No such file"):
        listen_on_path(f"nowhere/{path}", 10)
