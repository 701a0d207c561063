"""Whose a connection or a request is, and how much a client may have open."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.config.parsers import parse_networks
from flowserver.downstream.clients_by_address import Client, ClientsByAddress
from flowserver.downstream.context import OpenConnections
from flowserver.http.messages import RequestHead

TRUSTED = "10.0.0.0/8,2001:db8:1::/48,unix"


def _clients(most: int | None = None, trusted: str = TRUSTED) -> ClientsByAddress:
    return ClientsByAddress(most, parse_networks(trusted))


def _connected(clients: ClientsByAddress, address: str | None) -> Client:
    return clients.connected(address)


def _request(**fields: str) -> RequestHead:
    return RequestHead(
        b"GET", b"/", [(name.replace("_", "-").encode(), text.encode()) for name, text in fields.items()]
    )


@pytest.mark.parametrize(
    ("address", "text", "trusted"),
    [
        ("192.0.2.1", "192.0.2.1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", False),
        ("10.255.0.1", "10.255.0.1", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("2001:db8:1:2::3", "2001:db8:1:2::3", True),
        ("2001:db8:2::3", "2001:db8:2::3", False),
        (None, None, True),
    ],
)
def test_who_connected(address: str | None, text: str | None, trusted: bool) -> None:
    client = _connected(_clients(), address)
    assert (client.address, client.is_trusted) == (text, trusted)


@pytest.mark.parametrize(
    ("fields", "client"),
    [
        ({}, "10.0.0.1"),
        ({"x_forwarded_for": "192.0.2.1"}, "192.0.2.1"),
        ({"x_forwarded_for": "198.51.100.66, 192.0.2.1"}, "192.0.2.1"),
        ({"x_forwarded_for": "192.0.2.1, 10.0.0.2, 10.3.0.1"}, "192.0.2.1"),
        ({"x_forwarded_for": "192.0.2.1, unknown, 10.3.0.1"}, "10.3.0.1"),
        ({"x_forwarded_for": "192.0.2.1, "}, "10.0.0.1"),
        ({"x_forwarded_for": "10.0.0.9"}, "10.0.0.9"),
        ({"forwarded": "for=192.0.2.1"}, "192.0.2.1"),
        ({"forwarded": 'for=192.0.2.1, for="[2001:db8:1::1]"'}, "192.0.2.1"),
        ({"forwarded": "for=192.0.2.1, for=_hidden"}, "10.0.0.1"),
        ({"forwarded": "for=192.0.2.1", "x_forwarded_for": "192.0.2.1"}, "192.0.2.1"),
        ({"forwarded": "for=1.1.1.1", "x_forwarded_for": "1.1.1.1, 192.0.2.1"}, "10.0.0.1"),
        ({"forwarded": "nonsense", "x_forwarded_for": "192.0.2.1"}, "10.0.0.1"),
        ({"x_forwarded_for": "::ffff:192.0.2.1"}, "192.0.2.1"),
        ({"x_real_ip": "192.0.2.1"}, "10.0.0.1"),
    ],
)
def test_whom_a_trusted_proxy_names(fields: dict[str, str], client: str) -> None:
    clients = _clients()
    proxy = _connected(clients, "10.0.0.1")
    assert clients.requested(proxy, _request(**fields)).address == client


def test_clients_are_counted_by_address_and_by_network_of_64_bits() -> None:
    clients = _clients(2)
    for address in ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::ffff:2"):
        client = _connected(clients, address)
        assert not client.is_over_limit
        clients.enter(client)
    assert _connected(clients, "192.0.2.1").is_over_limit
    assert _connected(clients, "2001:db8::3").is_over_limit
    assert not _connected(clients, "192.0.2.2").is_over_limit
    assert not _connected(clients, "2001:db8:0:1::1").is_over_limit


def test_a_proxys_connections_are_nobodys_but_its_requests_are_their_clients() -> None:
    clients = _clients(2)
    proxy = _connected(clients, "10.0.0.1")
    for _ in range(5):
        clients.enter(_connected(clients, "10.0.0.1"))
    assert not _connected(clients, "10.0.0.1").is_over_limit
    clients.enter(_connected(clients, "192.0.2.1"))  # the client itself, beside the proxy
    first = clients.requested(proxy, _request(x_forwarded_for="192.0.2.1"))
    second = clients.requested(proxy, _request(x_forwarded_for="192.0.2.1"))
    assert (first.is_over_limit, second.is_over_limit) == (False, True)
    assert clients.refused["client_requests"] == 1
    assert not clients.requested(proxy, _request(x_forwarded_for="192.0.2.2")).is_over_limit
    clients.leave(second)
    clients.leave(first)
    assert not clients.requested(proxy, _request(x_forwarded_for="192.0.2.1")).is_over_limit


def test_requests_that_name_nobody_are_the_proxys() -> None:
    """Or a client that has its name hidden would have no limit."""
    clients = _clients(1)
    for proxy in (_connected(clients, "10.0.0.1"), _connected(clients, None)):
        assert not clients.requested(proxy, _request(forwarded="nonsense")).is_over_limit
        assert clients.requested(proxy, _request()).is_over_limit


def test_far_above_the_limit_nobody_is_answered() -> None:
    clients = _clients(20)
    closed = []
    for _ in range(30):
        client = _connected(clients, "192.0.2.1")
        closed.append(clients.is_far_over(client))
        if not closed[-1]:
            clients.enter(client)
    assert closed == [False] * 22 + [True] * 8


def test_without_a_limit_nothing_is_counted() -> None:
    clients = _clients()
    for address in ("192.0.2.1", "2001:db8::1", None):
        client = _connected(clients, address)
        clients.enter(client)
        assert clients.open(client) == 0
        clients.leave(client)


class _Connection:
    def __init__(self, client: Client) -> None:
        self.client = client

    def sweep(self, now: float) -> None: ...

    def drain(self) -> None: ...

    def end_drain(self) -> None: ...

    def abort(self) -> None: ...


@given(st.lists(st.tuples(st.sampled_from(["192.0.2.1", "2001:db8::1", "10.0.0.1"]), st.integers(0, 5))))
def test_what_is_open_is_what_was_added_and_not_discarded(steps: list[tuple[str, int]]) -> None:
    """However often the same one is discarded."""
    clients = _clients(3)
    connections = OpenConnections(clients)
    held: list[_Connection] = []
    for address, number in steps:
        if number < len(held):
            gone = held.pop(number)
            connections.discard(gone)
            connections.discard(gone)
        else:
            held.append(_Connection(_connected(clients, address)))
            connections.add(held[-1])
        for each in ("192.0.2.1", "2001:db8::1"):
            expected = sum(connection.client.address == each for connection in held)
            assert clients.open(_connected(clients, each)) == expected
    assert set(connections) == set(held)
    assert len(connections) == len(held)


def test_connections_share_a_client_where_nothing_is_counted() -> None:
    plain, counting = _clients(trusted=""), _clients(most=2, trusted="")
    assert plain.connected("192.0.2.1") is plain.connected("::ffff:192.0.2.1")
    assert plain.connected("192.0.2.1").address == "192.0.2.1"
    assert plain.connected("192.0.2.2") is not plain.connected("192.0.2.1")
    assert counting.connected("192.0.2.1") is not counting.connected("192.0.2.1")
