"""Providers that die, hang, refuse, drip or lie: the documented answer each time, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from tests.support import h2_frames as frames
from tests.support.foreign import DRIP, served
from tests.support.h2_lab import Certificates
from tests.support.h2_provider import H2Server, H2Site
from tests.support.lab import Lab, Leftovers, RunningRelay, eventually
from tests.support.provider import Caller, Script, answering
from tests.support.topology import toml
from tests.support.wire import CHUNKED_HEAD, LAST_CHUNK, End, Wire, chunk, request, response


async def _hang(caller: Caller) -> None:
    await caller.request()


async def _hang_in_the_middle(caller: Caller) -> None:
    await caller.request()
    await caller.send(CHUNKED_HEAD + chunk(b"data: 1\n\n"))


async def _die(caller: Caller) -> None:
    await caller.request()
    caller.reset()


async def _die_in_the_middle(caller: Caller) -> None:
    await _hang_in_the_middle(caller)
    await asyncio.sleep(0.02)
    caller.reset()


async def _huge_head(caller: Caller) -> None:
    await caller.request()
    with contextlib.suppress(OSError):
        await caller.send(b"HTTP/1.1 200 OK\r\nX-Huge: " + b"x" * (1 << 20) + b"\r\n\r\n")


async def _garbage(caller: Caller) -> None:
    await caller.request()
    with contextlib.suppress(OSError):
        await caller.send(bytes(range(256)) * 100)


async def _early_garbage(caller: Caller) -> None:
    with contextlib.suppress(OSError):
        await caller.send(bytes(range(256)) * 200)
        await caller.rest()


async def _short(caller: Caller) -> None:
    await caller.request()
    await caller.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
    caller.half_close()


def _h2(action: str) -> Script:
    def on_request(server: H2Server, stream_id: int) -> None:
        if action == "middle":
            server.head(stream_id)
            server.body(stream_id, b"data: 1\n\n")
        elif action == "reset":
            server.reset(stream_id, frames.INTERNAL_ERROR)
        elif action == "huge":
            server.raw(frames.frame(frames.HEADERS, 0, stream_id, b"\x88"))
            for _ in range(64):
                server.raw(frames.frame(frames.CONTINUATION, 0, stream_id, b"\0\1x\x7f\x81\x7e" + b"x" * 16000))
        elif action == "garbage":
            server.raw(bytes(range(256)) * 100)
        elif action == "short":
            server.head(stream_id, fields=[("content-length", "100")])
            server.raw(frames.frame(frames.DATA, 1, stream_id, b"short"))
        elif action == "long":
            server.head(stream_id, fields=[("content-length", "2")])
            server.raw(frames.frame(frames.DATA, 1, stream_id, b"long"))

    return H2Site(on_request).script


BROKEN = "upstream_failed"
CASES: tuple[tuple[str, str, Script, int, str], ...] = (
    ("dies", "h1", _die, 502, BROKEN),
    ("dies in the middle", "h1", _die_in_the_middle, 200, BROKEN),
    ("hangs", "h1", _hang, 504, "first_byte_timeout"),
    ("hangs", "h2", _h2("hang"), 504, "first_byte_timeout"),
    ("hangs in the middle", "h1", _hang_in_the_middle, 200, "idle_timeout"),
    ("hangs in the middle", "h2", _h2("middle"), 200, "idle_timeout"),
    ("resets", "h2", _h2("reset"), 502, BROKEN),
    ("a head of 1 MB", "h1", _huge_head, 502, BROKEN),
    ("a head of 1 MB", "h2", _h2("huge"), 502, BROKEN),
    ("garbage", "h1", _garbage, 502, BROKEN),
    ("garbage", "h2", _h2("garbage"), 502, BROKEN),
    ("early garbage", "h1", _early_garbage, 502, ""),
    ("too short", "h1", _short, 200, BROKEN),
    ("too short", "h2", _h2("short"), 200, BROKEN),
    ("too long", "h2", _h2("long"), 200, BROKEN),
)


@pytest.mark.parametrize(
    ("protocol", "script", "status", "end"), [case[1:] for case in CASES], ids=[f"{c[1]} {c[0]}" for c in CASES]
)
async def test_the_client_gets_the_documented_answer_and_nothing_is_left(
    lab: Lab, tmp_path: Path, protocol: str, script: Script, status: int, end: str
) -> None:
    async def closing(caller: Caller) -> None:
        try:
            await script(caller)
            if caller.socket.fileno() >= 0:
                with contextlib.suppress(OSError):
                    await caller.rest()
        finally:
            caller.close()

    provider = await lab.provider(closing)
    config = toml(tmp_path, {"only": {"url": provider.url, "protocol": protocol, "max_concurrent": 20}})
    times = dict.fromkeys(("first_byte_timeout", "idle_timeout"), "200ms")
    relay = await lab.relay(None, config=config, breaker_failures=1000, **times)
    await asyncio.sleep(0)
    before = Leftovers()

    async def one() -> None:
        client = await Wire.connect(relay.port)
        await client.send(request())
        head = await client.head()
        assert head.status == status
        body, ending = await client.rest_of(head)
        assert ending == (status == 200)
        if status != 200:
            assert orjson.loads(body)["error"]["code"] in (end or "connect_failed", BROKEN)
        client.close()

    await asyncio.gather(*(one() for _ in range(10)))
    ends = {line["end"] for line in await relay.access(10)}
    assert ends == {end} if end else ends <= {BROKEN, "connect_failed"}
    await before.none(relay)


async def test_what_follows_the_announced_length_is_not_the_clients(lab: Lab) -> None:
    provider, _, client = await lab.between(answering(response(b"ok") + b"HTTP/1.1 200 OK\r\n\r\n"))
    for _ in range(3):
        await client.send(request())
        assert (await client.response()).body == b"ok"
    assert len(provider.callers) == 3


@pytest.mark.parametrize("protocol", ["h1", "h2"])
async def test_a_provider_that_drips_is_let_be(lab: Lab, tmp_path: Path, protocol: str) -> None:
    async def drip(caller: Caller) -> None:
        await caller.request()
        await caller.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        for _ in range(10):
            await asyncio.sleep(0.1)
            await caller.send(b"x")

    def drip_h2(server: H2Server, stream_id: int) -> None:
        async def go() -> None:
            server.head(stream_id)
            for number in range(10):
                await asyncio.sleep(0.1)
                server.body(stream_id, b"x", end=number == 9)
                await server.flush()

        drips.append(asyncio.ensure_future(go()))

    drips: list[asyncio.Future[None]] = []
    provider = await lab.provider(drip if protocol == "h1" else H2Site(drip_h2).script)
    config = toml(tmp_path, {"only": {"url": provider.url, "protocol": protocol}})
    relay = await lab.relay(None, config=config, idle_timeout="300ms")
    client = await lab.client(relay.port)
    await client.send(request())
    assert (await client.response()).body == b"x" * 10
    await asyncio.gather(*drips)


UNWELL = pytest.mark.parametrize("status", [429, 503])


@UNWELL
@pytest.mark.parametrize("after", [None, 30])
async def test_one_unwell_provider_speaks_for_itself(lab: Lab, status: int, after: int | None) -> None:
    headers = [f"Retry-After: {after}"] if after else []
    provider, _, client = await lab.between(answering(response(b"later", headers, status=f"{status} Later")))
    await client.send(request())
    answer = await client.response()
    assert (answer.status, answer.body) == (status, b"later")
    assert answer.get("retry-after") == (str(after) if after else None)
    assert len(provider.requests) == 1
    await client.send(request())
    assert (await client.response()).body == b"later"  # nobody else could serve, and its own word is worth more
    assert len(provider.requests) == 2


@UNWELL
@pytest.mark.parametrize("after", [None, 30])
async def test_an_unwell_providers_requests_go_to_the_next(
    lab: Lab, tmp_path: Path, status: int, after: int | None
) -> None:
    headers = [f"Retry-After: {after}"] if after else []
    first = await lab.provider(answering(response(b"later", headers, status=f"{status} Later")))
    second = await lab.provider(answering(lambda message: response(message.body)))
    relay = await lab.relay(None, config=toml(tmp_path, {"first": first.url, "second": second.url}))
    client = await lab.client(relay.port)
    for _ in range(2):
        await client.send(request("POST", body=b"the same"))
        answer = await client.response()
        assert (answer.status, answer.body) == (200, b"the same")
    assert len(first.requests) == (1 if after else 2)
    lines = await relay.access(2)
    assert [(line["upstream"], line["attempts"]) for line in lines] == [("second", 2), ("second", 1 if after else 2)]


async def test_a_short_wait_is_waited_for(lab: Lab) -> None:
    answers = [response(b"", ["retry-after-ms: 50"], status="429 Later"), response(b"now")]
    _, relay, client = await lab.between(answering(lambda message: answers.pop(0)))
    await client.send(request())
    assert (await client.response()).body == b"now"
    [line] = await relay.access()
    assert line["attempts"] == 2


async def test_a_connection_that_is_closed_at_the_moment_of_reuse_costs_no_request(lab: Lab) -> None:
    """The provider closes right after its answer, before, while or after the next request is on its way."""

    async def script(caller: Caller) -> None:
        message = await caller.request()
        await caller.send(response(message.start.encode()))
        for _ in range(int(message.get("x-turns") or 0)):
            await asyncio.sleep(0)
        caller.close()

    _, relay, client = await lab.between(script)
    for number in range(600):
        await client.send(request(target=f"/{number}", headers=[f"X-Turns: {number % 12}"]))
        answer = await client.response()
        assert (answer.status, answer.body) == (200, f"GET /{number} HTTP/1.1".encode()), (number, answer)
    assert relay.relay.metrics.upstreams[0].health.opened == 0


async def test_a_post_that_crossed_the_close_goes_again_and_none_is_asked_twice(lab: Lab) -> None:
    """The provider's FIN is sent before the request comes: nobody reads that."""

    async def script(caller: Caller) -> None:
        message = await caller.request()
        await caller.send(response(message.body))
        caller.half_close()
        caller.close()

    provider, _, client = await lab.between(script)
    for number in range(600):
        await client.send(request("POST", body=b"%d" % number))
        answer = await client.response()
        assert (answer.status, answer.body) == (200, b"%d" % number)
    assert len(provider.requests) == 600


