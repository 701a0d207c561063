"""Unix sockets on both sides: everything that holds over TCP, as far as the kernel has it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.support.h2_lab import Certificates, ask
from tests.support.h2_peer import H2Peer
from tests.support.h2_provider import H2Server, H2Site
from tests.support.h2_provider import ok as h2_ok
from tests.support.h2_wire import H2Wire, secure
from tests.support.lab import Lab, RunningRelay, chat, eventually, finishes, numbers, settled
from tests.support.peers import curl
from tests.support.provider import Caller, ok
from tests.support.topology import toml
from tests.support.wire import CHUNKED_HEAD, LAST_CHUNK, chunk, request, response

EVENTS = 40_000
MB = 1024 * 1024
KB = 1024
BOUND = 96 * KB
"""Half of what the kernel takes of a Unix socket by itself."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a path that leaves room for a socket's name."""
    assert len(str(tmp_path)) < 90
    return tmp_path


async def _h2_client_at(lab: Lab, path: Path, peer: H2Peer | None = None) -> H2Wire:
    client = H2Wire(await lab.client_at(path), peer or H2Peer())
    await client.flush()
    return client


async def _stands_still(relay: RunningRelay) -> int:
    """The bytes that came from the provider, when no more come."""
    await eventually(lambda: relay.exchanges and relay.exchanges[0].state() == "paused")
    [exchange] = relay.exchanges
    passed = -1
    while passed != exchange.bytes_down:
        passed = exchange.bytes_down
        await asyncio.sleep(0.15)
    return passed


# --- clients ---


async def test_clients_connect_by_a_unix_socket(lab: Lab, folder: Path) -> None:
    simulator = await lab.simulator()
    path = folder / "relay.sock"
    relay = await lab.relay(simulator.url, listen=f"unix:{path},127.0.0.1:0")
    assert [str(address).partition(":")[0] for address in relay.relay.addresses] == ["unix", "127.0.0.1"]
    client = await lab.client_at(path)
    for _ in range(2):
        await client.send(chat(events=20))
        assert numbers((await client.response()).body) == list(range(20))
    multiplexed = await _h2_client_at(lab, path)
    stream = ask(multiplexed, events=20)
    assert numbers((await multiplexed.answer(stream)).body) == list(range(20))
    assert [line["client"] for line in await relay.access(3)] == [None] * 3
    await relay.relay.close()
    assert not path.exists()


async def test_tls_over_a_unix_socket(lab: Lab, folder: Path) -> None:
    certificates = Certificates(folder)
    simulator = await lab.simulator()
    await lab.relay(simulator.url, listen=f"unix:{folder}/relay.sock", **certificates.settings)
    client = await secure(await lab.client_at(folder / "relay.sock"), certificates.client("http/1.1"))
    await client.send(chat(events=20))
    assert numbers((await client.response()).body) == list(range(20))


async def test_the_admin_pages_by_a_unix_socket(lab: Lab, folder: Path) -> None:
    """By whatever name they are asked for: no browser gets there."""
    provider = await lab.provider(ok)
    path = folder / "admin.sock"
    relay = await lab.relay(provider.url, admin_listen=f"unix:{path}")
    assert str(relay.relay.admin_address) == f"unix:{path}"
    wire = await lab.client_at(path)
    for name in ("/healthz", "/metrics", "/streams"):
        await wire.send(request(target=name).replace(b"relay.test", b"anything"))
        assert (await wire.response()).status == 200
    wire.close()


async def test_curl_by_a_unix_socket(lab: Lab, folder: Path) -> None:
    provider = await lab.provider(ok)
    await lab.relay(provider.url, listen=f"unix:{folder}/relay.sock")
    assert await curl("--unix-socket", f"{folder}/relay.sock", "http://localhost/v1/test") == b"ok"


@pytest.mark.parametrize("size", [200, 60_000], ids=["small events", "large events"])
async def test_a_stalled_client_stops_its_provider_and_misses_nothing(lab: Lab, folder: Path, size: int) -> None:
    count = 20 * MB // size
    sent = 0

    async def script(caller: Caller) -> None:
        nonlocal sent
        await caller.request()
        await caller.send(CHUNKED_HEAD)
        for number in range(count):
            await caller.send(chunk(b"data: tok%06d %b\n\n" % (number, b"x" * size)))
            sent += size
        await caller.send(LAST_CHUNK)

    provider = await lab.provider(script)
    relay = await lab.relay(provider.url, listen=f"unix:{folder}/relay.sock")
    client = await lab.client_at(folder / "relay.sock")
    await client.send(request())
    passed = await _stands_still(relay)
    assert passed < BOUND
    assert relay.exchanges[0].held <= 2 * 16 * KB + size
    assert numbers((await client.response()).body) == list(range(count))
    [line] = await relay.access()
    assert (line["end"], line["pauses"] >= 1) == ("complete", True)


