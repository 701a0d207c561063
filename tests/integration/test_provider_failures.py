"""A provider that fails never makes an answer look whole: an error as JSON before the head, a broken end after it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys

import orjson
import pytest

from tests.support.lab import Lab, chat, eventually, finishes, free_port, numbers
from tests.support.provider import Caller
from tests.support.wire import LAST_CHUNK, End, Message, Wire, chunk, request, response


def _message(answer: Message) -> str:
    return str(orjson.loads(answer.body)["error"]["message"])


# --- no answer at all ---


async def _gets_502(lab: Lab, url: str, text: str, end: str, **settings: object) -> None:
    relay = await lab.relay(url, **settings)
    client = await lab.client(relay.port)
    for _ in range(2):  # and the client's connection stays
        await client.send(request("POST", body=b"hello"))
        answer = await client.response()
        assert answer.status == 502
        assert answer.get("content-type") == "application/json"
        assert answer.get("x-request-id")
        assert orjson.loads(answer.body)["error"]["type"] == "upstream_error"
        assert text in _message(answer)
    assert [line["end"] for line in await relay.access(2)] == [end, end]


async def test_a_provider_that_refuses_connections_gives_502(lab: Lab) -> None:
    await _gets_502(lab, f"http://127.0.0.1:{free_port()}", "refused", "connect_failed")


async def test_a_provider_without_a_network_gives_502(lab: Lab) -> None:
    """A broadcast address: the kernel knows at once that there is no way to it."""
    await _gets_502(lab, "http://255.255.255.255:80", "can't be reached", "connect_failed")


async def test_a_provider_without_an_address_gives_502(lab: Lab) -> None:
    await _gets_502(lab, "http://nobody.invalid", "can't be reached", "connect_failed")


async def test_a_provider_without_tls_gives_502_when_tls_is_wanted(lab: Lab) -> None:
    async def script(caller: Caller) -> None:
        await caller.receive()
        await caller.send(response(status="400 Bad Request"))

    provider = await lab.provider(script)
    await _gets_502(lab, provider.url.replace("http", "https"), "TLS handshake", "connect_failed")


BAD_ANSWERS: dict[str, bytes] = {
    "nothing": b"",
    "half-a-head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "no-http": b"SSH-2.0-OpenSSH_9.9\r\n",
    "no-status": b"HTTP/1.1 OK\r\n\r\n",
    "http-2": b"HTTP/2.0 200 OK\r\n\r\n",
    "length-and-chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nfour",
    "length-is-no-number": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    "unknown-encoding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "blank-before-colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    "control-byte": b"HTTP/1.1 200 OK\r\nX-One: \x01\r\nContent-Length: 2\r\n\r\nok",
    "head-too-large": b"HTTP/1.1 200 OK\r\n" + b"X-Filling: xxxxxxxxxxxxxxxxxxxxx\r\n" * 2200 + b"\r\n",
    "head-without-end": b"HTTP/1.1 200 OK\r\nX-Filling: " + b"x" * 100_000,
    "201-headers": b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 201 + b"\r\n",
    "11-interim-responses": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 11 + response(b"ok"),
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
}


@pytest.mark.parametrize("raw", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
async def test_a_malformed_answer_gives_502(lab: Lab, raw: bytes) -> None:
    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(raw)
        caller.half_close()
        await caller.rest()

    provider, relay, client = await lab.between(script)
    await client.send(request())
    answer = await client.response()
    assert answer.status == 502
    assert _message(answer).startswith("The provider ")
    assert await relay.ended() == "upstream_failed"
    await eventually(lambda: relay.relay.metrics.pools[0].open_connections == 0)
    assert len(provider.callers) == 1


async def test_a_reset_instead_of_an_answer_gives_502(lab: Lab) -> None:
    async def script(caller: Caller) -> None:
        await caller.request()
        caller.reset()

    _, _, client = await lab.between(script)
    await client.send(request())
    answer = await client.response()
    assert (answer.status, "without an answer" in _message(answer)) == (502, True)


# --- in mid-stream ---

FRAMINGS = {"chunked": {}, "length": {"length": 1}, "close": {"close": 1}}


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(
    ("failure", "framing"),
    # A FIN behind a body that ends with its connection is its proper end.
    [("abort_after", framing) for framing in FRAMINGS] + [("fin_after", "chunked"), ("fin_after", "length")],
)
async def test_a_stream_that_breaks_off_never_looks_whole(lab: Lab, failure: str, framing: str, version: str) -> None:
    simulator, relay, client = await lab.simulated()
    raw = chat(events=100, rate=500, **{failure: 5}, **FRAMINGS[framing])
    await client.send(raw.replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1))
    head = await client.head()
    body, end = await client.rest()
    assert set(numbers(body)) <= {0, 1, 2, 3, 4}
    assert LAST_CHUNK not in body
    if head.get("transfer-encoding") == "chunked":
        assert end is End.CLOSED  # the last chunk is missing
    else:
        assert end is End.RESET  # a plain end could pass for the answer's
    assert await relay.ended() == "upstream_failed"
    assert simulator.records.connections_open == 0


async def test_what_came_before_the_break_still_arrives(lab: Lab) -> None:
    _, _, client = await lab.simulated()
    await client.send(chat(events=100, rate=300, fin_after=5))
    await client.head()
    body, _ = await client.rest()
    assert numbers(body) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "rest",
    [b"zz\r\n", b"5\nhello\r\n", b"5\r\nhelloXX", b"-1\r\n", b"\r\n", b"5;" + b"x" * 300 + b"\r\nhello\r\n"],
    ids=["no-size", "bare-line-feed", "too-long", "negative", "empty", "endless-extension"],
)
async def test_malformed_chunks_break_the_stream(lab: Lab, rest: bytes) -> None:
    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"fine"))
        await caller.send(rest + chunk(b"not to be seen") + LAST_CHUNK)

    _, relay, client = await lab.between(script)
    await client.send(request())
    await client.head()
    body, end = await client.rest()
    assert body in (b"", chunk(b"fine"))
    assert end is End.CLOSED
    assert await relay.ended() == "upstream_failed"


async def test_a_break_while_chunks_wait_comes_behind_them(lab: Lab) -> None:
    """The client is slower than the provider: it gets what came, then the broken end."""

    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(100):
            await caller.send(chunk(b"tok%06d" % number + b"x" * 600))
        caller.close()

    provider, relay, _ = await lab.between(script)
    client = await lab.client(relay.port, receive_buffer=4096)
    await client.send(request())
    await eventually(lambda: provider.callers)
    await asyncio.sleep(0.1)
    await client.head()
    body, end = await client.rest()
    assert numbers(body) == list(range(100))
    assert not body.endswith(LAST_CHUNK)
    assert end is End.CLOSED


async def test_a_killed_provider_breaks_every_stream_and_the_relay_serves_on(lab: Lab) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flowserver", "simulate", "--listen", "127.0.0.1:0", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    match = re.search(rb"http://127.0.0.1:\d+", await finishes(process.stdout.readline()))
    assert match is not None
    url = match[0].decode()
    try:
        relay = await lab.relay(url, breaker_failures=1000)
        clients = [await lab.client(relay.port) for _ in range(40)]
        for number, client in enumerate(clients):
            raw = chat(events=10_000, rate=100, length=number // 2 % 2)
            await client.send(raw.replace(b"HTTP/1.1", b"HTTP/1.0", 1) if number % 2 else raw)
        heads = await asyncio.gather(*(client.head() for client in clients))
        await asyncio.gather(*(client.until(b"tok000003") for client in clients))
    finally:
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
    for client, head in zip(clients, heads, strict=True):
        body, end = await client.rest()
        assert not body.endswith(LAST_CHUNK)
        assert end is (End.CLOSED if head.get("transfer-encoding") else End.RESET)
    client = await lab.client(relay.port)
    await client.send(chat(events=1))
    assert (await client.response()).status == 502
    assert (await relay.page("/healthz")).status == 200
    ends = [line["end"] for line in await relay.access(41)]
    assert ends.count("upstream_failed") == 40


async def test_a_provider_that_comes_back_is_used_again(lab: Lab) -> None:
    port = free_port()
    relay = await lab.relay(f"http://127.0.0.1:{port}")
    client = await lab.client(relay.port)
    await client.send(request())
    assert (await client.response()).status == 502
    server = await asyncio.start_server(_answer_once, "127.0.0.1", port)
    async with server:
        await client.send(request())
        assert (await client.response()).body == b"back"


async def _answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(response(b"back", ["Connection: close"]))
    writer.close()
    await writer.wait_closed()


async def test_a_client_sees_the_break_of_its_own_stream_only(lab: Lab) -> None:
    _, relay, client = await lab.simulated()
    other: Wire = await lab.client(relay.port)
    await other.send(chat(events=60, rate=200))
    await client.send(chat(events=60, rate=200, abort_after=3))
    await client.head()
    await client.rest()
    assert numbers((await other.response()).body) == list(range(60))
