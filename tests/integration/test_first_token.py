"""Providers whose first token does not come: another one is asked in time, and the client sees one whole answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from flowserver.config.environment import load
from flowserver.config.errors import ConfigError
from flowserver.config.file import load_topology
from flowserver.routing.first_token_times import ENOUGH
from tests.support.h2_lab import ask, h2_client
from tests.support.h2_provider import H2Server, H2Site
from tests.support.lab import Lab, RunningRelay, chat, eventually, numbers, page, samples
from tests.support.provider import Caller, Script
from tests.support.topology import tenant, toml
from tests.support.wire import CHUNKED_HEAD, LAST_CHUNK, Wire, chunk, request, response

ROLE = b'data: {"model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\n\n'
EVENT = b'data: {"model": "m", "choices": [{"index": 0, "delta": {"content": "one"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
SIGNS = b": OPENROUTER PROCESSING\n\n"
WHOLE = ROLE + SIGNS + EVENT + DONE
TIMEOUT = 'first_token_timeout = "300ms"\n'


def routes(*names: str, also: str = TIMEOUT) -> str:
    listed = ", ".join(f'"{name}"' for name in names)
    return f"[[routes]]\nupstreams = [{listed}]\n{also}"


class Stuck:
    """A script that sends some bytes of an answer, and no more; it sees the relay leave."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces
        self.cancelled = asyncio.Event()

    async def __call__(self, caller: Caller) -> None:
        await caller.request()
        for piece in self._pieces:
            await caller.send(piece)
        try:
            await caller.receive()
        finally:
            self.cancelled.set()


async def whole(caller: Caller) -> None:
    """Answers with pauses between what stands before the content."""
    while True:
        await caller.request()
        await caller.send(CHUNKED_HEAD + chunk(ROLE))
        await asyncio.sleep(0.02)
        await caller.send(chunk(SIGNS))
        await asyncio.sleep(0.02)
        await caller.send(chunk(EVENT))
        await caller.send(chunk(DONE) + LAST_CHUNK)


async def between(
    lab: Lab, folder: Path, scripts: dict[str, Script], also: str = TIMEOUT, **settings: object
) -> RunningRelay:
    """A relay before these providers, in the order of fallback."""
    urls = {name: (await lab.provider(script)).url for name, script in scripts.items()}
    return await lab.relay(None, config=toml(folder, urls, routes(*urls, also=also)), **settings)


def asking() -> bytes:
    return request("POST", "/v1/chat/completions", body=b'{"model": "m", "stream": true, "messages": []}')


@pytest.mark.parametrize(
    "shown",
    [(), (CHUNKED_HEAD,), (CHUNKED_HEAD + chunk(ROLE),), (CHUNKED_HEAD, chunk(ROLE), chunk(SIGNS))],
    ids=["nothing", "head", "role", "signs-of-life"],
)
async def test_a_provider_without_content_is_cancelled_and_the_next_one_answers(
    lab: Lab, tmp_path: Path, shown: tuple[bytes, ...]
) -> None:
    stuck = Stuck(*shown)
    relay = await between(lab, tmp_path, {"slow": stuck, "fast": whole})
    client = await lab.client(relay.port)
    await client.send(asking())
    assert (await client.response()).body == WHOLE
    await asyncio.wait_for(stuck.cancelled.wait(), 5)
    [line] = await relay.access()
    assert (line["upstream"], line["attempts"], line["end"]) == ("fast", 2, "complete")
    metrics = await relay.metrics()
    assert metrics['flow_first_token_timeouts_total{upstream="slow"}'] == 1
    assert metrics['flow_first_token_timeouts_total{upstream="fast"}'] == 0
    assert metrics['flow_extra_input_tokens_total{reason="first_token_timeout",upstream="slow"}'] > 0
    assert metrics["flow_withheld_bytes"] == 0


