"""Limits that several relays share by one Redis, with relays and Redis as real processes that may die."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from time import time

import orjson
import pytest

from flowserver.quota.limits import Quota, Slots, Usage
from flowserver.quota.tenants import end_of_day
from flowserver.simulator import Simulator
from flowserver.stores.directory import FRESH
from flowserver.stores.redis_store import RedisStore
from tests.support.lab import Lab, RelayProcess, eventually, finishes, numbers, page, samples, simulate
from tests.support.redis import RedisServer, running_redis
from tests.support.topology import tenant, toml
from tests.support.wire import PATIENCE, Message, Wire, request

KEY, OTHER = ("flow-" + letter * 43 for letter in "ko")
QUOTA = 10_000
LEASE = 64
"""Tokens; so small that 50 streams have one each at the same time."""
RUNNING = {"include_usage": True, "continuous_usage_stats": True}
"""A provider then tells with each event how many tokens it has emitted."""
DEFAULT = {"redis_timeout": "50ms"}
"""What a rush has to do with: it keeps a relay busy for longer, and must not pass for a Redis that does not answer."""
PROMPT = 2
"""Tokens of the prompt below, as the simulator counts them."""


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """What it was told outlives it, as it keeps its file."""
    with running_redis("--appendonly", "yes") as server:
        yield server


@pytest.fixture
async def counters(redis_server: RedisServer) -> AsyncIterator[Counters]:
    counters = Counters(redis_server.url)
    yield counters
    await counters.close()


class Counters:
    """What Redis has on the tenant, read beside the relays."""

    def __init__(self, url: str) -> None:
        self._store = RedisStore(url, deadline=PATIENCE * 1000, ttl=1)
        self._limits = (
            Quota("{acme}:tokens_per_day", QUOTA, ends_at=end_of_day(time())),
            Slots("{acme}:concurrent", 1000),
        )

    async def read(self) -> tuple[Usage, Usage]:
        """Of the day's quota, and of the slots."""
        quota, slots = await self._store.usage(self._limits)
        return quota, slots

    async def until(self, holds: Callable[[Usage, Usage], bool]) -> tuple[Usage, Usage]:
        async with asyncio.timeout(PATIENCE):
            while not holds(*(found := await self.read())):
                pass
        return found

    async def until_nothing_is_held(self) -> int:
        """Returns the tokens charged."""
        quota, _ = await self.until(lambda quota, slots: quota.reserved == slots.used == 0)
        return quota.used

    async def close(self) -> None:
        await self._store.close()


async def _relays(
    lab: Lab, folder: Path, count: int, tenants: str, redis: RedisServer | None, **settings: object
) -> tuple[Simulator, list[RelayProcess]]:
    simulator = await lab.simulator()
    config = toml(folder, {"only": simulator.url}, tenants)
    if redis is not None:
        settings = {"redis_url": redis.url, "redis_timeout": "5s"} | settings  # however busy the machine is
    relays = [await lab.process(None, config=config, log_level="info", **settings) for _ in range(count)]
    return simulator, relays


def _stream(key: str = KEY, *, running: bool = True, **options: object) -> bytes:
    body = {
        "model": "simulated",
        "stream": True,
        "messages": [{"role": "user", "content": "Go on."}],
        **({"stream_options": RUNNING} if running else {}),
    }
    lines = ["Content-Type: application/json", f"Authorization: Bearer {key}", simulate(**options)]
    return request("POST", "/v1/chat/completions", lines, body=orjson.dumps(body))


async def _clients(lab: Lab, relays: list[RelayProcess], count: int) -> list[Wire]:
    return [await lab.client(relays[number % len(relays)].port) for number in range(count)]


async def _ask(client: Wire, raw: bytes) -> Message:
    await client.send(raw)
    return await client.response()


async def _all(clients: list[Wire], raw: bytes) -> list[Message]:
    return await asyncio.gather(*(_ask(client, raw) for client in clients))


def _tokens(answers: list[Message]) -> int:
    """Tokens that clients got, each once and in order."""
    for answer in answers:
        assert numbers(answer.body) == list(range(len(numbers(answer.body))))
    return sum(len(numbers(answer.body)) for answer in answers)


def _is_cut(answer: Message) -> bool:
    return answer.status == 200 and b'"finish_reason":"length"' in answer.body and answer.body.endswith(b"[DONE]\n\n")


# --- quotas ---


