"""A reset of one stream ends its provider's request, in every situation, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from tests.support import h2_frames as frames
from tests.support.h2_lab import ask, h2_client
from tests.support.h2_peer import H2Peer
from tests.support.lab import Lab, eventually, full_backlog
from tests.support.provider import Caller
from tests.support.wire import CHUNKED_HEAD, chunk

SITUATIONS: dict[str, tuple[dict[str, object], str]] = {
    # How the provider is asked to behave, and the state its record then stays in.
    "before-the-head": ({"delay": 60}, "waiting"),
    "before-the-first-byte": ({"first": 60}, "streaming"),
    "silent": ({"silence_after": 5}, "silent"),
    "in-mid-stream": ({"events": 0, "rate": 100}, "streaming"),
    "window-shut": ({"events": 0}, "paused"),
}


@pytest.mark.parametrize(("options", "state"), SITUATIONS.values(), ids=SITUATIONS.keys())
async def test_a_reset_cancels_the_provider_s_request(lab: Lab, options: dict[str, object], state: str) -> None:
    simulator, relay, _ = await lab.simulated()
    client = await h2_client(lab, relay.port, peer=H2Peer(window=1000))
    stream_id = ask(client, **options)
    client.peer.stalled.add(stream_id)
    await client.flush()
    await eventually(lambda: simulator.streams and simulator.streams[0]["state"] == state)
    client.peer.reset(stream_id)
    await client.flush()
    await eventually(lambda: simulator.streams[0]["state"] == "cancelled", within=5)
    assert await relay.ended() == "client_gone"
    [pool] = relay.relay.metrics.pools
    await eventually(lambda: pool.open_connections == 0)
    answer = await client.answer(ask(client, events=3))  # the connection lives on
    assert answer.whole


async def test_a_reset_while_connecting_gives_the_attempt_up(lab: Lab) -> None:
    with full_backlog() as port:
        relay = await lab.relay(f"http://127.0.0.1:{port}")
        client = await h2_client(lab, relay.port)
        stream_id = client.peer.request()
        await client.flush()
        await eventually(lambda: relay.relay.metrics.open)
        client.peer.reset(stream_id)
        await client.flush()
        assert await relay.ended() == "client_gone"
        await eventually(lambda: len(asyncio.all_tasks()) == 1, "the attempt is over")


async def test_a_reset_in_the_middle_of_an_upload_leaves_the_provider_no_whole_request(lab: Lab) -> None:
    simulator, relay, _ = await lab.simulated()
    client = await h2_client(lab, relay.port)
    stream_id = client.peer.request("POST", "/v1/sink", end=False)
    client.peer.upload(stream_id, b"x" * 1000)
    await client.flush()
    await eventually(lambda: simulator.requests)
    client.peer.reset(stream_id)
    await client.flush()
    assert await relay.ended() == "client_gone"
    await eventually(lambda: simulator.records.connections_open == 0)


@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_a_connection_that_goes_cancels_all_its_requests(lab: Lab, leave: str) -> None:
    simulator, relay, _ = await lab.simulated()
    client = await h2_client(lab, relay.port)
    for number in range(50):
        ask(client, **({"delay": 60} if number % 2 else {"events": 0, "rate": 100}))
    await client.flush()
    await eventually(lambda: len(simulator.streams) == 50)
    getattr(client.wire, leave)()
    await eventually(lambda: {stream["state"] for stream in simulator.streams} == {"cancelled"}, within=5)
    assert {line["end"] for line in await relay.access(50)} == {"client_gone"}
    assert (await relay.metrics())["flow_h2_streams"] == 0


async def test_a_provider_that_breaks_off_breaks_its_stream_only(lab: Lab) -> None:
    async def script(caller: Caller) -> None:
        message = await caller.request()
        await caller.send(CHUNKED_HEAD + chunk(b"some"))
        if "/broken" in message.start:
            caller.reset()
        else:
            await caller.send(chunk(b"thing") + b"0\r\n\r\n")

    provider = await lab.provider(script)
    relay = await lab.relay(provider.url)
    client = await h2_client(lab, relay.port)
    broken, sound = client.peer.request(path="/broken"), client.peer.request()
    answer = await client.answer(broken)
    assert (answer.status, answer.whole, answer.reset) == (200, False, frames.INTERNAL_ERROR)
    assert (await client.answer(sound)).body == b"something"


async def test_a_provider_that_is_not_there_gets_its_stream_a_502(lab: Lab) -> None:
    relay = await lab.relay("http://127.0.0.1:1")
    client = await h2_client(lab, relay.port)
    for _ in range(3):
        answer = await client.get()
        assert (answer.status, answer.whole) == (502, True)


async def test_an_early_answer_reaches_a_client_that_goes_on_sending(lab: Lab) -> None:
    _, relay, _ = await lab.simulated(max_body=100_000)
    client = await h2_client(lab, relay.port)
    stream_id = client.peer.request("POST", "/v1/sink", end=False)
    while not client.peer.answers[stream_id].ended:
        await client.until(lambda: client.peer.room(stream_id) or client.peer.answers[stream_id].ended)
        if not client.peer.answers[stream_id].ended:
            client.peer.upload(stream_id, b"x" * client.peer.room(stream_id))
    answer = client.peer.answers[stream_id]
    assert (answer.status, answer.whole) == (413, True)
    assert (await client.answer(ask(client, events=1))).whole