async def test_nothing_reaches_the_client_before_the_first_content(lab: Lab, tmp_path: Path) -> None:
    shown = asyncio.Event()

    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED_HEAD + chunk(ROLE))
        await shown.wait()
        await caller.send(chunk(EVENT))
        await caller.send(chunk(DONE) + LAST_CHUNK)

    relay = await between(lab, tmp_path, {"only": script}, 'first_token_timeout = "1m"', heartbeat="50ms")
    client = await lab.client(relay.port)
    await client.send(asking())
    assert await client.is_quiet(0.3)
    assert relay.relay.metrics.withheld.held == len(ROLE)
    shown.set()
    assert (await client.response()).body == ROLE + EVENT + DONE
    assert relay.relay.metrics.withheld.held == 0


async def test_the_last_provider_is_waited_for_and_its_client_hears_of_it(lab: Lab, tmp_path: Path) -> None:
    heard = asyncio.Event()

    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED_HEAD + chunk(ROLE))
        await heard.wait()
        await caller.send(chunk(EVENT) + LAST_CHUNK)

    relay = await between(lab, tmp_path, {"only": script}, heartbeat="50ms")
    client = await lab.client(relay.port)
    await client.send(asking())
    assert (await client.head()).status == 200
    assert await client.chunk() == ROLE
    assert (await client.chunk()).startswith(b": ping\n")
    heard.set()
    [line] = await relay.access()
    assert (line["attempts"], line["end"]) == (1, "complete")
    assert (await relay.metrics())['flow_first_token_timeouts_total{upstream="only"}'] == 0


async def test_an_error_ends_the_wait(lab: Lab, tmp_path: Path) -> None:
    async def refuses(caller: Caller) -> None:
        await caller.request()
        await caller.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 20\r\n\r\n")
        await asyncio.sleep(0.5)
        await caller.send(b"x" * 20)

    relay = await between(lab, tmp_path, {"one": refuses, "two": whole})
    client = await lab.client(relay.port)
    await client.send(asking())
    answer = await client.response()
    assert (answer.status, len(answer.body)) == (404, 20)


async def test_a_provider_that_breaks_off_before_its_content_leads_to_the_next_one(lab: Lab, tmp_path: Path) -> None:
    async def breaks(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED_HEAD + chunk(ROLE))
        caller.reset()

    relay = await between(lab, tmp_path, {"one": breaks, "two": whole})
    client = await lab.client(relay.port)
    await client.send(asking())
    assert (await client.response()).body == WHOLE


async def test_whole_answers_and_unknown_formats_pass_with_their_first_byte(lab: Lab, tmp_path: Path) -> None:
    stuck = Stuck(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\n")

    async def two_parts(caller: Caller) -> None:
        while True:
            await caller.request()
            await caller.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
            await asyncio.sleep(0.5)
            await caller.send(b"cde")

    relay = await between(lab, tmp_path, {"one": stuck, "two": two_parts})
    client = await lab.client(relay.port)
    await client.send(request("GET", "/v1/models"))
    assert (await client.response()).body == b"abcde"
    assert stuck.cancelled.is_set()


async def test_an_answer_without_a_body_passes(lab: Lab, tmp_path: Path) -> None:
    async def empty(caller: Caller) -> None:
        while True:
            await caller.request()
            await caller.send(response(b""))

    relay = await between(lab, tmp_path, {"one": empty, "two": whole}, 'first_token_timeout = "1m"')
    client = await lab.client(relay.port)
    for _ in range(2):
        await client.send(request("GET", "/v1/models"))
        assert (await client.response()).status == 200


async def test_more_than_the_bound_is_not_withheld(lab: Lab, tmp_path: Path) -> None:
    size = 400_000

    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED_HEAD + chunk(b": " + b"x" * size + b"\n\n"))
        await asyncio.sleep(1)

    relay = await between(lab, tmp_path, {"one": script, "two": whole}, 'first_token_timeout = "1m"')
    client = await lab.client(relay.port)
    await client.send(asking())
    await client.head()
    got = b""
    while len(got) < size:
        got += await client.chunk()
    assert relay.relay.metrics.withheld.held == 0