async def test_a_slow_client_gets_its_own_pace(lab: Lab, folder: Path) -> None:
    """As much ahead as it takes in a while, and everything in the end."""
    simulator = await lab.simulator()
    relay = await lab.relay(simulator.url, listen=f"unix:{folder}/relay.sock", drain_target="100ms")
    client = await lab.client_at(folder / "relay.sock")
    await client.send(chat(events=EVENTS))
    body = bytearray()
    for _ in range(40):
        body += await client.receive(4096)
        await asyncio.sleep(0.02)
    [exchange] = relay.exchanges
    assert exchange.bytes_down - len(body) < BOUND
    client.buffer += body
    assert numbers((await client.response()).body) == list(range(EVENTS))


async def test_a_stalled_h2_client_is_told_from_one_that_is_gone(lab: Lab, folder: Path) -> None:
    """Its kernel does not acknowledge a ping before it reads it, but it is on this machine, and there."""
    simulator = await lab.simulator()
    relay = await lab.relay(
        simulator.url, listen=f"unix:{folder}/relay.sock", h2_ping_interval="100ms", stall_timeout="off"
    )
    client = await _h2_client_at(lab, folder / "relay.sock")
    stream = ask(client, events=20, rate=10)
    await client.flush()
    await asyncio.sleep(1.0)
    assert relay.relay.connections == 1
    assert numbers((await client.answer(stream)).body) == list(range(20))


@pytest.mark.parametrize("multiplexed", [False, True], ids=["h1", "h2"])
async def test_a_client_that_leaves_cancels_its_provider(lab: Lab, folder: Path, multiplexed: bool) -> None:
    simulator = await lab.simulator()
    relay = await lab.relay(simulator.url, listen=f"unix:{folder}/relay.sock")
    if multiplexed:
        h2 = await _h2_client_at(lab, folder / "relay.sock")
        ask(h2, events=100_000, rate=100)
        await h2.flush()
        wire = h2.wire
    else:
        wire = await lab.client_at(folder / "relay.sock")
        await wire.send(chat(events=100_000, rate=100))
    await wire.receive()
    await eventually(lambda: simulator.streams)
    wire.close()
    await eventually(lambda: simulator.streams[0]["state"] == "cancelled")
    assert await relay.ended() == "client_gone"


async def test_a_stalled_client_that_hangs_up_is_noticed(lab: Lab, folder: Path) -> None:
    """While its upload is held back its socket is not read; epoll tells."""

    async def script(caller: Caller) -> None:
        await caller.head()
        await asyncio.sleep(3600)

    provider = await lab.provider(script, receive_buffer=16 * KB)
    relay = await lab.relay(provider.url, listen=f"unix:{folder}/relay.sock")
    client = await lab.client_at(folder / "relay.sock")
    uploading = asyncio.create_task(client.send(request("POST", body=bytes(12 * MB))))
    await eventually(lambda: relay.exchanges and relay.exchanges[0].upload_is_stopped)
    uploading.cancel()
    client.close()
    assert await relay.ended() == "client_gone"


async def test_a_client_that_stalls_for_too_long_is_cut(lab: Lab, folder: Path) -> None:
    simulator = await lab.simulator()
    relay = await lab.relay(simulator.url, listen=f"unix:{folder}/relay.sock", stall_timeout="300ms")
    client = await lab.client_at(folder / "relay.sock")
    await client.send(chat(events=EVENTS))
    assert await relay.ended() == "client_stalled"


# --- providers ---


async def test_a_provider_at_a_unix_socket(lab: Lab, folder: Path) -> None:
    provider = await lab.provider_at(folder / "vLLM 1.sock", ok)
    relay = await lab.relay(f"{provider.url}/v1")
    client = await lab.client(relay.port)
    for _ in range(2):
        await client.send(request(target="/chat"))
        assert (await client.response()).body == b"ok"
    assert len(provider.callers) == 1
    assert [(message.start, message.get("host")) for message in provider.requests] == [
        ("GET /v1/chat HTTP/1.1", "localhost")
    ] * 2
    lines = await relay.access(2)
    assert {line["upstream"] for line in lines} == {str(folder / "vLLM 1.sock")}
    assert [line["reused"] for line in lines] == [False, True]
    metrics = await relay.metrics()
    assert not any(name.startswith("flow_upstream_dns") for name in metrics)


