"""What a client still sends behind its answer is read and dropped, within bounds, and no reset overtakes the answer."""

from __future__ import annotations

import pytest

from flowserver.downstream.drop_budget import LINGER_RATE, TOTAL_RATE
from flowserver.downstream.linger import LINGER_BYTES, LINGER_SILENCE, LINGER_TIME, SHORT_LINGER_TIME, Linger
from flowserver.flow.memory_budget import Level
from flowserver.net.shared_read import READ_SIZE

from ..support.dialogue import Client, Relay, listener_context, understood
from ..support.transport import FakeTransport

UPLOAD = b"POST /v1 HTTP/1.1\r\nHost: relay.test\r\nContent-Length: 1000000000\r\n\r\n"
CHUNKED = b"POST /v1 HTTP/1.1\r\nHost: relay.test\r\nTransfer-Encoding: chunked\r\n\r\n"
OLD = b"POST /v1 HTTP/1.0\r\nContent-Length: 1000000000\r\n\r\n"
EARLY = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"
PIECE = b"x" * READ_SIZE


def _answered_early(relay: Relay, *, tls: bool = False, upload: bytes = UPLOAD) -> Client:
    client, provider = relay.client(tls=tls), relay.provider()
    client.says(upload)
    provider.says(EARLY)
    return client


def _drop(transport: FakeTransport, size: int) -> None:
    """The client sends so much."""
    protocol = transport.get_protocol()
    assert isinstance(protocol, Linger)
    for _ in range(size // READ_SIZE):
        if not transport.reading:
            break
        protocol.buffer_updated(READ_SIZE)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("upload", [UPLOAD, CHUNKED, OLD])
def test_the_answer_arrives_before_the_upload_is_over(tls: bool, upload: bytes) -> None:
    relay = Relay(max_body=1 << 40)
    client = _answered_early(relay, tls=tls, upload=upload)
    answer = understood(client.hears(), closed=True)
    assert (answer.status, answer.whole, answer.headers[b"connection"]) == (401, True, b"close")
    for _ in range(int(LINGER_TIME) - 1):
        client.says(PIECE)
        relay.sweep(1.0)
        assert client.end == "half-closed"
        assert client.transport.unread == 0
    client.says(PIECE)
    relay.sweep(1.0)
    assert client.end == "reset"
    client.transport.lose()
    assert not relay.context.connections


def test_a_client_that_closes_is_not_waited_for() -> None:
    relay = Relay(max_body=1 << 40)
    client = _answered_early(relay)
    client.says(PIECE)
    client.shuts()
    assert client.end == "closed"


def test_a_client_that_falls_silent_is_not_waited_for_long() -> None:
    relay = Relay(max_body=1 << 40)
    client = _answered_early(relay)
    relay.sweep(LINGER_SILENCE - 1)
    assert client.end == "half-closed"
    relay.sweep(1.0)
    assert client.end == "reset"


def test_what_is_dropped_in_a_second_is_bounded_and_so_is_all_of_it() -> None:
    relay = Relay(max_body=1 << 40)
    client = _answered_early(relay)
    for _ in range(LINGER_BYTES // LINGER_RATE - 1):
        _drop(client.transport, 2 * LINGER_RATE)
        assert not client.transport.reading
        assert client.end == "half-closed"
        relay.sweep(1.0)
        assert client.transport.reading
    _drop(client.transport, LINGER_RATE)
    assert client.end == "reset"


def test_what_all_drop_in_a_second_is_bounded() -> None:
    relay = Relay(max_body=1 << 40)
    clients = [_answered_early(relay) for _ in range(TOTAL_RATE // LINGER_RATE + 2)]
    for _ in range(int(LINGER_SILENCE) + 1):
        for client in clients:
            _drop(client.transport, LINGER_RATE)
        assert not any(client.transport.reading for client in clients)
        assert {client.end for client in clients} == {"half-closed"}, "who is not read is not silent"
        relay.sweep(1.0)
    assert all(client.transport.reading for client in clients)


def test_while_memory_is_short_it_does_not_last() -> None:
    relay = Relay(max_body=1 << 40)
    client = _answered_early(relay)
    relay.context.memory.level = Level.NO_BATCH
    relay.sweep(SHORT_LINGER_TIME / 2)
    assert client.end == "half-closed"
    relay.sweep(SHORT_LINGER_TIME / 2)
    assert client.end == "reset"


def test_a_slow_client_has_all_the_time_it_needs_for_the_answer() -> None:
    relay = Relay(max_body=1 << 40)
    client, provider = relay.client(), relay.provider()
    client.says(UPLOAD)
    client.stops_reading()
    provider.says(EARLY)
    for _ in range(2 * int(LINGER_TIME)):
        relay.sweep(1.0)
    assert client.end == "half-closed"
    client.reads()
    assert understood(client.hears(), closed=True).whole


def test_but_one_that_takes_nothing_is_stalled() -> None:
    relay = Relay(max_body=1 << 40, stall_timeout=10.0)
    client, provider = relay.client(), relay.provider()
    client.says(UPLOAD)
    client.stops_reading()
    provider.says(EARLY)
    relay.sweep(1.0)
    relay.sweep(10.0)
    assert client.end == "reset"


def test_a_drain_leaves_it_its_time_and_the_end_of_the_drain_does_not() -> None:
    context = listener_context(lambda request, stream: None)
    client = Client(context)
    client.says(b"nonsense\r\n\r\n")
    [connection] = context.connections
    connection.drain()
    assert client.end == "half-closed"
    connection.end_drain()
    assert client.end == "closed"
    connection.abort()
    assert client.end == "reset"
