"""How an exchange with a client over HTTP/1.1 ends: failures, FINs, resets."""

from __future__ import annotations

import orjson
import pytest

from flowserver.downstream.h1 import FIN_FOLLOWS, FIN_GRACE
from flowserver.errors import EndReason
from flowserver.flow.bounded_buffer import Watermarks

from ..support.dialogue import Client, Relay, listener_context
from ..support.h1_client import GET, HEAD, OLD, POST, STREAM, WHOLE, Instant, heard


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
    assert not relay.context.connections


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