# --- over TLS, by providers of others ---

PINGS = ("upstream_ping_interval", "keepalive_timeout")
"""The second one makes the looks at the first one frequent."""
OVER_TLS = pytest.mark.parametrize("protocol", ["h1", "h2"])
SERVERS = pytest.mark.parametrize("name", ["hypercorn", "go"])


@contextlib.asynccontextmanager
async def _over_tls(
    lab: Lab, name: str, folder: Path, protocol: str, **settings: object
) -> AsyncIterator[tuple[int, RunningRelay]]:
    """A provider's process and a relay before it."""
    certificates = Certificates(folder)
    async with served(name, protocol, folder, certificates) as provider:
        config = toml(folder, {"only": {"url": provider.url, "protocol": protocol, "ca": certificates.authority}})
        relay = await lab.relay(None, config=config, **settings)
        yield provider.pid, relay
        await relay.close()


async def _cancelled(client: Wire) -> int:
    await client.send(request(target="/count"))
    answer = await client.response()
    assert answer.status == 200, answer
    return int(orjson.loads(answer.body)["cancelled"])


HANGS = {"/hang": (504, "first_byte_timeout"), "/head": (200, "first_byte_timeout"), "/middle": (200, "idle_timeout")}


@pytest.mark.parametrize("path", HANGS)
@OVER_TLS
@SERVERS
async def test_a_provider_that_hangs_over_tls_is_given_up_and_told(
    lab: Lab, tmp_path: Path, name: str, protocol: str, path: str
) -> None:
    """Each deadline has a time of its own: the other one, which is off, can't be what ended it."""
    status, end = HANGS[path]
    async with _over_tls(lab, name, tmp_path, protocol, **_only(end)) as (_, relay):
        before = Leftovers()
        client = await lab.client(relay.port)
        assert await _cancelled(client) == 0
        await client.send(request(target=path))
        head = await client.head()
        assert head.status == status
        body, broken = await client.rest_of(head)
        assert broken == (status == 200)
        if status != 200:
            assert orjson.loads(body)["error"]["code"] == end
        other = await lab.client(relay.port)
        async with asyncio.timeout(10):
            while await _cancelled(other) != 1:  # each question is a round trip: it does not spin
                pass
        await eventually(lambda: [line["end"] for line in relay.lines("access") if line["path"] == path] == [end])
        client.close()
        other.close()
        await before.none(relay)


