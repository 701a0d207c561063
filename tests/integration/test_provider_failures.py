"""A provider that fails never makes an answer look whole: an error as JSON before the head, a broken end after it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import orjson
import pytest

from tests.support.foreign import served
from tests.support.h2_frames import INTERNAL_ERROR
from tests.support.h2_lab import Certificates, h2_client
from tests.support.lab import Lab, Leftovers, Line, RunningRelay, chat, eventually, finishes, free_port, numbers
from tests.support.provider import Caller
from tests.support.topology import toml
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


@pytest.mark.parametrize(
    "raw",
    [b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\nok"],
    ids=["all-lines", "the-blank-line"],
)
async def test_bare_line_feeds_are_not_waited_on(lab: Lab, raw: bytes) -> None:
    """The provider keeps its connection open and has nothing more to say."""

    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(raw)
        await caller.rest()

    _, _, client = await lab.between(script)
    await client.send(request())
    answer = await client.response()
    assert answer.status == 502
    assert "bare line feeds" in _message(answer)


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


# --- killed, over HTTP/2: many requests are on the one connection that is lost ---

PATHS = ("/hang", "/head", "/middle", "/stream") * 3
"""Before the answer, before its first byte, in mid-stream, and while clients that do not read hold it up."""


class _Client:
    """Asks for all of `PATHS` at once: over a connection each, or as streams of one."""

    def __init__(self, lab: Lab, relay: RunningRelay) -> None:
        self._lab, self._relay = lab, relay

    async def begin(self) -> None:
        self._wires = [await self._lab.client(self._relay.port) for _ in PATHS]
        for wire, path in zip(self._wires, PATHS, strict=True):
            await wire.send(request(target=path))
        heads = [wire.head() for wire, path in zip(self._wires, PATHS, strict=True) if path != "/hang"]
        assert [head.status for head in await asyncio.gather(*heads)] == [200] * len(heads)

    async def ends(self) -> list[tuple[int, bytes]]:
        """Status and body of each, when it has ended as a broken one must."""
        return [await self._end(wire, path) for wire, path in zip(self._wires, PATHS, strict=True)]

    async def _end(self, wire: Wire, path: str) -> tuple[int, bytes]:
        if path == "/hang":
            answer = await wire.response()
            return answer.status, answer.body
        body, end = await wire.rest()
        assert end is End.CLOSED
        assert not body.endswith(LAST_CHUNK)
        return 200, body

    def close(self) -> None:
        for wire in self._wires:
            wire.close()


class _H2Client(_Client):
    async def begin(self) -> None:
        self._client = client = await h2_client(self._lab, self._relay.port)
        answers = [client.peer.answers[client.peer.request(path=path)] for path in PATHS]
        self._answers = answers
        begun = [answer for answer, path in zip(answers, PATHS, strict=True) if path != "/hang"]
        await client.until(lambda: all(answer.status == 200 for answer in begun))

    async def ends(self) -> list[tuple[int, bytes]]:
        await self._client.until(lambda: all(answer.ended for answer in self._answers))
        for answer, path in zip(self._answers, PATHS, strict=True):
            assert answer.whole == (path == "/hang")
            assert answer.reset == (None if path == "/hang" else INTERNAL_ERROR)
        return [(answer.status, answer.body) for answer in self._answers]

    def close(self) -> None:
        self._client.close()


@pytest.mark.parametrize("make", [_Client, _H2Client], ids=["h1", "h2"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("name", ["hypercorn", "go"])
async def test_a_provider_of_http2_that_is_killed(
    lab: Lab, tmp_path: Path, name: str, tls: bool, make: type[_Client]
) -> None:
    certificates = Certificates(tmp_path)
    async with served(name, "h2", tmp_path, certificates if tls else None) as provider:
        config = toml(tmp_path, {"only": {"url": provider.url, "protocol": "h2", "ca": certificates.authority}})
        relay = await lab.relay(None, config=config)
        before = Leftovers()
        counting = await lab.client(relay.port)
        await _waiting(counting, 0)  # which makes the connection
        client = make(lab, relay)
        await client.begin()
        await _waiting(counting, 9)
        assert relay.relay.metrics.pools[0].connects == 1

        os.kill(provider.pid, signal.SIGKILL)
        for path, (status, body) in zip(PATHS, await client.ends(), strict=True):
            _is_as_documented(path, status, body)
        assert relay.relay.metrics.upstreams[0].health.opened == 0  # one failure, whatever was on the connection
        await counting.send(request())
        answer = await counting.response()
        assert (answer.status, orjson.loads(answer.body)["error"]["type"]) == (502, "upstream_error")
        assert (await relay.page("/healthz")).status == 200
        await eventually(lambda: len(_lines(relay)) == len(PATHS))
        lines = _lines(relay)
        assert [(line["end"], line["attempts"]) for line in lines] == [("upstream_failed", 1)] * len(PATHS)
        client.close()
        counting.close()
        await before.none(relay)


def _lines(relay: RunningRelay) -> list[Line]:
    return [line for line in relay.lines("access") if line["path"] in PATHS]


async def _waiting(client: Wire, count: int) -> None:
    """Wait until so many requests hang at the provider."""
    found = -1
    while found != count:
        await client.send(request(target="/count"))
        answer = await client.response()
        assert answer.status == 200, answer
        found = orjson.loads(answer.body)["waiting"]
        assert found <= count


def _is_as_documented(path: str, status: int, body: bytes) -> None:
    """502 before the head; after it what came, without a gap, and no end that could pass for the answer's."""
    if path == "/hang":
        assert (status, orjson.loads(body)["error"]["code"]) == (502, "upstream_failed")
        return
    assert status == 200
    found = numbers(body)
    assert found == list(range(len(found)))
    assert len(found) == {"/head": 0, "/middle": 4}.get(path, len(found))
    assert bool(found) == (path != "/head")
    assert b"[DONE]" not in body
