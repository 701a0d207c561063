"""Clients over TLS: what ALPN chooses, who is let in, and new certificates while the relay runs."""

from __future__ import annotations

import shutil
import signal
import ssl
from pathlib import Path

import pytest

from tests.support.h2_lab import Certificates, ask, h2_client
from tests.support.h2_wire import TlsWire, secure
from tests.support.lab import Lab, eventually, numbers
from tests.support.wire import End, Wire, request


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def _secured(lab: Lab, port: int, context: ssl.SSLContext) -> TlsWire:
    wire = await secure(await Wire.connect(port), context)
    lab.wires.append(wire)
    return wire


async def _serial(lab: Lab, port: int, context: ssl.SSLContext) -> object:
    certificate = (await _secured(lab, port, context)).tls.getpeercert()
    assert certificate is not None
    return certificate["serialNumber"]


async def _ask_once(lab: Lab, port: int, context: ssl.SSLContext) -> None:
    client = await h2_client(lab, port, tls=context)
    assert (await client.answer(ask(client, events=1))).whole


async def test_http_2_is_chosen_by_alpn_and_streams_pass(lab: Lab, certificates: Certificates) -> None:
    _, relay, _ = await lab.simulated(**certificates.settings)
    client = await h2_client(lab, relay.port, tls=certificates.client())
    ids = [ask(client, events=2000) for _ in range(10)]
    await client.until(lambda: all(client.peer.answers[number].whole for number in ids))
    assert all(numbers(client.peer.answers[number].body) == list(range(2000)) for number in ids)


@pytest.mark.parametrize("protocols", [("http/1.1",), ("spdy/3",)])
async def test_who_does_not_offer_http_2_is_spoken_to_in_http_1_1(
    lab: Lab, certificates: Certificates, protocols: tuple[str, ...]
) -> None:
    _, relay, _ = await lab.simulated(**certificates.settings)
    wire = await _secured(lab, relay.port, certificates.client(*protocols))
    await wire.send(request(target="/v1/models", headers=["Connection: close"]))
    answer = b""
    while data := await wire.receive():
        answer += data
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_stalled_stream_over_tls_stops_its_provider(lab: Lab, certificates: Certificates) -> None:
    _, relay, _ = await lab.simulated(**certificates.settings)
    client = await h2_client(lab, relay.port, tls=certificates.client())
    stalled, live = ask(client, events=0), ask(client, events=500)
    client.peer.stalled.add(stalled)
    assert numbers((await client.answer(live)).body) == list(range(500))
    await client.until(lambda: len(client.peer.answers[stalled].body) == 65_535)
    await eventually(lambda: [exchange.state() for exchange in relay.exchanges] == ["paused"])
    [exchange] = relay.exchanges
    assert exchange.bytes_down <= 128 * 1024


async def test_a_drain_over_tls_closes_in_good_order(lab: Lab, certificates: Certificates) -> None:
    simulator = await lab.simulator()
    relay = await lab.process(simulator.url, **certificates.settings)
    client = await h2_client(lab, relay.port, tls=certificates.client())
    stream_id = ask(client, events=150, rate=100)
    await client.until(lambda: client.peer.answers[stream_id].body)
    relay.signal(signal.SIGTERM)
    assert numbers((await client.answer(stream_id)).body) == list(range(150))
    assert await client.ended() is End.CLOSED
    client.close()
    assert await relay.exit_status() == 0


async def test_mutual_tls_lets_in_who_has_a_certificate(lab: Lab, certificates: Certificates) -> None:
    _, relay, _ = await lab.simulated(**certificates.settings, tls_client_ca=certificates.authority)
    await _ask_once(lab, relay.port, certificates.client(certified=True))


async def test_mutual_tls_keeps_out_who_has_none(lab: Lab, certificates: Certificates) -> None:
    simulator, relay, _ = await lab.simulated(**certificates.settings, tls_client_ca=certificates.authority)
    with pytest.raises((EOFError, OSError)):  # in TLS 1.3 the client learns it after its handshake
        await _ask_once(lab, relay.port, certificates.client())
    assert simulator.requests == []


