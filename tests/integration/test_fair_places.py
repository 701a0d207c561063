"""Places at a provider, over real sockets: tenants take turns, interactive requests come first, a flood keeps no other
tenant out of the queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import orjson
import pytest

from flowserver.routing.upstream_host import UpstreamHost

from ..support.h2_lab import h2_client
from ..support.lab import Lab, Line, RunningRelay, chat, eventually, simulate
from ..support.provider import Caller, Provider
from ..support.shared import Sharing, sharing
from ..support.topology import tenant, toml
from ..support.wire import Message, Wire, request, response

KEYS = {name: f"flow-{name}" + name * 40 for name in "abc"}
TENANTS = "\n".join(tenant(key, name=name) for name, key in KEYS.items())


class Held:
    """A provider that answers one request at a time, once it is told to begin."""

    def __init__(self) -> None:
        self.begins = asyncio.Event()

    async def __call__(self, caller: Caller) -> None:
        while True:
            await caller.request()
            await self.begins.wait()
            await caller.send(response(b"ok"))


def order(provider: Provider) -> str:
    """Who asked, in order."""
    return " ".join("".join(each.all("x-name")) for each in provider.requests)


class Scene:
    """A provider with one place, and one or several relays before it."""

    def __init__(self, lab: Lab, provider: Provider, script: Held, relays: list[RunningRelay]) -> None:
        self._lab = lab
        self.provider = provider
        self._script = script
        self.relays = relays
        self._answers: list[asyncio.Task[Message]] = []

    async def ask(self, name: str, *lines: str) -> Wire:
        """The name's first letter is the tenant; a digit chooses the relay. Returns once it has the place or waits."""
        relay = self.relays[len(self._answers) % len(self.relays)]
        before = self._state()
        client = await self._lab.client(relay.port)
        fields = [f"Authorization: Bearer {KEYS[name[0]]}", f"x-name: {name}", *lines]
        body = b'{"messages":[]}'
        await client.send(request("POST", "/v1/chat/completions", fields, body=body))
        self._answers.append(asyncio.create_task(client.response()))
        await eventually(lambda: self._state() != before, f"{name} has asked")
        return client

    def _state(self) -> tuple[int, int, int]:
        return self.waiting, len(self.provider.requests), self.answered

    @property
    def answered(self) -> int:
        return sum(answer.done() for answer in self._answers)

    @property
    def waiting(self) -> int:
        return sum(host.waiting for relay in self.relays for host in relay.relay.metrics.upstreams)

    async def go_on(self) -> list[Message]:
        self._script.begins.set()
        return await asyncio.wait_for(asyncio.gather(*self._answers), 20)


@pytest.fixture
async def shared() -> AsyncIterator[Sharing]:
    async with sharing() as made:
        yield made


async def _scene(
    lab: Lab, folder: Path, sharing: Sharing | None, *, queue: int = 100, queue_timeout: str = "60s"
) -> Scene:
    script = Held()
    provider = await lab.provider(script)
    upstream = {"url": provider.url, "max_concurrent": 1, "queue": queue, "queue_timeout": queue_timeout}
    config = toml(folder, {"p": upstream}, TENANTS)
    if sharing is None:
        relays = [await lab.relay(None, config=config)]
    else:
        relays = [await lab.worker(await sharing.worker(), config=config) for _ in range(2)]
    return Scene(lab, provider, script, relays)


@pytest.fixture(params=["one process", "workers"])
def shares(request: pytest.FixtureRequest, shared: Sharing) -> Sharing | None:
    return shared if request.param == "workers" else None


async def test_tenants_take_turns(lab: Lab, tmp_path: Path, shares: Sharing | None) -> None:
    scene = await _scene(lab, tmp_path, shares)
    for name in ("c", *(f"a{number}" for number in range(8)), "b0", "b1", "b2"):
        await scene.ask(name)
    answers = await scene.go_on()
    assert {answer.status for answer in answers} == {200}
    first = order(scene.provider).split()[1:7]
    assert sorted(first) == ["a0", "a1", "a2", "b0", "b1", "b2"]


async def test_interactive_requests_come_first(lab: Lab, tmp_path: Path, shares: Sharing | None) -> None:
    scene = await _scene(lab, tmp_path, shares)
    for name in ("c", "b0", "b1"):
        await scene.ask(name, "x-flow-class: batch")
    for name in ("a0", "a1"):
        await scene.ask(name)
    await scene.go_on()
    assert order(scene.provider) == "c a0 a1 b0 b1"
    found: dict[str, float] = {}
    for relay in scene.relays:
        for name, value in (await relay.metrics()).items():
            found[name] = found.get(name, 0) + value
    counts = [found[f'flow_upstream_queue_wait_seconds_count{{class="{each}",upstream="p"}}'] for each in _CLASSES]
    assert counts == [2, 2]
    await eventually(lambda: len(_access(scene)) == 5)
    lines = _access(scene)
    assert sorted(line.get("class", "-") for line in lines) == ["-", "-", "batch", "batch", "batch"]
    assert sum("queued_ms" in line for line in lines) == 4


def _access(scene: Scene) -> list[Line]:
    return [line for relay in scene.relays for line in relay.lines("access")]