async def test_a_quota_holds_over_two_relays(
    lab: Lab, tmp_path: Path, redis_server: RedisServer, counters: Counters
) -> None:
    """With running reports it is exact, prompts included. What the provider emits while it learns of a cut is lost."""
    tenants = tenant(KEY, f"tokens_per_day = {QUOTA}", "concurrent = 50")
    simulator, relays = await _relays(lab, tmp_path, 2, tenants, redis_server, lease_tokens=LEASE)
    clients = await _clients(lab, relays, 50)
    answers = await _all(clients, _stream(events=0, rate=150))
    assert all(map(_is_cut, answers))
    charged = await counters.until_nothing_is_held()
    assert QUOTA - 50 <= charged <= QUOTA
    assert _tokens(answers) + 50 * PROMPT == charged
    await eventually(lambda: not simulator.totals["open"])
    ahead = simulator.totals["tokens"] - _tokens(answers)
    assert 0 <= ahead <= 50 * LEASE
    for client in clients[:2]:
        assert (await _ask(client, _stream())).status == 429


async def test_without_running_reports_a_quota_holds_as_far_as_the_estimate(
    lab: Lab, tmp_path: Path, redis_server: RedisServer, counters: Counters
) -> None:
    """Charged is what was estimated, never more than the quota; whole answers have taught the relays to estimate."""
    acme = tenant(KEY, f"tokens_per_day = {QUOTA}", "concurrent = 50")
    tenants = acme + tenant(OTHER, name="other")
    _, relays = await _relays(lab, tmp_path, 2, tenants, redis_server, lease_tokens=LEASE)
    clients = await _clients(lab, relays, 50)
    for _ in range(8):  # the simulator's tokens are long numbers, three times as many as any model's
        await _all(clients, _stream(OTHER, running=False, events=100))
    answers = await _all(clients, _stream(running=False, events=0, rate=150))
    assert all(map(_is_cut, answers))
    charged = await counters.until_nothing_is_held()
    assert QUOTA * 0.95 <= charged <= QUOTA
    assert QUOTA * 0.9 <= _tokens(answers) <= QUOTA * 1.1


# --- what dies ---


async def test_what_a_killed_relay_held_comes_back(
    lab: Lab, tmp_path: Path, redis_server: RedisServer, counters: Counters
) -> None:
    tenants = tenant(KEY, f"tokens_per_day = {QUOTA}", "concurrent = 50")
    settings = {"lease_tokens": LEASE, "lease_time": "1s"}
    simulator, (victim, survivor) = await _relays(lab, tmp_path, 2, tenants, redis_server, **settings)
    lost, kept = await _clients(lab, [victim], 10), await _clients(lab, [survivor], 10)
    for number, client in enumerate(lost):
        await client.send(_stream(id=f"lost-{number}", events=0, rate=100))
    ending = asyncio.gather(*(_ask(client, _stream(events=400, rate=100)) for client in kept))
    await eventually(lambda: simulator.totals["tokens"] > 1500)
    quota, slots = await counters.read()
    assert slots.used == 20
    assert quota.reserved > 0
    os.kill(victim.pid, 9)
    await counters.until(lambda quota, slots: slots.used == 10)
    answers = await finishes(ending)
    assert _tokens(answers) == 4000
    charged = await counters.until_nothing_is_held() - 10 * (400 + PROMPT)
    emitted = sum(record.tokens for record in simulator.records if record.id.startswith("lost"))
    assert emitted - 10 * 2 * LEASE <= charged <= emitted + 10 * PROMPT


@pytest.mark.slow
async def test_with_an_open_policy_work_goes_on_without_redis(
    lab: Lab, tmp_path: Path, redis_server: RedisServer, counters: Counters
) -> None:
    """Streams that outlive the outage are charged in full; what started and ended within it is not."""
    acme = tenant(KEY, "tokens_per_day = 1000000", "concurrent = 1000")
    tenants = acme + tenant(OTHER, "concurrent = 1000", name="other")
    settings = {"lease_tokens": LEASE, "lease_time": "1s", "limits_policy": "open"}
    simulator, relays = await _relays(lab, tmp_path, 2, tenants, redis_server, **settings)
    streams = asyncio.gather(
        *(_ask(client, _stream(events=2400, rate=300)) for client in await _clients(lab, relays, 10))
    )
    await eventually(lambda: simulator.totals["tokens"] > 2000)
    redis_server.stop()
    await _go_on(simulator, 10 * 2 * LEASE)
    clients = await _clients(lab, relays, 20)
    assert [answer.status for answer in await _all(clients, _stream(events=7))] == [200] * 20
    assert all([(await _figures(relay))["flow_store_passed_total"] == 10 for relay in relays])
    await asyncio.to_thread(redis_server.start)
    for relay in relays:
        await _until_used(relay)
    assert not streams.done()
    assert [answer.status for answer in await _all(clients, _stream(events=9))] == [200] * 20
    assert _tokens(await finishes(streams)) == 24_000
    charged = await counters.until_nothing_is_held()
    assert charged == 10 * (2400 + PROMPT) + 20 * (9 + PROMPT)


