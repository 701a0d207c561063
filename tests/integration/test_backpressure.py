"""A client that stops reading stops its provider, and only that one; afterwards nothing is missing.

The bounds are wide: they tell a held-back provider from one that is not, they are no measurements.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest
import trustme

from flowserver.simulator import Simulator
from tests.support.lab import Lab, chat, eventually, numbers
from tests.support.provider import Caller
from tests.support.wire import CHUNKED_HEAD, LAST_CHUNK, Wire, chunk, request

EVENTS = 40_000
"""Of 250 bytes: ten times what a held-back provider gets rid of."""
BOUND = 1024 * 1024


async def _standstill(simulator: Simulator, count: int = 1) -> list[dict[str, Any]]:
    """The records of the streams, when the provider has stopped on all of them."""
    await eventually(lambda: len(simulator.streams) == count)
    before = None
    while before != (after := [(s["state"], s["bytes_accepted"]) for s in simulator.streams]):
        before = after
        await asyncio.sleep(0.15)
    return simulator.streams


@pytest.mark.parametrize("options", [{}, {"length": 1}, {"close": 1}], ids=["chunked", "length", "close"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_stalled_client_stops_its_provider_and_misses_nothing(
    lab: Lab, version: str, options: dict[str, int]
) -> None:
    simulator, relay, _ = await lab.simulated()
    client = await lab.client(relay.port, receive_buffer=16384)
    await client.send(chat(events=EVENTS, **options).replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1))
    [stream] = await _standstill(simulator)
    assert stream["state"] == "paused"
    assert stream["bytes_accepted"] < BOUND
    [exchange] = relay.exchanges
    assert exchange.state() == "paused"
    assert exchange.held <= 2 * 16384  # the high mark and one read
    answer = await client.response()
    assert numbers(answer.body) == list(range(EVENTS))
    assert simulator.streams[0]["state"] == "done"
    [line] = await relay.access()
    assert line["end"] == "complete"
    assert line["pauses"] >= 1
    assert line["paused_ms"] > 0


async def test_a_stalled_clients_provider_is_stopped_behind_tls_too(lab: Lab, authority: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    simulator = await lab.simulator(tls=context)
    with authority.cert_pem.tempfile() as ca:
        relay = await lab.relay(simulator.url, upstream_ca=ca)
    client = await lab.client(relay.port, receive_buffer=16384)
    await client.send(chat(events=EVENTS))
    [stream] = await _standstill(simulator)
    assert stream["bytes_accepted"] < BOUND
    [exchange] = relay.exchanges
    assert exchange.state() == "paused"
    assert numbers((await client.response()).body) == list(range(EVENTS))


async def test_stalling_again_and_again_misses_nothing(lab: Lab) -> None:
    simulator, relay, _ = await lab.simulated()
    client = await lab.client(relay.port, receive_buffer=8192)
    await client.send(chat(events=EVENTS))
    body = bytearray()
    for _ in range(6):
        stalled_at = len(body)
        await _standstill(simulator)
        while len(body) < stalled_at + 1_000_000:
            body += await client.receive()
    client.buffer += body
    assert numbers((await client.response()).body) == list(range(EVENTS))
    [line] = await relay.access()
    assert line["pauses"] >= 6


async def test_small_marks_pass_everything_too(lab: Lab) -> None:
    _, _, client = await lab.simulated(high_water=2, low_water=1, prefetch_chunks=1, upstream_rcvbuf=2048)
    await client.send(chat(events=2000))
    assert numbers((await client.response()).body) == list(range(2000))


async def test_the_kernels_own_buffers_can_be_asked_for(lab: Lab) -> None:
    _, _, client = await lab.simulated(notsent_lowat=0, upstream_rcvbuf=0, high_water="1m", low_water="256k")
    await client.send(chat(events=EVENTS))
    assert numbers((await client.response()).body) == list(range(EVENTS))


async def test_one_stalled_among_many_holds_up_nobody(lab: Lab) -> None:
    simulator, relay, _ = await lab.simulated()
    stalled = [await lab.client(relay.port, receive_buffer=8192) for _ in range(10)]
    for client in stalled:
        await client.send(chat(events=EVENTS))
    await _standstill(simulator, 10)
    others = [await lab.client(relay.port) for _ in range(20)]
    for client in others:
        await client.send(chat(events=50, rate=200))
    for client in others:
        assert numbers((await client.response()).body) == list(range(50))
    records = simulator.streams
    assert [record["state"] for record in records] == ["paused"] * 10 + ["done"] * 20
    assert max(record["bytes_accepted"] for record in records[:10]) < BOUND
    metrics = await relay.metrics()
    assert metrics["flow_streams_paused"] == 10
    assert 0 < metrics["flow_held_bytes"] <= 10 * 2 * 16384
    for client in stalled:
        assert numbers((await client.response()).body) == list(range(EVENTS))


async def test_a_client_that_reads_steadily_is_never_paused_for_small_events(lab: Lab) -> None:
    _, relay, client = await lab.simulated()
    await client.send(chat(events=100, rate=400))
    assert numbers((await client.response()).body) == list(range(100))
    [line] = await relay.access()
    assert (line["pauses"], line["full_writes"]) == (0, 0)


async def test_chunks_that_waited_leave_joined(lab: Lab) -> None:
    simulator, relay, _ = await lab.simulated(prefetch_chunks=10_000)
    client = await lab.client(relay.port, receive_buffer=8192)
    await client.send(chat(events=4000, split=97))
    await _standstill(simulator)
    answer = await client.response()
    assert numbers(answer.body) == list(range(4000))
    assert max(map(len, answer.chunks)) > 4 * 250
    assert (await relay.access())[0]["full_writes"] > 0


async def test_a_whole_answer_is_held_back_too(lab: Lab) -> None:
    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n")
        for _ in range(20):
            await caller.send(b"x" * 1_000_000)
            sent.append(1_000_000)

    sent: list[int] = []
    provider = await lab.provider(script)
    relay = await lab.relay(provider.url)
    client: Wire = await lab.client(relay.port, receive_buffer=16384)
    await client.send(request())
    await asyncio.sleep(0.5)
    [exchange] = relay.exchanges
    assert exchange.bytes_down < BOUND
    assert exchange.state() == "paused"
    assert len((await client.response()).body) == 20_000_000


async def test_an_end_that_comes_while_chunks_wait_is_a_clean_end(lab: Lab) -> None:
    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED_HEAD + b"".join(chunk(b"tok%06d" % n + b"x" * 600) for n in range(100)) + LAST_CHUNK)

    _, relay, _ = await lab.between(script)
    client = await lab.client(relay.port, receive_buffer=4096)
    await client.send(request())
    await eventually(lambda: relay.relay.metrics.open)
    await asyncio.sleep(0.2)
    assert numbers((await client.response()).body) == list(range(100))
    assert await relay.ended() == "complete"
