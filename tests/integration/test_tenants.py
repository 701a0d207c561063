"""Tenants over real sockets: who is let in, what is counted, and where streams end."""

from __future__ import annotations

import asyncio
import contextlib
from hashlib import sha256
from pathlib import Path

import orjson
import pytest

from flowserver.config.tenants import read_tenant, table_of
from flowserver.stores.directory import Directory
from tests.support.lab import Lab, RunningRelay, chat, eventually, simulate
from tests.support.provider import answering
from tests.support.redis import running_redis
from tests.support.topology import tenant, toml
from tests.support.wire import Wire, request, response

KEY = "flow-" + "k" * 43


async def _relay(lab: Lab, folder: Path, *limits: str, **settings: object) -> RunningRelay:
    simulator = await lab.simulator()
    config = toml(folder, {"only": simulator.url}, tenant(KEY, *limits))
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
    relay = await lab.relay(None, config=toml(tmp_path, {"only": provider.url}, tenant(KEY)))
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


async def test_without_paths_a_tenant_may_use_what_is_counted_and_the_list_of_models(lab: Lab, tmp_path: Path) -> None:
    provider = await lab.provider(answering(response(b"{}", ["Content-Type: application/json"])))
    relay = await lab.relay(None, config=toml(tmp_path, {"only": provider.url}, tenant(KEY)))
    authorized = [f"Authorization: Bearer {KEY}"]

    async def ask(method: str, target: str) -> tuple[int, bytes]:
        client = await lab.client(relay.port)
        await client.send(request(method, target, authorized, body=b"{}" if method == "POST" else None))
        answer = await client.response()
        return answer.status, answer.body

    passing = [("POST", "/v1/chat/completions"), ("POST", "/V1/Messages/"), ("GET", "/v1/models"), ("GET", "/api/tags")]
    assert [await ask(*each) for each in passing] == [(200, b"{}")] * 4
    for method, target in (("GET", "/v1/files"), ("POST", "/v1/models"), ("GET", "/v1/chat/completions")):
        status, body = await ask(method, target)
        assert status == 403
        assert "`paths`" in orjson.loads(body)["error"]["message"]
    assert len(provider.requests) == len(passing)


async def _whole(client: Wire, raw: bytes) -> int:
    await client.send(raw)
    return (await client.response()).status


async def test_nothing_is_reserved_when_all_is_over(lab: Lab, tmp_path: Path) -> None:
    """Places are free again at once, and of the day's tokens only what was used is gone: less than a lease is left, and
    that is enough for one more request."""
    simulator = await lab.simulator()

    def limited(tokens: int) -> str:
        limits = (f"tokens_per_day = {tokens}", "concurrent = 20")
        return toml(tmp_path, {"only": simulator.url}, tenant(KEY, *limits))

    relay = await lab.relay(None, config=limited(100_000))
    clients = [await lab.client(relay.port) for _ in range(20)]
    for _ in range(2):
        assert await asyncio.gather(*(_whole(client, _ask(events=20, rate=500)) for client in clients)) == [200] * 20
    used = sum(line["input_tokens"] + line["output_tokens"] for line in await relay.access(40))
    limited(used + 200)
    relay.relay.reload()
    assert await _whole(clients[0], _ask(events=20)) == 200
    assert [line["end"] for line in await relay.access(41)] == ["complete"] * 41


# Secrets

PLANTED = "flow-" + "planted".ljust(43, "p")
WRONG = "flow-" + "wrong".ljust(43, "w")
PROMPT = "planted prompt"
PROVIDERS = "sk-planted-provider"
SECRETS = [
    *(text.encode() for text in (PLANTED, WRONG, PROMPT, PROMPT.replace(" ", "%20"), PROVIDERS)),
    *(sha256(key.encode()).hexdigest().encode() for key in (PLANTED, WRONG)),
]
MAY = {"models": ["simulated"], "paths": ["/v1/chat/*"], "concurrent": 1, "tokens_per_day": 100_000}


def _secret(
    key: str, field: str = "Authorization: Bearer", *, target: str = "/v1/chat/completions", **body: str
) -> bytes:
    asked = {"model": "simulated", "stream": True, "messages": [{"role": "user", "content": PROMPT}], **body}
    headers = [f"{field} {key}", "Content-Type: application/json", f"Cookie: {PROMPT}", simulate(events=0, rate=100)]
    return request("POST", f"{target}?q={PROMPT.replace(' ', '%20')}", headers, body=orjson.dumps(asked))


@pytest.mark.parametrize("kept", ["in the file", "in Redis", "in a Redis that is gone"])
async def test_keys_and_prompts_are_shown_nowhere(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    """Not in the log, the metrics, /streams or the answers; of requests that pass and of all that are refused."""
    monkeypatch.setenv("PROVIDERS_KEY", PROVIDERS)
    simulator = await lab.simulator()
    acme = read_tenant({"name": "acme", "key_sha256": sha256(PLANTED.encode()).hexdigest(), **MAY}, "acme")
    in_file = "".join(f"{name} = {orjson.dumps(value).decode()}\n" for name, value in table_of(acme).items())
    in_file = in_file.replace('"sha256":', "sha256=")
    with contextlib.ExitStack() as stack:
        settings: dict[str, object] = {"log_level": "debug"}
        if kept != "in the file":
            server = stack.enter_context(running_redis())
            settings |= {"redis_url": server.url}
            directory = Directory(server.url, deadline=10_000)
            await directory.add(acme)
            await directory.close()
            in_file = ""
        table = {"url": simulator.url, "api_key": "env:PROVIDERS_KEY"}
        config = toml(tmp_path, {"only": table}, f"[[tenants]]\n{in_file}" if in_file else "")
        relay = await lab.relay(None, config=config, **settings)
        shown = b""
        running: Wire | None = None
        if kept == "in a Redis that is gone":
            server.stop()
            expected = [503] * 3 + [401, 503, 503, 503]
        else:
            expected = [401] * 3 + [401, 429, 404, 403]
            running = await lab.client(relay.port)
            await running.send(_secret(PLANTED))
            assert (await running.head()).status == 200
            await eventually(lambda: any(each.bytes_down for each in relay.exchanges))
            shown += (await relay.page("/streams")).body
            assert b'"tenant":"acme"' in shown
        refused = [
            *(_secret(WRONG, field) for field in ("Authorization: Bearer", "x-api-key:", "x-goog-api-key:")),
            _secret(PLANTED[:-1]),
            _secret(PLANTED),
            _secret(PLANTED, model="another"),
            _secret(PLANTED, target="/v1/embeddings"),
        ]
        statuses = []
        for raw in refused:
            client = await lab.client(relay.port)
            await client.send(raw)
            answer = await client.response()
            statuses.append(answer.status)
            shown += answer.body + repr(answer.headers).encode()
        assert statuses == expected
        if running is not None:
            running.close()
        await relay.access(len(refused) + (running is not None))
        for path in ("/metrics", "/streams"):
            shown += (await relay.page(path)).body
        shown += relay.output
    assert [secret for secret in SECRETS if secret in shown] == []
