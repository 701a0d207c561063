"""Requests that belong together go to one provider, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest

from tests.support.h2_lab import h2_client
from tests.support.lab import Lab, RelayProcess, RunningRelay, eventually, page, samples
from tests.support.provider import Caller, Provider, answering
from tests.support.shared import sharing
from tests.support.topology import tenant, toml
from tests.support.wire import Message, Wire, request, response

NAMES = ("one", "two", "three")
SYSTEM = {"role": "system", "content": "You are helpful. " * 200}


def named(name: str) -> bytes:
    return response(name.encode())


async def three(lab: Lab, **settings: object) -> dict[str, dict[str, object]]:
    """Providers that answer with their names."""
    return {name: {"url": (await lab.provider(answering(named(name)))).url, **settings} for name in NAMES}


def routes(affinity: str, upstreams: str = '[["one", "two", "three"]]', **lines: str) -> str:
    more = "".join(f"{name} = {value}\n" for name, value in lines.items())
    return f'[[routes]]\nupstreams = {upstreams}\naffinity = "{affinity}"\n{more}'


async def relay_with(lab: Lab, folder: Path, affinity: str, more: str = "", **settings: object) -> RunningRelay:
    return await lab.relay(None, config=toml(folder, await three(lab), routes(affinity) + more), **settings)


async def ask(
    relay: RunningRelay | RelayProcess, body: Mapping[str, object], *headers: str, path: str = "/v1/chat/completions"
) -> str:
    """The name of the provider that answered."""
    client = await Wire.connect(relay.port)
    try:
        lines = ["Content-Type: application/json", *headers]
        await client.send(request("POST", path, lines, body=orjson.dumps(body)))
        answer = await client.response()
    finally:
        client.close()
    assert answer.status == 200
    return answer.body.decode()


def chat(number: int, turn: int = 0, **more: object) -> dict[str, object]:
    messages: list[object] = [SYSTEM, {"role": "user", "content": f"Question {number}"}]
    for past in range(turn):
        messages += [{"role": "assistant", "content": f"Answer {past}"}, {"role": "user", "content": f"And {past}?"}]
    return {"model": "m", "messages": messages, **more}


async def test_a_session_stays_at_its_provider(lab: Lab, tmp_path: Path) -> None:
    relay = await relay_with(lab, tmp_path, "session")
    first = {number: await ask(relay, chat(number), f"x-flow-session: s{number}") for number in range(30)}
    assert set(first.values()) == set(NAMES)
    for number, name in first.items():  # whatever it asks, over whichever API
        assert await ask(relay, chat(number + 1), f"x-flow-session: s{number}") == name
        other = {"model": "n", "input": "Something else"}
        assert await ask(relay, other, f"x-flow-session: s{number}", path="/v1/responses") == name
        assert await ask(relay, chat(0, prompt_cache_key=f"s{number}")) == name
    metrics = await relay.metrics()
    preferred = [metrics[f'flow_upstream_affinity_total{{result="preferred",upstream="{name}"}}'] for name in NAMES]
    assert sum(preferred) == 120


@pytest.mark.parametrize("affinity", ["session", "prefix"])
async def test_a_conversation_stays_at_its_provider_while_it_grows(lab: Lab, tmp_path: Path, affinity: str) -> None:
    relay = await relay_with(lab, tmp_path, affinity)
    first = {number: await ask(relay, chat(number)) for number in range(30)}
    assert set(first.values()) == set(NAMES)
    for turn in (1, 2, 5):
        assert {number: await ask(relay, chat(number, turn)) for number in range(30)} == first


async def test_sessions_of_two_tenants_are_two(lab: Lab, tmp_path: Path) -> None:
    keys = ["flow-" + letter * 43 for letter in "ab"]
    tenants = "".join(tenant(key, name=key[-1]) for key in keys)
    relay = await relay_with(lab, tmp_path, "session", tenants)

    async def of(key: str) -> list[str]:
        headers = (f"Authorization: Bearer {key}",)
        return [await ask(relay, chat(0), *headers, f"x-flow-session: s{number}") for number in range(20)]

    one, other = [await of(key) for key in keys]
    assert one != other
    assert await of(keys[0]) == one


async def test_two_relays_and_all_workers_agree(lab: Lab, tmp_path: Path) -> None:
    providers = await three(lab)
    config = toml(tmp_path, providers, routes("session"))
    alone = await lab.relay(None, config=config)
    async with sharing() as shared:
        workers = [await lab.worker(await shared.worker(), config=config) for _ in range(2)]
        for number in range(20):
            headers = (f"x-flow-session: s{number}",)
            assert len({await ask(relay, chat(0), *headers) for relay in (alone, *workers)}) == 1


class Switch:
    """A provider that may be down: it then closes each connection at once."""

    def __init__(self, name: str) -> None:
        self._answer = named(name)
        self.is_down = False

    async def __call__(self, caller: Caller) -> None:
        if self.is_down:
            caller.close()
        else:
            await answering(self._answer)(caller)


async def test_sessions_come_back_when_their_provider_does(lab: Lab, tmp_path: Path) -> None:
    switches = {name: Switch(name) for name in NAMES}
    providers: dict[str, Provider] = {name: await lab.provider(switches[name]) for name in NAMES}
    upstreams = {name: {"url": provider.url, "keepalive": "off"} for name, provider in providers.items()}
    relay = await lab.relay(
        None, config=toml(tmp_path, upstreams, routes("session")), breaker_failures=1, breaker_cooldown="300ms"
    )

    async def who() -> dict[int, str]:
        return {number: await ask(relay, chat(0), f"x-flow-session: s{number}") for number in range(30)}

    before = await who()
    switches["two"].is_down = True
    await who()  # opens the breaker
    without = await who()
    assert "two" not in without.values()
    assert {number: name for number, name in without.items() if before[number] != "two"} == {
        number: name for number, name in before.items() if name != "two"
    }
    switches["two"].is_down = False
    hosts = {host.name: host for host in relay.relay.metrics.upstreams}
    assert hosts["two"].affinity["unhealthy"] > 0
    await asyncio.sleep(0.4)
    await who()
    assert await who() == before


async def test_a_full_provider_is_passed_over(lab: Lab, tmp_path: Path) -> None:
    held = asyncio.Event()

    def slow(name: str) -> object:
        async def script(caller: Caller) -> None:
            await caller.request()
            await held.wait()
            await caller.send(named(name))

        return script

    upstreams = {
        name: {"url": (await lab.provider(slow(name))).url, "max_concurrent": 1}  # type: ignore[arg-type]
        for name in NAMES
    }
    relay = await lab.relay(None, config=toml(tmp_path, upstreams, routes("session")))
    asked = [asyncio.ensure_future(ask(relay, chat(0), "x-flow-session: s")) for _ in range(3)]
    await eventually(lambda: sum(host.open for host in relay.relay.metrics.upstreams) == 3)
    held.set()
    assert {await each for each in asked} == set(NAMES)
    outcomes = [result for host in relay.relay.metrics.upstreams for result in host.affinity.elements()]
    assert sorted(outcomes) == ["full", "full", "preferred"]


async def test_the_body_reaches_the_provider_as_it_was(lab: Lab, tmp_path: Path) -> None:
    """Also one of an API that is not known, which is read for its conversation only."""
    seen: list[Message] = []

    def note(message: Message) -> bytes:
        seen.append(message)
        return response(b"ok")

    upstreams = {name: {"url": (await lab.provider(answering(note))).url} for name in NAMES}
    relay = await lab.relay(None, config=toml(tmp_path, upstreams, routes("prefix")))
    client = await lab.client(relay.port)
    for body in (b'{ "text" : "x"  }', b"no JSON", b"\x00\xff" * 40_000, b"{", b""):
        await client.send(request("POST", "/generate", ["Content-Type: application/json"], body=body))
        assert (await client.response()).status == 200
        assert seen[-1].body == body


async def test_the_protocol_and_the_pieces_of_a_body_make_no_difference(lab: Lab, tmp_path: Path) -> None:
    relay = await relay_with(lab, tmp_path, "session")
    client = await h2_client(lab, relay.port)
    for number in range(10):
        body = chat(number)
        home = await ask(relay, body)
        written = orjson.dumps(body)
        kind = ("content-type", "application/json")
        streams = [client.peer.request("POST", "/v1/chat/completions", [kind], body=written)]
        streams.append(client.peer.request("POST", "/v1/chat/completions", [kind], end=False))
        for start in range(0, len(written), 700):
            piece = written[start : start + 700]
            client.peer.upload(streams[1], piece, end=start + 700 >= len(written))
        for stream in streams:
            assert (await client.answer(stream)).body.decode() == home


async def test_workers_agree_and_their_figures_are_one(lab: Lab, tmp_path: Path) -> None:
    config = toml(tmp_path, await three(lab), routes("session"))
    alone = await lab.relay(None, config=config)
    process = await lab.process(None, config=config, workers=2)
    for number in range(12):
        session = f"x-flow-session: s{number}"
        homes = {await ask(process, chat(0), session) for _ in range(3)}
        assert homes == {await ask(alone, chat(0), session)}
    figures = samples((await page(process.admin_port, "/metrics")).body.decode())
    found = {name: count for name, count in figures.items() if name.startswith("flow_upstream_affinity_total")}
    assert all('result="preferred"' in name for name in found)
    assert sum(found.values()) == 36


async def test_a_reload_switches_affinity_on_and_off(lab: Lab, tmp_path: Path) -> None:
    providers = await three(lab)
    relay = await lab.relay(None, config=toml(tmp_path, providers, routes("none")))

    async def homes(number: int) -> set[str]:
        return {await ask(relay, chat(0), "x-flow-session: s") for _ in range(number)}

    async def reload(affinity: str) -> None:
        reloaded = len(relay.lines("reloaded"))
        toml(tmp_path, providers, routes(affinity))
        relay.relay.reload()
        await eventually(lambda: len(relay.lines("reloaded")) > reloaded)

    assert len(await homes(50)) > 1
    await reload("session")
    assert len(await homes(10)) == 1
    await reload("none")
    assert len(await homes(50)) > 1


async def test_another_attempt_goes_to_the_next_in_the_order(lab: Lab, tmp_path: Path) -> None:
    """The same one for all requests of a session, so that this one's cache is of use meanwhile."""

    def answer(name: str) -> bytes:
        return response(b"", status="503 Service Unavailable") if name == "two" else named(name)

    upstreams = {name: {"url": (await lab.provider(answering(answer(name)))).url} for name in NAMES}
    relay = await lab.relay(None, config=toml(tmp_path, upstreams, routes("session")), breaker_failures=1000)
    for number in range(30):
        homes = {await ask(relay, chat(0), f"x-flow-session: s{number}") for _ in range(3)}
        assert len(homes) == 1
        assert homes <= {"one", "three"}
    hosts = {host.name: host for host in relay.relay.metrics.upstreams}
    assert hosts["two"].affinity["preferred"] == hosts["two"].failures["status_503"] > 0


async def test_fallback_tiers_stay_as_they_are(lab: Lab, tmp_path: Path) -> None:
    upstreams = await three(lab)
    relay = await lab.relay(None, config=toml(tmp_path, upstreams, routes("session", '["one", ["two", "three"]]')))
    assert {await ask(relay, chat(0), f"x-flow-session: s{number}") for number in range(10)} == {"one"}
    assert [host.affinity for host in relay.relay.metrics.upstreams] == [{}, {}, {}]
