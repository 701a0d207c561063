"""Outlier detection and slow start over real sockets, under requests that come all the time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from pathlib import Path

import pytest

from tests.support.h2_provider import H2Server, H2Site
from tests.support.lab import Lab, RunningRelay, eventually, simulate
from tests.support.provider import Caller
from tests.support.topology import toml
from tests.support.wire import Message, request, response

NAMES = ("a", "b", "c")
ROUTE = """[[routes]]
upstreams = [["a", "b", "c"]]
outliers = { interval = "300ms", min_requests = 5, ejection = "600ms" }
"""


class Served:
    """A script that takes `delay` seconds for an answer, and fails every `fails`th request with 500 (0: none)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.delay = 0.005
        self.fails = 0
        self.count = itertools.count(1)

    async def __call__(self, caller: Caller) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                await caller.request()
                await asyncio.sleep(self.delay)
                bad = self.fails and next(self.count) % self.fails == 0
                status = "500 Internal Server Error" if bad else "200 OK"
                await caller.send(response(self.name.encode(), status=status))


class Clients:
    """Twelve clients that ask again and again."""

    def __init__(self, lab: Lab, port: int) -> None:
        self.statuses: Counter[int] = Counter()
        self.is_over = False
        self._lab = lab
        self._port = port
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(12)]

    async def _ask(self) -> None:
        client = await self._lab.client(self._port)
        while not self.is_over:
            await client.send(request())
            answer: Message = await asyncio.wait_for(client.response(), 20)
            self.statuses[answer.status] += 1

    async def end(self) -> None:
        self.is_over = True
        await asyncio.gather(*self._tasks)


async def _scene(lab: Lab, folder: Path) -> tuple[dict[str, Served], RunningRelay, Clients]:
    scripts = {name: Served(name) for name in NAMES}
    urls = {name: (await lab.provider(script)).url for name, script in scripts.items()}
    relay = await lab.relay(None, config=toml(folder, urls, ROUTE), log_level="warning")
    return scripts, relay, Clients(lab, relay.port)


async def _ejected(relay: RunningRelay, ejected: bool) -> None:
    [host] = [host for host in relay.relay.metrics.upstreams if host.name == "a"]
    await eventually(lambda: bool(host.ejected) == ejected, f"ejected: {ejected}")


async def test_one_that_is_slow_is_ejected_and_comes_back(lab: Lab, tmp_path: Path) -> None:
    scripts, relay, clients = await _scene(lab, tmp_path)
    scripts["a"].delay = 0.2
    await _ejected(relay, True)
    started = relay.relay.metrics.upstreams[0].started
    scripts["a"].delay = 0.005
    await asyncio.sleep(0.2)
    assert relay.relay.metrics.upstreams[0].started <= started + 1
    await _ejected(relay, False)
    await eventually(lambda: relay.relay.metrics.upstreams[0].started > started + 20)
    await clients.end()
    [line, *_] = relay.lines("upstream_ejected")
    assert (line["upstream"], line["kind"], line["seconds"]) == ("a", "latency", 0.6)
    assert set(clients.statuses) == {200}
    assert (await relay.metrics())['flow_upstream_ejections_total{cause="latency",upstream="a"}'] >= 1


async def test_one_that_fails_a_third_is_ejected(lab: Lab, tmp_path: Path) -> None:
    scripts, relay, clients = await _scene(lab, tmp_path)
    scripts["a"].fails = 3
    await _ejected(relay, True)
    assert 'flow_upstream_ejected{upstream="a"}' in await relay.metrics()
    scripts["a"].fails = 0
    await _ejected(relay, False)
    await clients.end()
    assert relay.lines("upstream_ejected")[0]["kind"] == "errors"
    assert "failed, 0% of the others" in str(relay.lines("upstream_ejected")[0]["cause"])


@pytest.mark.parametrize("bad", ["slow", "failing"])
async def test_where_all_are_bad_nobody_is_cut_off(lab: Lab, tmp_path: Path, bad: str) -> None:
    scripts, relay, clients = await _scene(lab, tmp_path)
    for script in scripts.values():
        script.delay, script.fails = (0.15, 0) if bad == "slow" else (0.005, 2)
    await asyncio.sleep(1.5)
    await clients.end()
    assert relay.lines("upstream_ejected") == []
    assert set(clients.statuses) <= {200, 500}
    assert all(host.started for host in relay.relay.metrics.upstreams)


