"""A client's connection: requests in order, answers framed anew. Mostly with a provider behind."""

from __future__ import annotations

import pytest

from flowserver.downstream.h1 import MAX_PIPELINED
from flowserver.errors import EndReason
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.relay.interfaces import DownstreamStream

from ..support.dialogue import Client, FakeHangups, Relay, listener_context, understood
from ..support.h1_client import BAD, CHUNKED_POST, GET, HEAD, OLD, POST, STREAM, WHOLE, heard, target_of
from ..support.recording import RecordingDownstreamEvents

# One request after the other


def test_a_streamed_answer_passes_event_by_event() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    assert target_of(provider.hears()) == b"/v1"
    provider.says(STREAM)
    assert client.hears().startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
    provider.says(b"9\r\ndata: 1\n\n\r\n")
    assert client.hears() == b"9\r\ndata: 1\n\n\r\n"
    provider.says(b"9\r\ndata: 2\n\n\r\n", b"0\r\n\r\n")
    assert client.hears() == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"
    assert client.end == "open"
    assert relay.observer.ends == [EndReason.COMPLETE]


def test_a_whole_answer_keeps_its_length() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    provider.says(WHOLE)
    answer = heard(client)
    assert (answer.whole, answer.body, answer.headers[b"content-length"]) == (True, b"hello", b"5")


def test_requests_that_are_alike_but_for_their_length_and_others_between_them() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    for target, body in ((b"/1", b"a"), (b"/1", b"bcd" * 50), (b"/2", b"efg"), (b"/2", b""), (b"/2", b"h")):
        client.says(
            b"POST %b HTTP/1.1\r\nHost: relay\r\nContent-Length: %d\r\nX-A: b\r\n\r\n%b" % (target, len(body), body)
        )
        wire = provider.hears()
        assert target_of(wire) == target
        assert wire.count(b"content-length: %d\r\n" % len(body)) == 1
        assert wire.endswith(b"\r\n\r\n" + body)
        provider.says(WHOLE)
        assert heard(client).body == b"hello"


def test_heads_leave_with_the_bytes_that_came_with_them() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    for number in (1, 2):
        client.says(POST.replace(b"/v1", b"/v1/chat/completions") + b"[1,2]")
        assert provider.hears().endswith(b"\r\n\r\n[1,2]")
        provider.says(WHOLE)
        assert heard(client).body == b"hello"
        assert (provider.transport.writes, client.transport.writes) == (number, number)


def test_a_head_whose_body_is_late_does_not_wait_for_it() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    provider.says(WHOLE[:-5])
    assert client.hears().endswith(b"\r\n\r\n")
    provider.says(b"hello")
    assert client.hears() == b"hello"


@pytest.mark.parametrize("ending", ["break_off", "send_end"])
def test_a_head_whose_body_never_comes_is_sent_all_the_same(ending: str) -> None:
    def open_exchange(request: RequestHead, stream: DownstreamStream) -> None:
        stream.attach(RecordingDownstreamEvents())
        head = ResponseHead(200, [], content_length=5)
        head.body_follows = True
        stream.send_head(head)
        getattr(stream, ending)()

    client = Client(listener_context(open_exchange))
    client.says(GET)
    assert client.hears().startswith(b"HTTP/1.1 200")


def test_a_head_and_a_body_wait_together_for_a_client_that_lags() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    client.transport.block()
    client.connection.pause_writing()
    provider.says(WHOLE)
    client.connection.resume_writing()
    client.transport.drain()
    answer = heard(client)
    assert (answer.whole, answer.body) == (True, b"hello")


def test_a_connection_serves_one_request_after_the_other() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    for _ in range(3):
        client.says(GET)
        provider.says(WHOLE)
        assert heard(client).whole
    assert client.end == "open"
    assert relay.observer.ends == [EndReason.COMPLETE] * 3
    assert relay.pool.connects == 1


def test_a_request_byte_by_byte() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    request = POST + b"hello"
    client.says(*[request[i : i + 1] for i in range(len(request))])
    assert provider.hears().endswith(b"\r\n\r\nhello")
    provider.says(WHOLE)
    assert heard(client).body == b"hello"


def test_pipelined_requests_are_answered_in_order() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET.replace(b"/v1", b"/1") + GET.replace(b"/v1", b"/2"), GET.replace(b"/v1", b"/3")[:20])
    assert target_of(provider.hears()) == b"/1"
    provider.says(WHOLE)
    assert target_of(provider.hears()) == b"/2"  # on the same connection, inside the end of the first
    client.says(GET.replace(b"/v1", b"/3")[20:])
    assert provider.hears() == b""
    provider.says(WHOLE)
    assert target_of(provider.hears()) == b"/3"
    provider.says(WHOLE)
    answer = heard(client)
    for _ in range(2):
        assert answer.body == b"hello"
        answer = understood(answer.rest)
    assert (answer.whole, answer.rest) == (True, b"")


def test_a_request_behind_a_body_is_the_next_one() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(CHUNKED_POST + b"5\r\nhello\r\n0\r\n\r\n" + GET.replace(b"/v1", b"/2"))
    assert b"hello" in provider.hears()
    provider.says(WHOLE)
    assert target_of(provider.hears()) == b"/2"


