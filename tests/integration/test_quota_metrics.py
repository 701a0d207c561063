"""How near tenants are to their quotas, on /metrics of real relays: alone, of several workers, with Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowserver.quota.tenants import Tenant, TenantKey, TenantLimits, digest_of
from flowserver.stores.directory import Directory
from flowserver.telemetry.quotas import REFRESH
from tests.support.lab import Lab, RelayProcess, RunningRelay, chat, page, samples
from tests.support.redis import RedisServer, running_redis
from tests.support.topology import tenant, toml
from tests.support.wire import PATIENCE

KEY, OTHER = ("flow-" + letter * 43 for letter in "ko")
QUOTA = "tokens_per_day = 10000"
OF_MODELS = '[[tenants.model_limits]]\nmodels = ["sim*"]\ntokens_per_month = 5000'
EVENTS = 48
USED = EVENTS + 2
"""Tokens that an answer of so many events is charged, with its prompt."""

Quotas = dict[str, float]


def ratio(limit: str = "tokens_per_day", models: str = "", name: str = "acme") -> str:
    return f'flow_limit_used_ratio{{limit="{limit}",models="{models}",tenant="{name}"}}'


async def told(relay: RunningRelay | RelayProcess) -> Quotas:
    figures = samples((await page(relay.admin_port, "/metrics")).body.decode())
    return {name: value for name, value in figures.items() if name.startswith("flow_limit_used_ratio")}


async def until(relay: RunningRelay | RelayProcess, holds: Callable[[Quotas], bool]) -> None:
    """Scrape until `holds`."""
    deadline = time.monotonic() + PATIENCE
    while not holds(found := await told(relay)):
        assert time.monotonic() < deadline, f"last told: {found}"
        await asyncio.sleep(0.05)


async def answers(lab: Lab, relay: RunningRelay | RelayProcess, key: str = KEY) -> None:
    """A client has a whole answer, which the provider reports as `USED` tokens."""
    client = await lab.client(relay.port)
    await client.send(chat((f"Authorization: Bearer {key}",), events=EVENTS))
    assert (await client.response()).status == 200


async def test_a_quota_is_told_while_a_stream_uses_it_and_as_charged_when_it_has_ended(
    lab: Lab, tmp_path: Path
) -> None:
    simulator = await lab.simulator()
    path = toml(tmp_path, {"only": simulator.url}, tenant(KEY, QUOTA, OF_MODELS))
    relay = await lab.relay(None, config=path, lease_tokens=100)
    of_models = ratio("tokens_per_month", "sim*")
    assert await told(relay) == {ratio(): 0, of_models: 0}
    client = await lab.client(relay.port)
    await client.send(chat((f"Authorization: Bearer {KEY}",), events=0, rate=10))
    await client.until(b"tok000001")
    await until(relay, lambda found: 0.01 <= found[ratio()] <= 0.03 and found[of_models] == found[ratio()] * 2)
    client.close()
    [line] = await relay.access()
    charged = int(str(line["input_tokens"])) + int(str(line["output_tokens"]))
    await answers(lab, relay)
    used = charged + USED
    await until(relay, lambda found: found == {ratio(): used / 10000, of_models: used / 5000})


async def test_a_reload_removes_quotas_and_changes_them(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()

    def config(*lines: str) -> str:
        return toml(tmp_path, {"only": simulator.url}, tenant(KEY, *lines))

    relay = await lab.relay(None, config=config(QUOTA, OF_MODELS))
    await answers(lab, relay)
    before = {ratio(): USED / 10000, ratio("tokens_per_month", "sim*"): USED / 5000}
    await until(relay, lambda found: found == before)
    config("tokens_per_day = 1000")
    assert relay.relay.reload()
    assert await told(relay) == {ratio(): USED / 1000}
    config("concurrent = 3")
    assert relay.relay.reload()
    assert await told(relay) == {}


async def test_of_several_workers_a_quota_is_that_of_all_once(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    path = toml(tmp_path, {"only": simulator.url}, tenant(KEY, QUOTA, OF_MODELS))
    relay = await lab.process(None, config=path, workers=2)
    for _ in range(4):
        await answers(lab, relay)
    used = {ratio(): 4 * USED / 10000, ratio("tokens_per_month", "sim*"): 4 * USED / 5000}
    await until(relay, lambda found: found == used)
    await asyncio.sleep(REFRESH)
    for _ in range(3):  # with what both workers have heard from their parent by then
        assert await told(relay) == used


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """What it was told outlives it, as it keeps its file."""
    with running_redis("--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


async def test_relays_with_one_redis_tell_the_same_and_nothing_without_it(
    lab: Lab, tmp_path: Path, redis_server: RedisServer
) -> None:
    simulator = await lab.simulator()
    path = toml(tmp_path, {"only": simulator.url}, tenant(KEY, QUOTA))
    settings = {"config": path, "redis_url": redis_server.url, "redis_timeout": "5s"}  # however busy the machine is
    relays = [await lab.relay(None, **settings) for _ in range(2)]
    for relay in relays:
        await answers(lab, relay)
    used = {ratio(): 2 * USED / 10000}
    for relay in relays:
        await until(relay, lambda found: found == used)
    redis_server.stop()
    for relay in relays:  # rather than what it counts by itself meanwhile
        await until(relay, lambda found: found == {})
        await answers(lab, relay)
        await asyncio.sleep(REFRESH)
        assert await told(relay) == await told(relay) == {}
    redis_server.start()
    for relay in relays:
        await until(relay, lambda found: found == used)


async def test_tenants_in_redis_are_told_once_they_have_used_the_relay(
    lab: Lab, tmp_path: Path, redis_server: RedisServer
) -> None:
    directory = Directory(redis_server.url, deadline=PATIENCE * 1000)
    limits = TenantLimits(tokens_per_day=2000)
    await directory.add(Tenant("globex", (TenantKey(digest_of(OTHER.encode())),), limits=limits))
    await directory.close()
    simulator = await lab.simulator()
    path = toml(tmp_path, {"only": simulator.url}, tenant(KEY, QUOTA))
    relay = await lab.relay(None, config=path, redis_url=redis_server.url, redis_timeout="5s")
    await until(relay, lambda found: found == {ratio(): 0})
    await answers(lab, relay, OTHER)
    of_both = {ratio(): 0, ratio(name="globex"): USED / 2000}
    await until(relay, lambda found: found == of_both)
    assert relay.relay.reload()
    assert await told(relay) == of_both
