"""SIGHUP: what is new holds for new requests; places, queues, figures and tenants do not get lost by it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import Lab, RunningRelay, chat, eventually, numbers, samples
from tests.support.provider import Provider, answering, ok
from tests.support.wire import Message, Wire, request, response

KEY_HASH = "5ee1a8d6e3a0f6fda22d36b8b9cc4d0be0a77c4d8b6ce0b0f28cb1f0b8d37a0e"


def upstream(url: str, name: str = "a", **settings: Any) -> str:
    lines = [f"{key} = {value!r}" for key, value in settings.items()]
    return "\n".join(["[[upstreams]]", f'name = "{name}"', f'url = "{url}"', *lines, ""])


def tenant(name: str = "acme") -> str:
    return f'[[tenants]]\nname = "{name}"\nkey_sha256 = "{KEY_HASH}"\n'


class Gate:
    """A provider that answers when it is let go, and sees how many are under way."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.served = 0
        self.go = asyncio.Event()

    async def __call__(self, wire: Wire) -> None:
        while True:
            try:
                await wire.request()
            except EOFError:
                return
            self.now += 1
            self.most = max(self.most, self.now)
            await self.go.wait()
            self.now -= 1
            self.served += 1
            await wire.send(response(b"ok"))


class Scene:
    """A relay whose file can be changed."""

    def __init__(self, lab: Lab, path: Path) -> None:
        self.lab = lab
        self._path = path
        self.relay: RunningRelay

    async def start(self, text: str, **settings: object) -> None:
        self._path.write_text(text)
        self.relay = await self.lab.relay(None, config=self._path, **settings)

    async def reload(self, text: str | bytes) -> bool:
        """Whether it was taken."""
        before = len(self.relay.lines("reloaded")), len(self.relay.lines("reload_failed"))
        self._path.write_bytes(text.encode() if isinstance(text, str) else text)
        self.relay.relay.reload()
        after: Callable[[], tuple[int, int]] = lambda: (  # noqa: E731
            len(self.relay.lines("reloaded")),
            len(self.relay.lines("reload_failed")),
        )
        await eventually(lambda: after() != before)
        return after()[0] > before[0]

    async def ask(self, *headers: str) -> Message:
        client = await self.lab.client(self.relay.port)
        await client.send(request(headers=headers))
        return await client.response()

    async def figures(self) -> dict[str, float]:
        return samples((await self.relay.page("/metrics")).body.decode())

    def asking(self, count: int) -> list[asyncio.Task[Message]]:
        return [asyncio.get_running_loop().create_task(self.ask()) for _ in range(count)]


@pytest.fixture
def scene(lab: Lab, tmp_path: Path) -> Scene:
    return Scene(lab, tmp_path / "flow.toml")


# --- tenants ---


@pytest.mark.parametrize("rest", ["", "# nothing", "[[routes]]\nupstreams = ['a']\n", "open = false\n"])
async def test_a_file_that_lost_its_tenants_is_refused(scene: Scene, rest: str) -> None:
    provider = await scene.lab.provider(ok)
    await scene.start(upstream(provider.url) + tenant())
    text = rest + "\n" + upstream(provider.url) if rest.startswith("open") else upstream(provider.url) + rest
    assert not await scene.reload(text)
    [line] = scene.relay.lines("reload_failed")
    assert line["level"] == "error"
    assert "open = true" in line["problems"][0]
    assert (await scene.ask()).status == 401
    assert provider.requests == []
    assert not await scene.reload(text)  # and again: what is compared with is what runs


async def test_a_file_that_says_so_opens_the_relay(scene: Scene) -> None:
    provider = await scene.lab.provider(ok)
    await scene.start(upstream(provider.url) + tenant())
    assert (await scene.ask()).status == 401
    assert await scene.reload("open = true\n" + upstream(provider.url))
    assert (await scene.ask()).status == 200
    assert await scene.reload(upstream(provider.url))  # there are none to be lost
    assert await scene.reload(upstream(provider.url) + tenant())
    assert (await scene.ask()).status == 401
    assert not await scene.reload(upstream(provider.url))


async def test_tenants_may_become_others(scene: Scene) -> None:
    provider = await scene.lab.provider(ok)
    await scene.start(upstream(provider.url) + tenant("acme"))
    assert await scene.reload(upstream(provider.url) + tenant("other"))
    assert (await scene.ask()).status == 401


