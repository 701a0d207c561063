"""What passes from side to side, what ends here, and what the relay adds."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from tests.support.lab import Lab, free_port
from tests.support.provider import answering, ok
from tests.support.wire import Message, chunk, request, response

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def _arrives(lab: Lab, *headers: str, **settings: object) -> Message:
    """What the provider got of a request with these header lines."""
    provider, _, client = await lab.between(ok, **settings)
    await client.send(request("GET", "/v1/test", headers))
    assert (await client.response()).body == b"ok"
    [message] = provider.requests
    return message


async def _comes_back(lab: Lab, *headers: str) -> Message:
    """What the client got of an answer with these header lines."""
    _, _, client = await lab.between(answering(response(b"ok", headers)))
    await client.send(request())
    return await client.response()


HOP_BY_HOP = (
    "Connection: X-Mine, close",
    "Proxy-Connection: keep-alive",
    "Keep-Alive: timeout=5",
    "Proxy-Authenticate: Basic",
    "Proxy-Authorization: Basic abc",
    "TE: trailers",
    "Trailer: X-Sum",
    "X-Mine: ends here",
)
STRIPPED = {line.partition(":")[0].lower() for line in HOP_BY_HOP}


async def test_fields_of_one_hop_do_not_reach_the_provider(lab: Lab) -> None:
    message = await _arrives(lab, *HOP_BY_HOP, "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA", "X-Kept: 1")
    assert not set(message.names) & (STRIPPED | {"upgrade", "http2-settings"})
    assert message.get("x-kept") == "1"


async def test_fields_of_one_hop_do_not_reach_the_client(lab: Lab) -> None:
    message = await _comes_back(lab, *HOP_BY_HOP, "X-Kept: 1")
    assert not set(message.names) & STRIPPED
    assert message.get("x-kept") == "1"
    assert message.body == b"ok"


async def test_everything_else_passes_in_order_and_as_often_as_it_came(lab: Lab) -> None:
    lines = ["X-B: 2", "X-A: 1", "X-B: 3", "Accept: text/event-stream", "Authorization: Bearer mine", "X-Empty:"]
    kept = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    message = await _arrives(lab, *lines)
    assert [field for field in message.headers if field in kept] == kept
    back = await _comes_back(lab, "Set-Cookie: a=1", "Set-Cookie: b=2", "Server: theirs", "X-Latin: \xe9")
    assert back.all("set-cookie") == ["a=1", "b=2"]
    assert back.get("server") == "theirs"
    assert back.get("x-latin") == "\xe9"


async def test_the_provider_is_asked_for_by_its_own_name(lab: Lab) -> None:
    provider, _, client = await lab.between(ok)
    await client.send(b"GET http://relay.test/v1/test?q=1 HTTP/1.1\r\nHost: relay.test\r\n\r\n")
    assert (await client.response()).status == 200
    [message] = provider.requests
    assert message.start == "GET /v1/test?q=1 HTTP/1.1"
    assert message.get("host") == f"127.0.0.1:{provider.port}"


async def test_the_base_urls_path_comes_first_and_an_overlap_once(lab: Lab) -> None:
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url + "/openai/v1")
    client = await lab.client(relay.port)
    for target in ("/v1/chat/completions?a=/v1", "/chat/completions", "/"):
        await client.send(request(target=target))
        assert (await client.response()).status == 200
    assert [message.start.split()[1] for message in provider.requests] == [
        "/openai/v1/chat/completions?a=/v1",
        "/openai/v1/chat/completions",
        "/openai/v1/",
    ]


async def test_an_unencoded_answer_is_asked_for(lab: Lab) -> None:
    message = await _arrives(lab, "Accept-Encoding: gzip, br", "Accept-Encoding: zstd")
    assert message.all("accept-encoding") == ["identity"]


async def test_an_encoded_answer_passes_all_the_same(lab: Lab) -> None:
    back = await _comes_back(lab, "Content-Encoding: gzip")
    assert (back.get("content-encoding"), back.body) == ("gzip", b"ok")


async def test_framing_is_derived_anew_towards_the_provider(lab: Lab) -> None:
    provider, _, client = await lab.between(ok)
    chunked = request("POST", headers=["Transfer-Encoding: Chunked"])
    await client.send(chunked + chunk(b"a") + b"0;x=y\r\nX-T: 1\r\n\r\n")
    await client.send(request("POST", headers=["Content-Length: 0005"]) + b"hello")
    await client.send(request("DELETE"))
    for _ in range(3):
        assert (await client.response()).status == 200
    one, two, three = provider.requests
    assert (one.all("transfer-encoding"), one.all("content-length"), one.body) == (["chunked"], [], b"a")
    assert (two.all("transfer-encoding"), two.all("content-length"), two.body) == ([], ["5"], b"hello")
    assert (three.all("transfer-encoding"), three.all("content-length")) == ([], [])


async def test_an_empty_body_stays_an_empty_body(lab: Lab) -> None:
    provider, _, client = await lab.between(ok)
    await client.send(request("POST", body=b""))
    assert (await client.response()).status == 200
    assert provider.requests[0].get("content-length") == "0"


async def test_the_answers_trailers_end_here(lab: Lab) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"
    _, _, client = await lab.between(answering(raw))
    await client.send(request())
    head = await client.head()
    assert "trailer" not in head.names
    assert await client.exactly(len(b"2\r\nok\r\n0\r\n\r\n")) == b"2\r\nok\r\n0\r\n\r\n"


# --- identity and traces ---


async def test_a_sane_request_id_is_passed_on_and_given_back(lab: Lab) -> None:
    provider, relay, client = await lab.between(ok)
    await client.send(request(headers=["X-Request-ID: mine-1.a:b/c=+_"]))
    assert (await client.response()).get("x-request-id") == "mine-1.a:b/c=+_"
    assert provider.requests[0].get("x-request-id") == "mine-1.a:b/c=+_"
    [line] = await relay.access()
    assert line["request_id"] == "mine-1.a:b/c=+_"


@pytest.mark.parametrize("value", ["", "two words", 'quo"ted', "x" * 129, "caf\xe9", "<script>"])
async def test_another_request_id_is_replaced_on_both_sides(lab: Lab, value: str) -> None:
    provider, _, client = await lab.between(ok)
    await client.send(request(headers=[f"X-Request-ID: {value}"]))
    made = (await client.response()).get("x-request-id")
    assert made is not None
    assert len(made) == 32
    assert made != value
    assert provider.requests[0].get("x-request-id") == made


async def test_each_request_gets_an_id_of_its_own_and_the_providers_does_not_pass(lab: Lab) -> None:
    _, _, client = await lab.between(answering(response(b"ok", ["X-Request-Id: theirs"])))
    ids = []
    for _ in range(3):
        await client.send(request())
        ids.append((await client.response()).get("x-request-id"))
    assert len(set(ids)) == 3
    assert "theirs" not in ids


async def test_a_sane_trace_passes(lab: Lab) -> None:
    message = await _arrives(lab, f"Traceparent: {TRACE}", "Tracestate: a=1", "Tracestate: b=2")
    assert message.get("traceparent") == TRACE
    assert message.all("tracestate") == ["a=1", "b=2"]


@pytest.mark.parametrize("value", ["", "00-0-0-00", TRACE.upper(), "00-" + "0" * 32 + TRACE[35:]])
async def test_a_malformed_trace_does_not_pass_nor_its_state(lab: Lab, value: str) -> None:
    message = await _arrives(lab, f"Traceparent: {value}", "Tracestate: a=1")
    assert not {"traceparent", "tracestate"} & set(message.names)


# --- who was here ---


async def test_via_names_this_relay_behind_the_ones_before(lab: Lab) -> None:
    message = await _arrives(lab, "Via: 1.0 first", "Via: 1.1 second")
    [via] = message.all("via")
    assert via.startswith("1.0 first, 1.1 second, 1.1 flowserver-")


async def test_via_names_the_version_the_client_spoke(lab: Lab) -> None:
    provider, _, client = await lab.between(ok)
    await client.send(request(version="1.0"))
    assert (await client.response()).status == 200
    assert str(provider.requests[0].get("via")).startswith("1.0 flowserver-")


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


async def test_a_relay_before_itself_is_a_loop(lab: Lab) -> None:
    """By way of another port: its own address is refused at the start."""
    port = free_port()

    async def lead_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_relay, to_relay = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_copy(reader, to_relay), _copy(from_relay, writer))

    async with await asyncio.start_server(lead_back, "127.0.0.1", 0) as server:
        detour = server.sockets[0].getsockname()[1]
        relay = await lab.relay(f"http://127.0.0.1:{detour}", listen=f"127.0.0.1:{port}", upstream_keepalive=0)
        client = await lab.client(relay.port)
        await client.send(request())
        answer = await client.response()
        assert answer.status == 508
        assert orjson.loads(answer.body)["error"]["code"] == "loop_detected"
        assert [line["status"] for line in await relay.access(2)] == [508, 508]


async def test_a_relay_before_another_is_none(lab: Lab) -> None:
    provider = await lab.provider(ok)
    second = await lab.relay(provider.url)
    first = await lab.relay(second.url, upstream_keepalive=0)
    client = await lab.client(first.port)
    await client.send(request())
    assert (await client.response()).body == b"ok"
    assert str(provider.requests[0].get("via")).count("flowserver-") == 2


# --- credentials ---


async def test_the_clients_credentials_pass_where_the_relay_has_none(lab: Lab) -> None:
    message = await _arrives(lab, "Authorization: Bearer client", "X-Api-Key: client")
    assert (message.get("authorization"), message.get("x-api-key")) == ("Bearer client", "client")


@pytest.mark.parametrize("lines", [[], ["Authorization: Bearer client", "Authorization: Basic abc"]])
async def test_the_relays_key_replaces_the_clients(lab: Lab, lines: list[str]) -> None:
    message = await _arrives(lab, *lines, upstream_api_key="the-relays-own")
    assert message.all("authorization") == ["Bearer the-relays-own"]


async def test_the_relays_key_can_not_be_stripped_by_the_client(lab: Lab) -> None:
    """By naming it in Connection."""
    message = await _arrives(
        lab, "Connection: authorization, x-request-id, via, host", upstream_api_key="the-relays-own"
    )
    assert message.get("authorization") == "Bearer the-relays-own"
    assert message.get("x-request-id")
    assert message.get("via")
    provider_host = message.get("host")
    assert provider_host is not None
    assert provider_host.startswith("127.0.0.1")


async def test_a_provider_is_told_nothing_that_was_not_sent(lab: Lab) -> None:
    message = await _arrives(lab)
    assert set(message.names) == {"host", "accept-encoding", "via", "x-request-id"}


async def test_header_names_keep_their_order_on_many_requests(lab: Lab) -> None:
    provider, _, client = await lab.between(ok)
    for number in range(20):
        await client.send(request(headers=[f"X-{n}: {number}" for n in range(40)]))
        assert (await client.response()).status == 200
    for number, message in enumerate(provider.requests):
        assert [f for f in message.headers if f[0][2:].isdigit()] == [(f"x-{n}", str(number)) for n in range(40)]
