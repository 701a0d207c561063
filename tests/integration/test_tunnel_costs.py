"""What WebSockets of the Realtime API cost, and quotas in money for them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import orjson
import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.lab import Lab, RunningRelay
from tests.support.topology import tenant, toml
from tests.support.websocket_peers import H2WebSocket, client, provider, response_done

KEY = "flow-" + "k" * 43
AUTHORIZED = {"additional_headers": {"authorization": f"Bearer {KEY}"}}
REALTIME = "/v1/realtime?model=gpt-realtime"
ROUTES = '[[routes]]\nupstreams = ["only"]\nwebsocket = true\n'
PRICES = """[[prices]]
models = ["gpt-realtime"]
input = 40
output = 80
cached_input = 2
above_input_tokens = 100

[[prices]]
models = ["gpt-realtime"]
input = 4
output = 16
cached_input = 0.4
"""
EACH = (30 * 4 + 30 * 0.4 + 40 * 16) / 1e6
"""Dollars of one answer of the provider below, by its report."""


async def _answers(connection: ServerConnection) -> None:
    """Eleven answers with 60 input tokens, half of them cached, and 40 output tokens: each when a message came."""
    for number in range(11):
        await connection.send(response_done(number, input_tokens=60, output_tokens=40))
        with contextlib.suppress(ConnectionClosed):
            await connection.recv()


async def _relay(
    lab: Lab, folder: Path, *limits: str, prices: str = PRICES, handler: object = _answers, **settings: object
) -> RunningRelay:
    upstream = await provider(lab, handler)  # type: ignore[arg-type]
    file = ROUTES + (tenant(KEY, *limits) if limits else "") + prices
    return await lab.relay(None, config=toml(folder, {"only": upstream.url}, file), **settings)


async def _refusal(port: int, path: str) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as raised:
        await client(port, path, **AUTHORIZED)
    response = raised.value.response
    return response.status_code, orjson.loads(response.body or b"")["error"]["code"]


@pytest.mark.parametrize("names", ["old", "both", "new"])
async def test_each_report_has_the_price_of_its_own_size(lab: Lab, tmp_path: Path, names: str) -> None:
    """All of them together are above the step of the prices, and none is by itself."""
    relay = await _relay(lab, tmp_path, metrics_genai=names)
    async with client(relay.port, REALTIME) as socket:
        for _ in range(3):
            await socket.recv()
            [row] = orjson.loads((await relay.page("/streams")).body)
            assert row["cost_usd"] > 0
            await socket.send("more")
        await socket.recv()
    [line] = await relay.access()
    assert line["input_tokens"] == 240
    assert line["cost_usd"] == pytest.approx(4 * EACH)
    sample = 'flow_cost_usd_total{model="gpt-realtime",tenant="",upstream="only"}'
    assert (await relay.metrics())[sample] == pytest.approx(4 * EACH)


@pytest.mark.parametrize("http2", [False, True])
async def test_a_quota_of_money_ends_the_tunnel_and_refuses_the_next(lab: Lab, tmp_path: Path, http2: bool) -> None:
    relay = await _relay(lab, tmp_path, f"usd_per_day = {2.5 * EACH:.6f}")
    if http2:
        peer = await H2WebSocket.open(lab, relay.port, REALTIME, ("authorization", f"Bearer {KEY}"))
        for _ in range(2):
            await peer.text()
            await peer.send("more")
        await peer.text()
        assert bytes((await peer.receive()).data) == b"\x03\xf0The quota is used up."
        await peer.flush()
        await peer.wire.answer(peer.stream_id)
    else:
        async with client(relay.port, REALTIME, **AUTHORIZED) as socket:
            with contextlib.suppress(ConnectionClosed):
                async for _ in socket:
                    await socket.send("more")
        assert (socket.close_code, socket.close_reason) == (1008, "The quota is used up.")
    [line] = await relay.access()
    assert (line["end"], line["input_tokens"]) == ("quota", 180)
    assert line["cost_usd"] == pytest.approx(3 * EACH)
    assert await _refusal(relay.port, REALTIME) == (429, "insufficient_quota")
    refused = 'flow_limit_refusals_total{limit="usd_per_day",scope="tenant",tenant="acme"}'
    assert (await relay.metrics())[refused] == 1


async def test_what_was_leased_and_not_used_comes_back(lab: Lab, tmp_path: Path) -> None:
    relay = await _relay(lab, tmp_path, "usd_per_day = 0.01")
    for _ in range(2):
        async with client(relay.port, REALTIME, **AUTHORIZED) as socket:
            await socket.recv()
    await relay.access(2)
    [used] = orjson.loads((await relay.page("/live?once")).body)["tenants"][0]["limits"]
    assert (used["used"], used["reserved"]) == (pytest.approx(2 * EACH), 0)


async def test_a_model_without_a_price_is_refused_where_money_is_limited(lab: Lab, tmp_path: Path) -> None:
    relay = await _relay(lab, tmp_path, "usd_per_day = 1")
    assert await _refusal(relay.port, "/v1/realtime?model=other") == (403, "price_missing")
    assert await _refusal(relay.port, "/v1/realtime") == (403, "price_missing")


async def test_without_a_limit_of_money_its_cost_is_unknown(lab: Lab, tmp_path: Path) -> None:
    relay = await _relay(lab, tmp_path)
    async with client(relay.port, "/v1/realtime?model=other") as socket:
        await socket.recv()
    [line] = await relay.access()
    assert (line["cost_usd"], line["input_tokens"]) == (None, 60)
    assert (await relay.metrics())['flow_cost_unknown_total{model="other",upstream="only"}'] == 1


async def test_what_cannot_be_counted_is_refused_where_money_is_limited(lab: Lab, tmp_path: Path) -> None:
    paths = 'paths = ["/v1/*"]'
    relay = await _relay(lab, tmp_path, paths, "usd_per_day = 1")
    for path in ("/v1/socket", "/v1/socket?model=gpt-realtime"):
        assert await _refusal(relay.port, path) == (403, "not_counted")
    relay = await _relay(lab, tmp_path, paths, "tokens_per_day = 1000")
    async with client(relay.port, "/v1/socket", **AUTHORIZED) as socket:
        await socket.recv()


async def test_what_is_not_reported_is_charged_by_estimate(lab: Lab, tmp_path: Path) -> None:
    async def breaks_off(connection: ServerConnection) -> None:
        delta = orjson.dumps({"type": "response.output_text.delta", "delta": "x" * 4200}).decode()
        await connection.send(response_done(1, input_tokens=60, output_tokens=40))
        await connection.send(delta)
        await connection.wait_closed()

    relay = await _relay(lab, tmp_path, "usd_per_day = 1", handler=breaks_off)
    async with client(relay.port, REALTIME, **AUTHORIZED) as socket:
        await socket.recv()
        await socket.recv()
    [line] = await relay.access()
    estimated = line["output_tokens"] - 40
    assert estimated > 900
    assert line["cost_usd"] == pytest.approx(EACH + (60 * 4 + estimated * 16) / 1e6)
