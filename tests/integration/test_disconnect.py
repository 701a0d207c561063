"""A client that leaves where answers are read on: the provider's own count gets into the log, within bounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowserver.simulator import Simulator
from tests.support.h2_lab import ask, h2_client
from tests.support.h2_peer import H2Peer
from tests.support.lab import Lab, Line, RunningRelay, chat, eventually
from tests.support.topology import toml

LEAVES = pytest.mark.parametrize("leave", ["close", "reset"])
READS_ON = {"disconnect": "drain"}


async def one_line(simulator: Simulator, relay: RunningRelay, state: str) -> Line:
    """The line of the only exchange, when the provider's stream has come to `state` and nothing of it is left."""
    await eventually(lambda: simulator.streams[0]["state"] == state, f"the provider's stream is {state}")
    [line] = await relay.access()
    assert not relay.relay.metrics.open
    [pool] = relay.relay.metrics.pools
    await eventually(lambda: pool.open_connections == pool.idle_connections)
    return line


async def abandoned(relay: RunningRelay) -> None:
    """Wait until a client is seen to have left whose answer goes on."""
    await eventually(lambda: relay.abandoned, "the answer is abandoned")
    await eventually(lambda: not relay.relay.connections, "the client is gone")


@LEAVES
async def test_the_answer_is_read_to_its_end(lab: Lab, leave: str) -> None:
    simulator, relay, client = await lab.simulated(**READS_ON)
    await client.send(chat(events=60, rate=100))
    await client.until(b"tok000002")
    getattr(client, leave)()
    line = await one_line(simulator, relay, "done")
    assert simulator.streams[0]["events"] == 60
    assert (line["end"], line["status"]) == ("client_gone", 200)
    assert (line["output_tokens"], line["estimated"], line["finish"]) == (60, False, "stop")
    assert line["bytes_down"] == simulator.streams[0]["bytes_written"]
    assert "error" not in line


@pytest.mark.parametrize("how", ["stream", "connection"])
async def test_the_answer_to_a_client_of_http_2_is_read_to_its_end(lab: Lab, how: str) -> None:
    simulator, relay, _ = await lab.simulated(**READS_ON)
    client = await h2_client(lab, relay.port)
    stream_id = ask(client, events=60, rate=100)
    await client.until(lambda: b"tok000002" in client.peer.answers[stream_id].body)
    if how == "stream":
        client.peer.reset(stream_id)
        await client.flush()
    else:
        client.close()
    line = await one_line(simulator, relay, "done")
    assert (line["end"], line["protocol"]) == ("client_gone", "h2")
    assert (line["output_tokens"], line["estimated"]) == (60, False)


async def test_a_connection_that_goes_leaves_all_its_answers_to_be_read_on(lab: Lab) -> None:
    simulator, relay, _ = await lab.simulated(**READS_ON)
    client = await h2_client(lab, relay.port)
    for number in range(20):
        ask(client, events=30 + number, rate=50)
    await client.flush()
    await eventually(lambda: sum(stream["events"] > 1 for stream in simulator.streams) == 20)
    client.close()
    lines = await relay.access(20)
    assert {line["end"] for line in lines} == {"client_gone"}
    assert sorted(line["output_tokens"] for line in lines) == [30 + number for number in range(20)]
    assert {stream["state"] for stream in simulator.streams} == {"done"}


async def test_the_answer_of_a_client_that_took_no_more_is_read_on(lab: Lab) -> None:
    """Its provider was stopped."""
    simulator = await lab.simulator()
    relay = await lab.relay(simulator.url, **READS_ON, disconnect_bytes="64m")
    client = await lab.client(relay.port, receive_buffer=8192)
    await client.send(chat(events=20_000))
    await eventually(lambda: simulator.streams and simulator.streams[0]["state"] == "paused")
    await eventually(lambda: [exchange for exchange in relay.exchanges if exchange.state() == "paused"])
    client.reset()
    line = await one_line(simulator, relay, "done")
    assert (line["end"], line["output_tokens"], line["estimated"]) == ("client_gone", 20_000, False)


