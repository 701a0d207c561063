"""What a process finds in its environment of sockets that it was given, and what it makes of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from flowserver.app.inherited import ADMIN, CLIENTS, Inherited, PassedSocket, handover_value, inherited
from flowserver.app.listening import ListeningSockets, listening_sockets
from flowserver.config.environment import load
from flowserver.config.errors import ConfigError
from flowserver.config.settings import Config


@pytest.fixture
def listening() -> Iterator[list[socket.socket]]:
    """Three sockets that listen."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    yield sockets
    for each in sockets:
        each.close()


def _config(**settings: str) -> Config:
    defaults = {"FLOW_UPSTREAM": "http://a.test", "FLOW_LISTEN": "127.0.0.1:0", "FLOW_ADMIN_LISTEN": "127.0.0.1:0"}
    return load(defaults | settings)


def _address(listening: socket.socket) -> str:
    return f"127.0.0.1:{listening.getsockname()[1]}"


def _passed(*sockets: tuple[socket.socket, str | None]) -> Inherited:
    return Inherited("LISTEN_FDS", [PassedSocket(each, use) for each, use in sockets])


def _ports(sockets: ListeningSockets) -> tuple[list[int], int | None]:
    admin = sockets.admin
    clients = [each.getsockname()[1] for each in sockets.clients]
    return clients, None if admin is None else admin.getsockname()[1]


# --- the environment ---

_SHOW = """
import os, subprocess, sys
from flowserver.app.inherited import inherited
from flowserver.config.errors import ConfigError
os.environ["LISTEN_PID"] = str(os.getpid() + {other})
try:
    given = inherited(os.environ)
except ConfigError as error:
    sys.exit(str(error))
for each in given.sockets:
    print(each.use, each.listening.getsockname()[1], each.listening.get_inheritable(), each.listening.getblocking())
print(sorted(name for name in os.environ if name.startswith("LISTEN_")))
"""


def _received(*sockets: socket.socket, names: str | None = None, other: int = 0, count: str = "") -> tuple[str, str]:
    """What a process says, and complains of, that finds `sockets` from descriptor 3 on."""
    environ = dict(os.environ, LISTEN_FDS=count or str(len(sockets)))
    if names is not None:
        environ["LISTEN_FDNAMES"] = names
    # Above those that they are to be found at.
    duplicates = [socket.socket(fileno=os.dup(each.fileno())) for each in sockets]
    moves = " ".join(f"{at}<&{each.fileno()}" for at, each in enumerate(duplicates, 3))
    shell = f'exec {moves or "3<&-"}; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", shell, "bash", sys.executable, "-c", _SHOW.format(other=other)],
        env=environ,
        pass_fds=[each.fileno() for each in duplicates],
        capture_output=True,
        text=True,
        check=False,
    )
    for each in duplicates:
        each.close()
    return done.stdout, done.stderr


def test_sockets_are_found_from_descriptor_3_on_and_are_not_inherited_again(listening: list[socket.socket]) -> None:
    out, _ = _received(*listening, names="admin:clients:flowserver.socket")
    ports = [each.getsockname()[1] for each in listening]
    assert out.splitlines() == [
        f"admin {ports[0]} False False",
        f"clients {ports[1]} False False",
        f"None {ports[2]} False False",
        "[]",
    ]


def test_without_names_their_addresses_tell(listening: list[socket.socket]) -> None:
    out, _ = _received(listening[0])
    assert out.startswith("None ")


def test_those_for_another_process_are_left_alone(listening: list[socket.socket]) -> None:
    out, _ = _received(listening[0], other=1)
    assert out == "[]\n"


@pytest.mark.parametrize(
    ("names", "count", "complaint"),
    [
        ("metrics", "", "invalid name 'metrics' of descriptor 3: expected clients, admin or control"),
        ("", "1x", "LISTEN_FDS: invalid value '1x': expected a number"),
        ("clients:admin", "2", "LISTEN_FDS: descriptor 4 is no"),
    ],
)
def test_what_is_wrong_with_them_is_said(
    listening: list[socket.socket], names: str, count: str, complaint: str
) -> None:
    _, err = _received(listening[0], names=names, count=count)
    assert complaint in err


def test_a_socket_that_does_not_listen_is_refused() -> None:
    with socket.socket() as idle:
        _, err = _received(idle)
    assert "descriptor 3 is not a listening stream socket" in err


def test_a_successor_finds_what_its_predecessor_says(listening: list[socket.socket]) -> None:
    reading, writing = os.pipe()
    first, second = (each.dup() for each in listening[:2])
    value = handover_value([(CLIENTS, first.detach()), (ADMIN, second.detach())], writing)
    environ = {"FLOWSERVER_HANDOVER": value, "OTHER": "1"}
    given = inherited(environ)
    assert environ == {"OTHER": "1"}
    assert [each.use for each in given.sockets] == [CLIENTS, ADMIN]
    assert [each.listening.getsockname() for each in given.sockets] == [each.getsockname() for each in listening[:2]]
    given.ready()
    assert os.read(reading, 100) == b"ready"
    assert os.read(reading, 100) == b""
    given.failed(["too late"])  # nobody hears it
    os.close(reading)
    for each in given.sockets:
        each.listening.close()


# --- what they are for ---


def test_named_sockets_are_used_as_they_are_named_whatever_their_address(listening: list[socket.socket]) -> None:
    one, two, three = listening
    config = _config(FLOW_ADMIN_LISTEN=_address(one), FLOW_LISTEN=_address(two))
    sockets = listening_sockets(config, _passed((one, CLIENTS), (two, ADMIN), (three, CLIENTS)))
    assert _ports(sockets) == ([one.getsockname()[1], three.getsockname()[1]], two.getsockname()[1])


def test_others_are_used_by_their_address_and_else_for_clients(listening: list[socket.socket]) -> None:
    one, two, three = listening
    config = _config(FLOW_ADMIN_LISTEN=_address(two))
    sockets = listening_sockets(config, _passed((one, None), (two, None), (three, None)))
    assert _ports(sockets) == ([one.getsockname()[1], three.getsockname()[1]], two.getsockname()[1])


def test_what_was_not_passed_is_bound(listening: list[socket.socket]) -> None:
    one, *_ = listening
    port = one.getsockname()[1]
    for use in (CLIENTS, ADMIN):
        sockets = listening_sockets(_config(), _passed((one.dup(), use)))
        clients, admin = _ports(sockets)
        assert admin is not None
        assert [port in clients, port == admin] == [use == CLIENTS, use == ADMIN]
        sockets.close()


def test_no_socket_is_passed_for_admin_pages_that_are_off(listening: list[socket.socket]) -> None:
    with pytest.raises(ConfigError, match="FLOW_ADMIN_LISTEN: it is off, but a socket was passed"):
        listening_sockets(_config(FLOW_ADMIN_LISTEN="off"), _passed((listening[0], ADMIN)))


def test_there_is_one_socket_for_the_admin_pages(listening: list[socket.socket]) -> None:
    with pytest.raises(ConfigError, match=r"two sockets were passed for the admin pages, 127\.0\.0\.1:\d+ and"):
        listening_sockets(_config(), _passed((listening[0], ADMIN), (listening[1], ADMIN)))


def test_an_address_that_is_taken_is_said_and_nothing_stays_bound(listening: list[socket.socket]) -> None:
    config = _config(FLOW_LISTEN=_address(listening[0]))
    with pytest.raises(ConfigError, match=r"FLOW_LISTEN: can't listen on 127\.0\.0\.1:\d+: Address already in use"):
        listening_sockets(config)
