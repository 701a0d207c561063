"""WebSockets through the relay, between a foreign client and a foreign server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
from pathlib import Path

import orjson
import pytest
from openai import AsyncOpenAI
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close, Opcode

from tests.support.h2_lab import Certificates
from tests.support.lab import Lab, RunningRelay, eventually
from tests.support.provider import Caller
from tests.support.topology import tenant, toml
from tests.support.websocket_peers import (
    H2WebSocket,
    WebSocketProvider,
    client,
    closed,
    echo,
    provider,
    response_done,
    slow_socket,
)
from tests.support.wire import End, Wire, request

KEY = "flow-" + "k" * 43
REALTIME = "/v1/realtime?model=gpt-realtime"
HANDSHAKE = (
    "Connection: keep-alive, Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


async def _pair(
    lab: Lab, handler: object = echo, *, websocket: str = "on", **settings: object
) -> tuple[WebSocketProvider, RunningRelay]:
    upstream = await provider(lab, handler)  # type: ignore[arg-type]
    return upstream, await lab.relay(upstream.url, websocket=websocket, **settings)


async def test_messages_of_all_kinds_pass(lab: Lab) -> None:
    _, relay = await _pair(lab)
    async with client(relay.port) as socket:
        assert socket.protocol.extensions  # permessage-deflate, between the two ends
        for message in ("text", b"binary", "x" * 300_000, b"", "ü" * 70_000):
            await socket.send(message)
            assert await socket.recv() == message
        await socket.send(["in ", "three ", "fragments"])
        assert await socket.recv() == "in three fragments"
        await (await socket.ping(b"beat"))
    [line] = await relay.access()
    assert (line["status"], line["end"], line["protocol"], line["method"]) == (101, "complete", "h1", "GET")
    assert line["bytes_up"] > 0
    assert line["bytes_down"] > 0
    assert line["tunnel_ms"] > 0


async def test_subprotocols_and_fields_pass(lab: Lab) -> None:
    upstream = await provider(lab, subprotocols=["b", "c"])
    relay = await lab.relay(upstream.url, websocket="on")
    async with client(relay.port, subprotocols=["a", "b"], additional_headers={"x-extra": "1"}) as socket:
        assert socket.subprotocol == "b"
        assert socket.response is not None
        assert "x-request-id" in socket.response.headers
    assert upstream.header("x-extra") == "1"
    assert upstream.header("x-request-id") is not None
    assert upstream.header("host") == upstream.url.removeprefix("http://")


@pytest.mark.parametrize("by_client", [True, False])
async def test_close_codes_pass(lab: Lab, by_client: bool) -> None:
    async def close(connection: ServerConnection) -> None:
        if by_client:
            await connection.wait_closed()
        else:
            await connection.close(4321, "enough")

    upstream, relay = await _pair(lab, close)
    async with client(relay.port) as socket:
        if by_client:
            await socket.close(4321, "enough")
            assert await closed(upstream.connections[0]) == 4321
            assert upstream.connections[0].close_reason == "enough"
        else:
            assert await closed(socket) == 4321
            assert socket.close_reason == "enough"
    assert await relay.ended() == "complete"


async def test_over_tls_on_both_sides(lab: Lab, tmp_path: Path) -> None:
    """The provider would choose HTTP/2, which is not offered for a tunnel."""
    certificates = Certificates(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates.certificate, certificates.key)
    server.set_alpn_protocols(["h2", "http/1.1"])
    upstream = await provider(lab, tls=server)
    relay = await lab.relay(upstream.url, websocket="on", upstream_ca=certificates.authority, **certificates.settings)
    async with client(relay.port, ssl=certificates.client("http/1.1")) as socket:
        for size in (1, 1000, 1_000_000):
            await socket.send(b"x" * size)
            assert len(await socket.recv()) == size
    connection = upstream.connections[0].transport.get_extra_info("ssl_object")
    assert connection.selected_alpn_protocol() == "http/1.1"
    assert (await relay.access())[0]["end"] in ("complete", "client_gone")


# --- over HTTP/2 ---


@pytest.mark.parametrize("tls", [False, True])
async def test_over_http2(lab: Lab, tmp_path: Path, tls: bool) -> None:
    upstream = await provider(lab)
    certificates = Certificates(tmp_path)
    relay = await lab.relay(upstream.url, websocket="on", **(certificates.settings if tls else {}))
    context = certificates.client("h2") if tls else None
    socket = await H2WebSocket.open(lab, relay.port, "/v1/socket", ("x-extra", "1"), tls=context)
    assert socket.answer.status == 200
    assert "sec-websocket-accept" not in socket.answer.headers
    assert upstream.header("x-extra") == "1"
    for message in ("text", "x" * 200_000):
        await socket.send(message)
        assert await socket.text() == message
    await socket.close(4000)
    frame = await socket.receive()
    assert frame.opcode is Opcode.CLOSE
    assert Close.parse(bytes(frame.data)).code == 4000
    answer = await socket.wire.answer(socket.stream_id)
    assert answer.whole
    [line] = await relay.access()
    assert (line["status"], line["end"], line["protocol"]) == (200, "complete", "h2")


async def test_http2_announces_it(lab: Lab) -> None:
    _, relay = await _pair(lab)
    socket = await H2WebSocket.open(lab, relay.port)
    settings = next(raw for raw in socket.wire.peer.frames if raw.kind == 4)
    assert b"\x00\x08\x00\x00\x00\x01" in settings.payload
    await socket.close()
    await socket.wire.answer(socket.stream_id)


async def test_streams_beside_a_tunnel_go_on(lab: Lab) -> None:
    """On the same connection."""
    _, relay = await _pair(lab)
    socket = await H2WebSocket.open(lab, relay.port)
    other = await socket.wire.get("/v1/other")
    assert other.status == 426  # by the server, which knows nothing but WebSockets
    await socket.send("still there")
    assert await socket.text() == "still there"
    socket.wire.peer.reset(socket.stream_id)
    await socket.wire.flush()
    await eventually(lambda: relay.lines("access") and relay.lines("access")[-1]["end"] == "client_gone")


# --- who may, and with which key ---


async def _refusal(port: int, path: str = "/v1/socket", **options: object) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as refused:
        await client(port, path, **options)
    response = refused.value.response
    return response.status_code, str(orjson.loads(response.body or b"{}")["error"]["code"])


async def test_a_route_that_does_not_allow_it_says_426(lab: Lab) -> None:
    upstream, relay = await _pair(lab, websocket="off")
    with pytest.raises(InvalidStatus) as refused:
        await client(relay.port)
    response = refused.value.response
    assert (response.status_code, response.headers["upgrade"]) == (426, "HTTP/1.1")
    assert b"FLOW_WEBSOCKET" in (response.body or b"")
    socket = await H2WebSocket.open(lab, relay.port)
    answer = await socket.wire.answer(socket.stream_id)
    assert answer.status == 426
    assert "upgrade" not in answer.headers
    assert upstream.connections == []


async def test_routes_choose_by_path_and_model(lab: Lab, tmp_path: Path) -> None:
    one, other = await provider(lab), await provider(lab)
    routes = """
    [[routes]]
    models = ["gpt-*"]
    upstreams = ["one"]
    websocket = true
    [[routes]]
    path = "/v1/socket"
    upstreams = ["other"]
    websocket = true
    """
    config = toml(tmp_path, {"one": {"url": one.url, "models": {"gpt-mine": "gpt/theirs"}}, "other": other.url}, routes)
    relay = await lab.relay(None, config=config)
    async with client(relay.port, "/v1/realtime?x=1&model=gpt-mine&y=2"):
        assert one.target == "/v1/realtime?x=1&model=gpt%2Ftheirs&y=2"
    async with client(relay.port):
        assert len(other.connections) == 1
    assert await _refusal(relay.port, "/v1/realtime") == (404, "no_route")
    assert await _refusal(relay.port, "/v1/realtime?model=gpt-a&model=gpt-b") == (400, "ambiguous_model")
    assert [line.get("model") for line in await relay.access(4)] == ["gpt-mine", None, None, "gpt-a"]


async def test_the_key_of_a_browser_is_taken_from_its_subprotocols(lab: Lab) -> None:
    """And goes on as one, where the relay has none of its own."""
    upstream = await provider(lab, subprotocols=["realtime"])
    relay = await lab.relay(upstream.url, websocket="on")
    async with client(relay.port, subprotocols=["realtime", "openai-insecure-api-key.sk-1", "x"]) as socket:
        assert socket.subprotocol == "realtime"
        assert upstream.header("authorization") == "Bearer sk-1"
        assert upstream.header("sec-websocket-protocol") == "realtime, x"


@pytest.mark.parametrize("shown", ["field", "subprotocol", "query", "http2"])
async def test_tenants_are_known_and_the_providers_key_is_put_in(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    upstream = await provider(lab)
    table = {"url": upstream.url, "api_key": "env:PROVIDER_KEY"}
    routes = '[[routes]]\nupstreams = ["only"]\nwebsocket = true\n'
    monkeypatch.setenv("PROVIDER_KEY", "sk-real")
    relay = await lab.relay(None, config=toml(tmp_path, {"only": table}, routes + tenant(KEY)))
    assert await _refusal(relay.port, REALTIME) == (401, "missing_api_key")
    if shown == "http2":
        socket = await H2WebSocket.open(lab, relay.port, REALTIME, ("authorization", f"Bearer {KEY}"))
        assert socket.answer.status == 200
        await socket.close()
        await socket.wire.answer(socket.stream_id)
    else:
        options: dict[str, dict[str, object]] = {
            "field": {"additional_headers": {"authorization": f"Bearer {KEY}"}},
            "subprotocol": {"subprotocols": [f"openai-insecure-api-key.{KEY}"]},
            "query": {},
        }
        path = f"{REALTIME}&key={KEY}" if shown == "query" else REALTIME
        async with client(relay.port, path, **options[shown]):
            pass
    seen = upstream.connections[-1].request
    assert seen is not None
    assert seen.headers["authorization"] == "Bearer sk-real"
    assert KEY not in seen.path + str(seen.headers)
    assert (await relay.access(2))[1]["tenant"] == "acme"


async def _limited(lab: Lab, folder: Path, handler: object, *limits: str) -> tuple[WebSocketProvider, RunningRelay]:
    upstream = await provider(lab, handler)  # type: ignore[arg-type]
    routes = '[[routes]]\nupstreams = ["only"]\nwebsocket = true\n'
    config = toml(folder, {"only": upstream.url}, routes + tenant(KEY, *limits))
    return upstream, await lab.relay(None, config=config)


AUTHORIZED = {"additional_headers": {"authorization": f"Bearer {KEY}"}}


async def test_a_tenants_tunnels_are_limited(lab: Lab, tmp_path: Path) -> None:
    _, relay = await _limited(lab, tmp_path, echo, "concurrent = 1", 'models = ["gpt-*"]')
    async with client(relay.port, REALTIME, **AUTHORIZED):
        assert (await _refusal(relay.port, REALTIME, **AUTHORIZED))[0] == 429
    async with client(relay.port, REALTIME, **AUTHORIZED):
        pass
    assert (await _refusal(relay.port, "/v1/realtime?model=other", **AUTHORIZED))[0] == 404
    assert (await _refusal(relay.port, "/v1/realtime", **AUTHORIZED))[0] == 404
    assert (await _refusal(relay.port, "/v1/unknown?model=gpt-1", **AUTHORIZED))[0] == 403


async def _answer_all(socket: ClientConnection) -> int:
    """Returns how many events came."""
    seen = 0
    with contextlib.suppress(ConnectionClosed):
        async for message in socket:
            assert orjson.loads(message)["type"] == "response.done"
            seen += 1
            await socket.send("more")
    return seen


async def test_the_tokens_of_realtime_events_are_charged_and_end_the_tunnel(lab: Lab, tmp_path: Path) -> None:
    async def answers(connection: ServerConnection) -> None:
        for number in range(11):
            await connection.send(
                response_done(number, input_tokens=60, output_tokens=40, padding=number % 2 * 100_000)
            )
            with contextlib.suppress(ConnectionClosed):
                await connection.recv()

    _, relay = await _limited(lab, tmp_path, answers, "tokens_per_day = 1050")
    async with client(relay.port, REALTIME, **AUTHORIZED) as socket:
        assert not socket.protocol.extensions
        seen = await _answer_all(socket)
    assert (socket.close_code, socket.close_reason) == (1008, "The quota is used up.")
    assert seen == 11
    [line] = await relay.access()
    assert (line["end"], line["input_tokens"], line["output_tokens"]) == ("quota", 660, 440)
    assert (line["cached_tokens"], line["estimated"], line["dialect"]) == (330, False, "openai-realtime")
    assert (await _refusal(relay.port, REALTIME, **AUTHORIZED)) == (429, "insufficient_quota")
    metrics = await relay.metrics()
    counted = {name: value for name, value in metrics.items() if name.startswith("flow_tokens_total")}
    assert sorted(counted.values()) == [330, 440, 660]


async def test_an_answer_that_its_client_does_not_await_is_charged_by_estimate(lab: Lab, tmp_path: Path) -> None:
    async def answers(connection: ServerConnection) -> None:
        await connection.send(response_done(1, input_tokens=100, output_tokens=10))
        delta = orjson.dumps({"type": "response.output_text.delta", "delta": "x" * 4200}).decode()
        await connection.send(delta)
        await connection.wait_closed()

    _, relay = await _limited(lab, tmp_path, answers, "tokens_per_day = 100000")
    async with client(relay.port, REALTIME, **AUTHORIZED) as socket:
        await socket.recv()
        await socket.recv()
    [line] = await relay.access()
    assert line["estimated"] is True
    assert line["input_tokens"] == 200
    assert 900 <= line["output_tokens"] <= 1200


# --- what goes wrong ---


@pytest.mark.parametrize("wrong", ["Sec-WebSocket-Version: 8", "Sec-WebSocket-Key: x"])
async def test_a_wrong_handshake_gets_what_the_provider_says(lab: Lab, wrong: str) -> None:
    _, relay = await _pair(lab)
    name = wrong.partition(":")[0]
    wire = await lab.client(relay.port)
    lines = [line for line in HANDSHAKE if not line.startswith(name)]
    await wire.send(request("GET", "/v1/socket", [*lines, wrong]))
    answer = await wire.response()
    assert answer.status in (400, 426)
    assert await wire.rest() == (b"", End.CLOSED)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([*HANDSHAKE, "Content-Length: 3"], 400),
        ([*HANDSHAKE, "Transfer-Encoding: chunked"], 400),
        (HANDSHAKE[1:], 501),
        (["Connection: upgrade", "Upgrade: other"], 501),
    ],
)
async def test_what_is_no_handshake_is_refused(lab: Lab, lines: list[str], status: int) -> None:
    upstream, relay = await _pair(lab)
    wire = await lab.client(relay.port)
    await wire.send(request("GET", "/v1/socket", list(lines)))
    assert (await wire.response()).status == status
    assert upstream.connections == []


async def test_bytes_before_the_answer_are_no_second_request(lab: Lab) -> None:
    """What follows a handshake that is refused could be taken for a request of somebody else."""
    _, relay = await _pair(lab, websocket="off")
    wire = await lab.client(relay.port)
    await wire.send(request("GET", "/v1/socket", list(HANDSHAKE)) + request("GET", "/v1/smuggled"))
    assert (await wire.response()).status in (400, 426)
    assert await wire.rest() == (b"", End.CLOSED)
    await relay.access()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_a_provider_that_does_not_accept_is_a_bad_gateway(lab: Lab, answer: bytes) -> None:
    async def script(caller: Caller) -> None:
        await caller.head()
        await caller.send(answer)

    server = await lab.provider(script)
    relay = await lab.relay(server.url, websocket="on")
    wire = await lab.client(relay.port)
    await wire.send(request("GET", "/v1/socket", list(HANDSHAKE)))
    assert (await wire.response()).status == 502


async def test_a_client_that_leaves_ends_the_provider_s_side(lab: Lab) -> None:
    upstream, relay = await _pair(lab)
    socket = await client(relay.port)
    await eventually(lambda: upstream.connections)
    socket.transport.abort()
    assert await closed(upstream.connections[0]) == 1006
    await relay.access()


async def test_a_provider_that_breaks_off_ends_the_client_s_side(lab: Lab) -> None:
    async def abort(connection: ServerConnection) -> None:
        await connection.recv()
        connection.transport.abort()

    _, relay = await _pair(lab, abort)
    async with client(relay.port) as socket:
        await socket.send("go")
        assert await closed(socket) == 1006
    assert await relay.ended() in ("upstream_failed", "complete")


async def test_a_client_s_half_close_passes(lab: Lab) -> None:
    upstream, relay = await _pair(lab)
    wire = await lab.client(relay.port)
    await wire.send(request("GET", "/v1/socket", list(HANDSHAKE)))
    await wire.until(b"\r\n\r\n")
    wire.half_close()
    await wire.rest()
    assert await closed(upstream.connections[0]) == 1006
    assert await relay.ended() == "complete"


# --- time ---


@pytest.mark.parametrize(
    ("setting", "end"), [("upstream_idle_timeout", "idle_timeout"), ("total_timeout", "total_timeout")]
)
@pytest.mark.parametrize("path", ["/v1/socket", REALTIME])
async def test_deadlines(lab: Lab, setting: str, end: str, path: str) -> None:
    name = setting.removeprefix("upstream_")
    _, relay = await _pair(lab, **{name: "1s"})
    async with client(relay.port, path) as socket:
        code = await closed(socket)
    assert code == (1001 if path == REALTIME else 1006)
    assert await relay.ended() == end


@pytest.mark.parametrize("path", ["/v1/socket", REALTIME])
async def test_a_drain_ends_tunnels_at_its_end(lab: Lab, path: str) -> None:
    upstream = await provider(lab)
    relay = await lab.process(upstream.url, websocket="on", drain_timeout="500ms")
    async with client(relay.port, path) as socket:
        await socket.send("before")
        assert await socket.recv() == "before"
        relay.signal(signal.SIGTERM)
        await socket.send("while it drains")
        assert await socket.recv() == "while it drains"
        code = await closed(socket)
    assert code == (1001 if path == REALTIME else 1006)
    assert await relay.exit_status() == 0
    [line] = [line for line in relay.lines if line["event"] == "access"]
    assert line["end"] == "relay_stopped"


# --- bounds ---

ANSWERS = 16 << 20
ANSWERS_BOUND = 5 << 20
"""Most of this is in the provider's own kernel."""
FLOOD = 60 << 20
BOUND = 24 << 20
"""For uploads both kernels may hold several megabytes, and the peers' own buffers as well."""