async def test_the_answer_of_a_stream_with_its_window_shut_is_read_on(lab: Lab) -> None:
    simulator = await lab.simulator()
    relay = await lab.relay(simulator.url, **READS_ON, disconnect_bytes="64m")
    client = await h2_client(lab, relay.port, peer=H2Peer(window=1000))
    stream_id = ask(client, events=20_000)
    client.peer.stalled.add(stream_id)
    await client.flush()
    await eventually(lambda: simulator.streams and simulator.streams[0]["state"] == "paused")
    client.peer.reset(stream_id)
    await client.flush()
    line = await one_line(simulator, relay, "done")
    assert (line["end"], line["output_tokens"], line["estimated"]) == ("client_gone", 20_000, False)


@pytest.mark.parametrize(
    "bound", [{"disconnect_bytes": 2000}, {"disconnect_time": "200ms"}], ids=lambda bound: min(bound)
)
async def test_an_answer_without_end_is_read_on_within_bounds(lab: Lab, bound: dict[str, Any]) -> None:
    simulator, relay, client = await lab.simulated(**READS_ON, **bound)
    await client.send(chat(events=0, rate=100))
    await client.until(b"tok000002")
    client.close()
    line = await one_line(simulator, relay, "cancelled")
    assert (line["end"], line["estimated"]) == ("client_gone", True)
    assert line["output_tokens"] > 2


async def test_a_provider_that_breaks_off_then_is_no_one_s_news(lab: Lab) -> None:
    simulator, relay, client = await lab.simulated(**READS_ON)
    await client.send(chat(events=0, rate=100, abort_after=60))
    await client.until(b"tok000002")
    client.close()
    line = await one_line(simulator, relay, "aborted")
    assert (line["end"], line["estimated"]) == ("client_gone", True)
    assert "error" in line


async def test_going_down_ends_what_is_read_on(lab: Lab) -> None:
    simulator, relay, client = await lab.simulated(**READS_ON)
    await client.send(chat(events=0, rate=100))
    await client.until(b"tok000002")
    client.close()
    await abandoned(relay)
    await relay.relay.close()
    line = await one_line(simulator, relay, "cancelled")
    assert line["end"] == "client_gone"


async def test_an_answer_that_is_read_on_is_seen(lab: Lab) -> None:
    simulator, relay, client = await lab.simulated(**READS_ON)
    await client.send(chat(events=0, rate=100, id="x"))
    await client.until(b"tok000002")
    client.close()
    await abandoned(relay)
    page = await relay.page("/streams")
    assert b'"state":"abandoned"' in page.body
    assert (await relay.metrics())["flow_streams_open"] == 1
    await relay.close()
    await one_line(simulator, relay, "cancelled")


CANCELLED: dict[str, Callable[[], dict[str, object]]] = {
    "cancel": lambda: {"disconnect": "cancel"},
    "by default": dict,
}


@LEAVES
@pytest.mark.parametrize("settings", CANCELLED.values(), ids=CANCELLED.keys())
async def test_the_answer_is_cancelled_where_it_is_not_read_on(
    lab: Lab, settings: Callable[[], dict[str, object]], leave: str
) -> None:
    simulator, relay, client = await lab.simulated(**settings())
    await client.send(chat(events=0, rate=100))
    await client.until(b"tok000002")
    getattr(client, leave)()
    line = await one_line(simulator, relay, "cancelled")
    assert (line["end"], line["estimated"]) == ("client_gone", True)


async def test_an_answer_that_did_not_begin_is_cancelled(lab: Lab) -> None:
    simulator, relay, client = await lab.simulated(**READS_ON)
    await client.send(chat(delay=60))
    await eventually(lambda: simulator.streams and relay.relay.metrics.open)
    client.close()
    line = await one_line(simulator, relay, "cancelled")
    assert (line["end"], line["status"]) == ("client_gone", 0)


@pytest.mark.parametrize(
    ("environment", "route", "state"), [("cancel", "drain", "done"), ("drain", "cancel", "cancelled")]
)
async def test_a_route_decides_for_itself(lab: Lab, tmp_path: Path, environment: str, route: str, state: str) -> None:
    simulator = await lab.simulator()
    routes = f'[[routes]]\npath = "/v1/*"\nupstreams = ["api"]\ndisconnect = "{route}"\n'
    config = toml(tmp_path, {"api": simulator.url}, routes)
    relay = await lab.relay(None, config=config, disconnect=environment)
    client = await lab.client(relay.port)
    await client.send(chat(events=60 if state == "done" else 0, rate=100))
    await client.until(b"tok000002")
    client.close()
    line = await one_line(simulator, relay, state)
    assert (line["end"], line["estimated"]) == ("client_gone", state != "done")
