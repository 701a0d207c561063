"""After an exchange, however it ends, nothing of it waits for the collector of cycles: that may take minutes to come,
and a request's body can be megabytes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidStatus

from flowserver.downstream.h1 import FIN_FOLLOWS
from flowserver.routing.first_token_times import ENOUGH
from tests.support.h2_lab import Certificates, ask, h2_client
from tests.support.h2_provider import H2Server, H2Site, ok, silent
from tests.support.lab import Lab, RunningRelay, chat, eventually, free_port
from tests.support.provider import Caller
from tests.support.topology import tenant, toml
from tests.support.websocket_peers import H2WebSocket
from tests.support.websocket_peers import client as websocket
from tests.support.websocket_peers import provider as websocket_provider
from tests.support.wire import Wire, chunk, request

OURS = ("flowserver.", "h2.", "h11.")
BUSY = b'flow_upstream_connections{state="busy",upstream="api"} 1'
NOT_OURS = ("flowserver.simulator", "flowserver.app")


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    gc.collect()
    gc.freeze()  # what other tests left is not looked at again and again
    gc.disable()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def _none_left(*, theirs: str = "-") -> None:
    """No object of the relay is left that only the collector of cycles would find. `theirs`: a package that a peer in
    this process uses too."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found: Counter[str] = Counter()
    for thing in gc.garbage:
        kind = type(thing)
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name.startswith(OURS) and not name.startswith((theirs, *NOT_OURS)):
            found[name] += 1
    gc.garbage.clear()
    assert not found, "\n".join(map(str, found.items()))


async def _over(relay: RunningRelay, ended: int) -> None:
    await relay.access(ended)
    await eventually(lambda: not relay.relay.metrics.open and not relay.relay.connections)
    await relay.close()
    await asyncio.sleep(0.05)


async def _asked(relay: RunningRelay) -> None:
    """Wait until the provider is connected and has the request."""
    await eventually(lambda: BUSY in b"".join(relay.relay.metrics.scrape()), "the provider is asked")


async def _whole(relay: RunningRelay, client: Wire) -> None:
    await client.send(chat(events=20, rate=400))
    await client.response()


async def _twice(relay: RunningRelay, client: Wire) -> None:
    for _ in range(2):
        await client.send(chat(whole=2000))
        await client.response()


async def _lagging(relay: RunningRelay, client: Wire) -> None:
    await client.send(chat(events=5000))
    await eventually(lambda: [e for e in relay.exchanges if e.state() == "paused"])
    await client.response()


async def _provider_fails(relay: RunningRelay, client: Wire) -> None:
    await client.send(chat(events=50, abort_after=5))
    await client.rest()


async def _provider_refuses(relay: RunningRelay, client: Wire) -> None:
    await client.send(chat(status=500))
    await client.response()


async def _idle(relay: RunningRelay, client: Wire) -> None:
    await client.send(chat(silence_after=3))
    await client.rest()


async def _first_byte(relay: RunningRelay, client: Wire) -> None:
    await client.send(chat(delay=60))
    await client.response()


async def _too_large(relay: RunningRelay, client: Wire) -> None:
    await client.send(request("POST", headers=["Content-Length: 9000000"]) + b"x" * 100)
    await client.response()


async def _no_route(relay: RunningRelay, client: Wire) -> None:
    await client.send(request("POST", "/v1/none", body=b"{}"))
    await client.response()


async def _malformed(relay: RunningRelay, client: Wire) -> None:
    await client.send(request("POST", "/v1/sink", ["Transfer-Encoding: chunked"]) + b"x\r\n")
    await client.response()


async def _upload(relay: RunningRelay, client: Wire) -> None:
    await client.send(request("POST", "/v1/sink", body=b"x" * 3_000_000))
    await client.response()


async def _chunked_upload(relay: RunningRelay, client: Wire) -> None:
    await client.send(request("POST", "/v1/sink", ["Transfer-Encoding: chunked"]) + chunk(b"x" * 100) + b"0\r\n\r\n")
    await client.response()


