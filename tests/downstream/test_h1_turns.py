"""A client whose request has to wait for its turn: nothing of it is lost, and it is neither idle nor gone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from flowserver.downstream.h1 import FIN_FOLLOWS, FIN_MAY_FOLLOW
from flowserver.errors import EndReason
from flowserver.flow.turns import READING, Turns
from flowserver.net.shared_read import READ_SIZE

from ..support.dialogue import Client, Provider, Relay
from ..support.h1_client import CHUNKED_POST, GET, POST, WHOLE, heard, target_of


class BusyRelay(Relay):
    """Others have used up this iteration of its event loop."""

    def __init__(self, *, serves_half_closed: bool = False) -> None:
        super().__init__(serves_half_closed=serves_half_closed)
        self._soon: list[Callable[[], None]] = []
        self.turns = Turns(READING, self.clock, self._soon.append)
        self.context = replace(self.context, turns=self.turns)
        self.turns.spend(READING)

    def pair(self, *, tls: bool = False) -> tuple[Client, Provider]:
        return self.client(tls=tls), self.provider()

    def iterate(self) -> None:
        calls = self._soon[:]
        self._soon.clear()
        for call in calls:
            call()


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    "pieces",
    [
        [GET],
        [GET[:10], GET[10:]],
        [POST + b"hello"],
        [POST, b"he", b"llo"],
        [CHUNKED_POST, b"5\r\nhel", b"lo\r\n0\r\n\r\n"],
    ],
)
def test_a_request_waits_and_is_served_whole(pieces: list[bytes], tls: bool) -> None:
    relay = BusyRelay()
    client, provider = relay.pair(tls=tls)
    client.says(*pieces)
    assert provider.hears() == b""
    relay.iterate()
    asked = provider.hears()
    assert target_of(asked) == b"/v1"
    assert (b"hel" in asked) == (b"hel" in b"".join(pieces))
    provider.says(WHOLE)
    assert heard(client).body == b"hello"
    client.says(GET)  # the next one does not wait
    assert target_of(provider.hears()) == b"/v1"


def test_pipelined_requests_wait_together() -> None:
    relay = BusyRelay()
    client, provider = relay.pair()
    client.says(GET, GET)
    relay.iterate()
    provider.says(WHOLE)
    provider.says(WHOLE)
    assert client.hears().count(b"hello") == 2


def test_what_waits_is_bounded() -> None:
    relay = BusyRelay()
    client, _ = relay.pair()
    client.says(b"POST /v1 HTTP/1.1\r\nHost: relay.test\r\nContent-Length: 1000000\r\n\r\n", b"x" * READ_SIZE)
    assert not client.transport.is_reading()
    relay.iterate()
    assert client.transport.is_reading()


def test_one_that_shuts_its_side_meanwhile_is_answered() -> None:
    relay = BusyRelay()
    client, provider = relay.pair()
    client.says(GET)
    relay.clock.advance(2 * FIN_FOLLOWS)
    client.shuts()
    relay.iterate()
    provider.says(WHOLE)
    assert heard(client).body == b"hello"
    assert client.end == "closed"


@pytest.mark.parametrize(("after", "is_answered"), [(0.5 * FIN_MAY_FOLLOW, True), (FIN_MAY_FOLLOW, False)])
def test_one_that_shuts_its_side_while_others_wait_is_answered_too(after: float, is_answered: bool) -> None:
    """Its own request has begun, but perhaps it waits to be sent, and in a long iteration the FIN is read late."""
    relay = BusyRelay()
    client, provider = relay.pair()
    client.says(GET)
    relay.iterate()
    relay.turns.note_wait(relay.clock.now)
    relay.clock.advance(after)
    client.shuts()
    provider.says(WHOLE)
    assert heard(client).whole == is_answered


def test_one_that_shuts_its_side_much_later_has_given_up() -> None:
    relay = BusyRelay()
    client, provider = relay.pair()
    client.says(GET)
    relay.clock.advance(FIN_MAY_FOLLOW)
    client.shuts()
    relay.iterate()
    assert provider.hears() == b""
    assert client.end == "reset"


@pytest.mark.parametrize("serves_half_closed", [False, True])
def test_one_that_shuts_its_side_within_its_body_is_gone(serves_half_closed: bool) -> None:
    relay = BusyRelay(serves_half_closed=serves_half_closed)
    client, _ = relay.pair()
    client.says(POST, b"hel")
    client.shuts()
    relay.iterate()
    assert client.end == "reset"
    assert relay.observer.ends == [EndReason.CLIENT_GONE]


def test_a_part_of_a_head_with_a_fin_behind_it_is_no_request() -> None:
    relay = BusyRelay()
    client, _ = relay.pair()
    client.says(GET[:-1])
    client.shuts()
    relay.iterate()
    assert client.end == "closed"
    assert relay.observer.ends == []


def test_one_that_leaves_meanwhile_is_not_served() -> None:
    relay = BusyRelay()
    client, provider = relay.pair()
    client.says(GET)
    client.resets()
    relay.iterate()
    assert provider.hears() == b""
    assert relay.observer.ends == []


def test_one_that_waits_is_not_idle() -> None:
    relay = BusyRelay()
    client, provider = relay.pair()
    client.says(GET)
    relay.iterate()
    provider.says(WHOLE)
    assert heard(client).whole
    assert client.connection.idle_since < math.inf
    relay.turns.spend(READING)
    client.says(GET)
    assert client.connection.idle_since == math.inf
    relay.context.drain.has_begun = True
    client.connection.drain()
    relay.sweep(10)
    relay.iterate()
    provider.says(WHOLE)
    assert heard(client).body == b"hello"
    assert relay.observer.ends == [EndReason.COMPLETE] * 2
