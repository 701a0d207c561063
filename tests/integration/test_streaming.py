"""Answers of every framing pass unchanged, events as they come; connections are reused on both sides."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from tests.support.lab import Lab, chat, eventually, numbers, simulate
from tests.support.provider import Caller, answering, ok
from tests.support.wire import CHUNKED_HEAD, LAST_CHUNK, End, chunk, request, response


async def test_an_event_reaches_the_client_before_the_next_is_sent(lab: Lab) -> None:
    goes = asyncio.Semaphore(0)

    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED_HEAD)
        for number in range(20):
            await goes.acquire()
            await caller.send(chunk(b"data: %d\n\n" % number))
        await goes.acquire()
        await caller.send(LAST_CHUNK)

    _, relay, client = await lab.between(script)
    await client.send(request())
    head = await client.head()  # the head too comes before the first event is sent
    assert head.status == 200
    for number in range(20):
        goes.release()
        assert await client.chunk() == b"data: %d\n\n" % number
    assert await client.is_quiet()
    goes.release()
    assert await client.chunk() == b""
    assert await relay.ended() == "complete"


async def test_a_paced_stream_comes_event_by_event(lab: Lab) -> None:
    simulator, relay, client = await lab.simulated(ask_usage="off")
    await client.send(chat(events=20, rate=200))
    answer = await client.response()
    assert numbers(answer.body) == list(range(20))
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert len(answer.chunks) > 10  # on a busy machine two may be read at once
    assert answer.get("content-type") == "text/event-stream"
    [stream] = simulator.streams
    assert stream["state"] == "done"
    [line] = await relay.access()
    assert (line["end"], line["bytes_down"]) == ("complete", len(answer.body))


async def test_a_stream_at_full_speed_is_whole(lab: Lab) -> None:
    _, _, client = await lab.simulated()
    await client.send(chat(events=20_000))
    answer = await client.response()
    assert numbers(answer.body) == list(range(20_000))


@pytest.mark.parametrize("split", [1, 7, 64])
async def test_a_stream_cut_anywhere_gives_the_same_bytes(lab: Lab, split: int) -> None:
    _, relay, client = await lab.simulated()
    await client.send(chat(events=30))
    expected = (await client.response()).body
    other = await lab.client(relay.port)
    await other.send(chat(events=30, split=split))
    assert (await other.response()).body == expected


async def test_the_recorded_length_of_a_stream_is_kept(lab: Lab) -> None:
    _, _, client = await lab.simulated(ask_usage="off")
    await client.send(chat(events=50, length=1))
    answer = await client.response()
    assert answer.get("transfer-encoding") is None
    assert numbers(answer.body) == list(range(50))


async def test_a_body_that_ends_with_the_providers_connection_comes_in_chunks(lab: Lab) -> None:
    _, relay, client = await lab.simulated()
    await client.send(chat(events=50, close=1))
    answer = await client.response()
    assert answer.get("transfer-encoding") == "chunked"
    assert numbers(answer.body) == list(range(50))
    await client.send(chat(events=1))  # the client's connection stays
    assert (await client.response()).status == 200
    assert [line["reused"] for line in await relay.access(2)] == [False, False]


async def test_whole_answers_pass_whatever_their_size(lab: Lab) -> None:
    _, _, client = await lab.simulated()
    body = orjson.dumps({"messages": []})
    for size in (1, 1000, 100_000, 3_000_000):
        await client.send(request("POST", "/v1/chat/completions", [simulate(whole=size)], body=body))
        answer = await client.response()
        assert answer.get("content-length") == str(len(answer.body))
        content = orjson.loads(answer.body)["choices"][0]["message"]["content"]
        assert len(content) >= size


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503, 529])
async def test_the_providers_own_errors_pass(lab: Lab, status: int) -> None:
    raw = b"HTTP/1.1 %d Its Own Words\r\nContent-Length: 4\r\nRetry-After: 7\r\n\r\noops" % status
    _, relay, client = await lab.between(answering(raw))
    await client.send(request())
    answer = await client.response()
    assert (answer.start, answer.body) == (f"HTTP/1.1 {status} Its Own Words", b"oops")
    assert answer.get("retry-after") == "7"
    assert await relay.ended() == "complete"


@pytest.mark.parametrize(
    ("raw", "length"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", "1234"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
    ],
    ids=["length", "chunked"],
)
async def test_head_requests_get_the_head_alone(lab: Lab, raw: bytes, length: str | None) -> None:
    def answer(message: object) -> bytes:
        return raw if getattr(message, "start", "").startswith("HEAD") else response(b"ok")

    provider, _, client = await lab.between(answering(answer))
    await client.send(request("HEAD"))
    head = await client.response("HEAD")
    assert head.get("content-length") == length
    await client.send(request())
    assert (await client.response()).body == b"ok"
    assert len(provider.callers) == 1


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_answers_that_have_no_body_have_none(lab: Lab, status: str) -> None:
    def answer(message: object) -> bytes:
        bare = f"HTTP/1.1 {status}\r\nETag: x\r\n\r\n".encode()
        return bare if "/bare" in getattr(message, "start", "") else response(b"ok")

    provider, _, client = await lab.between(answering(answer))
    await client.send(request(target="/bare"))
    head = await client.response()
    assert head.start == f"HTTP/1.1 {status}"
    assert "transfer-encoding" not in head.names
    await client.send(request())
    assert (await client.response()).body == b"ok"
    assert len(provider.callers) == 1


async def test_interim_responses_pass_before_the_head(lab: Lab) -> None:
    _, _, client = await lab.simulated()
    await client.send(chat(events=1, interim=10))
    for _ in range(10):
        interim = await client.head()
        assert (interim.status, interim.get("link")) == (103, "</hint>")
    assert (await client.response()).status == 200


async def test_a_100_continue_of_the_provider_stops_at_the_relay(lab: Lab) -> None:
    _, _, client = await lab.between(answering(b"HTTP/1.1 100 Continue\r\n\r\n" + response(b"ok")))
    await client.send(request("POST", body=b"x"))
    assert (await client.head()).status == 200


# --- HTTP/1.0 ---


async def test_http_1_0_gets_a_stream_that_ends_with_the_connection(lab: Lab) -> None:
    simulator, _, client = await lab.simulated()
    await client.send(chat(events=100, interim=1).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    answer = await client.response()  # reads to the end of the connection
    assert answer.status == 200
    assert answer.get("transfer-encoding") is None
    assert answer.get("connection") == "close"
    assert numbers(answer.body) == list(range(100))
    assert simulator.records.connections_open == 1  # the provider's is kept: it spoke HTTP/1.1


async def test_http_1_0_gets_whole_answers_and_a_closed_connection(lab: Lab) -> None:
    _, _, client = await lab.between(ok)
    await client.send(request(version="1.0"))
    answer = await client.response()
    assert (answer.body, answer.get("connection")) == (b"ok", "close")
    assert await client.rest() == (b"", End.CLOSED)


async def test_http_1_0_needs_no_host(lab: Lab) -> None:
    provider, _, client = await lab.between(ok)
    await client.send(b"GET /v1 HTTP/1.0\r\n\r\n")
    assert (await client.response()).body == b"ok"
    assert provider.requests[0].get("host") == f"127.0.0.1:{provider.port}"


async def test_a_provider_that_speaks_http_1_0_is_understood(lab: Lab) -> None:
    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nold but whole")
        caller.half_close()

    provider, _, client = await lab.between(script)
    for _ in range(2):
        await client.send(request())
        assert (await client.response()).body == b"old but whole"
    assert len(provider.callers) == 2


# --- reuse ---


async def test_connections_are_reused_on_both_sides(lab: Lab) -> None:
    simulator, relay, client = await lab.simulated()
    for number in range(10):
        await client.send(chat(events=3) if number % 2 else request(target="/v1/models"))
        assert (await client.response()).status == 200
    assert simulator.records.connections == 1
    metrics = await relay.metrics()
    assert metrics['flow_upstream_connects_total{upstream="127.0.0.1"}'] == 1
    assert metrics['flow_upstream_reuses_total{upstream="127.0.0.1"}'] == 9
    assert [line["reused"] for line in await relay.access(10)] == [False] + [True] * 9


async def test_a_connection_that_the_provider_closed_is_not_used_again(lab: Lab) -> None:
    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(response(b"ok"))
        caller.half_close()

    provider, _, client = await lab.between(script)
    for number in range(5):
        await client.send(request())
        assert (await client.response()).body == b"ok"
        await eventually(lambda n=number: len(provider.callers) == n + 1)  # type: ignore[misc]


async def test_a_connection_with_bytes_nobody_asked_for_is_not_used_again(lab: Lab) -> None:
    """They could pass for the next answer."""
    sent = asyncio.Event()

    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(response(b"ok"))
        await sent.wait()
        await caller.send(response(b"poison"))
        assert (await caller.rest())[0] == b""

    provider, _, client = await lab.between(script)
    await client.send(request())
    assert (await client.response()).body == b"ok"
    sent.set()
    await asyncio.sleep(0.05)
    await client.send(request())
    assert (await client.response()).body == b"ok"
    assert len(provider.callers) == 2


async def test_a_surplus_behind_an_answer_is_not_taken_for_the_next(lab: Lab) -> None:
    provider, _, client = await lab.between(answering(response(b"ok") + response(b"poison")))
    for _ in range(3):
        await client.send(request())
        assert (await client.response()).body == b"ok"
    assert len(provider.callers) == 3


async def test_reuse_can_be_off(lab: Lab) -> None:
    provider, _, client = await lab.between(ok, upstream_keepalive=0)
    for _ in range(3):
        await client.send(request())
        assert (await client.response()).body == b"ok"
    assert len(provider.callers) == 3


async def test_an_idle_provider_connection_is_closed_after_its_time(lab: Lab) -> None:
    provider, _, client = await lab.between(ok, upstream_keepalive="100ms")
    await client.send(request())
    assert (await client.response()).body == b"ok"
    assert (await provider.callers[0].rest())[0] == b""


async def test_connection_close_of_the_client_is_kept_to(lab: Lab) -> None:
    _, _, client = await lab.between(ok)
    await client.send(request(headers=["Connection: close"]))
    answer = await client.response()
    assert (answer.body, answer.get("connection")) == (b"ok", "close")
    assert await client.rest() == (b"", End.CLOSED)


async def test_an_empty_line_before_a_request_is_ignored(lab: Lab) -> None:
    _, _, client = await lab.between(ok)
    for _ in range(2):
        await client.send(b"\r\n" + request())
        assert (await client.response()).body == b"ok"


async def test_many_clients_at_once(lab: Lab) -> None:
    simulator, relay, _ = await lab.simulated()

    async def one(number: int) -> None:
        client = await lab.client(relay.port)
        for _ in range(2):
            await client.send(chat(events=30, rate=300, id=number))
            assert numbers((await client.response()).body) == list(range(30))

    await asyncio.gather(*(one(number) for number in range(100)))
    assert len(simulator.streams) == 200
    assert {stream["state"] for stream in simulator.streams} == {"done"}
