"""The simulator over real sockets, on asyncio's event loop and on uvloop."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import h11
import httpx
import openai
import pytest
import trustme

from flowserver.simulator import Simulator

PATIENCE = 20.0
"""Seconds until a condition that does not come true fails the test."""


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    simulator = Simulator()
    await simulator.start()
    yield simulator
    await simulator.close()


@pytest.fixture
async def http(sim: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=sim.url, timeout=PATIENCE, trust_env=False) as client:
        yield client


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "stream": True, "messages": [{"role": "user", "content": "a b"}], **fields}


def raw(simulate: str, *headers: str, path: str = "/v1/chat/completions", body: bytes | None = None) -> bytes:
    body = json.dumps(chat()).encode() if body is None else body
    lines = [f"POST {path} HTTP/1.1", "host: x", f"x-simulate: {simulate}", *headers, f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.005)


class Client:
    """A bare connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, sim: Simulator) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", sim.port))

    async def ask(self, request: bytes) -> Client:
        self.writer.write(request)
        await self.writer.drain()
        return self

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), PATIENCE)

    async def past(self, mark: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(mark), PATIENCE)

    async def leave(self) -> None:
        self.writer.transport.abort()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


@pytest.fixture
async def clients(sim: Simulator) -> AsyncIterator[Callable[[], Any]]:
    made: list[Client] = []

    async def connect() -> Client:
        made.append(await Client.connect(sim))
        return made[-1]

    yield connect
    for client in made:
        await client.leave()


def numbers(body: str) -> list[int]:
    """The numbers of the content events."""
    found = []
    for event in body.split("\n\n"):
        if event.startswith("data: {"):
            choices = json.loads(event[6:])["choices"]
            content = choices[0]["delta"].get("content") if choices else None
            if content:
                found.append(int(content.removeprefix("tok")))
    return found


@pytest.mark.parametrize(
    "simulate",
    ["events=300", "events=30 rate=1000", "events=300 length=1", "events=300 close=1", "events=9 split=7 interim=2"],
)
async def test_every_event_comes_once_and_in_order(sim: Simulator, http: httpx.AsyncClient, simulate: str) -> None:
    response = await http.post("/v1/chat/completions", json=chat(), headers={"x-simulate": f"{simulate} id=one"})
    assert response.status_code == 200
    wanted = int(simulate.split()[0].partition("=")[2])
    assert numbers(response.text) == list(range(wanted))
    assert response.text.endswith("data: [DONE]\n\n")
    await until(lambda: sim.streams[0]["state"] == "done")
    (stream,) = sim.streams
    assert stream["id"] == "one"
    assert stream["events"] == wanted
    assert stream["bytes_written"] == stream["bytes_accepted"] == len(response.content)
    assert stream["started"] <= stream["first_byte"] <= stream["ended"]


async def test_openai_reads_a_stream(sim: Simulator) -> None:
    async with openai.AsyncOpenAI(base_url=f"{sim.url}/v1", api_key="k", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "a b c"}],
            stream=True,
            stream_options={"include_usage": True},
            max_tokens=5,
            extra_headers={"x-simulate": "events=0"},
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "".join(f"tok{number:06d} " for number in range(5))
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (3, 5)


async def test_openai_reads_a_whole_answer_models_and_errors(sim: Simulator) -> None:
    async with openai.AsyncOpenAI(base_url=f"{sim.url}/v1", api_key="k", max_retries=0) as client:
        answer = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "a"}], extra_headers={"x-simulate": "whole=100000"}
        )
        assert len(answer.choices[0].message.content or "") == 100_000
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 20
        assert (await client.models.list()).data[0].id
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": "a"}],
                stream=True,
                extra_headers={"x-simulate": "status=429 retry_after=2"},
            )
        assert caught.value.response.headers["retry-after"] == "2"


async def test_paced_events_are_chunks_of_their_own(clients: Any) -> None:
    client = await (await clients()).ask(raw("events=5 rate=200 size=300"))
    answer = await client.past(b"0\r\n\r\n")
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(answer)
    bodies = []
    while not isinstance(event := reader.next_event(), h11.EndOfMessage):
        assert event is not h11.NEED_DATA
        if isinstance(event, h11.Data):
            assert event.chunk_start
            assert event.chunk_end
            bodies.append(bytes(event.data))
    assert all(body.startswith(b"data: ") and body.endswith(b"\n\n") for body in bodies)
    assert [len(body) for body in bodies[1:6]] == [300] * 5