@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_a_client_that_leaves_meanwhile_cancels_the_provider(lab: Lab, tmp_path: Path, leave: str) -> None:
    stuck = Stuck(CHUNKED_HEAD + chunk(ROLE))
    relay = await between(lab, tmp_path, {"slow": stuck, "fast": whole}, 'first_token_timeout = "1m"')
    client = await lab.client(relay.port)
    await client.send(asking())
    await eventually(lambda: relay.relay.metrics.withheld.held)
    getattr(client, leave)()
    await asyncio.wait_for(stuck.cancelled.wait(), 5)
    assert await relay.ended() == "client_gone"
    assert relay.relay.metrics.withheld.held == 0


@pytest.mark.parametrize("fast_path", ["on", "off"])
async def test_a_whole_stream_is_the_same_bytes(lab: Lab, tmp_path: Path, fast_path: str) -> None:
    simulator = await lab.simulator()
    tables = {"one": simulator.url, "two": simulator.url}
    relay = await lab.relay(None, config=toml(tmp_path, tables, routes("one", "two")), fast_path=fast_path)
    client = await lab.client(relay.port)
    await client.send(chat(events=200, rate=400))
    assert numbers((await client.response()).body) == list(range(200))
    [line] = await relay.access()
    assert line["attempts"] == 1
    if fast_path == "on":
        assert (await relay.metrics())["flow_fast_path_chunks_total"] > 100


def _role_only(server: H2Server, stream_id: int) -> None:
    server.head(stream_id, fields=[("content-type", "text/event-stream")])
    server.body(stream_id, ROLE)


def _whole(server: H2Server, stream_id: int) -> None:
    server.head(stream_id, fields=[("content-type", "text/event-stream")])
    server.body(stream_id, ROLE)
    server.body(stream_id, EVENT + DONE, end=True)


async def test_over_http_2_on_both_sides(lab: Lab, tmp_path: Path) -> None:
    slow, fast = H2Site(_role_only), H2Site(_whole)
    tables = {
        name: {"url": (await lab.provider(site.script)).url, "protocol": "h2"}
        for name, site in {"slow": slow, "fast": fast}.items()
    }
    relay = await lab.relay(None, config=toml(tmp_path, tables, routes("slow", "fast")))
    client = await h2_client(lab, relay.port)
    streams = [ask(client) for _ in range(3)]
    await client.until(lambda: all(client.peer.answers[stream].ended for stream in streams))
    assert [client.peer.answers[stream].body for stream in streams] == [ROLE + EVENT + DONE] * 3
    [server] = slow.servers
    await eventually(lambda: len(server.resets) == 3)
    assert set(server.resets.values()) == {8}  # CANCEL
    assert server.open == 0


# Hedges


SLOW = b'"slow"'
HEDGED = "hedge_share = 1.0\n"


class Moody:
    """A provider of HTTP/1.1 whose first token comes at once, or for requests that say so when `slow` is over; it sees
    the relay leave."""

    def __init__(self, slow: float = 30.0) -> None:
        self._slow = slow
        self.cancelled = 0
        self.begun = 0

    async def __call__(self, caller: Caller) -> None:
        while True:
            message = await caller.request()
            self.begun += 1
            await caller.send(CHUNKED_HEAD + chunk(ROLE))
            if SLOW in message.body:
                try:
                    await asyncio.wait_for(caller.receive(), self._slow)
                except TimeoutError:
                    pass
                else:
                    self.cancelled += 1
                    return
            await caller.send(chunk(EVENT) + chunk(DONE) + LAST_CHUNK)