@pytest.mark.parametrize("text", [b"", b"[[upstreams", b"\xff\xfe", b"x = " + b"[" * 100_000])
async def test_a_file_that_can_t_be_read_changes_nothing(scene: Scene, text: bytes) -> None:
    provider = await scene.lab.provider(ok)
    await scene.start(upstream(provider.url))
    assert not await scene.reload(text)
    assert (await scene.ask()).status == 200


# --- places and queues ---


async def test_max_concurrent_holds_over_reloads(scene: Scene) -> None:
    gate = Gate()
    provider = await scene.lab.provider(gate)
    text = upstream(provider.url, max_concurrent=3, queue=50, queue_timeout="20s")
    await scene.start(text)
    tasks = scene.asking(3)
    await eventually(lambda: gate.now == 3)
    for turn in range(3):
        assert await scene.reload(text + f"# {turn}\n")
        tasks += scene.asking(3)
        [target] = scene.relay.relay.metrics.upstreams
        await eventually(lambda turn=turn, target=target: target.waiting == 3 * (turn + 1))  # type: ignore[misc]
    assert gate.most == 3
    gate.go.set()
    assert [(await task).status for task in tasks] == [200] * 12
    assert gate.most == 3


async def test_more_places_go_to_those_who_wait_at_once(scene: Scene) -> None:
    gate = Gate()
    provider = await scene.lab.provider(gate)
    await scene.start(upstream(provider.url, max_concurrent=1, queue=50, queue_timeout="20s"))
    tasks = scene.asking(6)
    await eventually(lambda: gate.now == 1)
    assert await scene.reload(upstream(provider.url, max_concurrent=4, queue=50, queue_timeout="20s"))
    await eventually(lambda: gate.now == 4)
    assert await scene.reload(upstream(provider.url, max_concurrent=2, queue=50, queue_timeout="20s"))
    tasks += scene.asking(2)
    await asyncio.sleep(0.05)
    assert gate.now == 4
    assert await scene.reload(upstream(provider.url))  # no bound any more
    await eventually(lambda: gate.now == 8)
    gate.go.set()
    assert [(await task).status for task in tasks] == [200] * 8


async def test_the_queue_of_a_provider_that_is_gone_is_served(scene: Scene) -> None:
    first, second = Gate(), Gate()
    one, two = await scene.lab.provider(first), await scene.lab.provider(second)
    second.go.set()
    await scene.start(upstream(one.url, "one", max_concurrent=1, queue=9, queue_timeout="20s"))
    tasks = scene.asking(4)
    [target] = scene.relay.relay.metrics.upstreams
    await eventually(lambda: first.now == 1 and target.waiting == 3)
    assert await scene.reload(upstream(two.url, "two"))
    assert (await scene.ask()).status == 200
    first.go.set()
    assert [(await task).status for task in tasks] == [200] * 4
    assert (first.served, second.served) == (4, 1)


async def test_max_connections_hold_over_reloads(scene: Scene) -> None:
    gate = Gate()
    provider = await scene.lab.provider(gate)
    text = upstream(provider.url, max_connections=2)
    await scene.start(text)
    tasks = scene.asking(3)
    await eventually(lambda: gate.now == 2)
    assert await scene.reload(text)
    tasks += scene.asking(3)
    await asyncio.sleep(0.05)
    assert gate.most == 2
    gate.go.set()
    assert [(await task).status for task in tasks] == [200] * 6
    assert gate.most == 2


async def test_a_stream_goes_on_when_its_provider_s_connections_are_made_otherwise(scene: Scene) -> None:
    simulator = await scene.lab.simulator()
    await scene.start(upstream(simulator.url))
    client = await scene.lab.client(scene.relay.port)
    await client.send(chat(events=60, rate=100))
    reading = asyncio.get_running_loop().create_task(client.response())
    await eventually(lambda: simulator.streams)
    for keepalive in ("3s", "4s", "5s"):
        assert await scene.reload(upstream(simulator.url, keepalive=keepalive))
    assert scene.relay.relay.replaced_configurations
    assert numbers((await reading).body) == list(range(60))
    await eventually(lambda: scene.relay.relay.replaced_configurations == 0, "nothing is kept of what is gone")


# --- what is known ---