async def test_an_unlimited_stream_stops_for_a_reader_that_stops(sim: Simulator, clients: Any) -> None:
    client = await (await clients()).ask(raw("events=0 size=1000"))
    await until(lambda: bool(sim.streams) and sim.streams[0]["state"] == "paused")
    before = sim.streams[0]
    assert before["bytes_acknowledged"] <= before["bytes_accepted"] < before["bytes_written"]
    await asyncio.wait_for(client.reader.readexactly(before["bytes_written"] + 100_000), PATIENCE)
    assert sim.streams[0]["bytes_written"] > before["bytes_written"]
    await client.leave()
    await until(lambda: sim.streams[0]["state"] == "cancelled")
    after = sim.streams[0]
    assert after["cancelled"] is not None
    assert after["bytes_accepted"] <= after["bytes_written"]


async def test_a_paced_stream_holds_events_back_and_drops_none(sim: Simulator, clients: Any) -> None:
    client = await (await clients()).ask(raw("events=60 rate=1000 size=65536 close=1"))
    seen: list[bool] = []

    def full() -> bool:
        # It is paused for a moment at every write; full it is when it stays so while many events come due.
        seen.append(bool(sim.streams) and sim.streams[0]["state"] == "paused")
        return len(seen) > 20 and all(seen[-20:])

    await until(full)
    body = (await client.rest()).decode().partition("\r\n\r\n")[2]
    assert numbers(body) == list(range(60))
    assert sim.streams[0]["late"] > 0
    await until(lambda: sim.streams[0]["state"] == "done")


@pytest.mark.parametrize("simulate", ["delay=3600", "first=3600", "events=0 rate=0.001", "silence_after=1"])
async def test_a_client_that_leaves_is_noticed(sim: Simulator, clients: Any, simulate: str) -> None:
    client = await (await clients()).ask(raw(simulate))
    state = {"delay=3600": "waiting", "silence_after=1": "silent"}.get(simulate, "streaming")
    await until(lambda: bool(sim.streams) and sim.streams[0]["state"] == state)
    await client.leave()
    await until(lambda: sim.streams[0]["state"] == "cancelled")
    assert sim.streams[0]["cancelled"] is not None
    assert sim.totals["open"] == 0


async def test_a_half_close_is_leaving(sim: Simulator, clients: Any) -> None:
    client = await (await clients()).ask(raw("silence_after=0"))
    await client.past(b"\n\n")
    client.writer.write_eof()
    await client.rest()
    assert sim.streams[0]["state"] == "cancelled"


async def test_abort_resets_after_the_events(sim: Simulator, clients: Any) -> None:
    client = await (await clients()).ask(raw("events=9 abort_after=3"))
    assert b"tok000002 " in await client.past(b"tok000002 ")
    with pytest.raises(ConnectionResetError):
        await client.rest()
    assert (sim.streams[0]["state"], sim.streams[0]["events"]) == ("aborted", 3)
    assert sim.streams[0]["cancelled"] is None


async def test_fin_closes_without_a_last_chunk(sim: Simulator, clients: Any) -> None:
    client = await (await clients()).ask(raw("events=9 fin_after=3"))
    answer = await client.rest()
    assert b"tok000002 " in answer
    assert b"tok000003 " not in answer
    assert not answer.endswith(b"0\r\n\r\n")
    assert sim.streams[0]["state"] == "aborted"


async def test_a_whole_answer_can_break_off(clients: Any) -> None:
    body = json.dumps(chat(stream=False)).encode()
    client = await (await clients()).ask(raw("fin_after=3", body=body))
    head, _, rest = (await client.rest()).partition(b"\r\n\r\n")
    assert rest.endswith(b"tok000002 ")
    assert f"content-length: {len(rest)}" not in head.decode()


async def test_one_connection_serves_many(sim: Simulator, http: httpx.AsyncClient) -> None:
    for _ in range(5):
        assert (await http.post("/v1/chat/completions", json=chat(), headers={"x-simulate": ""})).status_code == 200
        assert (await http.post("/v1/nowhere", content=b"x" * 100_000)).status_code == 404
    totals = (await http.get("/simulator/totals")).json()
    assert (totals["connections"], totals["connections_open"], totals["requests"]) == (1, 1, 10)
    assert (totals["open"], totals["events"]) == (0, 100)


