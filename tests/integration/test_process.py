"""The relay as a process: signals, draining, settings, exit status."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from tests.support.lab import Lab, RelayProcess, chat, eventually, free_port, numbers, page
from tests.support.peers import run
from tests.support.provider import ok
from tests.support.wire import LAST_CHUNK, End, Wire, request

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])


async def _draining(process: RelayProcess) -> None:
    await eventually(lambda: "draining" in process.events(), "it drains")


@SIGNALS
async def test_an_idle_relay_ends_at_once_with_status_0(lab: Lab, number: signal.Signals) -> None:
    process = await lab.process("http://127.0.0.1:9")
    process.signal(number)
    assert await process.exit_status() == 0
    assert process.events() == ["listening", "draining", "stopped"]


async def test_draining_lets_streams_finish_and_takes_nothing_new(lab: Lab) -> None:
    simulator = await lab.simulator()
    process = await lab.process(simulator.url)
    assert (await page(process.admin_port, "/readyz")).status == 200
    idle, streaming, behind = [await lab.client(process.port) for _ in range(3)]
    await idle.send(request(target="/v1/models"))
    assert (await idle.response()).status == 200
    await streaming.send(chat(events=150, rate=100))
    head = await streaming.head()
    assert head.get("connection") is None
    await behind.send(chat(events=20, delay=0.7))
    await eventually(lambda: len(simulator.streams) == 2)

    process.signal(signal.SIGTERM)
    await _draining(process)
    assert await idle.rest() == (b"", End.CLOSED)
    assert (await page(process.admin_port, "/readyz")).status == 503
    assert (await page(process.admin_port, "/healthz")).status == 200
    with pytest.raises(ConnectionRefusedError):
        await Wire.connect(process.port)

    answer = await behind.response()
    assert numbers(answer.body) == list(range(20))
    assert answer.get("connection") == "close"
    body, end = await streaming.rest()
    assert numbers(body) == list(range(150))
    assert body.endswith(LAST_CHUNK)
    assert end is End.CLOSED
    assert await process.exit_status() == 0
    assert {stream["state"] for stream in simulator.streams} == {"done"}


async def test_a_request_that_is_half_there_is_still_answered(lab: Lab) -> None:
    provider = await lab.provider(ok)
    process = await lab.process(provider.url)
    client = await lab.client(process.port)
    raw = request()
    await client.send(raw[:20])
    await asyncio.sleep(0.1)
    process.signal(signal.SIGTERM)
    await _draining(process)
    await client.send(raw[20:])
    answer = await client.response()
    assert (answer.body, answer.get("connection")) == (b"ok", "close")
    assert await process.exit_status() == 0


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_the_end_of_the_drain_time_breaks_streams_off(lab: Lab, version: str) -> None:
    """Stalled ones too, for whom bytes wait; none must look whole."""
    simulator = await lab.simulator()
    process = await lab.process(simulator.url, drain_timeout="300ms")
    raw = chat(events=0, rate=100).replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1)
    client, waiting = await lab.client(process.port), await lab.client(process.port)
    stalled = await lab.client(process.port, receive_buffer=8192)
    await client.send(raw)
    await client.until(b"tok000003")
    await waiting.send(chat(delay=60))
    await stalled.send(raw.replace(b"rate=100", b"rate=0"))
    await eventually(lambda: [s["state"] for s in simulator.streams].count("paused") == 1)
    process.signal(signal.SIGTERM)

    answer = await waiting.response()
    assert (answer.status, answer.get("retry-after"), answer.get("connection")) == (503, "1", "close")
    for one in (client, stalled):
        body, end = await one.rest()
        assert not body.endswith(LAST_CHUNK)
        if version == "1.0":
            assert end is End.RESET
    assert await process.exit_status() == 0
    await eventually(lambda: {s["state"] for s in simulator.streams} == {"cancelled"})
    ends = [line["end"] for line in process.lines if line["event"] == "access"]
    assert ends == ["drain"] * 3
    assert "drain_timeout" in process.events()


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_second_signal_ends_it_at_once(lab: Lab, version: str) -> None:
    simulator = await lab.simulator()
    process = await lab.process(simulator.url)
    client = await lab.client(process.port)
    await client.send(chat(events=0, rate=100).replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1))
    await client.until(b"tok000003")
    process.signal(signal.SIGTERM)
    await _draining(process)
    process.signal(signal.SIGTERM)
    assert await process.exit_status() == 0
    body, end = await client.rest()
    assert not body.endswith(LAST_CHUNK)
    assert version == "1.1" or end is End.RESET
    await eventually(lambda: simulator.streams[0]["state"] == "cancelled")


async def test_draining_ends_when_the_last_client_leaves(lab: Lab) -> None:
    simulator = await lab.simulator()
    process = await lab.process(simulator.url)
    client = await lab.client(process.port)
    await client.send(chat(events=0, rate=100))
    await client.until(b"tok000003")
    process.signal(signal.SIGTERM)
    await _draining(process)
    client.close()
    assert await process.exit_status() == 0
    await eventually(lambda: simulator.streams[0]["state"] == "cancelled")


async def test_a_killed_relay_is_no_clean_end(lab: Lab) -> None:
    simulator = await lab.simulator()
    process = await lab.process(simulator.url)
    client = await lab.client(process.port)
    await client.send(chat(events=0, rate=100))
    await client.until(b"tok000003")
    process.signal(signal.SIGKILL)
    body, _ = await client.rest()
    assert not body.endswith(LAST_CHUNK)
    assert await process.exit_status() == -signal.SIGKILL
    await eventually(lambda: simulator.streams[0]["state"] == "cancelled")


async def _serve(**environ: str) -> tuple[int, str]:
    """Exit status and complaint of a relay that can't start."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLOW_")}
    defaults = {"FLOW_LISTEN": "127.0.0.1:0", "FLOW_ADMIN_LISTEN": "off"}
    names = [f"{name}={value}" for name, value in (inherited | defaults | environ).items()]
    status, _, err = await run("env", "-i", *names, sys.executable, "-m", "flowserver", "serve")
    return status, err.decode()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"FLOW_UPSTREAM": "ftp://provider.test"},
        {"FLOW_UPSTREAM": "https://me:secret@provider.test"},
        {"FLOW_UPSTREAM": "http://a", "FLOW_IDLE_TIMEOUT": "soon"},
        {"FLOW_UPSTREAM": "http://a", "FLOW_LOW_WATER": "1m"},
        {"FLOW_UPSTREAM": "http://a", "FLOW_MAX_CONNECTIONS": "0"},
        {"FLOW_UPSTREAM": "https://a", "FLOW_UPSTREAM_CA": "missing.pem"},
    ],
    ids=lambda environ: " ".join(environ) or "nothing",
)
async def test_a_bad_setting_ends_it_with_status_1_and_is_named(environ: dict[str, str]) -> None:
    status, complaint = await _serve(**environ)
    assert status == 1
    assert [*environ, "FLOW_UPSTREAM"][-2 if environ else -1] in complaint
    assert "Traceback" not in complaint