def test_reading_ahead_is_bounded_and_goes_on() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    request = GET.replace(b"\r\n\r\n", b"\r\nX: " + b"x" * 1000 + b"\r\n\r\n")
    many = request * (3 * MAX_PIPELINED // len(request))
    client.says(many[:10_000], many[10_000:])
    assert not client.transport.is_reading()
    assert client.transport.unread > 0
    count = many.count(b"GET") + 1
    for _ in range(count):
        provider.says(WHOLE)
        client.transport.deliver()
    assert len(relay.observer.ends) == count
    assert client.hears().count(b"hello") == count
    assert client.transport.is_reading()


@pytest.mark.parametrize("by_fin", [False, True])
def test_a_client_that_leaves_while_it_is_not_read_is_noticed(by_fin: bool) -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET, b"x" * MAX_PIPELINED)
    assert not client.transport.is_reading()
    relay.hangups.hang_up(by_fin=by_fin)
    assert provider.end == "reset"
    assert relay.observer.ends == [EndReason.CLIENT_GONE]
    client.transport.lose()
    assert not relay.hangups.watched


# Framing


def test_http_1_0_gets_no_chunks_and_the_end_is_the_connection_s() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(OLD)
    provider.says(STREAM + b"5\r\nhello\r\n0\r\n\r\n")
    answer = heard(client)
    assert (answer.whole, answer.body) == (True, b"hello")
    assert b"transfer-encoding" not in answer.headers
    assert answer.headers[b"connection"] == b"close"
    assert client.end == "closed"


def test_a_body_that_ends_with_the_provider_s_connection_becomes_chunks() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    provider.says(b"HTTP/1.1 200 OK\r\n\r\nhello")
    provider.shuts()
    answer = heard(client)
    assert (answer.whole, answer.body, answer.headers[b"transfer-encoding"]) == (True, b"hello", b"chunked")
    assert client.end == "open"


@pytest.mark.parametrize(
    ("request_", "said", "length"),
    [
        (HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"5"),
        (HEAD, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        (GET, b"HTTP/1.1 204 No Content\r\n\r\n", None),
        (GET, b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", None),
        (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"5"),
        (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"0"),
    ],
)
def test_an_answer_without_a_body_has_none_and_the_connection_goes_on(
    request_: bytes, said: bytes, length: bytes | None
) -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    for _ in range(2):
        client.says(request_)
        provider.says(said)
        method = request_.split(b" ")[0]
        data = client.hears()
        answer = understood(data, method=method)
        assert (answer.whole, answer.body, answer.rest) == (True, b"", b"")
        assert answer.headers.get(b"content-length") == length
        assert data.endswith(b"\r\n\r\n")
        assert data.count(b"\r\n\r\n") == 1
    assert client.end == "open"


def test_interim_answers_reach_http_1_1_only() -> None:
    for request, interim in ((GET, [103]), (OLD, [])):
        relay = Relay()
        client, provider = relay.client(), relay.provider()
        client.says(request)
        provider.says(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + WHOLE)
        answer = heard(client)
        assert (answer.interim, answer.body) == (interim, b"hello")


def test_an_odd_status_and_odd_values_pass() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    provider.says(b"HTTP/1.1 600 \xc3\xa4 b\r\nX: \xe4\tb\r\nY:\r\nContent-Length: 0\r\n\r\n")
    answer = heard(client)
    assert (answer.status, answer.headers[b"x"], answer.headers[b"y"]) == (600, b"\xe4\tb", b"")


def test_an_answer_that_is_longer_than_it_says_is_cut_to_its_length() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    provider.says(WHOLE + b", evil")
    answer = heard(client)
    assert (answer.whole, answer.body, answer.rest) == (True, b"hello", b"")
    assert provider.end == "reset"


# The connection's own edges


def test_a_lost_connection_is_forgotten() -> None:
    hangups = FakeHangups()
    context = listener_context(lambda request, stream: None, hangups=hangups)
    client = Client(context)
    assert len(context.connections) == 1
    client.transport.lose()
    assert not context.connections
    assert hangups.watched == {}


def test_what_an_exchange_says_to_a_client_that_is_gone_is_dropped() -> None:
    streams: list[DownstreamStream] = []

    def open_exchange(request: RequestHead, stream: DownstreamStream) -> None:
        stream.attach(RecordingDownstreamEvents())
        streams.append(stream)

    client = Client(listener_context(open_exchange))
    client.says(GET)
    client.resets()
    [stream] = streams
    stream.send_interim(ResponseHead(103, []))
    stream.send_head(ResponseHead(200, []))
    stream.send_data(b"x")
    stream.pause_reading()
    stream.resume_reading()
    stream.send_end()
    stream.break_off()
    assert (stream.held, stream.writes) == (0, (0, 0))
    assert client.hears() == b""


def test_its_state_can_be_seen() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    assert repr(client.connection) == "<DownstreamH1 open served=0 stream=None>"
    client.says(POST)
    assert repr(client.connection).endswith("stream=<H1Stream POST upload=open response=head held=0>>")
    client.says(b"hello")
    provider.says(STREAM)
    assert repr(client.connection).endswith("stream=<H1Stream POST upload=whole response=body held=0>>")
    provider.says(b"0\r\n\r\n")
    assert repr(client.connection) == "<DownstreamH1 open served=1 stream=None>"
    client.says(BAD)
    assert repr(client.connection) == "<DownstreamH1 lingering served=1 stream=None>"
    assert repr(client.transport.get_protocol()).startswith("<Linger reading left=")