async def test_two_requests_in_one_write_are_answered_in_turn(clients: Any) -> None:
    client = await (await clients()).ask(raw("events=2") + raw("events=1", "connection: close"))
    answer = await client.rest()
    assert answer.count(b"HTTP/1.1 200") == 2
    assert answer.count(b"[DONE]") == 2


async def test_records_show_the_request(sim: Simulator, http: httpx.AsyncClient) -> None:
    headers = {"x-simulate": "events=1", "x-request-id": "mine", "authorization": "Bearer k"}
    await http.post("/v1/chat/completions?a=b", json=chat(), headers=headers)
    (stream,) = (await http.get("/simulator/streams?id=mine")).json()
    assert stream["request"]["path"] == "/v1/chat/completions?a=b"
    assert stream["request"]["headers"]["authorization"] == "Bearer k"
    assert stream["request"]["body_bytes"] == int(stream["request"]["headers"]["content-length"])
    assert (await http.get("/simulator/streams?id=other")).json() == []
    assert [request[:2] for request in sim.requests] == [("POST", "/v1/chat/completions?a=b")]
    assert (await http.delete("/simulator/streams")).json() == {"forgotten": 1}
    assert (await http.get("/simulator/streams")).json() == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/v1/chat/completions", 405), ("HEAD", "/v1/models", 200), ("GET", "/v1/models", 200)],
)
async def test_other_requests(http: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    response = await http.request(method, path)
    assert response.status_code == status
    assert (response.content == b"") == (method == "HEAD")


async def test_a_wrong_script_is_refused_by_name(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/chat/completions", json=chat(), headers={"x-simulate": "rate=fast"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "rate"


async def test_a_malformed_request_is_refused(clients: Any) -> None:
    client = await (await clients()).ask(b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
    assert (await client.rest()).startswith(b"HTTP/1.1 400 ")


async def test_expect_100_continue_is_answered(clients: Any) -> None:
    request = raw("", "expect: 100-continue", "connection: close", path="/v1/sink", body=b"hello")
    head, _, body = request.partition(b"\r\n\r\n")
    client = await (await clients()).ask(head + b"\r\n\r\n")
    assert (await client.past(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    await client.ask(body)
    assert b'"bytes":5' in await client.rest()


async def _parts(data: bytes) -> AsyncIterator[bytes]:
    for position in range(0, len(data), 50_000):
        yield data[position : position + 50_000]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("simulate", ["", "read_after=0.02", "read_rate=100000000"])
async def test_uploads(sim: Simulator, http: httpx.AsyncClient, chunked: bool, simulate: str) -> None:
    data = bytes(range(256)) * 4000
    content = _parts(data) if chunked else data
    response = await http.post("/v1/sink", content=content, headers={"x-simulate": simulate})
    assert response.json() == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    content = _parts(data) if chunked else data
    response = await http.post("/v1/echo", content=content, headers={"x-simulate": simulate})
    assert response.content == data
    assert [stream["request"]["body_bytes"] for stream in sim.streams] == [len(data)] * 2


async def test_an_echo_is_read_no_faster_than_it_is_taken(sim: Simulator, clients: Any) -> None:
    client = await clients()
    client.writer.write(raw("", path="/v1/echo", body=bytes(32 << 20)))
    await until(lambda: bool(sim.streams) and sim.streams[0]["bytes_written"] > sim.streams[0]["bytes_accepted"])
    assert sim.streams[0]["request"]["body_bytes"] < 32 << 20
    await client.leave()
    await until(lambda: sim.totals["connections_open"] == 0)


async def test_tls() -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    sim = Simulator()
    await sim.start(ssl=server)
    assert sim.url.startswith("https://")
    async with httpx.AsyncClient(base_url=sim.url, verify=trusting, timeout=PATIENCE, trust_env=False) as http:
        for simulate in ("events=2000", "events=20 rate=1000"):
            response = await http.post("/v1/chat/completions", json=chat(), headers={"x-simulate": simulate})
            assert response.text.endswith("data: [DONE]\n\n")
        await until(lambda: [stream["state"] for stream in sim.streams] == ["done", "done"])
    await sim.close()


async def test_close_ends_streams_and_start_works_again(sim: Simulator, clients: Any) -> None:
    client = await (await clients()).ask(raw("events=0 rate=50"))
    await client.past(b"\n\n")
    await sim.close()
    await asyncio.gather(client.rest(), return_exceptions=True)
    await sim.close()
    await sim.start()
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{sim.url}/v1/models")).status_code == 200
