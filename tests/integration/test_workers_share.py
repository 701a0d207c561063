"""Four relays that share limits and providers as workers do: here all in one process, with real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from tests.support.lab import Lab, RunningRelay, eventually, free_port, numbers, simulate
from tests.support.provider import Counting, answering, ok
from tests.support.shared import Sharing, sharing
from tests.support.topology import tenant, toml
from tests.support.wire import Message, request, response

KEY = "flow-" + "k" * 43
WORKERS = 4


@pytest.fixture
async def shared() -> AsyncIterator[Sharing]:
    async with sharing() as made:
        yield made


async def _workers(lab: Lab, shared: Sharing, config: str, **settings: object) -> list[RunningRelay]:
    return [await lab.worker(await shared.worker(), config=config, **settings) for _ in range(WORKERS)]


async def _ask(lab: Lab, worker: RunningRelay, raw: bytes | None = None) -> Message:
    client = await lab.client(worker.port)
    await client.send(request() if raw is None else raw)
    return await asyncio.wait_for(client.response(), 20)


async def _all(lab: Lab, workers: list[RunningRelay], count: int, raw: bytes | None = None) -> list[Message]:
    return await asyncio.gather(*(_ask(lab, workers[number % len(workers)], raw) for number in range(count)))


async def test_a_provider_never_has_more_than_its_places(lab: Lab, shared: Sharing, tmp_path: Path) -> None:
    script = Counting(response(b"ok"), 0.005)
    provider = await lab.provider(script)
    upstream = {"url": provider.url, "max_concurrent": 6, "queue": 1000, "queue_timeout": "60s"}
    workers = await _workers(lab, shared, toml(tmp_path, {"a": upstream}))
    answers = await _all(lab, workers, 200)
    assert {answer.status for answer in answers} == {200}
    assert (script.most, script.all) == (6, 200)


async def test_a_full_queue_sends_to_the_next_provider(lab: Lab, shared: Sharing, tmp_path: Path) -> None:
    script = Counting(response(b"ok"), 0.005)
    first, second = await lab.provider(script), await lab.provider(answering(response(b"second")))
    upstreams: dict[str, dict[str, object] | str] = {
        "a": {"url": first.url, "max_concurrent": 2, "queue": 3, "queue_timeout": "60s"},
        "b": second.url,
    }
    config = toml(tmp_path, upstreams, '[[routes]]\npath = "*"\nupstreams = ["a", "b"]\n')
    answers = await _all(lab, await _workers(lab, shared, config), 60)
    assert {answer.status for answer in answers} == {200}
    assert {answer.body for answer in answers} == {b"ok", b"second"}
    assert script.most == 2


async def test_a_provider_that_is_down_is_left_alone_by_all(lab: Lab, shared: Sharing, tmp_path: Path) -> None:
    config = toml(tmp_path, {"a": f"http://127.0.0.1:{free_port()}"})
    workers = await _workers(lab, shared, config, breaker_failures=3, retry_attempts=1)
    statuses = [(await _ask(lab, worker)).status for worker in workers]
    assert statuses == [502, 502, 502, 503]


async def test_a_rate_that_a_provider_told_one_worker_holds_for_all(lab: Lab, shared: Sharing, tmp_path: Path) -> None:
    limited = response(b"slow down", ["Retry-After: 30"], status="429 Too Many Requests")
    first, second = await lab.provider(answering(limited)), await lab.provider(ok)
    upstreams = {"a": first.url, "b": second.url}
    config = toml(tmp_path, upstreams, '[[routes]]\npath = "*"\nupstreams = ["a", "b"]\n')
    workers = await _workers(lab, shared, config)
    assert [(await _ask(lab, worker)).status for worker in workers] == [200] * WORKERS
    assert len(first.requests) == 1


def _chat(**options: object) -> bytes:
    body = orjson.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "Go on."}]})
    lines = ["Content-Type: application/json", f"Authorization: Bearer {KEY}", simulate(**options)]
    return request("POST", "/v1/chat/completions", lines, body=body)


async def test_limits_of_a_tenant_hold_over_all_workers(lab: Lab, shared: Sharing, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    limits = tenant(KEY, "requests_per_minute = 50", "concurrent = 8", "tokens_per_day = 3000")
    workers = await _workers(lab, shared, toml(tmp_path, {"a": simulator.url}, limits), lease_tokens=64)
    answers = await _all(lab, workers, 100, _chat(events=100, rate=1000))
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) <= 50
    assert sum(len(numbers(answer.body)) for answer in answers if answer.status == 200) <= 3000
    await eventually(lambda: shared.server.streams == 0)


@pytest.mark.parametrize("policy", ["open", "closed"])
async def test_without_the_parent_the_policy_holds(lab: Lab, shared: Sharing, tmp_path: Path, policy: str) -> None:
    simulator = await lab.simulator()
    config = toml(tmp_path, {"a": simulator.url}, tenant(KEY, "requests_per_minute = 50"))
    workers = await _workers(lab, shared, config, limits_policy=policy)
    assert (await _ask(lab, workers[0], _chat(events=3))).status == 200
    shared.server.close()
    assert (await _ask(lab, workers[0], _chat(events=3))).status == (200 if policy == "open" else 503)
    assert (await workers[0].metrics())["flow_store_failures_total"] >= 1


async def test_what_a_cut_worker_held_is_there_for_the_others(lab: Lab, shared: Sharing, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    config = toml(tmp_path, {"a": simulator.url}, tenant(KEY, "concurrent = 2"))
    workers = await _workers(lab, shared, config, limits_policy="closed")
    for _ in range(2):
        client = await lab.client(workers[0].port)
        await client.send(_chat(events=0, rate=100))
    await eventually(lambda: shared.server.streams == 2)
    assert (await _ask(lab, workers[1], _chat(events=3))).status == 429
    await shared.workers[0].close()
    await eventually(lambda: shared.server.workers == WORKERS - 1)
    assert (await _ask(lab, workers[1], _chat(events=3))).status == 200