async def test_time_to_the_first_byte_of_streams_over_http2_is_compared(lab: Lab, tmp_path: Path) -> None:
    """The head comes at once everywhere."""
    loop = asyncio.get_running_loop()

    def site(delay: float) -> H2Site:
        def answer(server: H2Server, stream_id: int) -> None:
            def body() -> None:
                server.body(stream_id, b"ok", end=True)
                flushing.append(loop.create_task(server.flush()))

            server.head(stream_id)
            loop.call_later(delay, body)

        return H2Site(answer)

    flushing: list[asyncio.Task[None]] = []
    sites = {"a": site(0.3), "b": site(0.005), "c": site(0.005)}
    urls: dict[str, dict[str, object] | str] = {
        name: {"url": (await lab.provider(each.script)).url, "protocol": "h2"} for name, each in sites.items()
    }
    relay = await lab.relay(None, config=toml(tmp_path, urls, ROUTE), log_level="warning")
    clients = Clients(lab, relay.port)
    await _ejected(relay, True)
    await clients.end()
    assert relay.lines("upstream_ejected")[0]["kind"] == "latency"


async def test_a_reload_keeps_who_is_ejected(lab: Lab, tmp_path: Path) -> None:
    scripts, relay, clients = await _scene(lab, tmp_path)
    scripts["a"].fails = 2
    await _ejected(relay, True)
    assert relay.relay.reload()
    [host, *_] = relay.relay.metrics.upstreams
    assert host.ejected == 1
    await _ejected(relay, False)
    scripts["a"].fails = 0
    await clients.end()


async def test_a_reload_without_outliers_lets_everybody_in(lab: Lab, tmp_path: Path) -> None:
    scripts, relay, clients = await _scene(lab, tmp_path)
    scripts["a"].fails = 2
    await _ejected(relay, True)
    urls = {host.name: f"http://{host.authority.decode()}" for host in relay.relay.metrics.upstreams}
    toml(tmp_path, urls, '[[routes]]\nupstreams = [["a", "b", "c"]]\n')
    assert relay.relay.reload()
    await _ejected(relay, False)
    await clients.end()


async def test_one_that_comes_back_starts_slowly(lab: Lab, tmp_path: Path) -> None:
    health = {"path": "/health", "interval": "50ms", "timeout": "40ms", "failures": 1, "successes": 1}
    status = "503 Unavailable"

    async def script(caller: Caller) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                message = await caller.request()
                is_check = " /health " in message.start
                await caller.send(response(b"a", status=status if is_check else "200 OK"))

    urls: dict[str, dict[str, object] | str] = {
        "a": {"url": (await lab.provider(script)).url, "slow_start": "2s", "health": health},
        "b": (await lab.provider(Served("b"))).url,
    }
    relay = await lab.relay(None, config=toml(tmp_path, urls, '[[routes]]\nupstreams = [["a", "b"]]\n'))
    [host, _] = relay.relay.metrics.upstreams
    await eventually(lambda: host.checks.cause is not None)
    assert (await relay.metrics())['flow_upstream_slow_start{upstream="b"}'] == 1
    await eventually(lambda: host.ramp == 0.1)
    status = "200 OK"
    await eventually(lambda: host.checks.cause is None)
    seen = []
    while host.ramp < 1.0:
        seen.append(host.ramp)
        await asyncio.sleep(0.02)
    assert seen == sorted(seen)
    assert len(set(seen)) > 5


async def test_streams_of_events_pass_as_they_do_without(lab: Lab, tmp_path: Path) -> None:
    """The first bytes take one more call; the fast path opens all the same."""
    simulator = await lab.simulator()
    upstreams: dict[str, str] = dict.fromkeys(NAMES, simulator.url)
    relay = await lab.relay(None, config=toml(tmp_path, upstreams, ROUTE))
    client = await lab.client(relay.port)
    body = b'{"model":"simulated","stream":true,"messages":[{"role":"user","content":"Go on."}]}'
    await client.send(
        request(
            "POST",
            "/v1/chat/completions",
            ["Content-Type: application/json", simulate(events=60, rate=60)],
            body=body,
        )
    )
    answer = await client.response()
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert (await relay.metrics())["flow_fast_path_chunks_total"]
