"""Signs of life: clients that wait for a silent provider get some, and read through them."""

from __future__ import annotations

import asyncio

import anthropic
import openai
import pytest

from tests.support.h2_lab import ask, h2_client
from tests.support.lab import Lab, chat, eventually, simulate
from tests.support.provider import Caller
from tests.support.wire import CHUNKED_HEAD, LAST_CHUNK, chunk, request, response

PING = b": ping\n"
SIGNS = {"heartbeat": "50ms"}


def event(text: str) -> bytes:
    return b'data: {"model": "m", "choices": [{"index": 0, "delta": {"content": "%b"}}]}\n\n' % text.encode()


async def test_a_silent_provider_s_client_hears_the_relay(lab: Lab) -> None:
    heard = asyncio.Event()

    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED_HEAD)
        await heard.wait()
        heard.clear()
        await caller.send(chunk(event("a")))
        await heard.wait()
        await caller.send(chunk(event("b")) + LAST_CHUNK)

    _, relay, client = await lab.between(script, **SIGNS)
    await client.send(request("POST", "/v1/chat/completions", body=b'{"stream": true}'))
    head = await client.head()
    assert head.get("content-length") is None
    got = await client.chunk()
    assert got == PING
    heard.set()
    while not got.endswith(event("a") + PING):
        got += await client.chunk()
    heard.set()
    while data := await client.chunk():
        got += data
    assert got.replace(PING, b"") == event("a") + event("b")
    [line] = await relay.access()
    assert line["end"] == "complete"
    assert line["bytes_down"] == len(event("a") + event("b"))
    assert (await relay.metrics())["flow_heartbeats_total"] == got.count(PING)


async def test_a_client_of_http_2_hears_the_relay(lab: Lab) -> None:
    heard = asyncio.Event()

    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED_HEAD + chunk(event("a")))
        await heard.wait()
        await caller.send(chunk(event("b")) + LAST_CHUNK)

    provider = await lab.provider(script)
    relay = await lab.relay(provider.url, **SIGNS)
    client = await h2_client(lab, relay.port)
    stream_id = ask(client)
    await client.until(lambda: client.peer.answers[stream_id].body.startswith(event("a") + PING))
    heard.set()
    answer = await client.answer(stream_id)
    assert answer.whole
    assert answer.body.replace(PING, b"") == event("a") + event("b")


async def test_no_sign_of_life_is_put_into_an_event(lab: Lab) -> None:
    """A second stream shows that there was time for one."""
    go_on = asyncio.Event()

    async def script(caller: Caller) -> None:
        message = await caller.request()
        cut = 20 if "cut" in message.start else len(event("a"))
        await caller.send(CHUNKED_HEAD + chunk(event("a")[:cut]))
        await go_on.wait()
        await caller.send(chunk(event("a")[cut:] + event("b")) + LAST_CHUNK)

    provider = await lab.provider(script)
    relay = await lab.relay(provider.url, ask_usage="off", **SIGNS)
    cut, other = await lab.client(relay.port), await lab.client(relay.port)
    await cut.send(request("POST", "/v1/chat/completions?cut", body=b'{"stream": true}'))
    head = await cut.head()
    assert await cut.chunk() == event("a")[:20]
    await other.send(request("POST", "/v1/chat/completions", body=b'{"stream": true}'))
    for _ in range(3):
        await other.until(PING)
    go_on.set()
    body, broken = await cut.rest_of(head)
    assert (body, broken) == (event("a")[20:] + event("b"), False)
    await other.until(b"\r\n0\r\n\r\n")


async def test_answers_that_are_no_stream_keep_their_length(lab: Lab) -> None:
    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(response(b'{"model": "m"}', ["Content-Type: application/json"]))

    _, _, client = await lab.between(script, **SIGNS)
    await client.send(request("POST", "/v1/chat/completions", body=b"{}"))
    answer = await client.response()
    assert (answer.get("content-length"), answer.body) == ("14", b'{"model": "m"}')


async def test_there_is_none_unless_it_is_asked_for(lab: Lab) -> None:
    simulator, relay, client = await lab.simulated()
    await client.send(chat(events=3, rate=5))
    answer = await client.response()
    assert PING not in answer.body
    assert (await relay.metrics())["flow_heartbeats_total"] == 0
    assert simulator.streams[0]["state"] == "done"


# The official libraries

SILENT = [("first", {"events": 5, "first": 0.4}), ("between", {"events": 3, "rate": 5})]
"""Silent before the first event, and between all of them."""
silences = pytest.mark.parametrize("options", [options for _, options in SILENT], ids=[name for name, _ in SILENT])


def simulated(options: dict[str, object]) -> dict[str, str]:
    name, _, value = simulate(**options).partition(": ")
    return {name: value}


def text(tokens: object) -> str:
    assert isinstance(tokens, int)
    return "".join(f"tok{number:06d} " for number in range(tokens))


@silences
async def test_openai_s_library_reads_through_them(lab: Lab, options: dict[str, object]) -> None:
    _, relay, _ = await lab.simulated(**SIGNS)
    async with openai.AsyncOpenAI(base_url=f"{relay.url}/v1", api_key="k", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "Go on."}],
            stream=True,
            extra_headers=simulated(options),
        )
        chunks = [part async for part in stream]
    assert "".join(part.choices[0].delta.content or "" for part in chunks) == text(options["events"])
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert (await relay.metrics())["flow_heartbeats_total"] > 0


@silences
async def test_openai_s_library_reads_responses_through_them(lab: Lab, options: dict[str, object]) -> None:
    _, relay, _ = await lab.simulated(**SIGNS)
    async with (
        openai.AsyncOpenAI(base_url=f"{relay.url}/v1", api_key="k", max_retries=0) as client,
        client.responses.stream(model="m", input="Go on.", extra_headers=simulated(options)) as stream,
    ):
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    assert (final.status, final.output_text) == ("completed", text(options["events"]))
    assert (await relay.metrics())["flow_heartbeats_total"] > 0


@silences
async def test_anthropic_s_library_reads_through_them(lab: Lab, options: dict[str, object]) -> None:
    _, relay, _ = await lab.simulated(**SIGNS)
    async with (
        anthropic.AsyncAnthropic(base_url=relay.url, api_key="k", max_retries=0) as client,
        client.messages.stream(
            model="m",
            max_tokens=100,
            messages=[{"role": "user", "content": "Go on."}],
            extra_headers=simulated(options),
        ) as stream,
    ):
        got = "".join([part async for part in stream.text_stream])
        final = await stream.get_final_message()
    assert got == text(options["events"])
    assert final.stop_reason == "end_turn"
    assert (await relay.metrics())["flow_heartbeats_total"] > 0


async def test_a_client_that_left_is_shown_no_sign_of_life(lab: Lab) -> None:
    simulator, relay, client = await lab.simulated(disconnect="drain", **SIGNS)
    await client.send(chat(events=3, rate=4))
    await client.until(PING)
    client.close()
    await eventually(lambda: relay.abandoned)
    [exchange] = relay.abandoned
    before = exchange.heartbeats
    await eventually(lambda: simulator.streams[0]["state"] == "done")
    [line] = await relay.access()
    assert (line["end"], line["estimated"]) == ("client_gone", False)
    assert exchange.heartbeats == before