def _only(deadline: str) -> dict[str, str]:
    return {name: "300ms" if name == deadline else "off" for name in ("first_byte_timeout", "idle_timeout")}


@OVER_TLS
@SERVERS
async def test_a_provider_that_drips_over_tls_is_let_be(lab: Lab, tmp_path: Path, name: str, protocol: str) -> None:
    """Each byte comes in time, and all of them take longer than any deadline."""
    limit, count = DRIP * 10, 30
    times = dict.fromkeys(("first_byte_timeout", "idle_timeout"), f"{round(limit * 1000)}ms")
    async with _over_tls(lab, name, tmp_path, protocol, **times) as (_, relay):
        client = await lab.client(relay.port)
        await client.send(request(target=f"/drip?{count}"))
        assert (await client.response()).body == b"x" * count
        [line] = await relay.access()
        assert line["end"] == "complete"
        assert float(line["duration_ms"]) > limit * 1000
        client.close()
        await eventually(lambda: not relay.relay.connections)


@pytest.mark.parametrize("path", ["/hang", "/middle"])
@SERVERS
async def test_a_provider_that_freezes_over_tls_is_found_out_by_ping(
    lab: Lab, tmp_path: Path, name: str, path: str
) -> None:
    """Its kernel still acknowledges everything, and no deadline is near."""
    async with _over_tls(lab, name, tmp_path, "h2", **dict.fromkeys(PINGS, "200ms")) as (pid, relay):
        client = await lab.client(relay.port)
        await client.send(request(target=path))
        if path == "/middle":
            await client.until(b"tok000003")
        await eventually(lambda: relay.relay.metrics.pools[0].open_connections)
        os.kill(pid, signal.SIGSTOP)
        try:
            if path == "/hang":
                assert (await client.response()).status == 502
            else:
                body, end = await client.rest()
                assert (end, body.endswith(LAST_CHUNK)) == (End.CLOSED, False)
            assert await relay.ended() == "upstream_failed"
        finally:
            os.kill(pid, signal.SIGCONT)
        client.close()
        await eventually(lambda: not relay.relay.connections)