_CLASSES = ("interactive", "batch")


async def test_a_flood_does_not_keep_others_out_of_the_queue(lab: Lab, tmp_path: Path, shares: Sharing | None) -> None:
    scene = await _scene(lab, tmp_path, shares, queue=4)
    for name in ("c", *(f"a{number}" for number in range(6)), "b0", "b1"):
        await scene.ask(name)
    answers = await scene.go_on()
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429, 429, 429, 200, 200]
    refused = answers[5]
    error = orjson.loads(refused.body)["error"]
    assert error["code"] == "too_many_waiting"
    assert "4 requests wait." in error["message"]
    assert int(refused.all("retry-after")[0]) >= 1


async def test_who_waits_for_too_long_hears_how_long_it_would_take(
    lab: Lab, tmp_path: Path, shares: Sharing | None
) -> None:
    scene = await _scene(lab, tmp_path, shares, queue_timeout="0.2s")
    for name in ("c", "a0"):
        await scene.ask(name)
    await eventually(lambda: scene.answered == 1)
    _, answer = await scene.go_on()
    assert answer.status == 503
    assert "No place at the provider became free within 0.2 s." in orjson.loads(answer.body)["error"]["message"]


@pytest.mark.parametrize("client", ["h1", "h1 without the fast path", "h2"])
async def test_what_a_stream_brings_is_charged_while_it_runs(lab: Lab, tmp_path: Path, client: str) -> None:
    """The tenant whose stream has run meanwhile comes after one that has waited less long."""
    simulator = await lab.simulator()
    upstream = {"url": simulator.url, "max_concurrent": 2, "queue": 9, "queue_timeout": "60s"}
    relay = await lab.relay(
        None, config=toml(tmp_path, {"p": upstream}, TENANTS), fast_path=_on(client == "h1"), idle_timeout="0.4s"
    )
    holder = await lab.client(relay.port)
    await holder.send(_chat("c", events=0, rate=50, id="c"))
    await eventually(lambda: len(simulator.streams) == 1)
    reading = asyncio.create_task(_read_endlessly(lab, relay, client))
    await eventually(lambda: len(simulator.streams) == 2)
    [host] = relay.relay.metrics.upstreams
    for number, name in enumerate("ab", 1):
        waiting = await lab.client(relay.port)
        await waiting.send(_chat(name, events=1, id=f"{name}-waited"))
        await eventually(partial(_waits, host, number))
    passed = relay.exchanges
    before = max(exchange.tokens for exchange in passed)
    await eventually(lambda: max(exchange.tokens for exchange in passed) > before + 2000)
    await asyncio.sleep(0.3)  # it is charged about every 0.1 s here
    holder.close()
    await eventually(lambda: len(simulator.streams) >= 3)
    assert simulator.streams[2]["id"] == "b-waited"
    reading.cancel()


async def _read_endlessly(lab: Lab, relay: RunningRelay, client: str) -> None:
    options = {"events": 0, "rate": 3000, "id": "a"}
    if client != "h2":
        wire = await lab.client(relay.port)
        await wire.send(_chat("a", **options))
        while await wire.receive():
            pass
        return
    stream = await h2_client(lab, relay.port)
    name, _, value = simulate(**options).partition(": ")
    fields = [("content-type", "application/json"), ("authorization", f"Bearer {KEYS['a']}"), (name, value)]
    stream.peer.request("POST", "/v1/chat/completions", fields, body=b'{"stream":true,"messages":[]}')
    await stream.until(lambda: False, within=60)


async def test_a_whole_answer_is_charged_when_it_is_over(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    upstream = {"url": simulator.url, "max_concurrent": 1, "queue": 9, "queue_timeout": "60s"}
    relay = await lab.relay(None, config=toml(tmp_path, {"p": upstream}, TENANTS))
    [host] = relay.relay.metrics.upstreams
    holder = await lab.client(relay.port)
    await holder.send(_chat("c", events=0, rate=50, id="c"))
    await eventually(lambda: len(simulator.streams) == 1)
    order = ("a1", 3000), ("b1", 3), ("a2", 3), ("b2", 3), ("b3", 3)
    clients = []
    for number, (name, events) in enumerate(order, 1):
        clients.append(await lab.client(relay.port))
        body = b'{"messages":[]}'
        fields = [f"Authorization: Bearer {KEYS[name[0]]}", simulate(events=events, id=name)]
        await clients[-1].send(request("POST", "/v1/chat/completions", fields, body=body))
        await eventually(partial(_waits, host, number))
    holder.close()
    answers = [await client.response() for client in clients]
    assert {answer.status for answer in answers} == {200}
    lines = [line for line in await relay.access(6) if line["tenant"] != "c"]
    shares = [(line["tenant"], line["output_tokens"]) for line in lines]
    assert shares == [("a", 3000), ("b", 3), ("b", 3), ("b", 3), ("a", 3)]


def _waits(host: UpstreamHost, number: int) -> bool:
    return host.waiting == number


def _on(value: bool) -> str:
    return "on" if value else "off"


def _chat(name: str, **options: object) -> bytes:
    return chat((f"Authorization: Bearer {KEYS[name]}",), **options)
