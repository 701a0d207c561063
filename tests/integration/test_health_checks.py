"""Active health checks over real sockets: who is asked, who is not, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
from pathlib import Path

import pytest

from tests.support.h2_lab import Certificates
from tests.support.h2_provider import H2Server, H2Site
from tests.support.lab import Lab, Leftovers, RelayProcess, RunningRelay, eventually, free_port, page, samples
from tests.support.provider import Caller, Provider
from tests.support.shared import sharing
from tests.support.topology import toml
from tests.support.wire import Message, request, response

FAST: dict[str, object] = {"path": "/health", "interval": "60ms", "timeout": "50ms", "failures": 2, "successes": 2}
BOTH = '[[routes]]\nupstreams = [["a", "b"]]\n'
OK, UNWELL = response(b"fine"), response(b"no", status="503 Service Unavailable")


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


class Checked:
    """A script that answers checks by `health`, and all else with `name`. No health: it never answers."""

    def __init__(self, name: str, health: bytes | None = OK) -> None:
        self.name = name
        self.health = health
        self.checks = 0
        self.served = 0

    async def __call__(self, caller: Caller) -> None:
        with contextlib.suppress(EOFError, OSError), contextlib.closing(caller):
            while True:
                message = await caller.request()
                if _target(message).startswith("/health"):
                    self.checks += 1
                    if self.health is not None:
                        await caller.send(self.health)
                else:
                    self.served += 1
                    await caller.send(response(self.name.encode()))


def _target(message: Message) -> str:
    return message.start.split(" ")[1]


async def _ask(lab: Lab, port: int) -> Message:
    client = await lab.client(port)
    await client.send(request())
    return await asyncio.wait_for(client.response(), 20)


async def _served(lab: Lab, port: int, count: int = 20) -> set[bytes]:
    return {(await _ask(lab, port)).body for _ in range(count)}


async def _healthy(relay: RunningRelay, name: str, healthy: bool) -> None:
    [host] = [host for host in relay.relay.metrics.upstreams if host.name == name]
    await eventually(lambda: (host.checks.cause is None) == healthy, f"{name} is healthy: {healthy}")


async def _figures(process: RelayProcess) -> dict[str, float]:
    return samples((await page(process.admin_port, "/metrics")).body.decode())


async def _pair(
    lab: Lab, folder: Path, a: Checked, b: Checked, **settings: object
) -> tuple[RunningRelay, Provider, Provider]:
    first, second = await lab.provider(a), await lab.provider(b)
    config = toml(folder, {"a": {"url": first.url, "health": FAST}, "b": second.url}, BOTH)
    return await lab.relay(None, config=config, **settings), first, second


async def test_a_provider_that_fails_its_checks_is_not_asked_until_it_passes(lab: Lab, tmp_path: Path) -> None:
    a, b = Checked("a"), Checked("b")
    relay, _, _ = await _pair(lab, tmp_path, a, b)
    assert await _served(lab, relay.port) == {b"a", b"b"}
    a.health = UNWELL
    await _healthy(relay, "a", False)
    assert await _served(lab, relay.port) == {b"b"}
    assert (await relay.metrics())['flow_upstream_healthy{upstream="a"}'] == 0
    a.health = OK
    await _healthy(relay, "a", True)
    assert await _served(lab, relay.port) == {b"a", b"b"}
    await eventually(lambda: relay.lines("upstream_healthy"))
    [unhealthy] = relay.lines("upstream_unhealthy")
    assert unhealthy["cause"] == "failed its check 2 times: status 503, not 200"
    metrics = await relay.metrics()
    assert metrics['flow_upstream_checks_total{result="failed",upstream="a"}'] >= 2
    assert metrics['flow_upstream_checks_total{result="passed",upstream="a"}'] >= 2
    assert b"/health" not in relay.output


async def test_a_check_that_hangs_fails(lab: Lab, tmp_path: Path) -> None:
    a, b = Checked("a", None), Checked("b")
    relay, first, _ = await _pair(lab, tmp_path, a, b)
    await _healthy(relay, "a", False)
    assert await _served(lab, relay.port) == {b"b"}
    await eventually(lambda: relay.lines("upstream_unhealthy"))
    assert relay.lines("upstream_unhealthy")[0]["cause"] == "failed its check 2 times: no answer within 0.05 s"
    assert len(first.callers) >= 2


async def test_a_provider_that_refuses_connections_fails(lab: Lab, tmp_path: Path) -> None:
    port, second = free_port(), await lab.provider(Checked("b"))
    config = toml(tmp_path, {"a": {"url": f"http://127.0.0.1:{port}", "health": FAST}, "b": second.url}, BOTH)
    relay = await lab.relay(None, config=config)
    await _healthy(relay, "a", False)
    client = await lab.client(relay.port)
    await client.send(request())
    await client.response()
    [line] = await relay.access()
    assert (line["upstream"], line["attempts"]) == ("b", 1)
    await lab.provider(Checked("a"), port=port)
    await _healthy(relay, "a", True)


async def test_over_a_unix_socket(lab: Lab, tmp_path: Path) -> None:
    a = Checked("a", UNWELL)
    first, second = await lab.provider_at(tmp_path / "a.sock", a), await lab.provider(Checked("b"))
    relay = await lab.relay(
        None, config=toml(tmp_path, {"a": {"url": first.url, "health": FAST}, "b": second.url}, BOTH)
    )
    await _healthy(relay, "a", False)
    a.health = OK
    await _healthy(relay, "a", True)


async def test_where_all_fail_their_checks_they_are_asked_all_the_same(lab: Lab, tmp_path: Path) -> None:
    """The checks may be wrong while the providers serve."""
    provider = await lab.provider(Checked("a", UNWELL))
    relay = await lab.relay(None, config=toml(tmp_path, {"a": {"url": provider.url, "health": FAST}}))
    await _healthy(relay, "a", False)
    assert await _served(lab, relay.port, 3) == {b"a"}


async def test_where_all_are_down_the_answer_says_why(lab: Lab, tmp_path: Path) -> None:
    config = toml(tmp_path, {"a": {"url": f"http://127.0.0.1:{free_port()}", "health": FAST}})
    relay = await lab.relay(None, config=config, breaker_failures=1)
    await _healthy(relay, "a", False)
    assert (await _ask(lab, relay.port)).status == 502
    answer = await _ask(lab, relay.port)
    assert answer.status == 503
    assert b"a failed its check 2 times: " in answer.body


class Stuck(Checked):
    """Answers requests when `go` is set, and checks at once."""

    def __init__(self) -> None:
        super().__init__("a")
        self.go = asyncio.Event()

    async def __call__(self, caller: Caller) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                if _target(await caller.request()) == "/health":
                    await caller.send(OK if self.health is None else self.health)
                else:
                    await self.go.wait()
                    await caller.send(response(b"a"))


async def _stuck(lab: Lab, folder: Path) -> tuple[Stuck, str]:
    """A provider with one place, a fallback, and the configuration of both."""
    a = Stuck()
    upstreams: dict[str, dict[str, object] | str] = {
        "a": {
            "url": (await lab.provider(a)).url,
            "health": FAST,
            "max_concurrent": 1,
            "queue": 10,
            "queue_timeout": "60s",
        },
        "b": (await lab.provider(Checked("b"))).url,
    }
    return a, toml(folder, upstreams, '[[routes]]\nupstreams = ["a", "b"]\n')


async def _three_of_four(asking: list[asyncio.Task[Message]], a: Stuck) -> None:
    await eventually(lambda: sum(task.done() for task in asking) == 3, "those that waited are served")
    a.go.set()
    assert sorted([(await task).body for task in asking]) == [b"a", b"b", b"b", b"b"]


async def test_requests_that_wait_go_elsewhere(lab: Lab, tmp_path: Path) -> None:
    a, config = await _stuck(lab, tmp_path)
    relay = await lab.relay(None, config=config)
    [host, _] = relay.relay.metrics.upstreams
    asking = [asyncio.create_task(_ask(lab, relay.port)) for _ in range(4)]
    await eventually(lambda: host.waiting == 3)
    a.health = UNWELL
    await _three_of_four(asking, a)


async def test_requests_that_wait_at_any_worker_go_elsewhere(lab: Lab, tmp_path: Path) -> None:
    a, config = await _stuck(lab, tmp_path)
    async with sharing() as shared:
        relays = [await lab.worker(await shared.worker(), config=config) for _ in range(2)]
        hosts = [relay.relay.metrics.upstreams[0] for relay in relays]
        asking = [asyncio.create_task(_ask(lab, relay.port)) for relay in relays for _ in range(2)]
        await eventually(lambda: sum(host.waiting for host in hosts) == 3)
        a.health = UNWELL
        await _three_of_four(asking, a)
        assert [bool(host.check_results) for host in hosts] == [True, False], "one of them checks"
        assert not shared.broken


async def test_requests_that_wait_stay_where_there_is_nobody_else(lab: Lab, tmp_path: Path) -> None:
    a = Stuck()
    table = {
        "url": (await lab.provider(a)).url,
        "health": FAST,
        "max_concurrent": 1,
        "queue": 9,
        "queue_timeout": "60s",
    }
    relay = await lab.relay(None, config=toml(tmp_path, {"a": table}))
    [host] = relay.relay.metrics.upstreams
    asking = [asyncio.create_task(_ask(lab, relay.port)) for _ in range(3)]
    await eventually(lambda: host.waiting == 2)
    a.health = UNWELL
    await _healthy(relay, "a", False)
    await eventually(lambda: relay.lines("upstream_unhealthy"))
    assert host.waiting == 2
    a.go.set()
    assert {(await task).body for task in asking} == {b"a"}


async def test_a_relay_that_closes_in_the_middle_of_a_check_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    a = Checked("a", None)
    provider = await lab.provider(a)
    health = {**FAST, "interval": "100ms", "timeout": "99ms"}
    relay = await lab.relay(None, config=toml(tmp_path, {"a": {"url": provider.url, "health": health}}))
    before = Leftovers()
    await eventually(lambda: a.checks)
    await before.none(relay)


async def test_checks_of_https_send_the_key(lab: Lab, tmp_path: Path, certificates: Certificates) -> None:
    seen: list[Message] = []

    async def script(caller: Caller) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                seen.append(await caller.request())
                await caller.send(response(b"x" * 100_000))

    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificates.certificate, certificates.key)
    port = free_port()
    simulator = await lab.simulator(tls=tls)
    plain = await lab.provider(script, port=port)
    (tmp_path / "key").write_text("sk-secret")
    table = {
        "url": plain.url,
        "api_key": "file:key",
        "headers": {"x-team": "a"},
        "health": {**FAST, "path": "/v1/models?x=1"},
    }
    secure = {"url": simulator.url, "ca": certificates.authority, "health": {**FAST, "path": "/v1/models"}}
    relay = await lab.relay(None, config=toml(tmp_path, {"a": table, "b": secure}))
    await eventually(lambda: len(seen) >= 2)
    message = seen[0]
    assert (message.start, message.get("authorization")) == ("GET /v1/models?x=1 HTTP/1.1", "Bearer sk-secret")
    assert (message.get("x-team"), message.get("host")) == ("a", f"127.0.0.1:{port}")
    hosts = relay.relay.metrics.upstreams
    await eventually(lambda: all(host.check_results["passed"] >= 2 for host in hosts))
    assert not any(host.check_results["failed"] for host in hosts)


async def test_over_http2_checks_share_the_connection(lab: Lab, tmp_path: Path) -> None:
    status = 200

    def answer(server: H2Server, stream_id: int) -> None:
        server.answer(stream_id, status=status if (":path", "/health") in server.requests[stream_id] else 200)

    site = H2Site(answer)
    first, second = await lab.provider(site.script), await lab.provider(Checked("b"))
    upstreams: dict[str, dict[str, object] | str] = {
        "a": {"url": first.url, "protocol": "h2", "health": FAST},
        "b": second.url,
    }
    relay = await lab.relay(None, config=toml(tmp_path, upstreams, BOTH))
    assert await _served(lab, relay.port) == {b"ok", b"b"}
    status = 500
    await _healthy(relay, "a", False)
    assert await _served(lab, relay.port) == {b"b"}
    status = 200
    await _healthy(relay, "a", True)
    assert len(site.servers) == 1


async def test_a_provider_whose_connections_are_all_in_use_is_not_unhealthy(lab: Lab, tmp_path: Path) -> None:
    in_use, may_answer = asyncio.Event(), asyncio.Event()

    async def script(caller: Caller) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                message = await caller.request()
                if _target(message) != "/health":
                    in_use.set()
                    await may_answer.wait()
                await caller.send(OK)

    provider = await lab.provider(script)
    table = {"url": provider.url, "max_connections": 1, "connect_timeout": "60s", "health": FAST}
    relay = await lab.relay(None, config=toml(tmp_path, {"a": table}))
    [host] = relay.relay.metrics.upstreams
    asking = asyncio.create_task(_ask(lab, relay.port))
    await eventually(in_use.is_set)
    failed = host.check_results["failed"]  # on a busy machine a check can be too slow before
    await eventually(lambda: host.check_results["skipped"] >= 4)
    assert host.check_results["failed"] == failed
    may_answer.set()
    assert (await asking).status == 200


async def test_a_reload_changes_checks_and_ends_them(lab: Lab, tmp_path: Path) -> None:
    a = Checked("a", UNWELL)
    first, second = await lab.provider(a), await lab.provider(Checked("b"))

    def write(health: dict[str, object] | None) -> str:
        table = {"url": first.url} if health is None else {"url": first.url, "health": health}
        return toml(tmp_path, {"a": table, "b": second.url}, BOTH)

    relay = await lab.relay(None, config=write(FAST))
    await _healthy(relay, "a", False)
    write({**FAST, "failures": 7})
    assert relay.relay.reload()
    [host, _] = relay.relay.metrics.upstreams
    assert host.checks.cause is not None, "what is known stays"
    write({**FAST, "path": "/healthy", "expect": 503})
    assert relay.relay.reload()
    await _healthy(relay, "a", True)
    write({**FAST})
    assert relay.relay.reload()
    await _healthy(relay, "a", False)
    write(None)
    assert relay.relay.reload()
    await _healthy(relay, "a", True)
    checks = a.checks
    await asyncio.sleep(0.2)
    assert a.checks <= checks + 1, "one may have been on its way"


@pytest.mark.parametrize(("which", "both_down"), [("any_upstream", True), ("all_upstreams", False)])
async def test_readyz_tells_which_providers_are_missing(lab: Lab, tmp_path: Path, which: str, both_down: bool) -> None:
    a, b = Checked("a"), Checked("b")
    first, second = await lab.provider(a), await lab.provider(b)
    config = toml(tmp_path, {"a": {"url": first.url, "health": FAST}, "b": {"url": second.url, "health": FAST}})
    relay = await lab.relay(None, config=config, ready=which)
    assert (await relay.page("/readyz")).status == 200
    a.health = UNWELL
    await _healthy(relay, "a", False)
    assert (await relay.page("/readyz")).status == (200 if both_down else 503)
    b.health = UNWELL
    await _healthy(relay, "b", False)
    answer = await relay.page("/readyz")
    assert answer.status == 503
    assert b"a failed its check 2 times: status 503, not 200; b failed its check" in answer.body
    a.health = b.health = OK
    await _healthy(relay, "a", True)
    await _healthy(relay, "b", True)
    assert (await relay.page("/readyz")).status == 200


async def test_an_open_breaker_counts_for_readyz_until_it_may_be_tried(lab: Lab, tmp_path: Path) -> None:
    config = toml(tmp_path, {"a": f"http://127.0.0.1:{free_port()}"})
    relay = await lab.relay(None, config=config, ready="any_upstream", breaker_failures=1, breaker_cooldown="300ms")
    assert (await _ask(lab, relay.port)).status == 502
    answer = await relay.page("/readyz")
    assert (answer.status, answer.body) == (503, b"no provider is available; a failed its last requests\n")
    await asyncio.sleep(0.4)
    assert (await relay.page("/readyz")).status == 200, "or no request would ever come to try it"


async def test_one_of_two_workers_checks_and_the_other_when_it_is_gone(lab: Lab, tmp_path: Path) -> None:
    a, b = Checked("a"), Checked("b")
    first, second = await lab.provider(a), await lab.provider(b)
    health = {**FAST, "interval": "200ms", "timeout": "150ms"}
    config = toml(tmp_path, {"a": {"url": first.url, "health": health}, "b": second.url}, BOTH)
    relay = await lab.process(None, config=config, workers=2, ready="all_upstreams")
    pids = next(line for line in relay.lines if line["event"] == "listening")["workers"]
    before = a.checks
    await asyncio.sleep(1.0)
    assert a.checks - before <= 7, "one checks: five in a second"

    async def healthy(healthy: bool) -> None:
        for _ in range(200):
            if (await _figures(relay))['flow_upstream_healthy{upstream="a"}'] == float(healthy):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never happened: healthy is {healthy}")

    a.health = UNWELL
    await healthy(False)
    await eventually(lambda: "upstream_unhealthy" in relay.events())
    assert await _served(lab, relay.port) == {b"b"}
    assert b"a failed its check 2 times" in (await page(relay.admin_port, "/readyz")).body
    os.kill(pids[0], signal.SIGKILL)
    a.health = OK
    await healthy(True)
    os.kill(pids[1], signal.SIGKILL)
    a.health = UNWELL
    await healthy(False)
    await eventually(lambda: relay.events().count("upstream_unhealthy") >= 2)
    assert (await page(relay.admin_port, "/readyz")).status == 503
