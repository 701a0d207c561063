"""Providers whose first token does not come: another one is asked in time, and the client sees one whole answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.h2_lab import ask, h2_client
from tests.support.h2_provider import H2Server, H2Site
from tests.support.lab import Lab, RunningRelay, chat, eventually, numbers
from tests.support.provider import Caller, Script
from tests.support.topology import toml
from tests.support.wire import CHUNKED_HEAD, LAST_CHUNK, chunk, request, response

ROLE = b'data: {"model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\n\n'
EVENT = b'data: {"model": "m", "choices": [{"index": 0, "delta": {"content": "one"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
SIGNS = b": OPENROUTER PROCESSING\n\n"
WHOLE = ROLE + SIGNS + EVENT + DONE
TIMEOUT = 'first_token_timeout = "300ms"\n'


def routes(*names: str, also: str = TIMEOUT) -> str:
    listed = ", ".join(f'"{name}"' for name in names)
    return f"[[routes]]\nupstreams = [{listed}]\n{also}"


class Stuck:
    """A script that sends some bytes of an answer, and no more; it sees the relay leave."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces
        self.cancelled = asyncio.Event()

    async def __call__(self, caller: Caller) -> None:
        await caller.request()
        for piece in self._pieces:
            await caller.send(piece)
        try:
            await caller.receive()
        finally:
            self.cancelled.set()


async def whole(caller: Caller) -> None:
    """Answers with pauses between what stands before the content."""
    while True:
        await caller.request()
        await caller.send(CHUNKED_HEAD + chunk(ROLE))
        await asyncio.sleep(0.02)
        await caller.send(chunk(SIGNS))
        await asyncio.sleep(0.02)
        await caller.send(chunk(EVENT))
        await caller.send(chunk(DONE) + LAST_CHUNK)


async def between(
    lab: Lab, folder: Path, scripts: dict[str, Script], also: str = TIMEOUT, **settings: object
) -> RunningRelay:
    """A relay before these providers, in the order of fallback."""
    urls = {name: (await lab.provider(script)).url for name, script in scripts.items()}
    return await lab.relay(None, config=toml(folder, urls, routes(*urls, also=also)), **settings)


def asking() -> bytes:
    return request("POST", "/v1/chat/completions", body=b'{"model": "m", "stream": true, "messages": []}')


@pytest.mark.parametrize(
    "shown",
    [(), (CHUNKED_HEAD,), (CHUNKED_HEAD + chunk(ROLE),), (CHUNKED_HEAD, chunk(ROLE), chunk(SIGNS))],
    ids=["nothing", "head", "role", "signs-of-life"],
)
async def test_a_provider_without_content_is_cancelled_and_the_next_one_answers(
    lab: Lab, tmp_path: Path, shown: tuple[bytes, ...]
) -> None:
    stuck = Stuck(*shown)
    relay = await between(lab, tmp_path, {"slow": stuck, "fast": whole})
    client = await lab.client(relay.port)
    await client.send(asking())
    assert (await client.response()).body == WHOLE
    await asyncio.wait_for(stuck.cancelled.wait(), 5)
    [line] = await relay.access()
    assert (line["upstream"], line["attempts"], line["end"]) == ("fast", 2, "complete")
    metrics = await relay.metrics()
    assert metrics['flow_first_token_timeouts_total{upstream="slow"}'] == 1
    assert metrics['flow_first_token_timeouts_total{upstream="fast"}'] == 0
    assert metrics['flow_extra_input_tokens_total{reason="first_token_timeout",upstream="slow"}'] > 0
    assert metrics["flow_withheld_bytes"] == 0


async def test_nothing_reaches_the_client_before_the_first_content(lab: Lab, tmp_path: Path) -> None:
    shown = asyncio.Event()

    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED_HEAD + chunk(ROLE))
        await shown.wait()
        await caller.send(chunk(EVENT))
        await caller.send(chunk(DONE) + LAST_CHUNK)

    relay = await between(lab, tmp_path, {"only": script}, 'first_token_timeout = "1m"', heartbeat="50ms")
    client = await lab.client(relay.port)
    await client.send(asking())
    assert await client.is_quiet(0.3)
    assert relay.relay.metrics.withheld.held == len(ROLE)
    shown.set()
    assert (await client.response()).body == ROLE + EVENT + DONE
    assert relay.relay.metrics.withheld.held == 0


async def test_the_last_provider_is_waited_for_and_its_client_hears_of_it(lab: Lab, tmp_path: Path) -> None:
    heard = asyncio.Event()

    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED_HEAD + chunk(ROLE))
        await heard.wait()
        await caller.send(chunk(EVENT) + LAST_CHUNK)

    relay = await between(lab, tmp_path, {"only": script}, heartbeat="50ms")
    client = await lab.client(relay.port)
    await client.send(asking())
    assert (await client.head()).status == 200
    assert await client.chunk() == ROLE
    assert (await client.chunk()).startswith(b": ping\n")
    heard.set()
    [line] = await relay.access()
    assert (line["attempts"], line["end"]) == (1, "complete")
    assert (await relay.metrics())['flow_first_token_timeouts_total{upstream="only"}'] == 0


