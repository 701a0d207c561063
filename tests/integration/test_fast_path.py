"""The fast path on real sockets: paced streams take it, over each protocol, and nothing of them changes."""

from __future__ import annotations

import ssl

import trustme

from tests.support.h2_lab import ask, h2_client
from tests.support.lab import Lab, RunningRelay, chat, eventually, numbers

PACED = {"events": 200, "rate": 100}
SWEPT_OFTEN = {"h2_ping_interval": "80ms"}


async def fast_chunks(relay: RunningRelay) -> float:
    """Reads that took the fast path."""
    return (await relay.metrics())["flow_fast_path_chunks_total"]


async def test_a_paced_stream_takes_the_fast_path(lab: Lab) -> None:
    _, relay, client = await lab.simulated(**SWEPT_OFTEN)
    await client.send(chat(**PACED))
    answer = await client.response()
    assert numbers(answer.body) == list(range(200))
    assert await fast_chunks(relay) > 20
    [line] = await relay.access()
    assert line["end"] == "complete"
    assert line["output_tokens"] == 200


async def test_it_can_be_switched_off(lab: Lab) -> None:
    _, relay, client = await lab.simulated(fast_path="off", **SWEPT_OFTEN)
    await client.send(chat(**PACED))
    answer = await client.response()
    assert numbers(answer.body) == list(range(200))
    assert await fast_chunks(relay) == 0
    [line] = await relay.access()
    assert line["output_tokens"] == 200


async def test_a_client_of_http_2_gets_it_too(lab: Lab) -> None:
    _, relay, _ = await lab.simulated(**SWEPT_OFTEN)
    client = await h2_client(lab, relay.port)
    streams = [ask(client, **PACED) for _ in range(3)]
    for stream in streams:
        assert numbers((await client.answer(stream)).body) == list(range(200))
    assert await fast_chunks(relay) > 60


async def test_a_provider_with_tls_has_it_too(lab: Lab, tmp_path: object) -> None:
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
    assert await fast_chunks(relay) > 100
    assert simulator.records.connections == 1


async def test_a_client_that_stalls_on_a_fast_path_stops_its_provider(lab: Lab) -> None:
    _, relay, _ = await lab.simulated(**SWEPT_OFTEN)
    client = await lab.client(relay.port, receive_buffer=4096)
    await client.send(chat(events=0, rate=400))
    await eventually(lambda: [exchange.record().fast_chunks > 20 for exchange in relay.exchanges] == [True])
    await eventually(lambda: [exchange.state() for exchange in relay.exchanges] == ["paused"])
    [exchange] = relay.exchanges
    assert exchange.held <= 8 * 1024 + 32 * 1024
