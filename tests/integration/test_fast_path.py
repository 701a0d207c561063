"""The fast path on real sockets: paced streams take it, over each protocol, and nothing of them changes."""

from __future__ import annotations

import ssl

import pytest
import trustme

from flowserver.relay.fast_path import FastPath
from tests.support.h2_lab import ask, h2_client
from tests.support.lab import Lab, chat, eventually, numbers

PACED = {"events": 200, "rate": 100}
SWEPT_OFTEN = {"h2_ping_interval": "80ms"}


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Reads that went by fast paths, each time they are counted."""
    counts: list[int] = []
    settle = FastPath.settle

    def count(fast_path: FastPath) -> None:
        before = fast_path.chunks
        settle(fast_path)
        counts.append(fast_path.chunks - before)

    monkeypatch.setattr(FastPath, "settle", count)
    return counts


async def test_a_paced_stream_takes_the_fast_path(lab: Lab, passed: list[int]) -> None:
    _, relay, client = await lab.simulated(**SWEPT_OFTEN)
    await client.send(chat(**PACED))
    answer = await client.response()
    assert numbers(answer.body) == list(range(200))
    assert sum(passed) > 20
    [line] = await relay.access()
    assert line["end"] == "complete"
    assert line["output_tokens"] == 200


async def test_it_can_be_switched_off(lab: Lab, passed: list[int]) -> None:
    _, relay, client = await lab.simulated(fast_path="off", **SWEPT_OFTEN)
    await client.send(chat(**PACED))
    answer = await client.response()
    assert numbers(answer.body) == list(range(200))
    assert sum(passed) == 0
    [line] = await relay.access()
    assert line["output_tokens"] == 200


async def test_a_client_of_http_2_gets_it_too(lab: Lab, passed: list[int]) -> None:
    _, relay, _ = await lab.simulated(**SWEPT_OFTEN)
    client = await h2_client(lab, relay.port)
    streams = [ask(client, **PACED) for _ in range(3)]
    for stream in streams:
        assert numbers((await client.answer(stream)).body) == list(range(200))
    assert sum(passed) > 60


async def test_a_provider_with_tls_has_it_too(lab: Lab, passed: list[int], tmp_path: object) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    simulator = await lab.simulator(tls=context)
    file = f"{tmp_path}/ca.pem"
    authority.cert_pem.write_to_path(file)
    relay = await lab.relay(simulator.url, upstream_ca=file, **SWEPT_OFTEN)
    client = await lab.client(relay.port)
    for _ in range(2):  # the second one over the same connection
        await client.send(chat(**PACED))
        assert numbers((await client.response()).body) == list(range(200))
    assert sum(passed) > 100
    assert simulator.records.connections == 1


async def test_a_client_that_stalls_on_a_fast_path_stops_its_provider(lab: Lab, passed: list[int]) -> None:
    _, relay, _ = await lab.simulated(**SWEPT_OFTEN)
    client = await lab.client(relay.port, receive_buffer=4096)
    await client.send(chat(events=0, rate=400))
    await eventually(lambda: sum(passed) > 20)
    await eventually(lambda: [exchange.state() for exchange in relay.exchanges] == ["paused"])
    [exchange] = relay.exchanges
    assert exchange.held <= 8 * 1024 + 32 * 1024
