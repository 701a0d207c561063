"""Prices over real sockets: what log, metrics and /streams say of the cost, and quotas in money."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import time

import orjson
import pytest

from flowserver.config.errors import ConfigError
from flowserver.quota.limits import MoneyQuota
from flowserver.quota.tenants import end_of_day
from flowserver.stores.redis_store import RedisStore
from tests.support.bills import JSON, KEY, Till, answer
from tests.support.collector import Collector, values
from tests.support.h2_lab import h2_client
from tests.support.lab import Lab, RunningRelay, chat, eventually, numbers
from tests.support.provider import Caller, answering, ok
from tests.support.redis import running_redis
from tests.support.shared import sharing
from tests.support.streams import CHAT, INPUT, STREAMS, Stream
from tests.support.topology import tenant, toml
from tests.support.wholes import NO_OUTPUT, WHOLES, Whole
from tests.support.wire import LAST_CHUNK, Message, chunk, request, response

MONEY = "{acme}:usd_per_day"
PRICES = '[[prices]]\nmodels = ["simulated"]\ninput = 3\noutput = 15\n'
PROMPT = 2
"""Tokens of the request below, as the simulator counts them."""


ASKED = {"model": "simulated", "messages": [{"role": "user", "content": "Go on."}]}
TEXTS = ["Hello", " there", ", how", " are", " you", " today", "?"]

each_stream = pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
each_whole = pytest.mark.parametrize("whole", WHOLES, ids=lambda whole: whole.name)


def cost(input: int, output: int) -> float:
    """Dollars, by `PRICES`."""
    return (input * 3 + output * 15) / 1e6


async def _relay(lab: Lab, folder: Path, *limits: str, prices: str = PRICES, **settings: object) -> RunningRelay:
    simulator = await lab.simulator()
    return await lab.relay(
        None, config=toml(folder, {"only": simulator.url}, _file(*limits, prices=prices)), **settings
    )


def _file(*limits: str, prices: str = PRICES) -> str:
    return tenant(KEY, *limits) + prices


def _ask(**options: object) -> bytes:
    return chat((f"Authorization: Bearer {KEY}",), **options)


async def _answer(lab: Lab, relay: RunningRelay, raw: bytes) -> Message:
    client = await lab.client(relay.port)
    await client.send(raw)
    return await asyncio.wait_for(client.response(), 20)


def _error(answer: Message) -> tuple[int, str, str]:
    error = orjson.loads(answer.body)["error"]
    return answer.status, error["code"], error["message"]


@pytest.mark.parametrize("tenants", [True, False])
async def test_log_and_metrics_have_what_the_report_costs(lab: Lab, tmp_path: Path, tenants: bool) -> None:
    simulator = await lab.simulator()
    config = toml(tmp_path, {"only": simulator.url}, _file() if tenants else PRICES)
    relay = await lab.relay(None, config=config)
    await _answer(lab, relay, _ask(events=20))
    [line] = await relay.access()
    assert (line["input_tokens"], line["output_tokens"], line["estimated"]) == (PROMPT, 20, False)
    assert line["cost_usd"] == cost(PROMPT, 20)
    name = "acme" if tenants else ""
    sample = f'flow_cost_usd_total{{model="simulated",tenant="{name}",upstream="only"}}'
    assert (await relay.metrics())[sample] == cost(PROMPT, 20)


async def test_a_span_has_what_the_report_costs(lab: Lab, tmp_path: Path) -> None:
    collector = Collector()
    relay = await _relay(lab, tmp_path, otlp_endpoint=(await lab.provider(collector)).url)
    await _answer(lab, relay, _ask(events=20))
    assert values((await collector.one()).attributes)["flow.cost_usd"] == cost(PROMPT, 20)


async def test_an_open_stream_shows_its_cost_so_far(lab: Lab, tmp_path: Path) -> None:
    relay = await _relay(lab, tmp_path)
    client = await lab.client(relay.port)
    await client.send(_ask(events=0, rate=200))
    await client.until(b"tok000010")
    [row] = orjson.loads((await relay.page("/streams")).body)
    assert row["tokens"] >= 10
    assert row["cost_usd"] >= cost(0, row["tokens"])
    assert row["cost_usd"] <= cost(20, row["tokens"])


async def test_what_has_no_price_is_unknown_and_not_free(lab: Lab, tmp_path: Path) -> None:
    relay = await _relay(lab, tmp_path, prices=PRICES.replace("simulated", "another"))
    assert (await _answer(lab, relay, _ask(events=5))).status == 200
    [line] = await relay.access()
    assert line["cost_usd"] is None
    metrics = await relay.metrics()
    assert metrics['flow_cost_unknown_total{model="simulated",upstream="only"}'] == 1
    assert not any(name.startswith("flow_cost_usd_total{") for name in metrics)


async def test_without_prices_nothing_is_said_of_them(lab: Lab, tmp_path: Path) -> None:
    relay = await _relay(lab, tmp_path, prices="")
    await _answer(lab, relay, _ask(events=5))
    [line] = await relay.access()
    assert "cost_usd" not in line
    assert not any(name.startswith("flow_cost_") for name in await relay.metrics())


@each_stream
async def test_streams_of_every_api_cost_what_their_reports_say(lab: Lab, tmp_path: Path, stream: Stream) -> None:
    till = await Till.of(lab, tmp_path, more='[[prices]]\nmodels = ["*"]\ninput = "0.1"\noutput = 0.4\n')
    for http2 in (False, True):
        given = answer(*stream.events(TEXTS, 9), kind=stream.kind.decode())
        bill = await till.play(stream.target, stream.body, given, http2=http2)
        assert bill.line["cost_usd"] == pytest.approx((INPUT * 0.1 + 9 * 0.4) / 1e6)


@each_whole
async def test_whole_answers_of_every_api_cost_what_their_reports_say(lab: Lab, tmp_path: Path, whole: Whole) -> None:
    till = await Till.of(lab, tmp_path, more='[[prices]]\nmodels = ["*"]\ninput = "0.1"\noutput = 0.4\n')
    given = answer(whole.answer("".join(TEXTS), 12), kind=JSON)
    bill = await till.play(whole.target, whole.body, given)
    output = 0 if whole in NO_OUTPUT else 12
    assert bill.line["cost_usd"] == pytest.approx((INPUT * 0.1 + output * 0.4) / 1e6)


async def test_what_is_not_counted_costs_the_same_everywhere(lab: Lab, tmp_path: Path) -> None:
    provider = await lab.provider(ok)
    config = toml(tmp_path, {"only": provider.url}, _file("usd_per_day = 1", 'paths = ["/v1/audio/*"]'))
    relay = await lab.relay(None, config=config)
    lines = ["Content-Type: application/json", f"Authorization: Bearer {KEY}"]
    body = orjson.dumps({"model": "simulated", "input": "word " * 1000})
    assert (await _answer(lab, relay, request("POST", "/v1/audio/speech", lines, body=body))).status == 200
    [line] = await relay.access()
    sample = 'flow_cost_usd_total{model="simulated",tenant="acme",upstream="only"}'
    [shown] = orjson.loads((await relay.page("/live?once")).body)["tenants"]
    [limit] = shown["limits"]
    assert line["cost_usd"] == (await relay.metrics())[sample] == limit["used"] > cost(1000, 0)


# Quotas


@pytest.mark.parametrize("fast_path", ["on", "off"])
@pytest.mark.parametrize("http2", [False, True])
async def test_a_stream_is_cut_where_its_money_ends_and_the_next_is_refused(
    lab: Lab, tmp_path: Path, fast_path: str, http2: bool
) -> None:
    relay = await _relay(lab, tmp_path, "usd_per_day = 0.015", fast_path=fast_path)
    if http2:
        client = await h2_client(lab, relay.port)
        raw = orjson.dumps({"model": "simulated", "stream": True, "messages": [{"role": "user", "content": "Go on."}]})
        fields = [("authorization", f"Bearer {KEY}"), ("x-simulate", "events=5000 rate=5000")]
        fields.append(("content-type", "application/json"))
        got = await client.answer(client.peer.request("POST", "/v1/chat/completions", fields, body=raw))
        body = bytes(got.body)
    else:
        body = (await _answer(lab, relay, _ask(events=5000, rate=5000))).body
    assert body.endswith(b"data: [DONE]\n\n")
    assert b'"finish_reason":"length"' in body
    [line] = await relay.access()
    assert line["end"] == "quota"
    assert 0.0135 <= line["cost_usd"] <= 0.015
    assert len(numbers(body)) <= line["output_tokens"]
    status, code, message = _error(await _answer(lab, relay, _ask(events=5)))
    assert (status, code) == (429, "insufficient_quota")
    assert "money" in message
    assert "usd_per_day" in message


async def test_what_a_model_without_a_price_would_cost_is_not_let_in(lab: Lab, tmp_path: Path) -> None:
    provider = await lab.provider(ok)
    prices = PRICES.replace("simulated", "another")
    file = _file("usd_per_month = 100", prices=prices) + tenant("flow-" + "o" * 43, name="open")
    relay = await lab.relay(None, config=toml(tmp_path, {"only": provider.url}, file))
    status, code, message = _error(await _answer(lab, relay, _ask()))
    assert (status, code) == (403, "price_missing")
    for word in ("'simulated'", "'only'", "[[prices]]", "`prices_file`"):
        assert word in message
    assert provider.requests == []
    unlimited = chat((f"Authorization: Bearer flow-{'o' * 43}",))
    assert (await _answer(lab, relay, unlimited)).status == 200


async def test_each_provider_of_a_route_needs_the_price(lab: Lab, tmp_path: Path) -> None:
    """Any of them may be asked."""
    first, second = await lab.provider(ok), await lab.provider(ok)
    prices = PRICES + 'upstreams = ["first"]\n'
    config = toml(tmp_path, {"first": first.url, "second": second.url}, _file("usd_per_day = 1", prices=prices))
    relay = await lab.relay(None, config=config)
    status, code, message = _error(await _answer(lab, relay, _ask()))
    assert (status, code) == (403, "price_missing")
    assert "'second'" in message


async def test_what_generates_nothing_needs_no_price(lab: Lab, tmp_path: Path) -> None:
    provider = await lab.provider(answering(b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"data":[]}'))
    config = toml(tmp_path, {"only": provider.url}, _file("usd_per_day = 1"))
    relay = await lab.relay(None, config=config)
    assert (
        await _answer(lab, relay, request(target="/v1/models", headers=[f"Authorization: Bearer {KEY}"]))
    ).status == 200


async def test_what_is_left_becomes_the_bound_of_the_request(lab: Lab, tmp_path: Path) -> None:
    """So the provider ends by itself an answer that can't be cut."""
    provider = await lab.provider(ok)
    config = toml(tmp_path, {"only": provider.url}, _file("usd_per_day = 0.003"))
    relay = await lab.relay(None, config=config)
    body = {"model": "simulated", "messages": [{"role": "user", "content": "Go on."}], "max_tokens": 1000}
    lines = ["Content-Type: application/json", f"Authorization: Bearer {KEY}"]
    await _answer(lab, relay, request("POST", "/v1/chat/completions", lines, body=orjson.dumps(body)))
    sent = orjson.loads(provider.requests[0].body)
    assert 190 <= sent["max_tokens"] <= 200


