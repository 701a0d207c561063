"""Clients that say nothing for long are asked whether they are there."""

from __future__ import annotations

from flowserver.downstream.context import H2Settings
from tests.support.h2_dialogue import Room


def test_a_silent_client_is_pinged_and_kept_when_it_answers() -> None:
    room = Room(h2=H2Settings(ping_interval=10.0))
    client = room.client()
    client.asks()
    room.sweep(client, 100.0)
    assert 4 <= client.peer.pings.count(b"flowserv") <= 10
    assert client.end == "open"


def test_a_client_that_does_not_answer_its_ping_is_gone() -> None:
    room = Room(h2=H2Settings(ping_interval=10.0))
    client = room.client()
    client.asks()
    for _ in range(25):
        client.connection.sweep(room.clock.advance(1.0))
        client.turns.run()
    assert client.end == "reset"
    assert room.opened[0].events.log[-1] == "reset client_gone"


def test_a_client_without_requests_is_not_pinged() -> None:
    room = Room(h2=H2Settings(ping_interval=10.0))
    client = room.client()
    room.sweep(client, 100.0)
    assert client.peer.pings == []


def test_no_ping_stands_behind_what_the_client_does_not_read() -> None:
    """It would be late through no fault of the client's; whether that moves is looked at by itself."""
    room = Room(h2=H2Settings(ping_interval=10.0))
    client = room.client()
    client.asks()
    client.stops_reading()
    room.opened[0].answers(b"x" * 1000, end=False)
    client.turns.run()
    for _ in range(100):
        client.connection.sweep(room.clock.advance(1.0))
    assert client.end == "open"