def ask_for(pace: str) -> bytes:
    body = b'{"model": "m", "stream": true, "user": "%b", "messages": []}' % pace.encode()
    return request("POST", "/v1/chat/completions", ["Authorization: Bearer sk-known"], body=body)


async def learn(client: Wire) -> None:
    """So many answers that the provider's times are known, and some hedges saved up."""
    for _ in range(ENOUGH):
        await client.send(ask_for("usual"))
        assert (await client.response()).body == ROLE + EVENT + DONE


@pytest.mark.parametrize("tenants", [False, True])
async def test_a_late_first_token_is_overtaken_by_another_provider(lab: Lab, tmp_path: Path, tenants: bool) -> None:
    slow, fast = Moody(), Moody(slow=0.0)
    limits = tenant("sk-known", "tokens_per_minute = 1000000") if tenants else ""
    relay = await between(lab, tmp_path, {"slow": slow, "fast": fast}, HEDGED + limits)
    client = await lab.client(relay.port)
    await learn(client)
    await relay.access(ENOUGH)
    before = relay.lines("access")[0]
    await client.send(ask_for("slow"))
    assert (await client.response()).body == ROLE + EVENT + DONE
    await eventually(lambda: slow.cancelled == 1)
    line = (await relay.access(ENOUGH + 1))[-1]
    assert (line["upstream"], line["attempts"], line["end"]) == ("fast", 2, "complete")
    metrics = await relay.metrics()
    assert metrics['flow_hedges_won_total{upstream="fast"}'] >= 1
    assert metrics['flow_extra_input_tokens_total{reason="hedge",upstream="fast"}'] >= line["input_tokens"]
    assert line["input_tokens"] == before["input_tokens"]
    assert metrics["flow_withheld_bytes"] == 0


async def test_a_provider_alone_is_hedged_on_another_connection(lab: Lab, tmp_path: Path) -> None:
    begun = 0

    async def script(caller: Caller) -> None:
        nonlocal begun
        while True:
            message = await caller.request()
            begun += SLOW in message.body
            if SLOW in message.body and begun == 1:
                await caller.receive()
                return
            await caller.send(CHUNKED_HEAD + chunk(EVENT) + LAST_CHUNK)

    relay = await between(lab, tmp_path, {"only": script}, HEDGED)
    client = await lab.client(relay.port)
    for _ in range(ENOUGH):
        await client.send(ask_for("usual"))
        await client.response()
    await client.send(ask_for("slow"))
    assert (await client.response()).body == EVENT
    assert begun == 2


async def test_a_client_that_leaves_cancels_both(lab: Lab, tmp_path: Path) -> None:
    slow, too = Moody(), Moody()
    relay = await between(lab, tmp_path, {"slow": slow, "too": too}, HEDGED)
    client = await lab.client(relay.port)
    await learn(client)
    await client.send(ask_for("slow"))
    await eventually(lambda: too.begun and relay.relay.metrics.withheld.held == 2 * len(ROLE))
    client.close()
    await eventually(lambda: slow.cancelled == too.cancelled == 1)
    assert relay.relay.metrics.withheld.held == 0


async def test_a_relay_that_goes_down_ends_both(lab: Lab, tmp_path: Path) -> None:
    slow, too = Moody(), Moody()
    relay = await between(lab, tmp_path, {"slow": slow, "too": too}, HEDGED, drain_timeout="100ms")
    client = await lab.client(relay.port)
    await learn(client)
    await client.send(ask_for("slow"))
    await eventually(lambda: too.begun)
    await relay.relay.drain()
    assert (await client.response()).status == 503
    await eventually(lambda: slow.cancelled == too.cancelled == 1)


