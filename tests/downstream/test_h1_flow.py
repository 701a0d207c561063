"""Uploads and answers over HTTP/1.1, and how each is slowed by the one who takes it."""

from __future__ import annotations

import pytest

from flowserver.downstream.linger import LINGER_SILENCE
from flowserver.errors import EndReason
from flowserver.flow.bounded_buffer import Watermarks
from flowserver.http.h1_server import MAX_SKIPPED

from ..support.dialogue import Relay
from ..support.h1_client import CHUNKED_POST, GET, HEAD, POST, STREAM, WHOLE, heard

# Uploads


def test_an_upload_is_framed_anew() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(CHUNKED_POST, b"2;ext\r\nhe\r\n", b"3\r\nllo\r\n0\r\nX-Trailer: y\r\n\r\n")
    assert provider.hears().endswith(b"\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")


def test_expect_is_answered_here() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    assert client.hears() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.says(b"hello")
    assert b"expect" not in provider.hears().lower()
    provider.says(WHOLE)
    assert heard(client).whole


def test_expect_is_not_answered_when_the_body_is_there_or_the_client_is_old() -> None:
    relay = Relay()
    client = relay.client()
    relay.provider()
    client.says(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n") + b"he")
    assert client.hears() == b""
    old = relay.client()
    relay.provider()
    old.says(b"POST / HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert old.hears() == b""


def test_expect_of_too_large_a_body_gets_the_answer_instead() -> None:
    relay = Relay(max_body=4)
    client = relay.client()
    client.says(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    answer = heard(client)
    assert (answer.status, answer.interim, answer.whole) == (413, [], True)
    assert answer.headers[b"connection"] == b"close"
    assert client.end == "half-closed"


@pytest.mark.parametrize(
    "body",
    [b"5\r\nhello\r\nx", b"5\r\nhelloXX", b"+5\r\nhello\r\n", b"5\nhello\r\n", b"-1\r\n", b"5\r\nhello\n0\r\n"],
)
def test_a_malformed_body_is_refused_and_ends_the_provider_s_request(body: bytes) -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(CHUNKED_POST, body)
    client.says(b"\r\n")
    assert heard(client).status == 400
    assert provider.end == "reset"
    assert not provider.hears().endswith(b"0\r\n\r\n")
    assert client.end == "half-closed"
    assert relay.observer.ends == [EndReason.CLIENT_ERROR]


def test_a_malformed_body_behind_the_answer_s_head_breaks_it() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(CHUNKED_POST)
    provider.says(STREAM + b"2\r\nhe\r\n")
    client.says(b"nonsense\r\n")
    answer = heard(client)
    assert (answer.status, answer.whole) == (200, False)
    assert client.end == "closed"


def test_an_early_answer_ends_the_connection_after_it() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(POST.replace(b": 5", b": %d" % (MAX_SKIPPED + 3)), b"he")
    provider.says(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
    answer = heard(client)
    assert (answer.status, answer.whole, answer.headers[b"connection"]) == (401, True, b"close")
    assert client.end == "half-closed"
    assert client.transport.is_reading()
    client.says(b"llo", GET)
    assert client.hears() == b""
    relay.sweep(LINGER_SILENCE)
    assert client.end == "reset"
    assert relay.observer.ends == [EndReason.COMPLETE]


def test_behind_an_early_answer_the_rest_of_a_short_body_is_dropped() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(POST, b"he")
    provider.says(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
    answer = heard(client)
    assert (answer.status, answer.whole, b"connection" in answer.headers) == (401, True, False)
    provider = relay.provider()
    client.says(b"l", b"lo" + GET)
    provider.says(WHOLE)
    answer = heard(client)
    assert (answer.status, answer.body) == (200, b"hello")
    assert client.end == "open"


def test_an_early_answer_to_a_client_that_was_held_back_still_lets_it_finish() -> None:
    relay = Relay(watermarks=Watermarks(1000, 100, 16))
    client, provider = relay.client(), relay.provider()
    provider.stops_reading()
    client.says(CHUNKED_POST, b"7d0\r\n" + b"x" * 2000 + b"\r\n")
    assert not client.transport.is_reading()
    provider.says(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    assert heard(client).status == 413
    assert client.transport.is_reading()
    assert client.end == "half-closed"
    assert relay.hangups.watched == {}


def test_a_slow_provider_slows_an_upload() -> None:
    relay = Relay(watermarks=Watermarks(1000, 100, 16))
    client, provider = relay.client(), relay.provider()
    client.says(CHUNKED_POST)
    provider.stops_reading()
    piece = b"64\r\n" + b"#" * 100 + b"\r\n"
    client.says(*[piece] * 50)
    assert not client.transport.is_reading()
    assert len(provider.transport.buffer) < 2000
    assert client.transport.unread > 2000
    for _ in range(50):
        provider.reads()
        provider.stops_reading()
        client.transport.deliver()
    provider.reads()
    client.says(b"0\r\n\r\n")
    provider.says(WHOLE)
    assert heard(client).whole
    assert provider.hears().count(b"#") == 5000


# Backpressure of answers


def test_a_slow_client_slows_the_provider_and_gets_everything_once() -> None:
    relay = Relay(watermarks=Watermarks(1000, 100, 16))
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    provider.says(STREAM)
    client.stops_reading()
    for number in range(100):
        provider.says(b"64\r\n%0100d\r\n" % number)
    assert not provider.transport.is_reading()
    assert provider.transport.unread > 5000
    [exchange] = relay.observer.started
    assert exchange.held <= 1000 + 106
    assert exchange.state() == "paused"
    for _ in range(100):
        client.reads()
        client.stops_reading()
        provider.transport.deliver()
    client.reads()
    provider.says(b"0\r\n\r\n")
    answer = heard(client)
    assert answer.whole
    assert answer.body == b"".join(b"%0100d" % number for number in range(100))
    assert exchange.writes[1] > 0
    assert relay.observer.ends == [EndReason.COMPLETE]


def test_the_end_waits_behind_what_waits() -> None:
    relay = Relay(watermarks=Watermarks(1000, 100, 16))
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    provider.says(STREAM)
    client.stops_reading()
    provider.says(b"c8\r\n" + b"x" * 200 + b"\r\n", b"5\r\nhello\r\n0\r\n\r\n")
    assert relay.observer.ends == []
    assert relay.pool.idle_connections == 1  # the provider is done, and serves others
    client.reads()
    assert heard(client).whole
    assert relay.observer.ends == [EndReason.COMPLETE]


def test_a_break_waits_behind_what_waits() -> None:
    relay = Relay(watermarks=Watermarks(1000, 100, 16))
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    provider.says(STREAM)
    client.stops_reading()
    provider.says(b"c8\r\n" + b"x" * 200 + b"\r\n", b"5\r\nhello\r\n")
    provider.resets()
    assert client.end == "open"
    client.reads()
    answer = heard(client)
    assert (answer.whole, answer.body[-5:]) == (False, b"hello")
    assert client.end == "closed"


def test_a_client_that_pipelines_and_does_not_read_is_not_served_without_end() -> None:
    """An answer without a body never waits in a writer, so the next request must."""
    relay = Relay(watermarks=Watermarks(1000, 100, 16))
    client, provider = relay.client(), relay.provider()
    client.stops_reading()
    answers = 0
    for _ in range(200):
        client.says(HEAD)
        if provider.hears():
            provider.says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
            answers += 1
    assert answers < 10
    assert len(client.transport.buffer) < 1000
    for _ in range(200):
        client.reads()
        client.stops_reading()
        while provider.hears():
            provider.says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
            answers += 1
    assert answers == 200
    client.reads()
    assert client.hears().count(b"HTTP/1.1 200 OK") == 200
    assert client.transport.is_reading()


def test_a_stalled_client_is_ended() -> None:
    relay = Relay(watermarks=Watermarks(1000, 100, 16), stall_timeout=60)
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    provider.says(STREAM)
    client.stops_reading()
    provider.says(b"c8\r\n" + b"x" * 200 + b"\r\n")
    relay.sweep(1)
    relay.sweep(50)
    client.reads(1)
    relay.sweep(1)
    relay.sweep(59)
    assert client.end == "open"
    relay.sweep(1)
    assert client.end == "reset"
    assert provider.end == "reset"
    assert relay.observer.ends == [EndReason.CLIENT_STALLED]


def test_events_that_trickle_in_for_a_stalled_client_do_not_keep_it() -> None:
    relay = Relay(watermarks=Watermarks(10_000, 100, 1000), stall_timeout=60)
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    provider.says(STREAM)
    client.stops_reading()
    for _ in range(7):
        provider.says(b"5\r\nevent\r\n")
        relay.sweep(10)
    assert client.end == "reset"
    assert relay.observer.ends == [EndReason.CLIENT_STALLED]
