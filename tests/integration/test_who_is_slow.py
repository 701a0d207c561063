"""The relay tells whether the client or the provider holds a stream."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.h2_lab import Certificates, ask, h2_client
from tests.support.h2_peer import H2Peer
from tests.support.h2_wire import secure
from tests.support.lab import Lab, RunningRelay, chat, eventually, numbers
from tests.support.wire import LAST_CHUNK

EVENTS = 20_000


async def _stream(relay: RunningRelay) -> dict[str, Any]:
    """The only one of /streams."""
    [stream] = orjson.loads((await relay.page("/streams")).body)
    assert isinstance(stream, dict)
    return stream


async def _paused(relay: RunningRelay) -> None:
    await eventually(lambda: [e for e in relay.exchanges if e.is_paused])


@pytest.mark.parametrize("tls", [False, True])
async def test_a_client_that_stops_reading_is_slow(lab: Lab, tmp_path: Path, tls: bool) -> None:
    certificates = Certificates(tmp_path)
    simulator = await lab.simulator()
    relay = await lab.relay(simulator.url, **(certificates.settings if tls else {}))
    client = await lab.client(relay.port, receive_buffer=8192)
    if tls:
        client = await secure(client, certificates.client("http/1.1"))
    await client.send(chat(events=EVENTS))
    await _paused(relay)
    await asyncio.sleep(1.0)
    before = await _stream(relay)
    await asyncio.sleep(0.5)
    after = await _stream(relay)
    assert after["slow"] == "client"
    grown = {name: after[f"{name}_seconds"] - before[f"{name}_seconds"] for name in ("client", "network", "provider")}
    assert grown["client"] > 0.3
    assert grown["network"] < 0.2
    assert grown["provider"] < 0.2
    assert after["held_seconds"] > 1.0
    assert 0 < after["unacknowledged_tokens"] <= after["tokens"]
    metrics = await relay.metrics()
    assert metrics['flow_limited_seconds_total{by="client"}'] >= after["client_seconds"]
    assert numbers((await client.response()).body) == list(range(EVENTS))
    [line] = await relay.access()
    assert line["client_ms"] >= 1000
    parties = ("client_ms", "network_ms", "provider_ms", "relay_ms")
    assert sum(line.get(party, 0) for party in parties) == pytest.approx(
        line["duration_ms"] - line["first_byte_ms"], abs=3
    )
    metrics = await relay.metrics()
    assert metrics["flow_held_seconds_count"] >= 1
    assert metrics["flow_held_seconds_sum"] >= 1.0


async def test_a_provider_that_is_slow_is_slow(lab: Lab) -> None:
    _, relay, client = await lab.simulated()
    await client.send(chat(events=40, rate=50))
    await client.until(b"tok000020")
    stream = await _stream(relay)
    assert stream["slow"] == "provider"
    assert stream["provider_seconds"] > 0.2
    assert stream["client_seconds"] == stream["network_seconds"] == stream["relay_seconds"] == 0
    assert stream["held_seconds"] == 0
    await client.until(LAST_CHUNK)
    [line] = await relay.access()
    assert line["provider_ms"] >= 500
    assert not {"client_ms", "network_ms", "relay_ms"} & line.keys()


async def test_a_stream_whose_window_is_shut_is_held_by_its_client(lab: Lab) -> None:
    """While the connection's TCP takes everything."""
    _, relay, _ = await lab.simulated()
    client = await h2_client(lab, relay.port, peer=H2Peer(window=10_000))
    stalled = ask(client, events=EVENTS)
    client.peer.stalled.add(stalled)
    await client.until(lambda: len(client.peer.answers[stalled].body) == 10_000)
    await _paused(relay)
    await asyncio.sleep(0.5)
    stream = await _stream(relay)
    assert (stream["protocol"], stream["slow"]) == ("h2", "client")
    assert stream["client_seconds"] > 0.3
    assert stream["network_seconds"] < 0.2
    assert stream["held_seconds"] > 0.3
    assert stream["unacknowledged_tokens"] > 0
    client.peer.release(stalled)
    assert numbers((await client.answer(stalled)).body) == list(range(EVENTS))


async def test_a_client_that_reads_no_frames_is_slow(lab: Lab) -> None:
    _, relay, _ = await lab.simulated()
    client = await h2_client(lab, relay.port, peer=H2Peer(window=1 << 24), receive_buffer=16_384)
    client.peer.credit(0, 1 << 24)
    number = ask(client, events=EVENTS)
    await client.flush()
    await _paused(relay)
    await asyncio.sleep(0.7)
    stream = await _stream(relay)
    assert stream["slow"] == "client"
    assert stream["client_seconds"] > 0.3
    await client.until(lambda: client.peer.answers[number].whole, within=30)
