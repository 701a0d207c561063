"""Tenants over real sockets: who is let in, what is counted, and where streams end."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from pathlib import Path

import orjson
import pytest

from tests.support.lab import Lab, RunningRelay, chat, eventually
from tests.support.provider import answering
from tests.support.topology import toml
from tests.support.wire import Wire, response

KEY = "flow-" + "k" * 43


def _tenants(*lines: str) -> str:
    digest = sha256(KEY.encode()).hexdigest()
    return "\n".join(["[[tenants]]", 'name = "acme"', f'key_sha256 = "{digest}"', *lines, ""])


async def _relay(lab: Lab, folder: Path, *limits: str, **settings: object) -> RunningRelay:
    simulator = await lab.simulator()
    config = toml(folder, {"only": simulator.url}, _tenants(*limits))
    return await lab.relay(None, config=config, **settings)


def _ask(*headers: str, key: str = KEY, **options: object) -> bytes:
    return chat((f"Authorization: Bearer {key}", *headers), **options)


async def test_only_who_has_a_key_is_let_in(lab: Lab, tmp_path: Path) -> None:
    relay = await _relay(lab, tmp_path)
    for raw, code in ((chat(events=1), "missing_api_key"), (_ask(key="flow-other", events=1), "invalid_api_key")):
        client = await lab.client(relay.port)
        await client.send(raw)
        answer = await client.response()
        assert (answer.status, orjson.loads(answer.body)["error"]["code"]) == (401, code)
    client = await lab.client(relay.port)
    await client.send(_ask(events=3))
    assert (await client.response()).status == 200


async def test_the_relays_keys_do_not_reach_providers(lab: Lab, tmp_path: Path) -> None:
    provider = await lab.provider(answering(response(b"ok")))
    relay = await lab.relay(None, config=toml(tmp_path, {"only": provider.url}, _tenants()))
    client = await lab.client(relay.port)
    await client.send(_ask("x-flow-user: ann", "x-flow-session: s1", "x-api-key: second"))
    assert (await client.response()).body == b"ok"
    [seen] = provider.requests
    for name in ("authorization", "x-api-key", "x-flow-user", "x-flow-session"):
        assert seen.all(name) == []


async def test_a_stream_is_cut_where_the_quota_ends_and_the_next_is_refused(lab: Lab, tmp_path: Path) -> None:
    relay = await _relay(lab, tmp_path, "tokens_per_day = 1000")
    client = await lab.client(relay.port)
    await client.send(_ask(events=5000, rate=5000))
    answer = await client.response()
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert b'"finish_reason":"length"' in answer.body
    [line] = await relay.access()
    assert line["tenant"] == "acme"
    assert 900 <= line["output_tokens"] <= 1000
    assert line["end"] == "quota"
    await client.send(_ask(events=5))
    answer = await client.response()
    assert answer.status == 429
    assert orjson.loads(answer.body)["error"]["code"] == "insufficient_quota"
    assert answer.get("x-ratelimit-remaining-tokens") is not None
    assert int(answer.get("retry-after") or 0) > 0


async def test_requests_of_a_minute_are_counted(lab: Lab, tmp_path: Path) -> None:
    relay = await _relay(lab, tmp_path, "requests_per_minute = 3")
    client = await lab.client(relay.port)
    statuses = []
    for _ in range(4):
        await client.send(_ask(events=1))
        answer = await client.response()
        statuses.append((answer.status, answer.get("x-ratelimit-remaining-requests")))
    assert statuses == [(200, "2"), (200, "1"), (200, "0"), (429, "0")]
    assert answer.get("retry-after-ms") is not None


async def test_streams_at_once_are_bounded_and_their_places_come_back(lab: Lab, tmp_path: Path) -> None:
    relay = await _relay(lab, tmp_path, "concurrent = 1")
    first, second = await lab.client(relay.port), await lab.client(relay.port)
    await first.send(_ask(events=0, rate=100))
    assert (await first.head()).status == 200
    await second.send(_ask(events=1))
    assert (await second.response()).status == 429
    first.close()

    async def gets_in() -> bool:
        await second.send(_ask(events=1))
        return (await second.response()).status == 200

    async with asyncio.timeout(10):
        while not await gets_in():
            pass


@pytest.mark.parametrize("model", ["gpt-4o", "claude-x"])
async def test_models_are_allowed_or_not(lab: Lab, tmp_path: Path, model: str) -> None:
    relay = await _relay(lab, tmp_path, f'models = ["{model}"]')
    client = await lab.client(relay.port)
    await client.send(_ask(events=1))
    answer = await client.response()
    assert (answer.status, orjson.loads(answer.body)["error"]["code"]) == (404, "model_not_found")


async def _whole(client: Wire, raw: bytes) -> int:
    await client.send(raw)
    return (await client.response()).status


async def test_nothing_is_reserved_when_all_is_over(lab: Lab, tmp_path: Path) -> None:
    relay = await _relay(lab, tmp_path, "tokens_per_day = 100000", "concurrent = 50")
    clients = [await lab.client(relay.port) for _ in range(20)]
    assert await asyncio.gather(*(_whole(client, _ask(events=20, rate=500)) for client in clients)) == [200] * 20
    await eventually(lambda: not relay.relay.metrics.open)
    store = relay.relay._tenancy._limiter._store
    assert not store._leases  # type: ignore[attr-defined]