async def test_a_refused_request_gives_its_money_back(lab: Lab, tmp_path: Path) -> None:
    """The lease of money comes first; where another limit refuses, nothing of it stays."""
    relay = await _relay(lab, tmp_path, "usd_per_day = 0.0015", "requests_per_minute = 1", "request_burst = 1")
    assert (await _answer(lab, relay, _ask(events=1))).status == 200
    codes = [_error(await _answer(lab, relay, _ask(events=1)))[1] for _ in range(5)]
    assert codes == ["rate_limit_exceeded"] * 5


async def test_what_cannot_be_read_costs_by_its_bytes(lab: Lab, tmp_path: Path) -> None:
    till = await Till.of(lab, tmp_path, more='[[prices]]\nmodels = ["*"]\ninput = 0\noutput = 10\n')
    bill = await till.play(CHAT.target, CHAT.body, answer(b"x" * 40_000, fields=("Content-Encoding: br",)))
    assert bill.line["uncounted"] == {"unreadable": 1}
    assert bill.line["cost_usd"] == pytest.approx(10_000 * 10 / 1e6)


async def test_what_cannot_be_read_ends_where_the_money_does(lab: Lab, tmp_path: Path) -> None:
    lines = ["HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Content-Encoding: br", "Transfer-Encoding: chunked"]
    head = "\r\n".join([*lines, "", ""]).encode()
    provider = await lab.provider(answering(head + chunk(b"x" * 1000) * 20 + LAST_CHUNK))
    relay = await lab.relay(None, config=toml(tmp_path, {"only": provider.url}, _file("usd_per_day = 0.015")))
    client = await lab.client(relay.port)
    await client.send(_ask())
    assert (await client.head()).status == 200
    await client.rest()
    [line] = await relay.access()
    assert (line["end"], line["uncounted"]) == ("quota", {"unreadable": 1})
    assert line["bytes_down"] < 8000