async def test_a_client_that_stops_reading_stops_the_provider(lab: Lab) -> None:
    sent = 0

    async def flood(connection: ServerConnection) -> None:
        nonlocal sent
        while sent < ANSWERS:
            await connection.send(b"x" * 65536)
            sent += 65536

    _, relay = await _pair(lab, flood)
    with slow_socket(relay.port, 16384) as raw:
        wire = Wire(raw)
        await wire.send(request("GET", "/v1/socket", list(HANDSHAKE)))
        await wire.until(b"\r\n\r\n")
        await eventually(lambda: relay.exchanges and relay.exchanges[0].state() == "paused")
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)
        assert sent < ANSWERS_BOUND
        assert relay.exchanges[0].held < 1 << 18
        received = len(wire.buffer)
        wire.buffer.clear()
        while received < ANSWERS:
            received += len(await wire.receive(1 << 20))
        wire.close()


async def test_a_shut_window_of_http2_stops_the_provider(lab: Lab) -> None:
    sent = 0

    async def flood(connection: ServerConnection) -> None:
        nonlocal sent
        await connection.recv()
        while sent < ANSWERS // 3:
            await connection.send(b"x" * 65536)
            sent += 65536

    _, relay = await _pair(lab, flood)
    socket = await H2WebSocket.open(lab, relay.port)
    socket.wire.peer.stalled.add(socket.stream_id)
    await socket.send("go")
    await eventually(lambda: relay.exchanges and relay.exchanges[0].state() == "paused")
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(0.2)
    assert sent < ANSWERS_BOUND
    assert relay.exchanges[0].held < 1 << 18
    socket.wire.peer.release(socket.stream_id)
    await socket.wire.until(lambda: len(socket.answer.body) > ANSWERS // 3)


async def test_a_provider_that_stops_reading_stops_the_client(lab: Lab) -> None:
    go_on = asyncio.Event()

    async def lags(connection: ServerConnection) -> None:
        await go_on.wait()
        size = 0
        async for message in connection:
            size += len(message)
            if size == FLOOD:
                await connection.send("all of it")

    _, relay = await _pair(lab, lags)
    async with client(relay.port, compression=None) as socket:
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while sent < FLOOD:
                await socket.send(b"y" * 65536)
                sent += 65536

        flooding = asyncio.create_task(flood())
        await eventually(lambda: relay.exchanges and relay.exchanges[0].upload_is_stopped)
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)
        assert sent < BOUND
        go_on.set()
        await flooding
        assert await socket.recv() == "all of it"


