"""`max_concurrent = "auto"` over real sockets: providers of limited capacity, both protocols, several workers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import orjson
import pytest

from bench.limited_provider import Capacity, LimitedProvider
from flowserver.routing.adaptive_limit import FIRST
from tests.support.h2_provider import H2Site, silent
from tests.support.lab import Lab, RunningRelay, eventually
from tests.support.provider import answering
from tests.support.shared import sharing
from tests.support.topology import toml
from tests.support.wire import Message, request, response

QUICK = Capacity(places=10, queue=40, first=0.03, rest=0.15, spread=0.2)
LIMIT = 'flow_upstream_limit{upstream="a"}'
REFUSALS = 'flow_upstream_limit_decreases_total{cause="refusal",upstream="a"}'


@pytest.fixture
async def provider() -> AsyncIterator[LimitedProvider]:
    made = LimitedProvider(QUICK)
    await made.start()
    yield made
    await made.close()


def _chat(size: int = 200, *, stream: bool = True) -> bytes:
    message = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "x" * size}]}
    return request("POST", "/v1/chat/completions", ["Content-Type: application/json"], body=orjson.dumps(message))


class Load:
    """Clients that ask one request after the other, until it is closed."""

    def __init__(self, lab: Lab, relays: list[RunningRelay], clients: int) -> None:
        self._lab = lab
        self.statuses: Counter[int] = Counter()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._ask(relays[number % len(relays)])) for number in range(clients)]

    async def _ask(self, relay: RunningRelay) -> None:
        client = await self._lab.client(relay.port)
        while True:
            await client.send(_chat())
            answer = await client.response()
            self.statuses[answer.status] += 1
            if answer.status != 200:
                await asyncio.sleep(0.1)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError), result


@contextlib.asynccontextmanager
async def load(lab: Lab, relays: list[RunningRelay], clients: int) -> AsyncIterator[Load]:
    made = Load(lab, relays, clients)
    try:
        yield made
    finally:
        await made.close()


def _auto(url: str, **keys: object) -> dict[str, object]:
    return {"url": url, "max_concurrent": "auto", "api_key": "env:KEY", "queue_timeout": "60s"} | keys


async def _limit_becomes(relay: RunningRelay, holds: Callable[[float], bool]) -> None:
    limit = 0.0
    for _ in range(150):
        limit = (await relay.metrics())[LIMIT]
        if holds(limit):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"the limit is {limit}")


@pytest.mark.parametrize("fast_path", ["on", "off"])
async def test_it_follows_the_capacity_of_a_provider(
    lab: Lab, provider: LimitedProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast_path: str
) -> None:
    monkeypatch.setenv("KEY", "key")
    config = toml(tmp_path, {"a": _auto(f"http://127.0.0.1:{provider.port}", queue=1000)})
    relay = await lab.relay(None, config=config, fast_path=fast_path)
    async with load(lab, [relay], 80) as asked:
        await _limit_becomes(relay, lambda limit: limit != FIRST)
        provider.change(places=40)
        await _limit_becomes(relay, lambda limit: limit >= 36)
        provider.change(places=8)
        await _limit_becomes(relay, lambda limit: limit <= 18)
        assert asked.statuses[200] > 0
        assert asked.statuses[503] == 0


async def test_it_follows_over_all_workers(
    lab: Lab, provider: LimitedProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "key")
    config = toml(tmp_path, {"a": _auto(f"http://127.0.0.1:{provider.port}", queue=1000)})
    async with sharing() as shared:
        relays = [await lab.worker(await shared.worker(), config=config) for _ in range(4)]
        async with load(lab, relays, 80):
            provider.change(places=40)
            await _limit_becomes(relays[0], lambda limit: limit >= 36)
            provider.change(places=8)
            await _limit_becomes(relays[1], lambda limit: limit <= 18)
            limits = [(await relay.metrics())[LIMIT] for relay in relays]
            assert max(limits) - min(limits) <= 4, "all know the same, but for what has changed between two questions"
        assert not shared.broken


async def test_it_grows_with_a_provider_over_h2(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "key")
    loop, site = asyncio.get_running_loop(), H2Site(silent)
    provider = await lab.provider(site.script)

    async def answer() -> None:
        """Each request a while after it came."""
        answered: set[int] = set()
        while True:
            await asyncio.sleep(0.05)
            for server in site.servers[:1]:
                for stream_id in server.whole - answered:
                    answered.add(stream_id)
                    server.answer(stream_id)
                await server.flush()

    answering = loop.create_task(answer())
    relay = await lab.relay(None, config=toml(tmp_path, {"a": _auto(provider.url, protocol="h2", queue=1000)}))
    async with load(lab, [relay], 60):
        await _limit_becomes(relay, lambda limit: limit > FIRST)
    answering.cancel()


async def _ask(lab: Lab, relay: RunningRelay, count: int) -> list[Message]:
    client = await lab.client(relay.port)
    answers = []
    for _ in range(count):
        await client.send(_chat(stream=False))
        answers.append(await client.response())
    return answers


@pytest.mark.parametrize(
    ("own_key", "headers", "status", "counts"),
    [
        (True, [], "429 Too Many Requests", True),
        (True, ["x-ratelimit-remaining-requests: 0"], "429 Too Many Requests", False),
        (True, ["Retry-After: 60"], "429 Too Many Requests", False),
        (False, [], "429 Too Many Requests", False),
        (False, [], "529 Overloaded", True),
        (False, [], "502 Bad Gateway", False),
    ],
)
async def test_which_refusals_are_the_provider_s(
    lab: Lab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    own_key: bool,
    headers: list[str],
    status: str,
    counts: bool,
) -> None:
    monkeypatch.setenv("KEY", "key")
    provider = await lab.provider(answering(response(b"no", headers, status=status)))
    table = _auto(provider.url)
    if not own_key:
        del table["api_key"]
    relay = await lab.relay(None, config=toml(tmp_path, {"a": table}))
    assert {answer.status for answer in await _ask(lab, relay, 3)} == {int(status[:3])}
    figures = await relay.metrics()
    assert (figures[REFUSALS] > 0) is counts
    assert (figures[LIMIT] < FIRST) is counts


async def test_a_reload_keeps_what_was_learned(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "key")
    provider = await lab.provider(answering(response(b"no", status="503 Service Unavailable")))
    table = _auto(provider.url)
    relay = await lab.relay(None, config=toml(tmp_path, {"a": table}))
    await _ask(lab, relay, 4)
    learned = (await relay.metrics())[LIMIT]
    assert learned < FIRST
    toml(tmp_path, {"a": table | {"max_concurrent": 5}})
    assert relay.relay.reload()
    assert LIMIT not in await relay.metrics()
    await _ask(lab, relay, 1)
    toml(tmp_path, {"a": table})
    assert relay.relay.reload()
    assert (await relay.metrics())[LIMIT] == learned


async def test_the_relay_s_own_refusals_do_not_count(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "key")
    made = LimitedProvider(Capacity(places=100, queue=0, first=0.2, rest=0.2))
    await made.start()
    config = toml(tmp_path, {"a": _auto(f"http://127.0.0.1:{made.port}", queue=0)})
    relay = await lab.relay(None, config=config)
    async with load(lab, [relay], 2 * FIRST) as asked:
        await eventually(lambda: asked.statuses[503] > 0)
        figures = await relay.metrics()
    assert figures[REFUSALS] == 0
    await made.close()