async def test_a_provider_of_http2_at_a_unix_socket(lab: Lab, folder: Path) -> None:
    site = H2Site(h2_ok)
    provider = await lab.provider_at(folder / "h2.sock", site.script)
    config = toml(folder, {"local": {"url": provider.url, "protocol": "h2"}})
    relay = await lab.relay(None, config=config)
    clients = [await lab.client(relay.port) for _ in range(5)]
    for client in clients:
        await client.send(request())
    for client in clients:
        assert (await client.response()).body == b"ok"
    assert len(provider.callers) == 1
    [server] = site.servers
    assert all((":authority", "localhost") in fields for fields in server.requests.values())


async def test_a_stalled_client_stops_a_provider_at_a_unix_socket(lab: Lab, folder: Path) -> None:
    """What the provider's own socket takes (net.core.wmem_default) is beyond the relay."""
    sent = 0

    async def script(caller: Caller) -> None:
        nonlocal sent
        await caller.request()
        await caller.send(CHUNKED_HEAD)
        for number in range(EVENTS):
            event = b"data: tok%06d %b\n\n" % (number, b"x" * 200)
            await caller.send(chunk(event))
            sent += len(event)
        await caller.send(LAST_CHUNK)

    provider = await lab.provider_at(folder / "p.sock", script)
    relay = await lab.relay(provider.url, listen=f"unix:{folder}/relay.sock")
    client = await lab.client_at(folder / "relay.sock")
    await client.send(request())
    passed = await _stands_still(relay)
    assert passed < BOUND
    assert sent - passed <= _provider_buffer(provider.callers[0])
    assert numbers((await client.response()).body) == list(range(EVENTS))


def _provider_buffer(caller: Caller) -> int:
    return caller.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) + 64 * KB


async def test_an_h2_stream_that_stalls_stops_itself_only(lab: Lab, folder: Path) -> None:
    def begin(server: H2Server, stream_id: int) -> None:
        server.head(stream_id)
        server.body(stream_id, b"s" * MB if (":path", "/stalled") in server.requests[stream_id] else b"ok", end=True)

    site = H2Site(begin)
    provider = await lab.provider_at(folder / "h2.sock", site.script)
    config = toml(folder, {"local": {"url": provider.url, "protocol": "h2"}})
    relay = await lab.relay(None, config=config, listen=f"unix:{folder}/relay.sock")
    stalled = await lab.client_at(folder / "relay.sock")
    await stalled.send(request(target="/stalled"))
    assert await _stands_still(relay) < BOUND
    other = await lab.client_at(folder / "relay.sock")
    await other.send(request())
    assert (await other.response()).body == b"ok"
    assert len((await stalled.response()).body) == MB


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_provider_that_does_not_read_stops_the_upload(lab: Lab, folder: Path, framing: str) -> None:
    reads = asyncio.Event()
    received = 0

    async def script(caller: Caller) -> None:
        nonlocal received
        await caller.head()
        received = len(caller.buffer)
        caller.buffer.clear()
        await reads.wait()
        while data := await caller.receive(MB):
            received += len(data)

    provider = await lab.provider_at(folder / "p.sock", script)
    relay = await lab.relay(provider.url, listen=f"unix:{folder}/relay.sock")
    client = await lab.client_at(folder / "relay.sock")
    body = bytes(12 * MB)
    if framing == "length":
        upload = request("POST", body=body)
    else:
        upload = request("POST", headers=["Transfer-Encoding: chunked"]) + chunk(body) + LAST_CHUNK
    uploading = asyncio.create_task(client.send(upload))
    await eventually(lambda: relay.exchanges and relay.exchanges[0].upload_is_stopped)
    [exchange] = relay.exchanges
    passed = -1
    while passed != exchange.bytes_up:
        passed = exchange.bytes_up
        await asyncio.sleep(0.1)
    assert not uploading.done()
    assert passed < MB
    reads.set()
    await uploading
    await eventually(lambda: received >= len(body))
    assert exchange.bytes_up == len(body)
    client.close()