async def test_hedges_over_http_2_on_both_sides(lab: Lab, tmp_path: Path) -> None:
    stuck = False

    def slow(server: H2Server, stream_id: int) -> None:
        (_role_only if stuck else _whole)(server, stream_id)

    sites = {"slow": H2Site(slow), "fast": H2Site(_whole)}
    tables = {name: {"url": (await lab.provider(site.script)).url, "protocol": "h2"} for name, site in sites.items()}
    relay = await lab.relay(None, config=toml(tmp_path, tables, routes("slow", "fast", also=HEDGED)))
    client = await h2_client(lab, relay.port)
    for _ in range(ENOUGH):
        await client.answer(ask(client))
    stuck = True
    assert (await client.answer(ask(client))).body == ROLE + EVENT + DONE
    [server] = sites["slow"].servers
    await eventually(lambda: list(server.resets.values()) == [8])
    line = (await relay.access(ENOUGH + 1))[-1]
    assert line["upstream"] == "fast"


async def test_a_deadline_holds_in_each_worker(lab: Lab, tmp_path: Path) -> None:
    slow, fast = await lab.provider(Moody()), await lab.provider(Moody(slow=0.0))
    tables = {
        "slow": {"url": slow.url, "max_concurrent": 5, "queue": 5},
        "fast": {"url": fast.url, "max_concurrent": 5, "queue": 5},
    }
    config = toml(tmp_path, tables, routes("slow", "fast"))
    process = await lab.process(None, config=config, workers="2")
    clients = [await lab.client(process.port) for _ in range(4)]
    for client in clients:
        await client.send(ask_for("slow"))
    for client in clients:
        assert (await client.response()).body == ROLE + EVENT + DONE
    metrics = samples((await page(process.admin_port, "/metrics")).body.decode())
    assert metrics['flow_first_token_timeouts_total{upstream="slow"}'] == 4
    assert metrics['flow_upstream_open{upstream="slow"}'] == 0


async def test_a_reload_takes_another_deadline(lab: Lab, tmp_path: Path) -> None:
    stuck = Stuck()
    relay = await between(lab, tmp_path, {"slow": stuck, "fast": whole}, 'first_token_timeout = "1m"')
    tables = {host.name: f"http://{host.authority.decode()}" for host in relay.relay.metrics.upstreams}
    toml(tmp_path, tables, routes("slow", "fast"))
    assert relay.relay.reload()
    client = await lab.client(relay.port)
    await client.send(asking())
    assert (await client.response()).body == WHOLE


async def test_without_a_file_there_is_one_provider_to_wait_for(lab: Lab) -> None:
    provider = await lab.provider(Moody(slow=0.5))
    relay = await lab.relay(provider.url, first_token_timeout="100ms")
    client = await lab.client(relay.port)
    await client.send(ask_for("slow"))
    assert (await client.response()).body == ROLE + EVENT + DONE
    [line] = await relay.access()
    assert line["attempts"] == 1


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("hedge_share = 5", "routes[0].hedge_share: invalid value 5: expected a number from 0 to 1, such as 0.05"),
        (
            'first_token_timeout = "5m"',
            "flow.toml: first_token_timeout: 300 s never expires for 'a', whose first_byte_timeout is 300 s: lower",
        ),
        ("hedge_share = true", "routes[0].hedge_share: invalid value true: expected a number"),
        ('first_token_timeout = "soon"', "routes[0].first_token_timeout: invalid value 'soon': expected"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_place(tmp_path: Path, line: str, problem: str) -> None:
    config = load({"FLOW_CONFIG": toml(tmp_path, {"a": "http://127.0.0.1:1"}, routes("a", also=line))})
    with pytest.raises(ConfigError) as failed:
        load_topology(config, {})
    assert problem in str(failed.value)


def test_nor_are_deadlines_without_a_file_that_are_never_reached() -> None:
    config = load({"FLOW_UPSTREAM": "http://127.0.0.1:1", "FLOW_FIRST_TOKEN_TIMEOUT": "10m"})
    with pytest.raises(ConfigError) as failed:
        load_topology(config, {})
    assert "FLOW_FIRST_TOKEN_TIMEOUT: 600 s never expires for" in str(failed.value)
