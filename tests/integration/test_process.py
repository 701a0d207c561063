"""The relay as a process: signals, draining, settings, exit status."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys

import pytest

from tests.support.lab import Lab, RelayProcess, chat, eventually, free_port, numbers, page, samples
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
    assert ends == ["relay_stopped"] * 3
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
    process.signal(signal.SIGINT)
    assert await process.exit_status() == 0
    body, end = await client.rest()
    assert not body.endswith(LAST_CHUNK)
    assert version == "1.1" or end is End.RESET
    await eventually(lambda: simulator.streams[0]["state"] == "cancelled")
    assert process.events()[1:] == ["draining", "ending_at_once", "access", "stopped"]
    assert [line["signal"] for line in process.lines if line["event"] == "ending_at_once"] == ["SIGINT"]
    assert [line["end"] for line in process.lines if line["event"] == "access"] == ["relay_stopped"]


async def test_a_second_signal_stops_answers_that_nobody_waits_for(lab: Lab) -> None:
    """They would be read to their end for what they cost: FLOW_DISCONNECT."""
    simulator = await lab.simulator()
    process = await lab.process(simulator.url, disconnect="drain")
    client = await lab.client(process.port)
    await client.send(chat(events=0, rate=100))
    await client.until(b"tok000003")
    process.signal(signal.SIGTERM)
    await _draining(process)
    process.signal(signal.SIGTERM)
    assert await process.exit_status() == 0
    assert [line["end"] for line in process.lines if line["event"] == "access"] == ["relay_stopped"]


async def test_before_it_drains_it_is_not_ready_and_serves(lab: Lab) -> None:
    provider = await lab.provider(ok)
    process = await lab.process(provider.url, drain_delay="700ms")
    before = await lab.client(process.port)
    await before.send(request())
    assert (await before.response()).body == b"ok"
    process.signal(signal.SIGTERM)
    await eventually(lambda: "leaving" in process.events())
    assert (await page(process.admin_port, "/readyz")).status == 503
    assert (await page(process.admin_port, "/healthz")).status == 200
    after = await lab.client(process.port)
    for client in (before, after):
        await client.send(request())
        answer = await client.response()
        assert (answer.body, answer.get("connection")) == (b"ok", None)
    assert "draining" not in process.events()
    await _draining(process)
    assert await after.rest() == (b"", End.CLOSED)
    assert await process.exit_status() == 0
    events = [event for event in process.events() if event != "access"]
    assert events == ["listening", "leaving", "draining", "stopped"]


async def test_a_second_signal_before_it_drains_ends_it_at_once(lab: Lab) -> None:
    process = await lab.process("http://127.0.0.1:9", drain_delay="1h")
    process.signal(signal.SIGTERM)
    await eventually(lambda: "leaving" in process.events())
    process.signal(signal.SIGTERM)
    assert await process.exit_status() == 0
    assert process.events() == ["listening", "leaving", "ending_at_once", "stopped"]


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
        {"FLOW_UPSTREAM": "http://a", "FLOW_LOW_WATER": "1m", "FLOW_HIGH_WATER": "64k"},
        {"FLOW_UPSTREAM": "http://a", "FLOW_MAX_CONNECTIONS": "0"},
        {"FLOW_UPSTREAM": "https://a", "FLOW_UPSTREAM_CA": "missing.pem"},
        {"FLOW_UPSTREAM": "http://a", "FLOW_TLS_KEY": __file__, "FLOW_TLS_CERT": __file__},
        {"FLOW_CONFIG": "missing.toml"},
        {"FLOW_CONFIG": __file__},
    ],
    ids=lambda environ: " ".join(environ) or "nothing",
)
async def test_a_bad_setting_ends_it_with_status_78_and_is_named(environ: dict[str, str]) -> None:
    status, complaint = await _serve(**environ)
    assert status == os.EX_CONFIG == 78
    named = [*environ, "FLOW_UPSTREAM"][-2 if environ else -1]
    assert named in complaint or f"{environ[named]}: " in complaint
    assert "Traceback" not in complaint


async def test_a_wrong_key_is_not_repeated() -> None:
    status, complaint = await _serve(FLOW_UPSTREAM="http://a", FLOW_UPSTREAM_API_KEY="sk-secret with blanks")
    assert status == 78
    assert "FLOW_UPSTREAM_API_KEY" in complaint
    assert "sk-secret" not in complaint


async def test_an_address_in_use_ends_it_with_status_1(lab: Lab) -> None:
    """It may be free later, so a service manager is to try again."""
    provider = await lab.provider(ok)
    status, complaint = await _serve(FLOW_UPSTREAM="http://a", FLOW_LISTEN=f"127.0.0.1:{provider.port}")
    assert status == 1
    assert f"FLOW_LISTEN: can't listen on 127.0.0.1:{provider.port}: Address already in use" in complaint
    assert "Traceback" not in complaint
    address = f"127.0.0.1:{provider.port}"
    status, complaint = await _serve(FLOW_UPSTREAM="http://a", FLOW_ADMIN_LISTEN=address)
    assert status == 1
    [told] = complaint.splitlines()
    assert told.startswith(
        f"flowserver: FLOW_ADMIN_LISTEN: can't listen on {address}: Address already in use; end process {os.getpid()} ("
    )


@pytest.mark.parametrize("host", ["a..b", "192.0.2.1", "nobody.invalid"])
async def test_an_address_that_is_none_here_is_named(host: str) -> None:
    """Status 1, as a name may be known later, and an interface may be up."""
    status, complaint = await _serve(FLOW_UPSTREAM="http://a", FLOW_LISTEN=f"{host}:0")
    assert status == 1
    assert f"FLOW_LISTEN: can't listen on {host}:0: " in complaint
    assert "Traceback" not in complaint


async def test_a_port_alone_is_listened_on_by_ipv4_and_ipv6(lab: Lab) -> None:
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url, listen=":0")
    assert str(relay.relay.addresses[0]) == f"[::]:{relay.port}"
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as connection:
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, (host, relay.port))
            wire = Wire(connection)
            await wire.send(request())
            assert (await wire.response()).body == b"ok"


async def test_without_ipv6_a_port_alone_is_listened_on_by_ipv4(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def no_ipv6(family: int = socket.AF_INET, *rest: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no IPv6 here")
        return real(family, *rest)

    provider = await lab.provider(ok)
    with monkeypatch.context() as patch:
        patch.setattr("flowserver.downstream.listener.socket.socket", no_ipv6)
        relay = await lab.relay(provider.url, listen=":0")
    assert str(relay.relay.addresses[0]) == f"0.0.0.0:{relay.port}"
    client = await lab.client(relay.port)
    await client.send(request())
    assert (await client.response()).body == b"ok"


@pytest.mark.parametrize("setting", ["upstream_rcvbuf", "notsent_lowat"])
async def test_the_largest_buffers_work(lab: Lab, setting: str) -> None:
    _, _, client = await lab.between(ok, **{setting: "1g"})
    await client.send(request())
    assert (await client.response()).body == b"ok"


def _blocks_sighup(pid: int) -> bool:
    with open(f"/proc/{pid}/status") as file:
        [mask] = [line.split()[1] for line in file if line.startswith("SigBlk:")]
    return bool(int(mask, 16) >> (signal.SIGHUP - 1) & 1)


async def test_sighup_during_the_start_waits_for_its_end(lab: Lab) -> None:
    starting = asyncio.get_running_loop().create_task(lab.process("http://127.0.0.1:9"))
    try:
        children = f"/proc/self/task/{os.getpid()}/children"
        pids: list[int] = []

        def is_blocked() -> bool:
            with open(children) as file, contextlib.suppress(FileNotFoundError):
                pids[:] = [pid for pid in map(int, file.read().split()) if _blocks_sighup(pid)]
            return bool(pids)

        await eventually(is_blocked, "SIGHUP is blocked")
        for _ in range(3):
            os.kill(pids[0], signal.SIGHUP)
    finally:
        process = await starting
    await eventually(lambda: "reloaded" in process.events())
    assert process.events()[0] == "listening"
    process.signal(signal.SIGHUP)
    await eventually(lambda: process.events().count("reloaded") == 2)
    process.signal(signal.SIGTERM)
    assert await process.exit_status() == 0


async def test_sighup_while_it_ends_is_not_its_end(lab: Lab) -> None:
    process = await lab.process("http://127.0.0.1:9")
    process.signal(signal.SIGTERM)
    await eventually(lambda: "stopped" in process.events() or process.returncode is not None)
    process.signal(signal.SIGHUP)
    assert await process.exit_status() == 0


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
    process = await _log_more_than_a_pipe_takes(lab, 100)
    process.read_log(True)


async def test_a_reader_of_the_log_that_stops_for_good_does_not_hold_up_the_end(lab: Lab) -> None:
    process = await _log_more_than_a_pipe_takes(lab, 200)
    process.signal(signal.SIGTERM)
    assert await process.ended() == 0
    process.read_log(True)


async def _log_more_than_a_pipe_takes(lab: Lab, requests: int) -> RelayProcess:
    """A relay that served `requests` with long access lines, none of which was read."""
    provider = await lab.provider(ok)
    process = await lab.process(provider.url)
    process.read_log(False)
    client = await lab.client(process.port)
    await client.send(b"".join(request(target="/" + "x" * 3000) for _ in range(requests)))
    for _ in range(requests):
        assert (await client.response()).body == b"ok"
    return process


@pytest.mark.parametrize("closed", ["1", "0 1 2"])
async def test_it_serves_with_closed_standard_streams_and_counts_the_lost_lines(lab: Lab, closed: str) -> None:
    provider = await lab.provider(ok)
    ports = [free_port(), free_port()]
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        f"{' '.join(f'exec {number}>&-;' for number in closed.split())} exec {sys.executable} -m flowserver serve",
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("FLOW_")},
            "FLOW_UPSTREAM": provider.url,
            "FLOW_LISTEN": f"127.0.0.1:{ports[0]}",
            "FLOW_ADMIN_LISTEN": f"127.0.0.1:{ports[1]}",
            "FLOW_ADMIN_HOSTS": "relay.test",
        },
    )
    try:
        await eventually(lambda: _listens(ports[0]))
        client = await lab.client(ports[0])
        for _ in range(3):
            await client.send(request())
            assert (await client.response()).body == b"ok"
        for _ in range(100):
            metrics = samples((await page(ports[1], "/metrics")).body.decode())
            if metrics["flow_log_dropped_total"] >= 4:
                break
            await asyncio.sleep(0.02)
        assert metrics["flow_log_dropped_total"] == 4  # listening, and three requests
    finally:
        process.terminate()
        assert await process.wait() == 0


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
