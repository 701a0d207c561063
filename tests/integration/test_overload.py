"""A relay that has more to do than it can, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator

import orjson
import pytest

from tests.support.h2_lab import h2_client
from tests.support.h2_wire import H2Wire
from tests.support.lab import Lab, RunningRelay, chat, eventually
from tests.support.provider import ok
from tests.support.wire import Wire, request

BATCH = "x-flow-class: batch"


@contextlib.asynccontextmanager
async def _busy_loop(seconds: float) -> AsyncIterator[None]:
    """The loop has something to do for so long, in each of its turns."""

    async def work() -> None:
        while True:
            time.sleep(seconds)  # noqa: ASYNC251 - which is the point
            await asyncio.sleep(0)

    working = asyncio.create_task(work())
    try:
        yield
    finally:
        working.cancel()


async def _statuses(relay: RunningRelay, count: int, *headers: str) -> list[int]:
    wire = await Wire.connect(relay.port)
    statuses = []
    for _ in range(count):
        await wire.send(request("POST", headers=list(headers), body=b"x" * 1000))
        answer = await wire.response()
        assert answer.get("connection") is None, "the connection goes on behind a refusal"
        statuses.append(answer.status)
    wire.close()
    return statuses


async def test_a_loop_that_lags_refuses_batch_and_is_well_again_soon_after(lab: Lab) -> None:
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url, overload_interval="50ms")
    assert set(await _statuses(relay, 3, BATCH)) == {200}
    statuses: list[int] = []
    async with _busy_loop(0.03):
        while 503 not in statuses:
            statuses += await _statuses(relay, 1, BATCH)
        served = len(provider.requests)
    [begin] = relay.lines("overloaded")
    assert begin["delay_ms"] > 20
    assert served == 3 + statuses.count(200)
    await eventually(lambda: relay.lines("overload_over"))
    [end] = relay.lines("overload_over")
    assert end["refused"] >= 1
    assert end["refused_at_most"]["batch"] > 0
    assert set(await _statuses(relay, 3, BATCH)) == {200}
    metrics = await relay.metrics()
    assert metrics['flow_overload_refused_total{class="batch",reason="delay"}'] == statuses.count(503)
    assert metrics['flow_overload_refusal_share{of="batch"}'] == 0
    assert metrics["flow_overload_delay_seconds"] < 0.02


@pytest.mark.serial
async def test_a_burst_of_interactive_requests_is_served(lab: Lab) -> None:
    """Far above the target, but not for long."""
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url, overload_interval="20ms")
    clients = [await h2_client(lab, relay.port) for _ in range(6)]

    async def ask(client: H2Wire) -> set[int]:
        numbers = [client.peer.request() for _ in range(250)]
        return {(await client.answer(number)).status for number in numbers}

    assert await asyncio.gather(*map(ask, clients)) == [{200}] * 6
    assert relay.lines("overloaded")
    assert len(provider.requests) == 1500


async def test_a_refusal_says_why_and_when_to_come_back(lab: Lab) -> None:
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url)
    assert relay.relay.overload is not None
    relay.relay.overload.memory_level = 2
    wire = await Wire.connect(relay.port)
    await wire.send(chat((BATCH,)))
    answer = await wire.response()
    assert (answer.status, orjson.loads(answer.body)["error"]["code"]) == (503, "overloaded")
    assert 1 <= int(answer.get("retry-after") or "0") <= 10
    assert not provider.requests
    await wire.send(chat())
    assert (await wire.response()).status == 200
    assert {line["status"]: line["end"] for line in await relay.access(2)} == {503: "refused", 200: "complete"}
    wire.close()


async def test_a_large_upload_is_not_read_before_its_refusal(lab: Lab) -> None:
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url)
    assert relay.relay.overload is not None
    relay.relay.overload.memory_level = 3
    wire = await Wire.connect(relay.port)
    await wire.send(request("POST", headers=["Content-Length: 30000000"]))
    answer = await wire.response()
    assert (answer.status, answer.get("connection")) == (503, "close")
    wire.close()


async def test_http_2(lab: Lab) -> None:
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url)
    assert relay.relay.overload is not None
    relay.relay.overload.memory_level = 2
    client = await h2_client(lab, relay.port)
    body = b"x" * 20_000
    refused = client.peer.request("POST", headers=[("x-flow-class", "batch")], body=body)
    served = client.peer.request("POST", body=body)
    answer = await client.answer(refused)
    assert (answer.status, answer.headers["retry-after"].isdecimal()) == (503, True)
    assert (await client.answer(served)).status == 200
    assert len(provider.requests) == 1


async def test_the_wait_for_a_turn_within_an_http_2_connection_is_measured(lab: Lab) -> None:
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url, overload_target="off")  # else the gate takes it
    client = await h2_client(lab, relay.port)
    await client.get()
    assert relay.relay.turns.longest_wait == 0
    began = asyncio.get_running_loop().time()
    numbers = [client.peer.request() for _ in range(100)]
    for number in numbers:
        assert (await client.answer(number)).status == 200
    assert 0 < relay.relay.turns.take_longest_wait() < asyncio.get_running_loop().time() - began
    assert relay.relay.turns.longest_wait == 0


async def test_new_connections_do_not_wait_for_a_turn_each(lab: Lab) -> None:
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url)
    with contextlib.ExitStack() as sockets:
        for _ in range(100):
            sockets.enter_context(socket.create_connection(("127.0.0.1", relay.port)))
        turns = 0
        while relay.relay.connections < 100:
            await asyncio.sleep(0)
            turns += 1
        assert turns < 50
    await eventually(lambda: not relay.relay.connections)


async def test_switched_off_there_is_no_gate(lab: Lab) -> None:
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url, overload_target="off", memory="off")
    assert relay.relay.overload is None
    async with _busy_loop(0.03):
        assert set(await _statuses(relay, 20, BATCH)) == {200}
    assert "flow_overload_delay_seconds" not in await relay.metrics()
