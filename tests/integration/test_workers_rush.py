"""A rush of 2,000 requests on four workers, one of which is killed in the middle: no limit is exceeded, and what the
dead one held comes back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.test_workers import KEY, events, limited, workers
from tests.support.lab import Lab, RelayProcess, chat, eventually, numbers
from tests.support.provider import Counting
from tests.support.wire import response

REQUESTS = 2000
AT_ONCE = 100
AUTHORIZATION = f"Authorization: Bearer {KEY}"
ANSWER = response(b'{"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}')

pytestmark = pytest.mark.slow


async def _rush(
    lab: Lab, process: RelayProcess, raw: bytes, half_way: asyncio.Event
) -> tuple[Counter[int], list[bytes]]:
    """Statuses, 0 for answers that a killed worker broke, and bodies."""
    statuses: Counter[int] = Counter()
    bodies: list[bytes] = []
    left = iter(range(REQUESTS))

    async def ask() -> None:
        for number in left:
            if number == REQUESTS // 2:
                half_way.set()
            try:
                client = await lab.client(process.port)
                await client.send(raw)
                answer = await client.response()
                client.close()
            except (EOFError, OSError, AssertionError):
                statuses[0] += 1
            else:
                statuses[answer.status] += 1
                if answer.status == 200:
                    bodies.append(answer.body)

    await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
    return statuses, bodies


async def _kill(process: RelayProcess, half_way: asyncio.Event) -> None:
    await half_way.wait()
    os.kill(workers(process)[1], signal.SIGKILL)
    await eventually(lambda: events(process, "worker_ready"), "it is replaced")


async def _relay(lab: Lab, folder: Path, url: str, limits: str) -> RelayProcess:
    file = folder / "flowserver.toml"
    file.write_text(limited(url, limits))
    return await lab.process(None, config=file, workers=4)


async def _rush_and_kill(lab: Lab, process: RelayProcess, **options: object) -> tuple[Counter[int], list[bytes]]:
    half_way = asyncio.Event()
    rush = _rush(lab, process, chat((AUTHORIZATION,), **options), half_way)
    found, _ = await asyncio.gather(rush, _kill(process, half_way))
    return found


async def test_a_rate_is_exact(lab: Lab, tmp_path: Path) -> None:
    script = Counting(ANSWER, 0.02)
    provider = await lab.provider(script)
    process = await _relay(lab, tmp_path, provider.url, "requests_per_minute = 1\nrequest_burst = 500")
    statuses, _ = await _rush_and_kill(lab, process)
    assert script.all == statuses[200] == 500
    assert statuses[200] + statuses[429] + statuses[0] == REQUESTS


async def test_concurrency_is_exact_and_comes_back(lab: Lab, tmp_path: Path) -> None:
    script = Counting(ANSWER, 0.02)
    provider = await lab.provider(script)
    process = await _relay(lab, tmp_path, provider.url, "concurrent = 20")
    statuses, _ = await _rush_and_kill(lab, process)
    assert statuses[200] + statuses[429] + statuses[0] == REQUESTS
    # The provider may still be at work for the dead one's requests, all 20 at most, while others have their places.
    assert script.most <= 40
    script.most = 0
    clients = [await lab.client(process.port) for _ in range(25)]
    for client in clients:
        await client.send(chat((AUTHORIZATION,)))
    found = Counter([(await client.response()).status for client in clients])
    assert found[200] >= 20
    assert script.most == 20


async def test_tokens_are_not_exceeded(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    process = await _relay(lab, tmp_path, simulator.url, "tokens_per_day = 3000")
    _, bodies = await _rush_and_kill(lab, process, events=10)
    tokens = sum(len(numbers(body)) for body in bodies)
    assert 0 < tokens <= 3000
