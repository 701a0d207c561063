"""After ends of every kind, together and again and again, no connection, task, descriptor or held byte is left."""

from __future__ import annotations

import asyncio
import gc
import os

from tests.support.lab import Lab, RunningRelay, chat, eventually
from tests.support.wire import Wire, chunk, request

ROUNDS = 3

KINDS: tuple[tuple[dict[str, object], str], ...] = (
    ({"events": 20, "rate": 400}, "read"),
    ({"events": 2000}, "read"),
    ({"whole": 50_000}, "read"),
    ({"events": 50, "abort_after": 5}, "rest"),
    ({"events": 50, "fin_after": 5, "length": 1}, "rest"),
    ({"events": 50, "close": 1}, "read"),
    ({"status": 500}, "read"),
    ({"delay": 60}, "close"),
    ({"delay": 60}, "reset"),
    ({"first": 60}, "close"),
    ({"events": 0, "rate": 100}, "close"),
    ({"events": 0}, "close"),
    ({"events": 0}, "reset"),
    ({"events": 0, "silence_after": 3}, "rest"),
    ({"delay": 60}, "read"),
)


async def _one(relay: RunningRelay, options: dict[str, object], then: str) -> None:
    client = await Wire.connect(relay.port, receive_buffer=16384)
    try:
        await client.send(chat(**options))
        if then == "read":
            await client.response()
        elif then == "rest":
            await client.rest()
        else:
            await asyncio.sleep(0.05)
            getattr(client, then)()
    finally:
        client.close()


async def _malformed(relay: RunningRelay) -> None:
    for raw in (b"nonsense\r\n\r\n", request()[:-2], request("POST", headers=["Transfer-Encoding: chunked"]) + b"x"):
        client = await Wire.connect(relay.port)
        await client.send(raw)
        client.half_close()
        await client.rest()
        client.close()


async def _uploads(relay: RunningRelay) -> None:
    for end in ("close", "reset"):
        client = await Wire.connect(relay.port)
        await client.send(request("POST", "/v1/sink", ["Transfer-Encoding: chunked"]) + chunk(b"x" * 100_000))
        getattr(client, end)()


def _descriptors() -> set[str]:
    gc.collect()
    names = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            names.add(f"{descriptor} {os.readlink(f'/proc/self/fd/{descriptor}')}")
        except OSError:
            continue
    return names


async def test_nothing_is_left_behind(lab: Lab) -> None:
    simulator = await lab.simulator()
    relay = await lab.relay(
        simulator.url,
        idle_timeout="300ms",
        first_byte_timeout="500ms",
        stall_timeout="2s",
        head_timeout="2s",
        upstream_keepalive="1s",
        breaker_failures=1000,  # it is meant to be asked again after all of this
    )
    [pool] = relay.relay.metrics.pools
    await asyncio.gather(*(_one(relay, options, then) for options, then in KINDS[:3]))  # whatever is made but once
    await eventually(lambda: not relay.relay.connections)
    await eventually(lambda: pool.open_connections == 0 and simulator.records.connections_open == 0)
    before, tasks = _descriptors(), asyncio.all_tasks()

    for _ in range(ROUNDS):
        jobs = [_one(relay, options, then) for options, then in KINDS for _ in range(4)]
        await asyncio.gather(*jobs, _malformed(relay), _uploads(relay))

    await eventually(lambda: not relay.relay.metrics.open, "no exchange is left")
    await eventually(lambda: not relay.relay.connections, "no client connection is left")
    await eventually(lambda: pool.open_connections == pool.idle_connections, "no busy provider connection is left")
    await eventually(lambda: all(stream["ended"] is not None for stream in simulator.streams))
    await eventually(lambda: pool.open_connections == pool.idle_connections == 0)
    await eventually(lambda: simulator.records.connections_open == 0)
    await eventually(lambda: asyncio.all_tasks() == tasks, "no task is left")
    await eventually(lambda: not _descriptors() - before, "no descriptor is left")
    metrics = await relay.metrics()
    assert metrics["flow_streams_open"] == metrics["flow_streams_paused"] == metrics["flow_held_bytes"] == 0
    assert relay.relay.is_idle

    lines = relay.lines("access")
    started = len(simulator.streams)
    assert len(lines) >= started
    by_end = {str(line["end"]) for line in lines}
    assert by_end >= {"complete", "client_gone", "upstream_failed", "idle_timeout", "first_byte_timeout"}
    assert metrics['flow_exchanges_total{end="complete"}'] == sum(line["end"] == "complete" for line in lines)
