"""A client that leaves ends its provider's request, in every situation, however it leaves."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from flowserver.downstream.h1 import FIN_FOLLOWS
from tests.support.h2_lab import Certificates, ask, h2_client
from tests.support.lab import Lab, RunningRelay, chat, eventually, full_backlog
from tests.support.provider import Caller, ok
from tests.support.topology import toml
from tests.support.wire import LAST_CHUNK, Wire, chunk, request

LEAVES = pytest.mark.parametrize("leave", ["close", "reset", "half_close"])
"""The last one is what a TCP proxy makes of its client's close: it passes the FIN on, and its own side stays open."""


async def _leave(client: Wire, how: str) -> None:
    if how != "reset":
        await asyncio.sleep(2 * FIN_FOLLOWS)  # or the FIN could belong to the request
    getattr(client, how)()


SITUATIONS: dict[str, tuple[dict[str, object], str, bytes]] = {
    # How the provider is asked to behave, the state its record then stays in, and how far the client reads before.
    "before-the-head": ({"delay": 60}, "waiting", b""),
    "before-the-first-byte": ({"first": 60}, "streaming", b"\r\n\r\n"),
    "silent": ({"silence_after": 5}, "silent", b"tok000002"),
    "in-the-middle-of-a-length": ({"length": 1, "silence_after": 5}, "silent", b"tok000002"),
    "in-mid-stream": ({"events": 0, "rate": 100}, "streaming", b"tok000002"),
    "gate-shut": ({"events": 0}, "paused", b""),
}


async def _gone(relay: RunningRelay) -> None:
    """The relay has let go of both sides, and says why."""
    assert await relay.ended() == "client_gone"
    [pool] = relay.relay.metrics.pools
    await eventually(lambda: pool.open_connections == 0)
    await eventually(lambda: not relay.relay.connections)


@LEAVES
@pytest.mark.parametrize(("options", "state", "reads"), SITUATIONS.values(), ids=SITUATIONS.keys())
async def test_the_providers_request_is_cancelled(
    lab: Lab, options: dict[str, object], state: str, reads: bytes, leave: str
) -> None:
    simulator = await lab.simulator()
    relay = await lab.relay(simulator.url)
    client = await lab.client(relay.port, receive_buffer=8192)
    await client.send(chat(**options))
    await eventually(lambda: simulator.streams and simulator.streams[0]["state"] == state)
    [exchange] = relay.exchanges
    if state == "paused":
        await eventually(lambda: exchange.state() == "paused")
    await client.until(reads)
    if state == "silent":
        while not await client.is_quiet(0.05):  # nothing is unread, so that close() is a plain FIN
            client.buffer.clear()
    await _leave(client, leave)
    await eventually(lambda: simulator.streams[0]["state"] == "cancelled", within=5)
    await eventually(lambda: simulator.records.connections_open == 0)
    await _gone(relay)


@LEAVES
async def test_while_connecting_the_attempt_is_given_up(lab: Lab, leave: str) -> None:
    with full_backlog() as port:
        relay = await lab.relay(f"http://127.0.0.1:{port}")
        client = await lab.client(relay.port)
        await client.send(request())
        await eventually(lambda: relay.relay.metrics.open)
        await _leave(client, leave)
        await _gone(relay)
        await eventually(lambda: len(asyncio.all_tasks()) == 1, "the attempt is over")


@LEAVES
async def test_during_the_tls_handshake_the_attempt_is_given_up(lab: Lab, leave: str) -> None:
    async def script(caller: Wire) -> None:
        pass

    provider = await lab.provider(script)
    relay = await lab.relay(provider.url.replace("http", "https"))
    client = await lab.client(relay.port)
    await client.send(request())
    await eventually(lambda: provider.callers)
    assert (await provider.callers[0].receive())[:1] == b"\x16"
    await _leave(client, leave)
    assert (await provider.callers[0].rest())[0] == b""
    await _gone(relay)


@LEAVES
async def test_in_the_middle_of_an_upload(lab: Lab, leave: str) -> None:
    simulator, relay, client = await lab.simulated()
    await client.send(request("POST", "/v1/sink", ["Transfer-Encoding: chunked"]) + chunk(b"x" * 1000))
    await eventually(lambda: simulator.requests)
    await _leave(client, leave)
    await eventually(lambda: simulator.records.connections_open == 0)
    await _gone(relay)


@LEAVES
async def test_with_an_upload_answered_early(lab: Lab, leave: str) -> None:
    async def script(caller: Wire) -> None:
        await caller.head()
        await caller.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"early"))
        await caller.rest()

    _, relay, client = await lab.between(script)
    await client.send(request("POST", "/v1/sink", ["Transfer-Encoding: chunked"]) + chunk(b"x" * 1000))
    await client.until(b"early")
    await _leave(client, leave)
    await _gone(relay)


@LEAVES
async def test_pipelined_requests_go_with_their_connection(lab: Lab, leave: str) -> None:
    """What was sent ahead is not asked of the provider any more."""
    simulator, relay, client = await lab.simulated()
    await client.send(chat(events=0, rate=100) + chat(events=1) * 5)
    await client.until(b"tok000002")
    await _leave(client, leave)
    await eventually(lambda: simulator.streams[0]["state"] == "cancelled")
    await _gone(relay)
    assert len(simulator.requests) == 1