async def _drain(relay: RunningRelay, client: Wire) -> None:
    await client.send(chat(events=0, rate=100))
    await client.until(b"tok000002")
    await relay.relay.drain()
    await client.rest()


ENDS: dict[str, Callable[[RunningRelay, Wire], Awaitable[None]]] = {
    "complete": _whole,
    "two-of-one-connection": _twice,
    "lagging": _lagging,
    "provider-fails": _provider_fails,
    "provider-refuses": _provider_refuses,
    "idle": _idle,
    "first-byte": _first_byte,
    "too-large": _too_large,
    "no-route": _no_route,
    "malformed": _malformed,
    "upload": _upload,
    "chunked-upload": _chunked_upload,
    "drain": _drain,
}


async def _relay(lab: Lab, folder: Path, *, tenants: bool = False, **settings: object) -> RunningRelay:
    simulator = await lab.simulator()
    limits = tenant("sk-known", 'paths = ["*"]', "tokens_per_minute = 1000000") if tenants else ""
    routes = (
        '[[routes]]\npath = "/v1/chat/*"\nupstreams = ["api"]\n[[routes]]\npath = "/v1/sink"\nupstreams = ["api"]\n'
    )
    relay = await lab.relay(
        None,
        config=toml(folder, {"api": simulator.url}, routes + limits),
        idle_timeout="300ms",
        first_byte_timeout="500ms",
        drain_timeout="100ms",
        max_body="4m",
        **settings,
    )
    gc.collect()
    return relay


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
async def test_ends_of_http_1(lab: Lab, tmp_path: Path, end: Callable[[RunningRelay, Wire], Awaitable[None]]) -> None:
    relay = await _relay(lab, tmp_path)
    client = await lab.client(relay.port, receive_buffer=16384)
    await end(relay, client)
    client.close()
    await _over(relay, 2 if end is _twice else 1)
    _none_left()


LEAVES: dict[str, tuple[dict[str, object], bytes]] = {
    "before-the-head": ({"delay": 60}, b""),
    "silent": ({"silence_after": 5}, b"tok000002"),
    "in-mid-stream": ({"events": 0, "rate": 100}, b"tok000002"),
    "gate-shut": ({"events": 0}, b""),
}


@pytest.mark.parametrize("leave", ["close", "reset", "half_close"])
@pytest.mark.parametrize(("options", "reads"), LEAVES.values(), ids=LEAVES.keys())
@pytest.mark.parametrize("tenants", [False, True])
async def test_leaves_of_http_1(
    lab: Lab, tmp_path: Path, options: dict[str, object], reads: bytes, leave: str, tenants: bool
) -> None:
    relay = await _relay(lab, tmp_path, tenants=tenants)
    client = await lab.client(relay.port, receive_buffer=16384)
    await client.send(chat(("Authorization: Bearer sk-known",), **options))
    await client.until(reads)
    await asyncio.sleep(2 * FIN_FOLLOWS)
    getattr(client, leave)()
    await _over(relay, 1)
    _none_left()


@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_a_leave_in_mid_upload(lab: Lab, tmp_path: Path, leave: str) -> None:
    relay = await _relay(lab, tmp_path)
    client = await lab.client(relay.port)
    await client.send(request("POST", "/v1/sink", ["Transfer-Encoding: chunked"]) + chunk(b"x" * 100_000))
    await _asked(relay)
    getattr(client, leave)()
    await _over(relay, 1)
    _none_left()


async def nothing(caller: Caller) -> None:
    """A provider that takes connections and says nothing, not even in a TLS handshake."""
    await asyncio.sleep(60)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("waits", [0.0, 0.1])
async def test_a_leave_while_a_provider_is_dialled(lab: Lab, scheme: str, waits: float) -> None:
    provider = await lab.provider(nothing)
    relay = await lab.relay(f"{scheme}://127.0.0.1:{provider.port}")
    gc.collect()
    for _ in range(5):
        client = await lab.client(relay.port)
        await client.send(chat())
        await eventually(lambda: relay.relay.metrics.open)
        await asyncio.sleep(waits)
        client.reset()
        await eventually(lambda: not relay.relay.metrics.open)
    await _over(relay, 5)
    _none_left()


