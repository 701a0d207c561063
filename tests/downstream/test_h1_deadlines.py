"""Deadlines of a client's connection, and its end when the relay goes down."""

from __future__ import annotations

import pytest

from flowserver.downstream.context import DRAIN_GRACE
from flowserver.errors import EndReason
from flowserver.flow.bounded_buffer import Watermarks

from ..support.clock import FakeClock
from ..support.dialogue import Client, Relay, listener_context
from ..support.h1_client import GET, OLD, STREAM, WHOLE, Instant, heard


def idle_client(*, clock: FakeClock, head: float | None = 10, keepalive: float | None = 75) -> Client:
    context = listener_context(Instant().open_exchange, head_timeout=head, keepalive_timeout=keepalive, clock=clock)
    return Client(context)


def test_a_client_that_says_nothing_is_closed() -> None:
    clock = FakeClock()
    client = idle_client(clock=clock)
    client.connection.sweep(clock.advance(9))
    assert client.end == "open"
    client.connection.sweep(clock.advance(1))
    assert client.end == "closed"
    assert client.hears() == b""


def test_half_a_head_is_not_waited_for_however_it_dribbles() -> None:
    clock = FakeClock()
    client = idle_client(clock=clock)
    for byte in GET[:10]:
        client.says(bytes([byte]))
        client.connection.sweep(clock.advance(1))
    assert heard(client).status == 408
    assert client.end == "half-closed"


def test_empty_lines_do_not_keep_a_connection() -> None:
    clock = FakeClock()
    client = idle_client(clock=clock)
    for _ in range(15):
        client.says(b"\r\n")
        client.connection.sweep(clock.advance(1))
    assert client.end != "open"


def test_an_idle_connection_is_closed_after_its_keepalive() -> None:
    clock = FakeClock()
    client = idle_client(clock=clock)
    client.says(GET)
    client.connection.sweep(clock.advance(74))
    assert client.end == "open"
    client.connection.sweep(clock.advance(1))
    assert client.end == "closed"


def test_a_later_head_has_its_own_time() -> None:
    clock = FakeClock()
    client = idle_client(clock=clock)
    client.says(GET)
    client.hears()
    client.connection.sweep(clock.advance(70))
    client.says(GET[:10])
    client.connection.sweep(clock.advance(9))
    assert client.end == "open"
    client.connection.sweep(clock.advance(1))
    assert heard(client).status == 408


def test_a_drain_lets_answers_finish() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    client.connection.drain()
    assert client.end == "open"
    provider.says(WHOLE)
    answer = heard(client)
    assert (answer.whole, answer.headers[b"connection"]) == (True, b"close")
    assert client.end == "closed"


@pytest.mark.parametrize("served", [0, 1], ids=["new", "kept"])
def test_a_drain_leaves_a_connection_time_for_one_more_request(served: int) -> None:
    clock = FakeClock()
    client, late = idle_client(clock=clock, keepalive=1000), idle_client(clock=clock, keepalive=1000)
    for each in (client, late):
        for _ in range(served):
            each.says(GET)
            assert heard(each).whole
    clock.advance(9)
    for each in (client, late):
        each.connection.drain()
    clock.advance(DRAIN_GRACE - 0.1)
    for each in (client, late):
        each.connection.sweep(clock())
        assert each.end == "open"
    client.says(GET)
    answer = heard(client)
    assert (answer.whole, answer.headers[b"connection"]) == (True, b"close")
    late.connection.sweep(clock.advance(0.1))
    assert (client.end, late.end) == ("closed", "closed")
    assert late.hears() == b""


def test_a_drain_leaves_half_a_head_the_time_that_it_has_anyway() -> None:
    clock = FakeClock()
    client = idle_client(clock=clock, head=10)
    client.says(GET[:10])
    client.connection.drain()
    client.connection.sweep(clock.advance(9))
    client.says(GET[10:])
    assert heard(client).headers[b"connection"] == b"close"
    assert client.end == "closed"


def test_a_stream_that_outlasts_the_drain_is_broken_off() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    provider.says(STREAM + b"5\r\nhello\r\n")
    client.connection.drain()
    client.connection.end_drain()
    assert not heard(client).whole
    assert client.end == "closed"
    assert provider.end == "reset"
    assert relay.observer.ends == [EndReason.RELAY_STOPPED]


def test_a_request_that_outlasts_the_drain_before_its_answer_gets_503() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    client.connection.drain()
    client.connection.end_drain()
    answer = heard(client)
    assert (answer.status, answer.whole) == (503, True)
    assert client.end == "closed"
    assert provider.end == "reset"


@pytest.mark.parametrize("provider_is_done", [False, True])
@pytest.mark.parametrize("request_", [GET, OLD])
def test_a_stalled_stream_that_outlasts_the_drain_never_looks_whole(request_: bytes, provider_is_done: bool) -> None:
    relay = Relay(watermarks=Watermarks(1000, 100, 16))
    client, provider = relay.client(), relay.provider()
    client.says(request_)
    provider.says(STREAM)
    client.stops_reading()
    provider.says(b"c8\r\n" + b"x" * 200 + b"\r\n", b"5\r\nhello\r\n")
    if provider_is_done:
        provider.says(b"0\r\n\r\n")
    client.connection.drain()
    client.connection.end_drain()
    client.reads()
    assert not client.hears().endswith(b"0\r\n\r\n")
    assert client.end == "reset"
    assert relay.observer.ends == [EndReason.RELAY_STOPPED]