async def test_connections_are_kept_and_figures_go_on(scene: Scene) -> None:
    answer = response(b"ok", ["x-ratelimit-remaining-tokens: 77"])
    provider = await scene.lab.provider(answering(answer))
    await scene.start(upstream(provider.url))
    for turn in range(3):
        assert (await scene.ask()).status == 200
        assert await scene.reload(upstream(provider.url, weight=turn + 1))
    metrics = await scene.figures()
    assert metrics['flow_upstream_connects_total{upstream="a"}'] == 1
    assert metrics['flow_upstream_reuses_total{upstream="a"}'] == 2
    assert metrics['flow_upstream_requests_total{upstream="a"}'] == 3
    assert metrics['flow_upstream_ratelimit_remaining{kind="tokens",upstream="a"}'] == 77
    assert await scene.reload(upstream(provider.url, keepalive="7s"))  # by other connections
    assert (await scene.ask()).status == 200
    metrics = await scene.figures()
    assert metrics['flow_upstream_connects_total{upstream="a"}'] == 2
    assert metrics['flow_upstream_requests_total{upstream="a"}'] == 4


async def test_a_new_key_is_not_left_alone_for_what_the_old_one_did(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLD", "sk-old")
    monkeypatch.setenv("NEW", "sk-new")
    limited = response(b"{}", ["retry-after: 30"], status="429 Too Many Requests")

    def by_key(message: Message) -> bytes:
        return limited if message.get("authorization") == "Bearer sk-old" else response(b"ok")

    first, second = await scene.lab.provider(answering(by_key)), await scene.lab.provider(ok)
    old, new, other = (
        upstream(first.url, api_key="env:OLD"),
        upstream(first.url, api_key="env:NEW"),
        upstream(second.url, "b"),
    )
    await scene.start(old + other)
    for _ in range(2):
        assert (await scene.ask()).status == 200
    assert (len(first.requests), len(second.requests)) == (1, 2)
    assert await scene.reload(old + other + "# the same\n")
    assert (await scene.ask()).status == 200
    assert (len(first.requests), len(second.requests)) == (1, 3)  # still left alone
    assert await scene.reload(new + other)
    assert (await scene.ask()).status == 200
    assert (len(first.requests), len(second.requests)) == (2, 3)


async def test_another_provider_of_the_same_name_begins_anew(scene: Scene) -> None:
    one, two = await scene.lab.provider(ok), await scene.lab.provider(ok)
    await scene.start(upstream(one.url))
    assert (await scene.ask()).status == 200
    assert await scene.reload(upstream(two.url))
    assert (await scene.ask()).status == 200
    [target] = scene.relay.relay.metrics.upstreams
    assert target.started == 1
    assert [len(provider.requests) for provider in (one, two)] == [1, 1]


async def test_what_fails_late_changes_nothing(scene: Scene, tmp_path: Path) -> None:
    gate = Gate()
    provider: Provider = await scene.lab.provider(gate)
    await scene.start(upstream(provider.url, max_concurrent=1, queue=9))
    tasks = scene.asking(2)
    await eventually(lambda: gate.now == 1)
    text = upstream(provider.url, max_concurrent=9) + upstream("https://b.test", "b", ca="missing.pem")
    assert not await scene.reload(text)
    await asyncio.sleep(0.02)
    assert gate.now == 1
    gate.go.set()
    assert [(await task).status for task in tasks] == [200, 200]
    assert os.listdir(tmp_path) == ["flow.toml"]


async def test_the_only_provider_s_key_is_read_again(lab: Lab, tmp_path: Path) -> None:
    seen = []

    async def by_key(wire: Wire) -> None:
        while True:
            try:
                seen.append((await wire.request()).get("authorization"))
            except EOFError:
                return
            await wire.send(response(b"ok"))

    key = tmp_path / "key"
    key.write_text("first\n")
    provider = await lab.provider(by_key)
    relay = await lab.relay(provider.url, upstream_api_key=f"file:{key}")
    client = await lab.client(relay.port)
    for text, reloaded in (("first", True), ("second", True), ("", False)):
        key.write_text(text)
        assert relay.relay.reload() is reloaded
        await client.send(request())
        assert (await client.response()).body == b"ok"
    assert seen == ["Bearer first", "Bearer second", "Bearer second"]
    await eventually(lambda: relay.lines("reload_failed"))
    [failed] = relay.lines("reload_failed")
    assert failed["problems"] == [f"FLOW_UPSTREAM_API_KEY: the file {key} is empty"]


async def test_another_redis_needs_a_restart(lab: Lab, tmp_path: Path) -> None:
    url = tmp_path / "url"
    url.write_text("redis://127.0.0.1:9")
    relay = await lab.relay("http://127.0.0.1:9", redis_url=f"file:{url}")
    assert relay.relay.reload()
    assert relay.lines("restart_needed") == []
    url.write_text("redis://127.0.0.1:10")
    assert relay.relay.reload()
    await eventually(lambda: len(relay.lines("restart_needed")) == 1)
