"""Leaving an SO_REUSEPORT group: where the kernel sends connections, with real sockets."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from flowserver.config.addresses import Address
from flowserver.downstream.listening import SocketOptions, listen
from flowserver.net.reuse_port import join, steer_away

HOSTS = pytest.mark.parametrize("host", ["127.0.0.1", "::1", ""])


class Group:
    """Sockets that listen on one address."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._port = 0
        self.sockets: list[socket.socket] = []
        self.adopted: list[socket.socket] = []

    def add(self) -> socket.socket:
        [listening] = listen([Address(self._host, self._port)], SocketOptions(reuse_port=True))
        self._port = listening.getsockname()[1]
        self.sockets.append(listening)
        return listening

    def accepted(self, clients: int = 60) -> list[int]:
        """How many of so many connections each socket gets."""
        with contextlib.ExitStack() as stack:
            for _ in range(clients):
                stack.enter_context(socket.create_connection((self._host or "127.0.0.1", self._port), 5))
            return [_accept_all(each) for each in self.sockets]

    def leave(self, listening: socket.socket) -> bool:
        return steer_away(listening, self.adopted.append)

    def close(self, listening: socket.socket) -> None:
        self.sockets.remove(listening)
        listening.close()


def _accept_all(listening: socket.socket) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listening.accept()[0].close()
            count += 1
    return count


@pytest.fixture
def groups() -> Iterator[list[Group]]:
    made: list[Group] = []
    yield made
    for group in made:
        for each in (*group.sockets, *group.adopted):
            each.close()


def _group(groups: list[Group], host: str = "127.0.0.1", size: int = 2) -> Group:
    group = Group(host)
    groups.append(group)
    for _ in range(size):
        group.add()
    return group


@HOSTS
def test_all_of_a_group_get_connections(groups: list[Group], host: str) -> None:
    assert 0 not in _group(groups, host).accepted()


@HOSTS
@pytest.mark.parametrize("which", [0, 1], ids=["old", "new"])
def test_new_connections_go_to_the_other(groups: list[Group], host: str, which: int) -> None:
    group = _group(groups, host)
    assert group.leave(group.sockets[which])
    accepted = group.accepted()
    assert (accepted[which], accepted[1 - which]) == (0, 60) or (accepted[which] == 0 and accepted[1 - which] >= 60)


def test_the_youngest_gets_them(groups: list[Group]) -> None:
    group = _group(groups, size=4)
    assert group.leave(group.sockets[1])
    first, second, third, fourth = group.accepted()
    assert (first, second, third) == (0, 0, 0)
    assert fourth >= 60


def test_one_that_took_the_place_of_another_is_not_taken_for_it(groups: list[Group]) -> None:
    """The last of the group has moved into the first place."""
    group = _group(groups, size=3)
    first, second, third = group.sockets
    assert group.leave(first)
    group.close(first)
    assert group.leave(third)
    assert group.accepted()[group.sockets.index(third)] == 0
    join(third)
    assert group.leave(second)
    assert group.accepted()[group.sockets.index(second)] == 0


def test_one_that_is_alone_goes_on(groups: list[Group]) -> None:
    group = _group(groups, size=1)
    assert not group.leave(group.sockets[0])
    assert group.accepted() == [60]


def test_one_that_joins_gets_connections_after_another_has_left(groups: list[Group]) -> None:
    group = _group(groups, size=3)
    group.leave(group.sockets[0])
    group.close(group.sockets[0])
    group.add()
    assert 0 not in group.accepted(200)


def test_connections_that_waited_are_handed_on(groups: list[Group]) -> None:
    group = _group(groups)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(group.sockets[0].getsockname(), 5)) for _ in range(40)]
        ports = {client.getsockname()[1] for client in clients}
        assert group.leave(group.sockets[1])
        assert group.adopted
        assert {each.getpeername()[1] for each in group.adopted} < ports
        assert len(group.adopted) + sum(_accept_all(each) for each in group.sockets) in (40, 41)
