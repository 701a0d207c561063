"""A client's connection: requests in order, answers framed anew, and how each ends. Mostly with a provider behind."""

from __future__ import annotations

import orjson
import pytest

from flowserver.downstream.h1 import FIN_FOLLOWS, FIN_GRACE, MAX_PIPELINED
from flowserver.downstream.linger import LINGER_SILENCE
from flowserver.errors import EndReason
from flowserver.flow.bounded_buffer import Watermarks
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.relay.interfaces import DownstreamStream

from ..support.clock import FakeClock
from ..support.dialogue import Answer, Client, FakeHangups, Relay, listener_context, understood
from ..support.recording import RecordingDownstreamEvents, RecordingObserver

GET = b"GET /v1 HTTP/1.1\r\nHost: relay.test\r\n\r\n"
HEAD = b"HEAD /v1 HTTP/1.1\r\nHost: relay.test\r\n\r\n"
OLD = b"GET /v1 HTTP/1.0\r\n\r\n"
POST = b"POST /v1 HTTP/1.1\r\nHost: relay.test\r\nContent-Length: 5\r\n\r\n"
CHUNKED_POST = b"POST /v1 HTTP/1.1\r\nHost: relay.test\r\nTransfer-Encoding: chunked\r\n\r\n"
BAD = b"GET / HTTP/1.1\r\n\r\n"

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def target_of(request: bytes) -> bytes:
    return request.split(b" ")[1]


def heard(client: Client, *, method: bytes = b"GET") -> Answer:
    """What the client makes of what came since it last listened."""
    return understood(client.hears(), closed=client.end in ("closed", "half-closed"), method=method)


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
    client.says(POST, b"he")
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
    """An answer without a body never waits in an outlet, so the next request must."""
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


# Ends


def test_a_provider_that_breaks_off_breaks_the_answer() -> None:
    for said in (STREAM, STREAM + b"5\r\nhello\r\n", STREAM + b"5\r\nhello\r\n0\r\n", WHOLE[:-1]):
        relay = Relay()
        client, provider = relay.client(), relay.provider()
        client.says(GET)
        provider.says(said)
        provider.shuts()
        provider.transport.lose()
        answer = heard(client)
        assert (answer.status, answer.whole) == (200, False)
        assert client.end == "reset" if said is WHOLE[:-1] else client.end == "closed" or client.end == "reset"
        assert relay.observer.ends == [EndReason.UPSTREAM_FAILED]


def test_where_a_close_would_look_like_an_end_the_client_is_reset() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(OLD)
    provider.says(STREAM + b"5\r\nhello\r\n")
    provider.resets()
    assert client.hears().endswith(b"hello")
    assert client.end == "reset"


def test_a_provider_that_fails_before_its_head_gives_an_error_and_the_connection_goes_on() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    provider.resets()
    answer = heard(client)
    assert (answer.status, answer.whole, answer.headers[b"content-type"]) == (502, True, b"application/json")
    assert orjson.loads(answer.body)["error"]["code"] == "upstream_failed"
    assert client.end == "open"
    provider = relay.provider()
    client.says(GET)
    provider.says(WHOLE)
    assert heard(client).whole


def test_an_error_answer_to_head_has_no_body() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(HEAD)
    provider.resets()
    data = client.hears()
    assert data.startswith(b"HTTP/1.1 502 ")
    assert data.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 20", STREAM, STREAM + b"5\r\nhel", WHOLE[:-3]])
@pytest.mark.parametrize("how", ["reset", "shut", "shut over TLS"])
def test_a_client_that_leaves_ends_the_provider_s_request(said: bytes, how: str) -> None:
    relay = Relay()
    client, provider = relay.client(tls=how == "shut over TLS"), relay.provider()
    client.says(GET)
    provider.says(said)
    relay.clock.advance(2 * FIN_FOLLOWS)
    if how == "reset":
        client.resets()
    else:
        client.shuts()
    assert provider.end == "reset"
    assert relay.observer.ends == [EndReason.CLIENT_GONE]
    provider.transport.lose()
    client.transport.lose()
    assert len(relay.observer.ends) == 1
    assert relay.context.connections == set()