async def test_a_provider_that_can_t_be_reached(lab: Lab) -> None:
    relay = await lab.relay(f"http://127.0.0.1:{free_port()}")
    gc.collect()
    client = await lab.client(relay.port)
    await client.send(chat())
    assert (await client.response()).status == 502
    client.close()
    await _over(relay, 1)
    _none_left()


H2_ENDS: dict[str, dict[str, object]] = {
    "complete": {"events": 20, "rate": 400},
    "provider-fails": {"events": 50, "abort_after": 5},
    "provider-refuses": {"status": 500},
    "idle": {"silence_after": 3},
    "first-byte": {"delay": 60},
}


@pytest.mark.parametrize("options", H2_ENDS.values(), ids=H2_ENDS.keys())
@pytest.mark.parametrize("tls", [False, True])
async def test_ends_of_http_2(lab: Lab, tmp_path: Path, options: dict[str, object], tls: bool) -> None:
    certificates = Certificates(tmp_path)
    relay = await _relay(
        lab, tmp_path, tls_cert=certificates.certificate if tls else "", tls_key=certificates.key if tls else ""
    )
    client = await h2_client(lab, relay.port, tls=certificates.client() if tls else None)
    stream_id = ask(client, **options)
    await client.until(lambda: client.peer.answers[stream_id].ended)
    await asyncio.sleep(0.05)
    _none_left()
    client.close()
    await _over(relay, 1)
    _none_left()


@pytest.mark.parametrize("how", ["stream", "connection"])
@pytest.mark.parametrize(("options", "reads"), LEAVES.values(), ids=LEAVES.keys())
async def test_leaves_of_http_2(lab: Lab, tmp_path: Path, options: dict[str, object], reads: bytes, how: str) -> None:
    relay = await _relay(lab, tmp_path)
    client = await h2_client(lab, relay.port)
    stream_id = ask(client, **options)
    await client.flush()
    await eventually(lambda: relay.relay.metrics.open)
    if reads:
        await client.until(lambda: reads in client.peer.answers[stream_id].body)
    if how == "stream":
        client.peer.reset(stream_id)
        await client.flush()
        await relay.access(1)
        _none_left()
    client.close()
    await _over(relay, 1)
    _none_left()


async def _closed_by_client(relay: RunningRelay, socket: ClientConnection) -> None:
    await socket.send("x" * 100_000)
    await socket.recv()
    await socket.close()


async def _client_aborts(relay: RunningRelay, socket: ClientConnection) -> None:
    socket.transport.abort()


async def _closed_by_provider(relay: RunningRelay, socket: ClientConnection) -> None:
    await socket.send("close")
    await socket.wait_closed()


async def _provider_aborts(relay: RunningRelay, socket: ClientConnection) -> None:
    await socket.send("abort")
    await socket.wait_closed()


async def _stays_idle(relay: RunningRelay, socket: ClientConnection) -> None:
    await socket.wait_closed()


async def _drains(relay: RunningRelay, socket: ClientConnection) -> None:
    await relay.relay.drain()
    await socket.wait_closed()


async def _obeying(connection: ServerConnection) -> None:
    async for message in connection:
        if message == "close":
            await connection.close()
        elif message == "abort":
            connection.transport.abort()
        else:
            await connection.send(message)


@pytest.mark.parametrize("path", ["/v1/socket", "/v1/realtime"])
@pytest.mark.parametrize(
    "end", [_closed_by_client, _client_aborts, _closed_by_provider, _provider_aborts, _stays_idle, _drains]
)
async def test_ends_of_tunnels(
    lab: Lab, path: str, end: Callable[[RunningRelay, ClientConnection], Awaitable[None]]
) -> None:
    upstream = await websocket_provider(lab, _obeying)
    relay = await lab.relay(upstream.url, websocket="on", idle_timeout="1s", drain_timeout="100ms")
    gc.collect()
    socket = await websocket(relay.port, path)
    await end(relay, socket)
    await _over(relay, 1)
    _none_left()


