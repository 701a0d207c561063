"""Names that clients make up, of models, users and sessions: kept short, shown short, and few."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from flowserver.telemetry.labels import AT_ONCE, OTHER
from tests.support.h2_lab import h2_client
from tests.support.h2_wire import H2Wire
from tests.support.lab import Lab, RelayProcess, RunningRelay, eventually
from tests.support.provider import Caller, Script, answering
from tests.support.topology import tenant, toml
from tests.support.wire import Message, Wire, request, response

KEY = "flow-" + "k" * 43
MB = 1_000_000
LONG = "\U0001f600" + "m" * 8000
"""About the longest name that is read."""
TENANT = tenant(KEY, "tokens_per_day = 1000000000", "[tenants.user]", "requests_per_minute = 100000")
FIELDS = ["content-type: application/json", f"authorization: Bearer {KEY}"]
CHAT = "/v1/chat/completions"

Body = dict[str, Any]


def _provider() -> Script:
    """Answers as whatever model it is asked for; not for unknown ones."""

    def answer(asked: Message) -> bytes:
        model = orjson.loads(asked.body)["model"]
        if model.startswith("unknown"):
            return response(b'{"error": {"message": "no such model"}}', status="404 Not Found")
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        body = {"model": model, "choices": [{"index": 0, "message": {"content": "a"}}], "usage": usage}
        return response(orjson.dumps(body), ["Content-Type: application/json"])

    return answering(answer)


async def _h1(client: Wire, body: Body) -> int:
    await client.send(request("POST", CHAT, FIELDS, body=orjson.dumps({"messages": [], **body})))
    return (await client.response()).status


async def _process(lab: Lab, folder: Path) -> RelayProcess:
    provider = await lab.provider(_provider())
    return await lab.process(None, config=toml(folder, {"only": provider.url}, TENANT))


def _memory(process: RelayProcess) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


NAMES: dict[str, Callable[[int], Body]] = {
    "model": lambda number: {"model": f"{number}{LONG}"},
    "user": lambda number: {"model": "m", "user": f"{number}{LONG}"},
    "huge model": lambda number: {"model": f"{number}{LONG * 125}"},
    "huge user": lambda number: {"model": "m", "user": f"{number}{LONG * 125}"},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("protocol", ["h1", "h2"])
async def test_long_names_stay_in_no_table_and_no_log(lab: Lab, tmp_path: Path, protocol: str, name: str) -> None:
    """Huge ones are not read: they may belong to nobody who has limits."""
    status = 400 if name.startswith("huge") else 200
    process = await _process(lab, tmp_path)
    rounds, before = 30, 0
    h1 = await lab.client(process.port)
    h2 = await h2_client(lab, process.port)
    for number in range(rounds):
        body = NAMES[name](number)
        if protocol == "h1":
            assert await _h1(h1, body) == status
        else:
            fields = [tuple(field.split(": ", 1)) for field in FIELDS]
            stream = h2.peer.request("POST", CHAT, fields, end=False)  # type: ignore[arg-type]
            await _upload(h2, stream, orjson.dumps({"messages": [], **body}))
            assert (await h2.answer(stream)).status == status
        if number == 4:
            before = _memory(process)
    assert _memory(process) - before < 12 * MB
    await eventually(lambda: process.events().count("access") == rounds)
    lines = [line for line in process.lines if line["event"] == "access"]
    assert max(len(orjson.dumps(line)) for line in lines) < 1500
    assert len({line.get(name) for line in lines}) == (rounds if status == 200 else 1)


async def _upload(client: H2Wire, stream: int, body: bytes) -> None:
    sent = 0
    while sent < len(body):
        await client.until(lambda: client.peer.room(stream))
        piece = body[sent : sent + client.peer.room(stream)]
        sent += len(piece)
        client.peer.upload(stream, piece, end=sent == len(body))


async def _labels(relay: RunningRelay) -> set[str]:
    """The models with figures."""
    text = (await relay.page("/metrics")).body.decode()
    return {
        sample.labels["gen_ai_request_model"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "flow_tokens_total"
    }


async def test_headers_name_no_longer_users_and_sessions(lab: Lab, tmp_path: Path) -> None:
    provider = await lab.provider(_provider())
    relay = await lab.relay(None, config=toml(tmp_path, {"only": provider.url}, TENANT))
    client = await lab.client(relay.port)
    fields = [*FIELDS, f"x-flow-user: {'u' * 30_000}", f"x-flow-session: {'s' * 30_000}"]
    await client.send(request("POST", CHAT, fields, body=orjson.dumps({"model": "m", "messages": []})))
    assert (await client.response()).status == 200
    [line] = await relay.access()
    assert line["user"] == "#" + sha256(b"u" * 30_000).hexdigest()[:32]
    assert line["session"] == "#" + sha256(b"s" * 30_000).hexdigest()[:32]


async def test_a_running_stream_s_names_are_shown_short(lab: Lab, tmp_path: Path) -> None:
    async def hold(caller: Caller) -> None:
        await caller.request()

    provider = await lab.provider(hold)
    relay = await lab.relay(None, config=toml(tmp_path, {"only": provider.url}, TENANT))
    client = await lab.client(relay.port)
    name = "n" * 8000
    body = orjson.dumps({"model": name, "user": name, "messages": [], "stream": True})
    await client.send(request("POST", CHAT, FIELDS, body=body))
    await eventually(lambda: provider.requests and relay.relay.metrics.open, "the provider has it")
    page = await relay.page("/streams")
    [shown] = orjson.loads(page.body)
    assert shown["user"] == "#" + sha256(name.encode()).hexdigest()[:32]
    assert len(page.body) < 2000


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ('[[routes]]\nmodels = ["real"]\nupstreams = ["only"]\n' + TENANT, 404),
        (TENANT.replace("tokens_per_day", 'models = ["real"]\ntokens_per_day'), 404),
    ],
    ids=["no route", "not allowed"],
)
async def test_a_refusal_repeats_a_model_in_short(lab: Lab, tmp_path: Path, lines: str, status: int) -> None:
    provider = await lab.provider(_provider())
    relay = await lab.relay(None, config=toml(tmp_path, {"only": provider.url}, lines))
    client = await lab.client(relay.port)
    await client.send(request("POST", CHAT, FIELDS, body=orjson.dumps({"model": LONG, "messages": []})))
    answer = await client.response()
    assert answer.status == status
    assert len(answer.body) < 1000
    [line] = await relay.access()
    assert len(orjson.dumps(line)) < 1500


async def test_long_model_names_make_short_labels(lab: Lab) -> None:
    provider = await lab.provider(_provider())
    relay = await lab.relay(provider.url)
    client = await lab.client(relay.port)
    odd = 'a"b\\c\nd\re\0\u2028'
    for model in (LONG, LONG + "x", odd):
        assert await _h1(client, {"model": model}) == 200
    labels = await _labels(relay)
    assert len(labels) == 3
    assert odd in labels
    assert max(len(label.encode()) for label in labels) <= 256


async def test_models_that_are_asked_for_again_get_figures_and_others_do_not(lab: Lab) -> None:
    provider = await lab.provider(_provider())
    relay = await lab.relay(provider.url)
    client = await lab.client(relay.port)
    for number in range(230):
        assert await _h1(client, {"model": f"unknown-{number}"}) == 404
    assert await _h1(client, {"model": "first"}) == 200
    assert await _labels(relay) == {"first"}
    for number in range(230):
        assert await _h1(client, {"model": f"junk-{number}"}) == 200
    for _ in range(20):
        assert await _h1(client, {"model": "real"}) == 200
    labels = await _labels(relay)
    assert {"first", "real", OTHER} <= labels
    assert len(labels) == AT_ONCE + 2


async def test_models_of_the_configuration_have_figures_also_after_a_reload(lab: Lab, tmp_path: Path) -> None:
    provider = await lab.provider(_provider())
    upstream = {"only": {"url": provider.url, "models": {"alias": "renamed"}}}
    routes = '[[routes]]\nmodels = ["{}", "*"]\nupstreams = ["only"]\n'
    relay = await lab.relay(None, config=toml(tmp_path, upstream, routes.format("routed")))
    client = await lab.client(relay.port)
    for number in range(30):
        assert await _h1(client, {"model": f"junk-{number}"}) == 200
    for model in ("alias", "routed", "later"):
        assert await _h1(client, {"model": model}) == 200
    labels = await _labels(relay)
    assert {"renamed", "routed"} <= labels
    assert "later" not in labels
    toml(tmp_path, upstream, routes.format("later"))
    relay.relay.reload()
    assert await _h1(client, {"model": "later"}) == 200
    assert {"renamed", "routed", "later"} <= await _labels(relay)
