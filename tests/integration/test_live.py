"""The live feed over real sockets: one process, several workers, tenants' quotas, and a hand-over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from tests.support.lab import Lab, chat, page
from tests.support.topology import tenant, toml
from tests.support.wire import Wire, request

KEY = "flow-" + "k" * 43


async def _once(admin_port: int, query: str = "") -> dict[str, Any]:
    answer = await page(admin_port, f"/live?once{query}")
    assert answer.status == 200
    found: dict[str, Any] = orjson.loads(answer.body)
    return found


async def _viewer(lab: Lab, admin_port: int, query: str = "") -> Wire:
    viewer = await lab.client(admin_port)
    await viewer.send(request("GET", f"/live{query}"))
    head = await viewer.head()
    assert (head.status, head.get("content-type")) == (200, "text/event-stream")
    return viewer


async def _object(viewer: Wire) -> dict[str, Any]:
    while True:
        event = await viewer.chunk()
        if event.startswith(b"data: "):
            found: dict[str, Any] = orjson.loads(event[6:])
            return found


async def test_tokens_and_rates_are_told_while_a_stream_runs(lab: Lab) -> None:
    _, relay, client = await lab.simulated()
    await client.send(chat(("x-request-id: one",), events=0, rate=50))
    await client.until(b"data: ")
    viewer = await _viewer(lab, relay.admin_port)
    first, second, third = [await _object(viewer) for _ in range(3)]
    assert first["time"] < second["time"] < third["time"]
    [row] = third["streams"]
    assert row["tokens"] > first["streams"][0]["tokens"]
    assert row["tokens_per_second"] > 0
    assert third["totals"]["tokens_per_second"] > 0
    [upstream] = third["upstreams"]
    assert (upstream["open"], upstream["health"], upstream["streams"]) == (1, "closed", 1)
    client.close()
    await relay.access()
    last = await _object(viewer)
    assert last["ends"][0]["request_id"] == "one"


async def test_quotas_of_tenants_are_told(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    config = toml(tmp_path, {"only": simulator.url}, tenant(KEY, "tokens_per_day = 1000", "concurrent = 3"))
    relay = await lab.relay(None, config=config)
    client = await lab.client(relay.port)
    await client.send(chat((f"Authorization: Bearer {KEY}",), events=10))
    await client.response()
    [acme] = (await _once(relay.admin_port))["tenants"]
    limits = {limit["name"]: (limit["used"], limit["limit"]) for limit in acme["limits"]}
    assert acme["name"] == "acme"
    assert limits["concurrent"] == (0, 3)
    used, most = limits["tokens_per_day"]
    assert (used > 0, most) == (True, 1000)


async def test_several_workers_are_one_feed(lab: Lab) -> None:
    simulator = await lab.simulator()
    relay = await lab.process(simulator.url, workers=2)
    for number in range(6):
        client = await lab.client(relay.port)
        await client.send(chat((f"x-request-id: of-{number}",), events=0, rate=20))
        await client.until(b"data: ")
    viewer = await _viewer(lab, relay.admin_port, "?limit=4&sort=request_id&follow=of-5")
    found = await _object(viewer)
    assert [row["request_id"] for row in found["streams"]] == [f"of-{number}" for number in range(4)]
    assert {row["worker"] for row in found["streams"]} == {"0", "1"}
    assert (found["followed"]["request_id"], found["totals"]["streams"]) == ("of-5", 6)
    assert [loop["worker"] for loop in found["loop"]] == ["0", "1"]
    assert (found["process"]["workers"], found["process"]["pid"]) == (2, relay.pid)
    await _object(viewer)


async def test_viewers_ask_the_successor(lab: Lab) -> None:
    _, relay, _ = await lab.simulated()
    viewer = await _viewer(lab, relay.admin_port)
    await _object(viewer)
    relay.relay.hand_over()
    rest, _ = await viewer.rest()
    assert rest.endswith(b"0\r\n\r\n")