@pytest.mark.parametrize("whose", ["user", "model"])
async def test_money_is_limited_by_user_and_by_model(lab: Lab, tmp_path: Path, whose: str) -> None:
    table = "[tenants.user]" if whose == "user" else '[[tenants.model_limits]]\nmodels = ["sim*"]'
    relay = await _relay(lab, tmp_path, table, 'usd_per_day = "0.003"')
    await _answer(lab, relay, _ask(events=1000, rate=5000))
    assert (await relay.access())[0]["end"] == "quota"
    status, code, _ = _error(await _answer(lab, relay, _ask(events=5)))
    assert (status, code) == (429, "insufficient_quota")


async def test_over_redis_concurrent_streams_never_exceed_and_end_as_reported(lab: Lab, tmp_path: Path) -> None:
    quota = 30_000_000
    limit = MoneyQuota(MONEY, quota, ends_at=end_of_day(time()))
    simulator = await lab.simulator()
    with running_redis() as server:
        file = _file("usd_per_day = 0.03", "requests_per_minute = 1000")
        config = toml(tmp_path, {"only": simulator.url}, file)
        settings = {"redis_url": server.url, "redis_timeout": "5s", "lease_tokens": 64}
        relays = [await lab.relay(None, config=config, **settings) for _ in range(2)]
        store = RedisStore(server.url, deadline=10_000)
        try:
            await asyncio.gather(
                *(_answer(lab, relays[number % 2], _ask(events=1000, rate=2000)) for number in range(6))
            )
            lines = [line for relay in relays for line in await relay.access(3)]

            async def used() -> int:
                [found] = await store.usage([limit])
                assert found.used + found.reserved <= quota
                return found.used if not found.reserved else -1

            async with asyncio.timeout(10):
                while (charged := await used()) < 0:
                    pass
        finally:
            await store.close()
    assert charged == sum(round(line.get("cost_usd", 0) * 1e9) for line in lines)
    assert charged > quota * 0.9
    assert {line["end"] for line in lines} <= {"quota", "limited"}


