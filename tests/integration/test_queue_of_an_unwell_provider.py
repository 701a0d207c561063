"""Requests that wait for a place at a provider whose breaker opens."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ..support.lab import Lab, eventually
from ..support.provider import Caller, answering
from ..support.wire import request, response

WAITING = 300


async def test_all_who_wait_are_answered_when_the_breaker_opens(lab: Lab, tmp_path: Path) -> None:
    breaks = asyncio.Event()

    async def break_off(caller: Caller) -> None:
        await caller.request()
        await breaks.wait()
        caller.reset()

    provider = await lab.provider(break_off)
    config = tmp_path / "flowserver.toml"
    config.write_text(
        f'[[upstreams]]\nname = "a"\nurl = "{provider.url}"\nmax_concurrent = 5\nqueue = 1000\nqueue_timeout = "60s"\n'
    )
    relay = await lab.relay(None, config=str(config), breaker_failures=3)
    clients = [await lab.client(relay.port) for _ in range(WAITING)]
    for client in clients:
        await client.send(request())
    await eventually(lambda: len(provider.requests) == 5)
    breaks.set()
    statuses = [(await asyncio.wait_for(client.response(), 10)).status for client in clients]
    assert set(statuses) <= {502, 503}


async def test_those_who_wait_go_on_to_the_next_provider(lab: Lab, tmp_path: Path) -> None:
    breaks = asyncio.Event()

    async def break_off(caller: Caller) -> None:
        await caller.request()
        await breaks.wait()
        caller.reset()

    first, second = await lab.provider(break_off), await lab.provider(answering(response(b"second")))
    config = tmp_path / "flowserver.toml"
    config.write_text(
        f'[[upstreams]]\nname = "a"\nurl = "{first.url}"\nmax_concurrent = 2\nqueue = 1000\nqueue_timeout = "60s"\n'
        f'[[upstreams]]\nname = "b"\nurl = "{second.url}"\nmax_concurrent = 1\nqueue = 0\n'
        '[[routes]]\npath = "*"\nupstreams = ["a", "b"]\n'
    )
    relay = await lab.relay(None, config=str(config), breaker_failures=1)
    clients = [await lab.client(relay.port) for _ in range(4)]
    for client in clients:
        await client.send(request())
    await eventually(lambda: len(first.requests) == 2)
    breaks.set()
    bodies = [(await asyncio.wait_for(client.response(), 10)).body for client in clients]
    assert b"second" in bodies