# --- seen from outside ---


async def test_figures(lab: Lab) -> None:
    _, relay = await _pair(lab)
    async with client(relay.port) as socket:
        await socket.send("x" * 1000)
        await socket.recv()
        [row] = orjson.loads((await relay.page("/streams")).body)
        assert (row["state"], row["status"]) == ("tunnel", 101)
        metrics = await relay.metrics()
        assert metrics["flow_tunnels_open"] == 1
        assert metrics['flow_tunnel_bytes_total{direction="up"}'] > 10
        seconds = metrics["flow_tunnel_seconds_total"]
        assert seconds > 0
    await relay.access()
    metrics = await relay.metrics()
    assert (metrics["flow_tunnels_open"], metrics["flow_tunnels_total"]) == (0, 1)
    assert metrics["flow_tunnel_seconds_total"] > seconds


async def test_several_workers(lab: Lab) -> None:
    upstream = await provider(lab)
    relay = await lab.process(upstream.url, websocket="on", workers="2")
    sockets = [await client(relay.port) for _ in range(6)]
    for number, socket in enumerate(sockets):
        await socket.send(f"number {number}")
    for number, socket in enumerate(sockets):
        assert await socket.recv() == f"number {number}"
        await socket.close()
    await eventually(lambda: relay.events().count("access") == 6)
    assert {line["end"] for line in relay.lines if line["event"] == "access"} == {"complete"}