async def test_a_certificate_is_renewed_while_streams_run(lab: Lab, certificates: Certificates) -> None:
    simulator = await lab.simulator()
    relay = await lab.process(simulator.url, **certificates.settings)
    context = certificates.client()
    client = await h2_client(lab, relay.port, tls=context)
    stream_id = ask(client, events=100, rate=100)
    await client.until(lambda: client.peer.answers[stream_id].body)
    before = await _serial(lab, relay.port, context)
    certificates.renew()
    relay.signal(signal.SIGHUP)
    await eventually(lambda: "reloaded" in relay.events())
    assert await _serial(lab, relay.port, context) != before
    assert numbers((await client.answer(stream_id)).body) == list(range(100))


async def test_broken_files_keep_the_certificate_that_is_there(lab: Lab, certificates: Certificates) -> None:
    simulator = await lab.simulator()
    relay = await lab.process(simulator.url, **certificates.settings)
    context = certificates.client()
    before = await _serial(lab, relay.port, context)
    certificates.spoil()
    relay.signal(signal.SIGHUP)
    await eventually(lambda: "reload_failed" in relay.events())
    [problems] = [line["problems"] for line in relay.lines if line["event"] == "reload_failed"]
    assert problems[0].startswith("FLOW_TLS_CERT, FLOW_TLS_KEY, FLOW_TLS_CLIENT_CA: can't be used: ")
    assert await _serial(lab, relay.port, context) == before


async def test_an_authority_that_was_taken_out_lets_nobody_in_any_more(
    lab: Lab, certificates: Certificates, tmp_path: Path
) -> None:
    simulator = await lab.simulator()
    (tmp_path / "other").mkdir()
    other = Certificates(tmp_path / "other")
    trusted = shutil.copy(certificates.authority, tmp_path / "clients.pem")
    relay = await lab.process(simulator.url, **certificates.settings, tls_client_ca=trusted)
    context = certificates.client(certified=True)
    await _ask_once(lab, relay.port, context)
    shutil.copy(other.authority, trusted)
    relay.signal(signal.SIGHUP)
    await eventually(lambda: "reloaded" in relay.events())
    with pytest.raises((EOFError, OSError)):
        await _ask_once(lab, relay.port, context)


async def test_a_handshake_has_the_time_of_a_head(lab: Lab, certificates: Certificates) -> None:
    _, relay, _ = await lab.simulated(**certificates.settings, head_timeout="200ms")
    wire = await lab.client(relay.port)
    await wire.send(b"\x16\x03\x01")
    await wire.rest()


async def test_what_is_no_tls_is_hung_up_on(lab: Lab, certificates: Certificates) -> None:
    _, relay, _ = await lab.simulated(**certificates.settings)
    wire = await lab.client(relay.port)
    await wire.send(request())
    answer, _ = await wire.rest()
    assert b"HTTP/" not in answer
    client = await h2_client(lab, relay.port, tls=certificates.client())
    assert (await client.answer(ask(client, events=1))).whole


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (request(), "it spoke plain HTTP where TLS is expected"),
        (b"\x16\x03\x01\x00\x04nope" * 3, "the TLS handshake failed"),
    ],
)
async def test_a_handshake_that_fails_is_counted_and_has_a_line(
    lab: Lab, certificates: Certificates, sent: bytes, why: str
) -> None:
    _, relay, _ = await lab.simulated(**certificates.settings)
    for _ in range(2):  # a probe of a load balancer is no failure
        (await Wire.connect(relay.port)).close()
    wire = await Wire.connect(relay.port)
    lab.wires.append(wire)
    await wire.send(sent)
    await eventually(lambda: relay.lines("connection_refused"))
    [line] = relay.lines("connection_refused")
    assert why in line["error"]
    assert line["client"] == "127.0.0.1"
    assert (await relay.metrics())['flow_clients_refused_total{reason="tls_handshake"}'] == 1