async def test_over_workers_streams_never_exceed(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    config = toml(tmp_path, {"only": simulator.url}, _file("usd_per_day = 0.03"))
    async with sharing() as shared:
        workers = [await lab.worker(await shared.worker(), config=config, lease_tokens=64) for _ in range(3)]
        raw = _ask(events=1000, rate=2000)
        await asyncio.gather(*(_answer(lab, workers[number % 3], raw) for number in range(6)))
        lines = [line for worker in workers for line in await worker.access(2)]
    assert 0.027 <= sum(line.get("cost_usd", 0) for line in lines) <= 0.03


@pytest.mark.parametrize("name", ["models", "fallbacks"])
@pytest.mark.parametrize(
    "target", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/api/v1/chat/completions"]
)
async def test_models_to_fall_back_on_evade_no_limit(lab: Lab, tmp_path: Path, target: str, name: str) -> None:
    """Gateways may answer with them: dearer ones, or such as have no price, or are not the tenant's to use."""
    provider = await lab.provider(ok)
    free = "flow-" + "o" * 43
    keys = {"usd_per_day = 1": KEY, 'models = ["simulated"]': "flow-" + "m" * 43, "tokens_per_day = 10000": free}
    tables = "".join(tenant(key, limit, name=f"t{at}") for at, (limit, key) in enumerate(keys.items()))
    relay = await lab.relay(None, config=toml(tmp_path, {"only": provider.url}, tables + PRICES))
    body = orjson.dumps({"model": "simulated", "max_tokens": 100, name: ["dear"], "messages": [], "input": "Hello"})
    for key in keys.values():
        lines = ["Content-Type: application/json", f"Authorization: Bearer {key}"]
        answer = await _answer(lab, relay, request("POST", target, lines, body=body))
        assert (answer.status == 200) == (key == free)
        assert key == free or b"one model, in `model`" in answer.body
    assert len(provider.requests) == 1


@pytest.mark.parametrize("most", [{"max_tokens": 2000}, {}])
async def test_whole_answers_at_once_do_not_spend_a_quota_many_times_over(
    lab: Lab, tmp_path: Path, most: dict[str, int]
) -> None:
    """They can't be ended where the money does."""
    [whole] = [each for each in WHOLES if each.name == "openai-chat"]
    released = asyncio.Event()

    async def serve(caller: Caller) -> None:
        asked = orjson.loads((await caller.request()).body)
        await released.wait()
        tokens = min(2000, asked.get("max_tokens", 2000))
        await caller.send(response(whole.answer("word " * tokens, tokens), ["Content-Type: application/json"]))

    provider = await lab.provider(serve)
    relay = await lab.relay(None, config=toml(tmp_path, {"only": provider.url}, _file("usd_per_day = 0.6")))
    lines = ["Content-Type: application/json", f"Authorization: Bearer {KEY}"]
    raw = request("POST", "/v1/chat/completions", lines, body=orjson.dumps({**ASKED, **most}))
    answers = [asyncio.create_task(_answer(lab, relay, raw)) for _ in range(100)]
    await eventually(lambda: len(provider.requests) + len(relay.lines("access")) == len(answers))
    released.set()
    await asyncio.gather(*answers)
    spent = sum(line.get("cost_usd", 0) for line in await relay.access(len(answers)))
    assert 0.3 < spent < 0.9


# The file


async def test_a_file_of_prices_is_read_again(lab: Lab, tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICES)
    simulator = await lab.simulator()
    config = toml(tmp_path, {"only": simulator.url}, _file(prices=""), top='prices_file = "prices.toml"')
    relay = await lab.relay(None, config=config)
    await _answer(lab, relay, _ask(events=10))
    prices.write_text(PRICES.replace("15", "30"))
    assert relay.relay.reload()
    await _answer(lab, relay, _ask(events=10))
    before, after = await relay.access(2)
    assert (before["cost_usd"], after["cost_usd"]) == (cost(PROMPT, 10), cost(PROMPT, 20))
    await eventually(lambda: relay.lines("reloaded"))
    [line] = relay.lines("reloaded")
    assert line["changes"] == ["prices.simulated.output: 15 -> 30", "prices.simulated.reasoning: 15 -> 30"]
    prices.write_text(PRICES.replace("15", "-1"))
    assert not relay.relay.reload()
    await eventually(lambda: relay.lines("reload_failed"))
    assert "prices[0].output" in relay.lines("reload_failed")[0]["problems"][0]


async def test_limits_of_money_without_any_price_are_a_mistake(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"acme has usd_per_day, but there are no prices: add \[\[prices\]\]"):
        await _relay(lab, tmp_path, "usd_per_day = 1", prices="")