async def test_a_provider_with_a_full_queue_is_tried_again(lab: Lab, folder: Path) -> None:
    """A Unix socket refuses at once what TCP's kernel would try again."""
    provider = await lab.provider_at(folder / "p.sock", ok, backlog=0)
    relay = await lab.relay(provider.url)
    clients = [await lab.client(relay.port) for _ in range(30)]
    for client in clients:
        await client.send(request())
    for client in clients:
        assert (await client.response()).body == b"ok"


async def test_a_provider_whose_queue_stays_full_is_too_late(lab: Lab, folder: Path) -> None:
    path = folder / "full.sock"
    with socket.socket(socket.AF_UNIX) as full:
        full.bind(str(path))
        full.listen(0)  # one connection waits, the next do not
        relay = await lab.relay(f"http+unix://{str(path).replace('/', '%2F')}", connect_timeout="300ms")
        first, second = await lab.client(relay.port), await lab.client(relay.port)
        await first.send(request())
        await eventually(lambda: relay.exchanges)
        await second.send(request())
        answer = await second.response()
        assert answer.status == 504
        assert b"did not answer within 0.3 s" in answer.body
        first.close()
        second.close()
        await settled(relay)


@pytest.mark.parametrize(("left", "reason"), [(False, "No such file"), (True, "Connection refused")])
async def test_a_provider_that_is_not_there_is_a_failure(lab: Lab, folder: Path, left: bool, reason: str) -> None:
    path = folder / "gone.sock"
    if left:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    relay = await lab.relay(f"http+unix://{str(path).replace('/', '%2F')}")
    client = await lab.client(relay.port)
    await client.send(request())
    answer = await client.response()
    assert answer.status == 502
    assert reason.encode() in answer.body


async def test_a_provider_that_closed_a_kept_connection_is_asked_on_another(lab: Lab, folder: Path) -> None:
    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(response(b"ok"))
        caller.close()

    provider = await lab.provider_at(folder / "p.sock", script)
    relay = await lab.relay(provider.url)
    client = await lab.client(relay.port)
    for _ in range(5):
        await client.send(request("POST", body=b"{}"))
        assert (await client.response()).body == b"ok"
    assert len(provider.callers) == 5


# --- the file ---


async def test_a_relay_that_was_killed_leaves_no_obstacle(lab: Lab, folder: Path) -> None:
    first = await lab.process("http://127.0.0.1:9", listen=f"unix:{folder}/relay.sock")
    assert first.lines[0]["listen"] == [f"unix:{folder}/relay.sock"]
    first.signal(signal.SIGKILL)
    await first.ended()
    assert (folder / "relay.sock").exists()
    second = await lab.process("http://127.0.0.1:9", listen=f"unix:{folder}/relay.sock")
    second.signal(signal.SIGTERM)
    assert await second.exit_status() == 0
    assert not (folder / "relay.sock").exists()


async def test_two_relays_do_not_share_a_socket(lab: Lab, folder: Path) -> None:
    provider = await lab.provider(ok)
    await lab.relay(provider.url, listen=f"unix:{folder}/relay.sock")
    with pytest.raises(Exception, match=r"FLOW_LISTEN: can't listen on unix:.*another process listens on it"):
        await lab.relay(provider.url, listen=f"unix:{folder}/relay.sock")
    client = await lab.client_at(folder / "relay.sock")
    await client.send(request())
    assert (await client.response()).body == b"ok"


async def test_one_address_that_fails_leaves_no_file(lab: Lab, folder: Path) -> None:
    with pytest.raises(Exception, match=r"FLOW_LISTEN: can't listen on 192\.0\.2\.1"):
        await lab.relay("http://127.0.0.1:9", listen=f"unix:{folder}/relay.sock,192.0.2.1:0")
    assert not os.listdir(folder)


async def test_a_relay_that_drains_lets_another_take_the_name(lab: Lab, folder: Path) -> None:
    simulator = await lab.simulator()
    old = await lab.relay(simulator.url, listen=f"unix:{folder}/relay.sock")
    busy = await lab.client_at(folder / "relay.sock")
    await busy.send(chat(events=30, rate=60))
    await eventually(lambda: simulator.streams)
    draining = asyncio.create_task(old.relay.drain())
    await eventually(lambda: not (folder / "relay.sock").exists())
    await lab.relay(simulator.url, listen=f"unix:{folder}/relay.sock")
    assert numbers((await busy.response()).body) == list(range(30))
    await finishes(draining)
    await old.relay.close()
    client = await lab.client_at(folder / "relay.sock")
    await client.send(chat(events=3))
    assert numbers((await client.response()).body) == list(range(3))
