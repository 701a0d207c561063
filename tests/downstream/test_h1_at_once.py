"""Refusals, and answers that are there at once, as those of the admin pages."""

from __future__ import annotations

import orjson
import pytest

from flowserver.downstream.h1 import MAX_PIPELINED
from flowserver.downstream.linger import LINGER_SILENCE
from flowserver.flow.bounded_buffer import Watermarks
from flowserver.http.h1_server import MAX_SKIPPED
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.relay.interfaces import DownstreamStream

from ..support.clock import FakeClock
from ..support.dialogue import Client, FakeHangups, Relay, listener_context, understood
from ..support.h1_client import BAD, CHUNKED_POST, GET, POST, WHOLE, Instant, heard
from ..support.recording import RecordingDownstreamEvents, RecordingObserver

# Refusals


def test_a_malformed_request_is_refused_and_nothing_behind_it_is_served() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(BAD + GET)
    answer = heard(client)
    assert (answer.status, answer.whole, answer.rest) == (400, True, b"")
    assert answer.headers[b"connection"] == b"close"
    assert orjson.loads(answer.body)["error"]["type"] == "invalid_request_error"
    assert client.end == "half-closed"
    client.says(GET)
    assert client.hears() == provider.hears() == b""
    relay.sweep(LINGER_SILENCE)
    assert client.end == "reset"
    assert [error.status for error in relay.observer.refused] == [400]


def test_a_malformed_request_behind_a_good_one_waits_for_its_turn() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET + BAD)
    provider.says(WHOLE)
    answer = heard(client)
    assert answer.body == b"hello"
    assert understood(answer.rest).status == 400


def test_a_refusal_over_tls_lingers_too() -> None:
    relay = Relay()
    client = relay.client(tls=True)
    client.says(BAD)
    assert heard(client).status == 400
    assert client.end == "half-closed"


def test_one_connection_too_many_is_refused() -> None:
    observer = RecordingObserver()
    context = listener_context(lambda request, stream: None, max_connections=1, observer=observer)
    first, second = Client(context), Client(context)
    answer = heard(second)
    assert (answer.status, answer.headers[b"retry-after"]) == (503, b"1")
    assert first.hears() == b""
    assert second.end == "half-closed"
    for client in (first, second):
        client.transport.lose()
    assert not context.connections


# Answers that are there at once, as those of the admin pages


def test_after_an_answer_that_was_there_at_once_the_connection_goes_on() -> None:
    instant = Instant()
    client = Client(listener_context(instant.open_exchange))
    for _ in range(3):
        client.says(GET)
        answer = heard(client)
        assert (answer.whole, answer.body) == (True, b"hello")
        assert b"connection" not in answer.headers
    assert client.end == "open"
    assert [events.log for events in instant.events] == [["finished"]] * 3


def test_pipelined_requests_that_are_answered_at_once() -> None:
    instant = Instant()
    client = Client(listener_context(instant.open_exchange))
    count = 2 * MAX_PIPELINED // len(GET)
    client.says(GET * count)
    assert client.hears().count(b"hello") == count
    assert client.transport.is_reading()
    client.says(GET)
    assert client.hears().count(b"hello") == 1


def test_a_body_behind_an_answer_that_was_there_at_once_is_no_request() -> None:
    instant = Instant()
    client = Client(listener_context(instant.open_exchange))
    client.says(POST.replace(b": 5", b": %d" % (MAX_SKIPPED + 1)) + GET)
    answer = heard(client)
    assert (answer.whole, answer.rest, answer.headers[b"connection"]) == (True, b"", b"close")
    assert len(instant.events) == 1
    assert client.end == "half-closed"


@pytest.mark.parametrize("cut", [0, 1, len(POST), len(POST) + 1, len(POST) + len(GET), len(POST) + len(GET) + 1])
def test_behind_an_answer_that_was_there_at_once_a_short_body_is_dropped(cut: int) -> None:
    instant = Instant()
    client = Client(listener_context(instant.open_exchange))
    sent = POST.replace(b": 5", b": %d" % len(GET)) + GET
    client.says(sent[:cut], sent[cut:] + GET + sent[:cut], sent[cut:])
    answers = client.hears()
    assert answers.count(b"HTTP/1.1 200 ") == len(instant.events) == 3
    assert b"connection" not in answers
    assert client.end == "open"


def test_a_client_that_keeps_the_rest_of_a_short_body_has_as_long_as_an_idle_one() -> None:
    clock = FakeClock()
    context = listener_context(Instant().open_exchange, keepalive_timeout=50.0, clock=clock)
    client = Client(context)
    client.says(POST, b"he")
    assert heard(client).whole
    for seconds, end in ((49, "open"), (2, "closed")):
        now = clock.advance(seconds)
        for connection in list(context.connections):
            connection.sweep(now)
        assert client.end == end


def test_what_is_pipelined_behind_a_body_that_was_answered_early_is_dropped() -> None:
    """The rest must not be kept: to stop reading for it would stop the lingering connection."""
    streams: list[DownstreamStream] = []

    class AnswersItsBody(RecordingDownstreamEvents):
        def on_downstream_data(self, data: bytes) -> None:
            answer(streams[-1])

    def open_exchange(request: RequestHead, stream: DownstreamStream) -> None:
        streams.append(stream)
        stream.attach(AnswersItsBody())

    def answer(stream: DownstreamStream) -> None:
        stream.send_head(ResponseHead(200, [], content_length=5))
        stream.send_data(b"hello")
        stream.send_end()

    hangups = FakeHangups()
    client = Client(listener_context(open_exchange, hangups=hangups))
    ahead = CHUNKED_POST + b"5\r\nhello\r\n0\r\n\r\n" + GET * (2 * MAX_PIPELINED // len(GET))
    client.says(GET, ahead[:100], ahead[100:])
    answer(streams[0])
    assert client.hears().count(b"hello") == 2
    assert len(streams) == 2
    assert client.end == "half-closed"
    assert client.transport.is_reading()
    assert hangups.watched == {}


def test_a_client_that_does_not_read_is_not_answered_at_once_without_end() -> None:
    instant = Instant(body=b"x" * 500)
    client = Client(listener_context(instant.open_exchange, watermarks=Watermarks(1000, 100, 16)))
    client.stops_reading()
    client.says(*[GET] * 1000)
    assert len(client.transport.buffer) < 2000
    for _ in range(1000):
        client.reads()
        client.stops_reading()
        client.transport.deliver()
    assert len(instant.events) == 1000
    client.reads()
    assert client.hears().count(b"x" * 500) == 1000