async def test_a_wrong_key_is_not_repeated() -> None:
    status, complaint = await _serve(FLOW_UPSTREAM="http://a", FLOW_UPSTREAM_API_KEY="sk-secret with blanks")
    assert status == 1
    assert "FLOW_UPSTREAM_API_KEY" in complaint
    assert "sk-secret" not in complaint


async def test_an_address_in_use_ends_it_with_status_1(lab: Lab) -> None:
    provider = await lab.provider(ok)
    status, complaint = await _serve(FLOW_UPSTREAM="http://a", FLOW_LISTEN=f"127.0.0.1:{provider.port}")
    assert status == 1
    assert "can't listen" in complaint
    assert "Traceback" not in complaint


async def test_a_slip_in_a_settings_name_is_said() -> None:
    port = free_port()
    complaint = (await _serve(FLOW_UPSTREM="http://a", FLOW_LISTEN=f"127.0.0.1:{port}"))[1]
    assert "FLOW_UPSTREM" in complaint
    assert "did you mean FLOW_UPSTREAM?" in complaint


async def test_several_addresses_serve_alike(lab: Lab) -> None:
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url, listen="127.0.0.1:0,127.0.0.1:0")
    for address in relay.relay.addresses:
        client = await lab.client(address.port)
        await client.send(request())
        assert (await client.response()).body == b"ok"
    assert len({address.port for address in relay.relay.addresses}) == 2


async def test_a_reader_of_the_log_that_stops_holds_up_nobody(lab: Lab) -> None:
    """Lines go out by a thread of their own: a full pipe costs lines, not streams."""
    provider = await lab.provider(ok)
    process = await lab.process(provider.url)
    process.read_log(False)
    client = await lab.client(process.port)
    await client.send(b"".join(request(target="/" + "x" * 3000) for _ in range(100)))
    for _ in range(100):
        assert (await client.response()).body == b"ok"
    process.read_log(True)