async def test_an_error_ends_the_wait(lab: Lab, tmp_path: Path) -> None:
    async def refuses(caller: Caller) -> None:
        await caller.request()
        await caller.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 20\r\n\r\n")
        await asyncio.sleep(0.5)
        await caller.send(b"x" * 20)

    relay = await between(lab, tmp_path, {"one": refuses, "two": whole})
    client = await lab.client(relay.port)
    await client.send(asking())
    answer = await client.response()
    assert (answer.status, len(answer.body)) == (404, 20)


async def test_a_provider_that_breaks_off_before_its_content_leads_to_the_next_one(lab: Lab, tmp_path: Path) -> None:
    async def breaks(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED_HEAD + chunk(ROLE))
        caller.reset()

    relay = await between(lab, tmp_path, {"one": breaks, "two": whole})
    client = await lab.client(relay.port)
    await client.send(asking())
    assert (await client.response()).body == WHOLE


async def test_whole_answers_and_unknown_formats_pass_with_their_first_byte(lab: Lab, tmp_path: Path) -> None:
    stuck = Stuck(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\n")

    async def two_parts(caller: Caller) -> None:
        while True:
            await caller.request()
            await caller.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
            await asyncio.sleep(0.5)
            await caller.send(b"cde")

    relay = await between(lab, tmp_path, {"one": stuck, "two": two_parts})
    client = await lab.client(relay.port)
    await client.send(request("GET", "/v1/models"))
    assert (await client.response()).body == b"abcde"
    assert stuck.cancelled.is_set()


async def test_an_answer_without_a_body_passes(lab: Lab, tmp_path: Path) -> None:
    async def empty(caller: Caller) -> None:
        while True:
            await caller.request()
            await caller.send(response(b""))

    relay = await between(lab, tmp_path, {"one": empty, "two": whole}, 'first_token_timeout = "1m"')
    client = await lab.client(relay.port)
    for _ in range(2):
        await client.send(request("GET", "/v1/models"))
        assert (await client.response()).status == 200


async def test_more_than_the_bound_is_not_withheld(lab: Lab, tmp_path: Path) -> None:
    size = 400_000

    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED_HEAD + chunk(b": " + b"x" * size + b"\n\n"))
        await asyncio.sleep(1)

    relay = await between(lab, tmp_path, {"one": script, "two": whole}, 'first_token_timeout = "1m"')
    client = await lab.client(relay.port)
    await client.send(asking())
    await client.head()
    got = b""
    while len(got) < size:
        got += await client.chunk()
    assert relay.relay.metrics.withheld.held == 0


@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_a_client_that_leaves_meanwhile_cancels_the_provider(lab: Lab, tmp_path: Path, leave: str) -> None:
    stuck = Stuck(CHUNKED_HEAD + chunk(ROLE))
    relay = await between(lab, tmp_path, {"slow": stuck, "fast": whole}, 'first_token_timeout = "1m"')
    client = await lab.client(relay.port)
    await client.send(asking())
    await eventually(lambda: relay.relay.metrics.withheld.held)
    getattr(client, leave)()
    await asyncio.wait_for(stuck.cancelled.wait(), 5)
    assert await relay.ended() == "client_gone"
    assert relay.relay.metrics.withheld.held == 0


@pytest.mark.parametrize("fast_path", ["on", "off"])
async def test_a_whole_stream_is_the_same_bytes(lab: Lab, tmp_path: Path, fast_path: str) -> None:
    simulator = await lab.simulator()
    tables = {"one": simulator.url, "two": simulator.url}
    relay = await lab.relay(None, config=toml(tmp_path, tables, routes("one", "two")), fast_path=fast_path)
    client = await lab.client(relay.port)
    await client.send(chat(events=200, rate=400))
    assert numbers((await client.response()).body) == list(range(200))
    [line] = await relay.access()
    assert line["attempts"] == 1
    if fast_path == "on":
        assert (await relay.metrics())["flow_fast_path_chunks_total"] > 100


def _role_only(server: H2Server, stream_id: int) -> None:
    server.head(stream_id, fields=[("content-type", "text/event-stream")])
    server.body(stream_id, ROLE)


def _whole(server: H2Server, stream_id: int) -> None:
    server.head(stream_id, fields=[("content-type", "text/event-stream")])
    server.body(stream_id, ROLE)
    server.body(stream_id, EVENT + DONE, end=True)


async def test_over_http_2_on_both_sides(lab: Lab, tmp_path: Path) -> None:
    slow, fast = H2Site(_role_only), H2Site(_whole)
    tables = {
        name: {"url": (await lab.provider(site.script)).url, "protocol": "h2"}
        for name, site in {"slow": slow, "fast": fast}.items()
    }
    relay = await lab.relay(None, config=toml(tmp_path, tables, routes("slow", "fast")))
    client = await h2_client(lab, relay.port)
    streams = [ask(client) for _ in range(3)]
    await client.until(lambda: all(client.peer.answers[stream].ended for stream in streams))
    assert [client.peer.answers[stream].body for stream in streams] == [ROLE + EVENT + DONE] * 3
    [server] = slow.servers
    await eventually(lambda: len(server.resets) == 3)
    assert set(server.resets.values()) == {8}  # CANCEL
    assert server.open == 0
