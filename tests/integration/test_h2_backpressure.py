"""Each stream's window reaches its own provider stream, and no other."""

from __future__ import annotations

import asyncio

from flowserver.simulator import Simulator
from tests.support.h2_lab import ask, h2_client
from tests.support.h2_peer import H2Peer
from tests.support.h2_wire import H2Wire
from tests.support.lab import Lab, RunningRelay, eventually, numbers
from tests.support.provider import Caller
from tests.support.wire import request, response

KB = 1024
WINDOW = 64 * KB
EVENTS = 4000
"""Of 250 bytes each: a megabyte, many times what a held-back provider gets rid of."""


async def _reading(client: H2Wire) -> None:
    """Read and credit in the background."""
    await client.until(lambda: False, within=60)


async def _standstill(simulator: Simulator, client: H2Wire) -> None:
    """Until no provider gets rid of anything more."""
    before: list[int] = []
    while before != (after := [stream["bytes_written"] for stream in simulator.streams]) or not before:
        before = after
        reads = asyncio.ensure_future(_reading(client))
        await asyncio.sleep(0.15)
        reads.cancel()
        await asyncio.wait([reads])


def _pulled(relay: RunningRelay) -> list[int]:
    return [exchange.bytes_down for exchange in relay.exchanges]


async def test_one_stalled_stream_among_fifty_stops_itself_only(lab: Lab) -> None:
    simulator, relay, _ = await lab.simulated()
    client = await h2_client(lab, relay.port, peer=H2Peer(window=WINDOW))
    stalled = ask(client, events=EVENTS, id="stalled")
    client.peer.stalled.add(stalled)
    others = [ask(client, events=400, rate=2000) for _ in range(49)]
    await client.until(lambda: all(client.peer.answers[number].whole for number in others), within=30)
    for number in others:
        assert numbers(client.peer.answers[number].body) == list(range(400))
    await _standstill(simulator, client)
    assert len(client.peer.answers[stalled].body) == WINDOW
    [pulled] = _pulled(relay)
    assert pulled <= WINDOW + 64 * KB
    [record] = [stream for stream in simulator.streams if stream["id"] == "stalled"]
    assert record["state"] == "paused"
    assert record["bytes_accepted"] <= WINDOW + 256 * KB  # the kernel's buffers are in it
    client.peer.release(stalled)
    answer = await client.answer(stalled)
    assert answer.whole
    assert numbers(answer.body) == list(range(EVENTS))


async def test_a_hundred_stalled_streams_over_ten_connections_are_bounded(lab: Lab) -> None:
    simulator, relay, _ = await lab.simulated()
    clients = [await h2_client(lab, relay.port, peer=H2Peer(window=WINDOW)) for _ in range(10)]
    for client in clients:
        client.peer.stalled.update(ask(client, events=EVENTS) for _ in range(10))
        await client.flush()
    for client in clients:
        await client.until(lambda c=client: all(len(c.peer.answers[n].body) == WINDOW for n in c.peer.stalled))  # type: ignore[misc]
    await _standstill(simulator, clients[0])
    exchanges = relay.exchanges
    assert len(exchanges) == 100
    assert all(exchange.state() == "paused" for exchange in exchanges)
    assert max(_pulled(relay)) <= WINDOW + 64 * KB
    assert sum(exchange.held for exchange in exchanges) <= 100 * 2 * 8 * KB  # the high mark and one read of each
    for client in clients:
        for number in list(client.peer.stalled):
            client.peer.release(number)
        await client.until(lambda c=client: all(answer.whole for answer in c.peer.answers.values()))  # type: ignore[misc]
        assert all(numbers(answer.body) == list(range(EVENTS)) for answer in client.peer.answers.values())


async def test_a_client_that_reads_nothing_at_all_stops_all_its_providers(lab: Lab) -> None:
    _, relay, _ = await lab.simulated()
    client = await h2_client(lab, relay.port, peer=H2Peer(window=1 << 24), receive_buffer=16 * KB)
    client.peer.credit(0, 1 << 24)
    ids = [ask(client, events=EVENTS) for _ in range(20)]
    await client.flush()
    await eventually(lambda: [e.state() for e in relay.exchanges] == ["paused"] * 20)
    assert sum(_pulled(relay)) <= 20 * 64 * KB + 512 * KB
    await client.until(lambda: all(client.peer.answers[number].whole for number in ids), within=30)
    assert all(numbers(client.peer.answers[number].body) == list(range(EVENTS)) for number in ids)


async def test_a_live_stream_beside_a_stalled_connection_goes_on(lab: Lab) -> None:
    _, relay, _ = await lab.simulated()
    stalled = await h2_client(lab, relay.port, peer=H2Peer(window=1 << 24), receive_buffer=16 * KB)
    stalled.peer.credit(0, 1 << 24)
    for _ in range(10):
        ask(stalled, events=0)
    await stalled.flush()
    await eventually(lambda: [e.state() for e in relay.exchanges] == ["paused"] * 10)
    client = await h2_client(lab, relay.port)
    answer = await client.answer(ask(client, events=500))
    assert numbers(answer.body) == list(range(500))


async def test_an_upload_the_provider_does_not_take_stops_at_its_window(lab: Lab) -> None:
    reads = asyncio.Event()

    async def script(caller: Caller) -> None:
        await reads.wait()
        message = await caller.request()
        await caller.send(response(b"%d" % len(message.body)))

    provider = await lab.provider(script, receive_buffer=16 * KB)
    relay = await lab.relay(provider.url)
    client = await h2_client(lab, relay.port)
    size = 8 << 20
    stream_id = client.peer.request("POST", headers=[("content-length", str(size))], end=False)
    sent = 0
    stuck = 0.0
    while stuck < 0.3:
        room = client.peer.room(stream_id)
        if room:
            piece = min(room, size - sent)
            client.peer.upload(stream_id, b"x" * piece)
            sent += piece
            stuck = 0.0
        else:
            stuck += 0.05
        await client.flush()
        reading = asyncio.ensure_future(_reading(client))
        await asyncio.sleep(0.05)
        reading.cancel()
        await asyncio.wait([reading])
    [exchange] = relay.exchanges
    assert sent < 6 << 20  # the kernels' buffers towards the provider are most of it
    assert sent - exchange.bytes_up <= WINDOW
    reads.set()
    while sent < size:
        await client.until(lambda: client.peer.room(stream_id))
        piece = min(client.peer.room(stream_id), size - sent)
        sent += piece
        client.peer.upload(stream_id, b"x" * piece, end=sent == size)
    assert (await client.answer(stream_id)).body == b"%d" % size


async def test_an_upload_that_is_held_back_leaves_the_other_streams_alone(lab: Lab) -> None:
    simulator, relay, _ = await lab.simulated()
    client = await h2_client(lab, relay.port)
    slow = client.peer.request("POST", "/v1/sink", [("x-simulate", "read_after=60")], end=False)
    await client.until(lambda: client.peer.room(slow) == WINDOW)
    for _ in range(200):
        if room := client.peer.room(slow):
            client.peer.upload(slow, b"x" * room)
        answer = await client.answer(ask(client, events=1))
        assert answer.whole
    assert len(simulator.streams) >= 200


async def test_http_1_1_and_http_2_share_a_port(lab: Lab) -> None:
    _, relay, wire = await lab.simulated()
    client = await h2_client(lab, relay.port)
    await wire.send(request(target="/v1/models"))
    first = (await wire.response()).body
    second = await client.get("/v1/models")
    assert (second.status, second.body) == (200, first)
    lines = await relay.access(2)
    assert [line["protocol"] for line in lines] == ["h1", "h2"]