@pytest.mark.slow
async def test_with_a_closed_policy_nothing_passes_without_redis(
    lab: Lab, tmp_path: Path, redis_server: RedisServer, counters: Counters
) -> None:
    """Streams end cleanly with their lease. What they used since they last told is never charged."""
    acme = tenant(KEY, "tokens_per_day = 1000000", "concurrent = 1000")
    tenants = acme + tenant(OTHER, "concurrent = 1000", name="other")
    settings = {"lease_tokens": LEASE, "lease_time": "1s", "limits_policy": "closed"}
    simulator, relays = await _relays(lab, tmp_path, 2, tenants, redis_server, **settings)
    streams = asyncio.gather(*(_ask(client, _stream(events=0, rate=300)) for client in await _clients(lab, relays, 10)))
    await eventually(lambda: simulator.totals["tokens"] > 2000)
    redis_server.stop()
    answers = await finishes(streams)
    assert all(map(_is_cut, answers))
    clients = await _clients(lab, relays, 20)
    refused = await _all(clients, _stream(events=7))
    assert [(each.status, orjson.loads(each.body)["error"]["code"]) for each in refused] == [
        (503, "limits_unavailable")
    ] * 20
    await asyncio.to_thread(redis_server.start)
    charged = await counters.until_nothing_is_held()
    used = _tokens(answers) + 10 * PROMPT
    assert used - 10 * 2 * LEASE <= charged <= used
    for relay in relays:
        await _until_used(relay)
    before = (await counters.read())[0].used
    clients = await _clients(lab, relays, 20)
    assert [answer.status for answer in await _all(clients, _stream(events=9))] == [200] * 20
    assert await counters.until_nothing_is_held() == before + 20 * (9 + PROMPT)


async def _go_on(simulator: Simulator, tokens: int) -> None:
    """Wait until so many more tokens were emitted."""
    goal = simulator.totals["tokens"] + tokens
    await eventually(lambda: simulator.totals["tokens"] > goal)


async def _status(relay: RelayProcess, key: str) -> int:
    """Of one request on a connection of its own."""
    client = await Wire.connect(relay.port)
    try:
        return (await _ask(client, _stream(key, events=1))).status
    finally:
        client.close()


async def _figures(relay: RelayProcess) -> dict[str, float]:
    return samples((await page(relay.admin_port, "/metrics")).body.decode())


async def _until_used(relay: RelayProcess) -> None:
    """Wait until the relay uses Redis again: it tries when a request needs it."""
    async with asyncio.timeout(PATIENCE):
        while (await _figures(relay))["flow_store_breaker"] != 0:
            await _status(relay, OTHER)


# --- rates ---


@pytest.mark.parametrize("shared", [True, False], ids=["redis", "memory"])
async def test_of_a_rush_so_many_pass_as_may(lab: Lab, tmp_path: Path, redis_server: RedisServer, shared: bool) -> None:
    """The bucket refills so slowly that what passes is what was in it."""
    tenants = tenant(KEY, "requests_per_minute = 1", "request_burst = 100")
    relays = (await _relays(lab, tmp_path, 2 if shared else 1, tenants, redis_server if shared else None, **DEFAULT))[1]
    statuses = await _rush(lab, relays, 2000)
    assert (statuses.count(200), statuses.count(429)) == (100, 1900)


async def test_a_minutes_requests_pass_in_a_minute(lab: Lab, tmp_path: Path, redis_server: RedisServer) -> None:
    tenants = tenant(KEY, "requests_per_minute = 100")
    relays = (await _relays(lab, tmp_path, 2, tenants, redis_server, **DEFAULT))[1]
    clock = asyncio.get_running_loop().time
    started = clock()
    statuses = await _rush(lab, relays, 2000)
    refilled = math.ceil((clock() - started) * 100 / 60)
    assert 100 <= statuses.count(200) <= 100 + refilled


async def _rush(lab: Lab, relays: list[RelayProcess], count: int) -> list[int]:
    """Connect, then ask all at once."""
    clients = await _clients(lab, relays, count)
    return [answer.status for answer in await _all(clients, _stream(events=1))]


# --- tenants ---


@pytest.mark.slow
async def test_tenants_come_and_go_while_a_relay_runs(lab: Lab, redis_server: RedisServer) -> None:
    simulator = await lab.simulator()
    relay = await lab.process(simulator.url, redis_url=redis_server.url)
    assert await _status(relay, "flow-" + "n" * 43) == 401
    key = (await _command(redis_server, "add", "acme", "--limit", "requests_per_minute=1000000")).split()[-1]
    assert await _status(relay, key) == 200
    for command, status in (("disable", 401), ("enable", 200)):
        await _command(redis_server, command, "acme")
        async with asyncio.timeout(FRESH + 1):
            while await _status(relay, key) != status:
                pass


async def _command(redis: RedisServer, *arguments: str) -> str:
    """What `flowserver tenants` prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "flowserver",
        "tenants",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"FLOW_REDIS_URL": redis.url},
    )
    output, _ = await finishes(process.communicate())
    assert process.returncode == 0
    return bytes(output).decode()
