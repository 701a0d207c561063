"""Providers that others wrote: hypercorn, and nginx as a provider's front."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import orjson
import pytest

from tests.support.lab import Lab, chat, eventually, numbers
from tests.support.peers import hypercorn, nginx
from tests.support.wire import End, chunk, request


async def test_hypercorn(lab: Lab, tmp_path: Path) -> None:
    async with hypercorn(tmp_path) as url:
        relay = await lab.relay(url)
        client = await lab.client(relay.port)
        for _ in range(3):
            await client.send(request())
            assert numbers((await client.response()).body) == list(range(50))
            await client.send(request("POST", body=b"hello"))
            assert (await client.response()).body == b"hello"
            await client.send(request("POST", headers=["Transfer-Encoding: chunked"]) + chunk(b"a") * 9 + b"0\r\n\r\n")
            assert (await client.response()).body == b"a" * 9
            await client.send(request("HEAD"))
            assert (await client.response("HEAD")).status == 200
        assert relay.relay.metrics.pools[0].connects == 1
        client.close()
        await eventually(lambda: not relay.relay.connections)
        await relay.close()


async def test_nginx_in_front_of_a_provider(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    async with nginx(tmp_path, simulator.url) as url:
        relay = await lab.relay(url)
        client = await lab.client(relay.port)
        for options in ({"rate": 500}, {"rate": 500, "length": 1}, {"rate": 500, "close": 1}, {}):
            await client.send(chat(events=100, **options))
            assert numbers((await client.response()).body) == list(range(100))
        payload = random.Random(4).randbytes(3_000_000)
        await client.send(request("POST", "/v1/sink", body=payload))
        answer = orjson.loads((await client.response()).body)
        assert answer == {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
        await client.send(chat(status=429))
        assert (await client.response()).status == 429
        await relay.close()


async def test_nginx_passes_a_cancellation_on(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    async with nginx(tmp_path, simulator.url) as url:
        relay = await lab.relay(url)
        client = await lab.client(relay.port)
        await client.send(chat(events=0, rate=100))
        await client.until(b"tok000003")
        client.close()
        await eventually(lambda: simulator.streams[0]["state"] == "cancelled")
        assert await relay.ended() == "client_gone"


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_stream_that_breaks_off_behind_nginx_never_looks_whole(lab: Lab, tmp_path: Path, version: str) -> None:
    simulator = await lab.simulator()
    async with nginx(tmp_path, simulator.url) as url:
        relay = await lab.relay(url)
        client = await lab.client(relay.port)
        raw = chat(events=50, rate=500, abort_after=5)
        await client.send(raw.replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1))
        await client.head()
        body, end = await client.rest()
        assert not body.endswith(b"0\r\n\r\n")
        assert end is (End.CLOSED if version == "1.1" else End.RESET)
