"""Several providers: fallback, recovery, reload, credentials, models, queues."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import orjson
import pytest

from tests.support.lab import Lab, chat, eventually, finishes, free_port, numbers, page
from tests.support.provider import Caller, answering, ok, silent
from tests.support.topology import toml
from tests.support.wire import Message, Wire, chunk, request, response


async def _simulate(port: int) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "flowserver",
        "simulate",
        "--listen",
        f"127.0.0.1:{port}",
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    await finishes(process.stdout.readline())
    return process


@pytest.mark.serial
async def test_one_of_two_is_killed_under_load_and_comes_back(lab: Lab, tmp_path: Path) -> None:
    port = free_port()
    process = await _simulate(port)
    other = await lab.simulator()
    routes = '[[routes]]\nupstreams = [["one", "two"]]\n'
    config = toml(tmp_path, {"one": f"http://127.0.0.1:{port}", "two": other.url}, routes)
    relay = await lab.relay(None, config=config, breaker_cooldown="500ms")
    failed_before_a_byte: list[object] = []
    broken = whole = 0

    async def one() -> None:
        nonlocal broken, whole
        client = await Wire.connect(relay.port)
        begun = False
        try:
            await client.send(chat(events=10, rate=50))
            head = await client.head()
            if head.status != 200:
                failed_before_a_byte.append((head, await client.rest_of(head)))
                return
            begun = True
            while data := await client.chunk():
                assert data
            whole += 1
        except (EOFError, ConnectionResetError) as error:
            broken += 1
            if not begun:
                failed_before_a_byte.append(error)
        finally:
            client.close()

    jobs: list[asyncio.Task[None]] = []

    async def load(seconds: float) -> None:
        for _ in range(int(seconds * 200)):
            jobs.append(asyncio.ensure_future(one()))
            await asyncio.sleep(0.005)

    targets = {target.name: target for target in relay.relay.metrics.upstreams}
    try:
        await load(1)
        assert targets["one"].answers > 50
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        await load(1)
        assert targets["one"].health.opened >= 1
        process = await _simulate(port)
        answers = targets["one"].answers
        await load(1.5)
        assert targets["one"].answers > answers + 50  # noticed within the breaker's time
        await asyncio.gather(*jobs)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    lines = await relay.access(len(jobs))
    assert not failed_before_a_byte
    assert broken <= 60
    assert whole + broken == len(jobs) == len(lines)
    assert all(target.open == 0 for target in targets.values())
    metrics = await relay.metrics()
    assert metrics['flow_upstream_breaker{upstream="one"}'] == 0


async def test_reload_takes_new_routes_and_leaves_open_streams_alone(lab: Lab, tmp_path: Path) -> None:
    first, second = await lab.simulator(), await lab.provider(ok)
    config = toml(tmp_path, {"first": first.url})
    process = await lab.process(None, config=config)
    streaming = await lab.client(process.port)
    await streaming.send(chat(events=100, rate=100))
    await streaming.head()
    (tmp_path / "flow.toml").write_text("[[upstreams]]\nname = 5\n")
    process.signal(signal.SIGHUP)
    await eventually(lambda: "reload_failed" in process.events())
    [line] = [line for line in process.lines if line["event"] == "reload_failed"]
    assert any("upstreams[0].name" in problem for problem in line["problems"])
    client = await lab.client(process.port)
    await client.send(chat(events=3))
    assert numbers((await client.response()).body) == [0, 1, 2]

    toml(tmp_path, {"second": second.url})
    process.signal(signal.SIGHUP)
    await eventually(lambda: "reloaded" in process.events())
    await client.send(request())
    assert (await client.response()).body == b"ok"
    pieces = []
    while data := await streaming.chunk():
        pieces.append(data)
    assert numbers(b"".join(pieces)) == list(range(100))
    process.signal(signal.SIGTERM)
    assert await process.exit_status() == 0


async def test_keys_reach_the_provider_and_are_shown_nowhere(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRST_KEY", "sk-first-secret")
    (tmp_path / "key").write_text("sk-second-secret\n")
    first = await lab.provider(answering(response(b"", status="503 Later")))
    second = await lab.provider(answering(response(b"ok")))
    tables: dict[str, dict[str, object] | str] = {
        "first": {"url": first.url, "api_key": "env:FIRST_KEY", "headers": {"OpenAI-Organization": "org-hidden"}},
        "second": {"url": second.url, "api_key": "file:key"},
    }
    relay = await lab.relay(None, config=toml(tmp_path, tables))
    client = await lab.client(relay.port)
    await client.send(request(headers=["Authorization: Bearer theirs", "OpenAI-Organization: theirs"]))
    assert (await client.response()).body == b"ok"
    assert first.requests[0].all("authorization") == ["Bearer sk-first-secret"]
    assert first.requests[0].all("openai-organization") == ["org-hidden"]
    assert second.requests[0].all("authorization") == ["Bearer sk-second-secret"]
    await client.send(request(target="/x y"))
    shown = (await client.rest())[0]
    for path in ("/streams", "/metrics", "/"):
        shown += (await relay.page(path)).body
    shown += relay.output
    for secret in (b"secret", b"org-hidden", b"theirs"):
        assert secret not in shown


def _asked(model: str) -> bytes:
    return request("POST", "/v1/chat/completions", body=orjson.dumps({"model": model, "n": 1}))


async def test_models_choose_their_providers_and_are_renamed(lab: Lab, tmp_path: Path) -> None:
    def echo(name: str) -> object:
        return answering(lambda message: response(name.encode() + b" " + message.body))

    small, large = await lab.provider(echo("small")), await lab.provider(echo("large"))  # type: ignore[arg-type]
    tables: dict[str, dict[str, object] | str] = {
        "small": small.url,
        "large": {"url": large.url, "models": {"big-one": "vendor/big-1"}},
    }
    routes = (
        '[[routes]]\nmodels = ["big-*"]\nupstreams = ["large"]\n'
        '[[routes]]\npath = "/v1/chat/*"\nmodels = ["small*"]\nupstreams = ["small"]\n'
    )
    relay = await lab.relay(None, config=toml(tmp_path, tables, routes))
    client = await lab.client(relay.port)
    for model, wanted in (
        ("big-one", b'large {"model":"vendor/big-1","n":1}'),
        ("big-two", b'large {"model":"big-two","n":1}'),
        ("small-1", b'small {"model":"small-1","n":1}'),
    ):
        await client.send(_asked(model))
        assert (await client.response()).body == wanted
        raw = _asked(model)
        head, _, body = raw.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
        await client.send(b"\r\n".join([*lines, b"Transfer-Encoding: chunked", b"", b""]) + chunk(body) + b"0\r\n\r\n")
        assert (await client.response()).body == wanted
    await client.send(_asked("unheard-of"))
    answer = await client.response()
    assert answer.status == 404
    assert orjson.loads(answer.body)["error"]["code"] == "no_route"


async def test_a_full_queue_refuses_and_waiters_leave_with_their_clients(lab: Lab, tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def script(caller: Caller) -> None:
        with contextlib.suppress(EOFError):
            while True:
                await caller.request()
                await gate.wait()
                await caller.send(response(b"ok"))

    provider = await lab.provider(script)
    table = {"url": provider.url, "max_concurrent": 2, "queue": 3}
    relay = await lab.relay(None, config=toml(tmp_path, {"only": table}))
    [target] = relay.relay.metrics.upstreams
    clients: list[Wire] = []
    for number in range(5):
        clients.append(await lab.client(relay.port))
        await clients[-1].send(request(target=f"/{number}"))
        await eventually(lambda number=number: target.open + target.waiting == number + 1)  # type: ignore[misc]
    late = await lab.client(relay.port)
    await late.send(request())
    answer = await late.response()
    assert (answer.status, answer.get("retry-after")) == (503, "1")
    clients[3].close()
    await eventually(lambda: target.waiting == 2)
    gate.set()
    for number in (0, 1, 2, 4):
        assert (await clients[number].response()).body == b"ok"
    assert [message.start.split()[1] for message in provider.requests] == ["/0", "/1", "/2", "/4"]


async def test_who_waits_too_long_for_a_place_is_told(lab: Lab, tmp_path: Path) -> None:
    provider = await lab.provider(silent)
    table = {"url": provider.url, "max_concurrent": 1, "queue": 3, "queue_timeout": "100ms"}
    relay = await lab.relay(None, config=toml(tmp_path, {"only": table}), keepalive_timeout="100ms")
    first, second = await lab.client(relay.port), await lab.client(relay.port)
    await first.send(request())
    await eventually(lambda: provider.requests)
    await second.send(request())
    answer = await second.response()
    assert (answer.status, answer.get("retry-after")) == (503, "1")
    assert (await page(relay.admin_port, "/healthz")).status == 200


async def test_a_breaker_opens_and_lets_one_probe_through(lab: Lab, tmp_path: Path) -> None:
    well = False

    def answer(message: Message) -> bytes:
        return response(b"ok") if well else b"nonsense\r\n\r\n"

    provider = await lab.provider(answering(answer))
    relay = await lab.relay(provider.url, breaker_failures=2, breaker_cooldown="300ms")
    client = await lab.client(relay.port)
    statuses = []
    for _ in range(4):
        await client.send(request())
        statuses.append((await client.response()).status)
    assert statuses == [502, 502, 503, 503]
    assert len(provider.requests) == 2
    well = True
    await asyncio.sleep(0.35)
    await client.send(request())
    assert (await client.response()).body == b"ok"
    await client.send(request())
    assert (await client.response()).body == b"ok"
    assert len(provider.requests) == 4
