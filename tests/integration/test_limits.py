"""Every limit on what clients may send: the answer names it, and the provider hears nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import orjson
import pytest

from tests.support.lab import Lab, RunningRelay, eventually
from tests.support.provider import Caller, Provider, answering, ok
from tests.support.wire import End, Wire, chunk, request, response

KB = 1024


async def _error(client: Wire, status: int, code: str) -> str:
    """The client gets this error as JSON and a closed connection. Returns the message."""
    answer = await client.response()
    assert answer.status == status
    assert answer.get("connection") == "close"
    error = orjson.loads(answer.body)["error"]
    assert error["code"] == code
    assert await client.rest() == (b"", End.CLOSED)
    return str(error["message"])


async def test_a_head_of_64_kb_passes_and_a_larger_one_gets_431(lab: Lab) -> None:
    _, relay, client = await lab.between(ok)
    filling = 64 * KB - len(request(headers=["X-Filling: "]))
    await client.send(request(headers=["X-Filling: " + "x" * filling]))
    assert (await client.response()).body == b"ok"
    other = await lab.client(relay.port)
    await other.send(request(headers=["X-Filling: " + "x" * (filling + 1)]))
    await _error(other, 431, "request_head_too_large")


async def test_a_head_without_end_is_refused_before_it_is_held(lab: Lab) -> None:
    provider, _, client = await lab.between(ok)
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
    for _ in range(70):
        await client.send(b"X-Filling: " + b"x" * KB + b"\r\n")
    await _error(client, 431, "request_head_too_large")
    assert provider.callers == []


@pytest.mark.parametrize(("count", "status"), [(100, 200), (101, 431)])
async def test_a_hundred_headers_pass_and_one_more_gets_431(lab: Lab, count: int, status: int) -> None:
    provider, _, client = await lab.between(ok)
    await client.send(request(headers=[f"X-{number}: {number}" for number in range(count - 1)]))  # Host is one
    if status == 200:
        assert (await client.response()).body == b"ok"
    else:
        await _error(client, 431, "too_many_headers")
        assert provider.callers == []


@pytest.mark.parametrize(("length", "status"), [(8 * KB, 200), (8 * KB + 1, 414), (40 * KB, 414)])
async def test_a_target_of_8_kb_passes_and_a_longer_one_gets_414(lab: Lab, length: int, status: int) -> None:
    provider, _, client = await lab.between(ok)
    await client.send(request(target="/" + "x" * (length - 1)))
    if status == 200:
        assert (await client.response()).body == b"ok"
    else:
        await _error(client, 414, "uri_too_long")
        assert provider.callers == []


async def test_a_target_without_end_gets_414_before_its_end(lab: Lab) -> None:
    _, _, client = await lab.between(ok)
    await client.send(b"GET /" + b"x" * (9 * KB))
    await _error(client, 414, "uri_too_long")


async def _accepted(lab: Lab, relay: RunningRelay, provider: Provider, raw: bytes) -> None:
    client = await lab.client(relay.port)
    await client.send(raw)
    assert (await client.response()).body == b"ok"
    assert len(provider.requests[-1].body) == 1000


async def test_a_body_of_its_limit_passes_whether_its_length_is_announced_or_not(lab: Lab) -> None:
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url, max_body=1000)
    await _accepted(lab, relay, provider, request("POST", body=b"x" * 1000))
    chunks = chunk(b"x" * 500) * 2 + b"0\r\n\r\n"
    await _accepted(lab, relay, provider, request("POST", headers=["Transfer-Encoding: chunked"]) + chunks)


async def test_an_announced_body_over_the_limit_gets_413_at_once(lab: Lab) -> None:
    provider, relay, client = await lab.between(ok, max_body=100_000)
    await client.send(request("POST", headers=["Content-Length: 100001"]))
    assert "FLOW_MAX_BODY" in await _error(client, 413, "body_too_large")
    assert provider.callers == []
    assert await relay.ended() == "client_error"


async def test_an_announced_body_over_the_limit_is_not_asked_for_by_100_continue(lab: Lab) -> None:
    _, _, client = await lab.between(ok, max_body=1000)
    await client.send(request("POST", headers=["Expect: 100-continue", "Content-Length: 1001"]))
    assert (await client.until(b"\r\n")).startswith(b"HTTP/1.1 413 ")


async def test_a_chunked_body_over_the_limit_gets_413_and_the_provider_no_whole_request(lab: Lab) -> None:
    provider, relay, client = await lab.between(ok, max_body=1000)
    await client.send(request("POST", headers=["Transfer-Encoding: chunked"]) + chunk(b"x" * 900))
    await eventually(lambda: provider.requests, "the provider has the head")
    await client.send(chunk(b"x" * 101) + b"0\r\n\r\n")
    await _error(client, 413, "body_too_large")
    assert provider.requests[0].body == b""
    assert await relay.ended() == "client_error"


async def test_a_client_that_goes_on_sending_still_reads_its_413(lab: Lab) -> None:
    """Closing at once would answer what it sends with a reset, which may overtake the 413."""
    _, _, client = await lab.between(ok, max_body=1000)
    await client.send(request("POST", headers=["Content-Length: 4000000"]))
    sending = asyncio.create_task(client.send(b"x" * 4_000_000))
    answer = await client.response()
    assert answer.status == 413
    await asyncio.wait([sending])
    assert sending.exception() is None


async def test_one_connection_too_many_gets_503_and_finds_room_later(lab: Lab) -> None:
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url, max_connections=2)
    first, second = await lab.client(relay.port), await lab.client(relay.port)
    for client in (first, second):
        await client.send(request())
        assert (await client.response()).body == b"ok"
    third = await lab.client(relay.port)
    answer = await third.response()
    assert answer.status == 503
    assert answer.get("retry-after") == "1"
    assert orjson.loads(answer.body)["error"]["code"] == "too_many_connections"
    assert await third.rest() == (b"", End.CLOSED)
    third.close()
    first.close()
    await eventually(lambda: relay.relay.connections == 1)
    fourth = await lab.client(relay.port)
    await fourth.send(request())
    assert (await fourth.response()).body == b"ok"
    await second.send(request())
    assert (await second.response()).body == b"ok"
    assert (await relay.metrics())['flow_refused_total{code="too_many_connections"}'] == 1


async def test_pipelined_requests_are_answered_in_order(lab: Lab) -> None:
    provider, relay, client = await lab.between(answering(lambda message: response(message.start.encode())))
    await client.send(b"".join(request(target=f"/{number}") for number in range(50)))
    for number in range(50):
        assert (await client.response()).body == b"GET /%d HTTP/1.1" % number
    assert len(provider.callers) == 1
    lines = await relay.access(50)
    assert [line["path"] for line in lines] == [f"/{number}" for number in range(50)]


async def test_pipelined_bodies_are_told_apart(lab: Lab) -> None:
    provider, _, client = await lab.between(ok)
    chunked = request("POST", headers=["Transfer-Encoding: chunked"]) + chunk(b"two") + b"0\r\nX-Trailer: 1\r\n\r\n"
    await client.send(request("POST", body=b"one") + chunked + request("POST", body=b"") + request("POST", body=b"4"))
    for _ in range(4):
        assert (await client.response()).body == b"ok"
    assert [message.body for message in provider.requests] == [b"one", b"two", b"", b"4"]
    assert "x-trailer" not in provider.requests[1].names


async def test_pipelining_is_bounded_while_an_answer_is_waited_for(lab: Lab) -> None:
    """What a client may send ahead is what the kernel takes and 64 KB."""
    answers = asyncio.Event()

    async def script(caller: Caller) -> None:
        await caller.request()
        await answers.wait()
        await caller.send(response(b"ok"))
        await answering(response(b"ok"))(caller)

    provider, _, client = await lab.between(script)
    one = request(target="/" + "x" * 4000)
    count = 3000
    sending = asyncio.create_task(client.send(one * count))
    await eventually(lambda: provider.requests)
    await asyncio.sleep(0.2)
    assert not sending.done()
    answers.set()
    for _ in range(count):
        assert (await client.response()).body == b"ok"
    await sending
    assert len(provider.requests) == count


async def test_three_hundred_connections_may_come_before_one_is_accepted(lab: Lab) -> None:
    _, relay, _ = await lab.between(ok)
    with contextlib.ExitStack() as stack:
        for _ in range(300):  # the relay, which shares this thread, accepts none meanwhile
            stack.enter_context(socket.create_connection(("127.0.0.1", relay.port), 0.5))
