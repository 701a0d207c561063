"""Which connections are closed where memory is short."""

from __future__ import annotations

from flowserver.app.idle_connections import close_idle
from flowserver.downstream.context import OpenConnections

from ..support.dialogue import Client, Relay
from ..support.h1_client import GET, WHOLE


def _served(relay: Relay) -> Client:
    client = relay.client()
    client.says(GET)
    relay.provider().says(WHOLE)
    return client


def _all(*clients: Client) -> OpenConnections:
    connections = OpenConnections()
    for client in clients:
        connections.add(client.connection)
    return connections


def test_one_that_waits_for_a_request_is_closed_and_no_other() -> None:
    relay = Relay()
    idle, new, busy, half = _served(relay), relay.client(), relay.client(), _served(relay)
    busy.says(GET)
    relay.provider()
    half.says(GET[:5])
    assert close_idle(_all(idle, new, busy, half), 10, relay.clock.now + 2) == 1
    assert [client.end for client in (new, busy, half)] == ["open"] * 3
    assert idle.end != "open"


def test_one_that_is_closed_once_its_last_bytes_are_taken_is_closed_once() -> None:
    """Or memory that is not free yet is taken for free, again and again."""
    relay = Relay()
    client = relay.client()
    client.stops_reading()
    client.says(GET)
    relay.provider().says(WHOLE)
    every = _all(client)
    assert [close_idle(every, 1, relay.clock.now + seconds) for seconds in (2, 3, 4)] == [1, 0, 0]
