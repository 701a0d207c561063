"""Requests that wait for a place at a provider whose breaker opens."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ..support.lab import Lab, RunningRelay, eventually
from ..support.provider import Caller, Provider, answering
from ..support.topology import toml
from ..support.wire import Message, request, response


class BreakingOff:
    """A provider that resets all connections when it is told to."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.asked = 0

    async def __call__(self, caller: Caller) -> None:
        await caller.request()
        self.asked += 1
        await self.told.wait()
        caller.reset()


def _queueing(provider: Provider, places: int) -> dict[str, object]:
    return {"url": provider.url, "max_concurrent": places, "queue": 1000, "queue_timeout": "60s"}


async def _answers(lab: Lab, relay: RunningRelay, script: BreakingOff, *, count: int, places: int) -> list[Message]:
    """To `count` requests, of which all but `places` wait in the queue when the provider breaks off."""
    clients = [await lab.client(relay.port) for _ in range(count)]
    for client in clients:
        await client.send(request())
    await eventually(lambda: script.asked == places)
    script.told.set()
    return [await asyncio.wait_for(client.response(), 10) for client in clients]


async def test_all_who_wait_are_answered_when_the_breaker_opens(lab: Lab, tmp_path: Path) -> None:
    script = BreakingOff()
    first = await lab.provider(script)
    relay = await lab.relay(None, config=toml(tmp_path, {"a": _queueing(first, 5)}), breaker_failures=3)
    answers = await _answers(lab, relay, script, count=300, places=5)
    assert {answer.status for answer in answers} <= {502, 503}


async def test_those_who_wait_go_on_to_the_next_provider(lab: Lab, tmp_path: Path) -> None:
    script = BreakingOff()
    first, second = await lab.provider(script), await lab.provider(answering(response(b"second")))
    upstreams: dict[str, dict[str, object]] = {
        "a": _queueing(first, 2),
        "b": {"url": second.url, "max_concurrent": 1, "queue": 0},
    }
    config = toml(tmp_path, upstreams, '[[routes]]\npath = "*"\nupstreams = ["a", "b"]\n')
    relay = await lab.relay(None, config=config, breaker_failures=1)
    answers = await _answers(lab, relay, script, count=4, places=2)
    assert b"second" in [answer.body for answer in answers]