@pytest.mark.parametrize("how", ["close", "reset", "connection", "refused"])
async def test_ends_of_tunnels_over_http2(lab: Lab, how: str) -> None:
    upstream = await websocket_provider(lab)
    relay = await lab.relay(upstream.url, websocket="off" if how == "refused" else "on")
    gc.collect()
    socket = await H2WebSocket.open(lab, relay.port)
    if how == "close":
        await socket.close()
        await socket.wire.answer(socket.stream_id)
    elif how == "reset":
        socket.wire.peer.reset(socket.stream_id)
        await socket.wire.flush()
    await asyncio.sleep(0.05)
    socket.wire.close()
    await _over(relay, 1)
    _none_left()


@pytest.mark.parametrize("allowed", ["on", "off"])
async def test_a_handshake_that_is_refused(lab: Lab, allowed: str) -> None:
    simulator = await lab.simulator()  # which has no WebSockets
    relay = await lab.relay(simulator.url, websocket=allowed)
    gc.collect()
    with contextlib.suppress(InvalidStatus):
        await websocket(relay.port)
    await _over(relay, 1)
    _none_left()


async def test_an_answer_that_is_read_on(lab: Lab, tmp_path: Path) -> None:
    relay = await _relay(lab, tmp_path, disconnect="drain", disconnect_time="300ms")
    client = await lab.client(relay.port)
    await client.send(chat(events=0, rate=100))
    await client.until(b"tok000002")
    client.reset()
    await _over(relay, 1)
    _none_left()


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("options", [{"events": 5}, {"delay": 60}, {"events": 5, "first": 0.3}, {"status": 503}])
async def test_a_route_with_a_deadline_of_first_tokens_and_hedges(
    lab: Lab, tmp_path: Path, options: dict[str, object], leaves: bool
) -> None:
    simulator = await lab.simulator()
    route = '[[routes]]\nupstreams = ["a", "b"]\nfirst_token_timeout = "100ms"\nhedge_share = 1.0\n'
    relay = await lab.relay(
        None, config=toml(tmp_path, {"a": simulator.url, "b": simulator.url}, route), first_byte_timeout="500ms"
    )
    for host in relay.relay.metrics.upstreams:
        for _ in range(ENOUGH):
            host.first_token_times.of("simulated").note(0.01, time.monotonic())
    gc.collect()
    client = await lab.client(relay.port)
    await client.send(chat(**options))
    if leaves:
        await asyncio.sleep(max(0.06, 2 * FIN_FOLLOWS))
    else:
        await client.response()
    client.close()
    await _over(relay, 1)
    _none_left()


def _resets(server: H2Server, stream_id: int) -> None:
    server.head(stream_id)
    server.h2.send_data(stream_id, b"some")
    server.reset(stream_id, 2)


@pytest.mark.parametrize("leave", [None, "close", "reset"])
@pytest.mark.parametrize("act", [ok, silent, _resets], ids=["answers", "is-silent", "resets"])
async def test_ends_at_a_provider_of_http_2(
    lab: Lab, tmp_path: Path, act: Callable[[H2Server, int], object], leave: str | None
) -> None:
    provider = await lab.provider(H2Site(act).script)
    relay = await lab.relay(
        None,
        config=toml(tmp_path, {"only": {"url": provider.url, "protocol": "h2"}}),
        first_byte_timeout="500ms",
    )
    gc.collect()
    client = await lab.client(relay.port)
    await client.send(request("POST", "/v1/chat/completions", body=b'{"model": "m"}'))
    if leave is None:
        await client.rest_of(await client.head())
    else:
        await asyncio.sleep(2 * FIN_FOLLOWS)
        getattr(client, leave)()
    await relay.access(1)
    client.close()
    await asyncio.sleep(0.05)
    _none_left(theirs="h2.")
    await _over(relay, 1)
    _none_left(theirs="h2.")