async def test_the_admin_listener_has_none(lab: Lab) -> None:
    _, relay = await _pair(lab)
    wire = await lab.client(relay.admin_port)
    await wire.send(request("GET", "/metrics", list(HANDSHAKE)))
    answer = await wire.response()
    assert answer.status != 101
    assert await wire.rest() == (b"", End.CLOSED)


async def test_a_reload_decides_for_new_handshakes_only(lab: Lab, tmp_path: Path) -> None:
    upstream = await provider(lab)

    def config(allowed: str) -> str:
        return toml(tmp_path, {"only": upstream.url}, f'[[routes]]\nupstreams = ["only"]\nwebsocket = {allowed}\n')

    relay = await lab.process(None, config=config("true"))
    async with client(relay.port) as socket:
        config("false")
        relay.signal(signal.SIGHUP)
        await eventually(lambda: "reloaded" in relay.events())
        await socket.send("still there")
        assert await socket.recv() == "still there"
        assert (await _refusal(relay.port))[0] == 426
        config("true")
        relay.signal(signal.SIGHUP)
        await eventually(lambda: relay.events().count("reloaded") == 2)
        async with client(relay.port) as other:
            await other.send("a new one")
            assert await other.recv() == "a new one"


async def test_openai_s_own_library(lab: Lab, tmp_path: Path) -> None:
    async def answers(connection: ServerConnection) -> None:
        async for message in connection:
            assert orjson.loads(message)["type"] == "response.create"
            await connection.send(response_done(1, input_tokens=7, output_tokens=5))

    _, relay = await _limited(lab, tmp_path, answers, "tokens_per_day = 1000")
    library = AsyncOpenAI(api_key=KEY, base_url=f"{relay.url}/v1", websocket_base_url=f"ws://127.0.0.1:{relay.port}/v1")
    async with library.realtime.connect(model="gpt-realtime") as connection:
        await connection.response.create()
        event = await connection.recv()
        assert event.type == "response.done"
    await library.close()
    [line] = await relay.access()
    assert (line["model"], line["input_tokens"], line["output_tokens"]) == ("gpt-realtime", 7, 5)