@pytest.mark.parametrize("request_", [OLD, GET, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")])
def test_whatever_is_said_of_the_connection_a_fin_is_a_leave(request_: bytes) -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(request_)
    relay.clock.advance(2 * FIN_FOLLOWS)
    client.shuts()
    assert provider.end == "reset"


def test_a_client_that_leaves_with_bytes_waiting_for_it_is_not_waited_for() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    client.stops_reading()
    provider.says(STREAM + b"5\r\nhello\r\n")
    relay.clock.advance(2 * FIN_FOLLOWS)
    client.shuts()
    assert client.end == "reset"
    assert relay.observer.ends == [EndReason.CLIENT_GONE]


def test_bytes_behind_a_request_are_no_leave() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    relay.clock.advance(2 * FIN_FOLLOWS)
    client.says(GET)
    provider.says(WHOLE)
    provider.says(WHOLE)
    assert client.hears().count(b"hello") == 2
    assert client.end == "open"


def test_an_answer_that_has_left_goes_out_to_a_client_that_shuts_its_side() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    client.stops_reading()
    provider.says(WHOLE)
    client.shuts()
    client.reads()
    assert heard(client).whole
    assert relay.observer.ends == [EndReason.COMPLETE]


def test_a_client_that_shuts_in_the_middle_of_its_request_is_gone() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(POST, b"he")
    client.shuts()
    assert provider.end == "reset"
    assert relay.observer.ends == [EndReason.CLIENT_GONE]


def test_a_fin_right_behind_a_request_may_be_its_end_and_the_answer_is_waited_for() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    client.shuts()
    relay.sweep(FIN_GRACE / 2)
    assert client.end == "open"
    provider.says(STREAM + b"5\r\nhello\r\n0\r\n\r\n")
    answer = heard(client)
    assert (answer.interim, answer.whole, answer.body) == ([], True, b"hello")
    assert answer.headers[b"connection"] == b"close"
    assert client.end == "closed"


def test_but_not_for_ever() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    client.shuts()
    assert relay.observer.ends == []
    relay.sweep(FIN_GRACE)
    assert provider.end == "reset"
    assert relay.observer.ends == [EndReason.CLIENT_GONE]


def test_a_half_closed_client_that_hangs_up_is_gone() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    client.shuts()
    relay.hangups.hang_up(by_fin=True)
    assert provider.end == "open"
    relay.hangups.hang_up()
    assert provider.end == "reset"
    assert relay.observer.ends == [EndReason.CLIENT_GONE]


def test_a_client_that_shuts_its_side_is_served_where_that_is_wanted() -> None:
    relay = Relay(serves_half_closed=True)
    client, provider = relay.client(), relay.provider()
    client.says(GET)
    provider.says(STREAM + b"5\r\nhello\r\n")
    relay.clock.advance(2 * FIN_FOLLOWS)
    client.shuts()
    relay.sweep(2 * FIN_GRACE)
    provider.says(b"7\r\n, world\r\n")
    provider.says(b"0\r\n\r\n")
    answer = heard(client)
    assert (answer.whole, answer.body) == (True, b"hello, world")
    assert client.end == "closed"


def test_a_client_that_shuts_its_side_gets_all_its_answers() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET + GET)
    client.shuts()
    provider.says(WHOLE)
    assert client.end == "open"
    provider.says(WHOLE)
    assert client.hears().count(b"hello") == 2
    assert client.end == "closed"


def test_a_client_that_lags_and_shuts_its_side_gets_all_its_answers() -> None:
    instant = Instant(body=b"x" * 500)
    client = Client(listener_context(instant.open_exchange, watermarks=Watermarks(1000, 100, 16)))
    client.stops_reading()
    client.says(GET * 10)
    client.shuts()
    assert len(instant.events) < 10
    for _ in range(10):
        client.reads()
        client.stops_reading()
    client.reads()
    assert client.hears().count(b"x" * 500) == 10
    assert client.end == "closed"


def test_a_client_that_shuts_behind_half_a_request_gets_the_answer_before_it() -> None:
    relay = Relay()
    client, provider = relay.client(), relay.provider()
    client.says(GET + GET[:20])
    client.shuts()
    provider.says(WHOLE)
    assert client.hears().count(b"hello") == 1
    assert client.end == "closed"


@pytest.mark.parametrize("serves", [False, True])
def test_over_tls_there_is_no_half_close(serves: bool) -> None:
    relay = Relay(serves_half_closed=serves)
    client, provider = relay.client(tls=True), relay.provider()
    client.says(GET)
    client.shuts()
    assert provider.end == "reset"


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
    assert context.connections == set()


# Answers that are there at once, as those of the admin pages


class Instant:
    """Opens exchanges that are answered before the call returns."""

    def __init__(self, body: bytes = b"hello", status: int = 200) -> None:
        self.body = body
        self.status = status
        self.events: list[RecordingDownstreamEvents] = []

    def open_exchange(self, request: RequestHead, stream: DownstreamStream) -> None:
        events = RecordingDownstreamEvents()
        self.events.append(events)
        stream.attach(events)
        stream.send_head(ResponseHead(self.status, [], content_length=len(self.body)))
        stream.send_data(self.body)
        stream.send_end()


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
    client.says(POST.replace(b": 5", b": %d" % len(GET)) + GET)
    answer = heard(client)
    assert (answer.whole, answer.rest, answer.headers[b"connection"]) == (True, b"", b"close")
    assert len(instant.events) == 1
    assert client.end == "half-closed"


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
    ahead = POST + b"hello" + GET * (2 * MAX_PIPELINED // len(GET))
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


# Deadlines and going down


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


def test_a_drain_closes_what_is_idle_and_lets_answers_finish() -> None:
    relay = Relay()
    idle, busy, provider = relay.client(), relay.client(), relay.provider()
    busy.says(GET)
    for client in (idle, busy):
        client.connection.drain()
    assert idle.end == "closed"
    assert busy.end == "open"
    provider.says(WHOLE)
    answer = heard(busy)
    assert (answer.whole, answer.headers[b"connection"]) == (True, b"close")
    assert busy.end == "closed"


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
    assert relay.observer.ends == [EndReason.DRAIN]


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
    assert relay.observer.ends == [EndReason.DRAIN]


# The connection's own edges


def test_a_lost_connection_is_forgotten() -> None:
    hangups = FakeHangups()
    context = listener_context(lambda request, stream: None, hangups=hangups)
    client = Client(context)
    assert len(context.connections) == 1
    client.transport.lose()
    assert context.connections == set()
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