@pytest.mark.parametrize("how", ["close_notify", "fin", "close"])
async def test_over_tls(lab: Lab, tmp_path: Path, how: str) -> None:
    certificates = Certificates(tmp_path)
    simulator = await lab.simulator()
    relay = await lab.relay(simulator.url, **certificates.settings)
    client = await lab.client(relay.port)
    client.socket.setblocking(True)

    def begin() -> ssl.SSLSocket:
        secured = certificates.client("http/1.1").wrap_socket(
            client.socket, server_hostname="localhost", suppress_ragged_eofs=False
        )
        secured.sendall(chat(silence_after=5))
        heard = b""
        while b"tok000004" not in heard:
            heard += secured.recv(65536)
        return secured

    secured = await asyncio.to_thread(begin)
    with secured:
        await eventually(lambda: simulator.streams[0]["state"] == "silent")
        if how == "close_notify":
            await asyncio.to_thread(secured.unwrap)
        elif how == "fin":
            secured.shutdown(socket.SHUT_WR)
        else:
            secured.close()
        await eventually(lambda: simulator.streams[0]["state"] == "cancelled")
        await _gone(relay)


async def test_http_2_in_silence(lab: Lab) -> None:
    """Behind a TCP proxy, too."""
    simulator, relay, _ = await lab.simulated()
    client = await h2_client(lab, relay.port)
    ask(client, silence_after=3)
    ask(client, delay=60)
    await client.flush()
    await eventually(lambda: sorted(stream["state"] for stream in simulator.streams) == ["silent", "waiting"])
    client.wire.half_close()
    await eventually(lambda: {stream["state"] for stream in simulator.streams} == {"cancelled"})
    assert [line["end"] for line in await relay.access(2)] == ["client_gone"] * 2


@LEAVES
async def test_in_the_queue_of_a_provider(lab: Lab, tmp_path: Path, leave: str) -> None:
    simulator = await lab.simulator()
    places = {"url": simulator.url, "max_concurrent": 1, "queue": 5, "queue_timeout": "60s"}
    relay = await lab.relay(None, config=toml(tmp_path, {"api": places}))
    first, second = await lab.client(relay.port), await lab.client(relay.port)
    await first.send(chat(delay=60))
    await eventually(lambda: simulator.streams)
    await second.send(chat(delay=60))
    [target] = relay.relay.metrics.upstreams
    await eventually(lambda: target.waiting == 1)
    await _leave(second, leave)
    await eventually(lambda: target.waiting == 0)
    assert (await relay.access())[0]["end"] == "client_gone"


@LEAVES
async def test_while_its_upload_is_held_back(lab: Lab, leave: str) -> None:
    """It is not read then."""

    async def script(caller: Caller) -> None:
        await caller.head()

    provider = await lab.provider(script, receive_buffer=16 * 1024)
    relay = await lab.relay(provider.url)
    client = await lab.client(relay.port)
    await client.send(request("POST", headers=["Content-Length: 60000000"]))
    await eventually(lambda: relay.relay.metrics.open)
    [exchange] = relay.exchanges
    while not exchange.upload_is_stopped:  # what waits is in the relay's kernel: no FIN stands behind bytes
        await client.send(b"x" * 16 * 1024)
        await asyncio.sleep(0)
    await _leave(client, leave)
    assert await relay.ended() == "client_gone"


async def test_one_that_leaves_right_behind_its_request_is_waited_for_a_little(lab: Lab) -> None:
    """Its FIN may be the end of its request only."""
    simulator, relay, client = await lab.simulated()
    await client.send(chat(delay=60))
    client.half_close()
    await eventually(lambda: simulator.streams)
    await eventually(lambda: simulator.streams[0]["state"] == "cancelled")
    await _gone(relay)


async def test_one_that_leaves_does_not_disturb_the_others(lab: Lab) -> None:
    simulator, relay, _ = await lab.simulated()
    clients = [await lab.client(relay.port) for _ in range(40)]
    for number, client in enumerate(clients):
        await client.send(chat(events=60, rate=100, id=number))
    await asyncio.gather(*(client.until(b"tok000005") for client in clients))
    for number, client in enumerate(clients[:20]):
        getattr(client, ("close", "reset")[number % 2])()
    for client in clients[20:]:
        assert (await client.until(LAST_CHUNK)).endswith(b"data: [DONE]\n\n\r\n" + LAST_CHUNK)
    states = {stream["id"]: stream["state"] for stream in simulator.streams}
    assert states == {str(number): "cancelled" if number < 20 else "done" for number in range(40)}
    ends = sorted(str(line["end"]) for line in await relay.access(40))
    assert ends == ["client_gone"] * 20 + ["complete"] * 20


async def test_leaving_over_and_over_leaves_nothing(lab: Lab) -> None:
    """Above all connection attempts that are given up at every possible moment."""
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url, upstream_keepalive=0)
    for turn in range(300):
        client = await Wire.connect(relay.port)
        await client.send(request())
        for _ in range(turn % 12):
            await asyncio.sleep(0)
        client.reset()
    await eventually(lambda: not relay.relay.metrics.open and not relay.relay.connections)
    [pool] = relay.relay.metrics.pools
    await eventually(lambda: pool.open_connections == 0)
    client = await lab.client(relay.port)
    await client.send(request())
    assert (await client.response()).body == b"ok"
