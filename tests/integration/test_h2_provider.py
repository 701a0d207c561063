"""HTTP/2 towards the provider: many streams on one connection, each with a window of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import h2_frames as frames
from tests.support.h2_lab import ask, h2_client
from tests.support.h2_peer import H2Answer, H2Peer
from tests.support.h2_provider import H2Server, H2Site, ok, silent
from tests.support.h2_wire import H2Wire
from tests.support.lab import Lab, RunningRelay, eventually, numbers
from tests.support.topology import toml
from tests.support.wire import End, request

KB = 1024
WINDOW = 64 * KB


async def _relay(lab: Lab, folder: Path, site: H2Site, **settings: object) -> RunningRelay:
    provider = await lab.provider(site.script)
    table = {"url": provider.url, "protocol": "h2"} | {
        key: settings.pop(key) for key in ("max_connections", "max_concurrent") if key in settings
    }
    return await lab.relay(None, config=toml(folder, {"only": table}), **settings)


@pytest.mark.serial
async def test_twenty_stalled_streams_among_five_hundred_stop_themselves_only(lab: Lab, tmp_path: Path) -> None:
    site = H2Site(silent)
    relay = await _relay(lab, tmp_path, site, h2_max_streams=300)
    clients = [await _asking(lab, relay, live=240, stalled=10) for _ in range(2)]
    await eventually(lambda: site.servers and len(site.servers[0].whole) == 500)
    [server] = site.servers
    stalled = {n for n, fields in server.requests.items() if (":path", "/stalled") in fields}
    assert len(stalled) == 20
    for stream_id in server.requests:
        server.head(stream_id)
    for stream_id in stalled:
        server.body(stream_id, b"s" * (1 << 20))
    await server.flush()

    def live_bytes() -> int:
        return min(
            len(client.peer.answers[n].body) for client in clients for n in client.peer.requested - client.peer.stalled
        )

    readings = [asyncio.ensure_future(client.until(lambda: False, within=60)) for client in clients]
    slowest = 0.0
    loop = asyncio.get_running_loop()
    for number in range(20):
        for stream_id in server.requests:
            if stream_id not in stalled:
                server.body(stream_id, b"d" * 250, end=number == 19)
        since = loop.time()
        await server.flush()
        await eventually(lambda number=number: live_bytes() == 250 * (number + 1))  # type: ignore[misc]
        slowest = max(slowest, loop.time() - since)
    await eventually(lambda: server.open == 20, "the live ones have ended")
    await eventually(lambda: len(relay.relay.metrics.open) == 20)
    await asyncio.sleep(0.3)
    exchanges = relay.exchanges
    read = [len(client.peer.answers[n].body) for client in clients for n in client.peer.stalled]
    assert read == [WINDOW] * 20
    overread = [exchange.bytes_down - WINDOW for exchange in exchanges]
    assert max(overread) <= WINDOW + 64 * KB
    assert all(exchange.state() == "paused" for exchange in exchanges)
    assert sum(exchange.held for exchange in exchanges) <= 20 * (WINDOW + 16 * KB)
    assert slowest < 2.0  # for 480 events; no window shut them out
    for reading in readings:
        reading.cancel()
    await asyncio.wait(readings)
    for client in clients:
        for stream_id in list(client.peer.stalled):
            client.peer.release(stream_id)
        server.ending |= stalled
        readings = [asyncio.ensure_future(_pump(server))]
        answers = [client.peer.answers[n] for n in client.peer.requested]
        await client.until(lambda a=answers: all(len(x.body) in (5000, 1 << 20) for x in a), within=30)  # type: ignore[misc]
        readings[0].cancel()
    assert relay.relay.metrics.pools[0].connects == 1


async def _asking(lab: Lab, relay: RunningRelay, *, live: int, stalled: int) -> H2Wire:
    """A client with so many requests, of which those for /stalled are not read."""
    client = await h2_client(lab, relay.port, peer=H2Peer(window=WINDOW))
    every = (live + stalled) // stalled
    for number in range(live + stalled):
        is_stalled = number % every == 0
        stream_id = client.peer.request(path="/stalled" if is_stalled else "/live")
        if is_stalled:
            client.peer.stalled.add(stream_id)
    await client.flush()
    return client


async def _pump(server: H2Server) -> None:
    while True:
        await server.flush()
        await asyncio.sleep(0.01)


async def test_the_providers_limit_of_streams_is_obeyed_also_when_it_is_lowered(lab: Lab, tmp_path: Path) -> None:
    site = H2Site(silent, max_concurrent_streams=10)
    relay = await _relay(lab, tmp_path, site, max_connections=1)
    first = await lab.client(relay.port)
    await first.send(request())  # the limit is known from now on
    await eventually(lambda: site.open == 1)
    clients = [await lab.client(relay.port) for _ in range(29)]
    for client in clients:
        await client.send(request())
    await eventually(lambda: site.open == 10)
    [server] = site.servers
    server.limit(4)
    await server.flush()
    await asyncio.sleep(0.1)
    for stream_id in sorted(server.whole)[:7]:
        server.answer(stream_id)
    await server.flush()
    await asyncio.sleep(0.1)
    assert server.open == 4
    assert len(server.requests) == 11
    answered = 7
    while answered < 30:
        await eventually(lambda answered=answered: len(server.whole) > answered)  # type: ignore[misc]
        server.answer(sorted(server.whole)[answered])
        answered += 1
        await server.flush()
        assert server.open <= 4
    for client in (first, *clients):
        assert (await client.response()).body == b"ok"
    assert server.most == 10
    assert len(site.servers) == 1


async def test_a_burst_before_the_limit_is_known_loses_nothing(lab: Lab, tmp_path: Path) -> None:
    """A provider may end a connection with too many streams on it, and all of them."""
    site = H2Site(ok, max_concurrent_streams=100)
    relay = await _relay(lab, tmp_path, site, max_connections=2)
    clients = [await lab.client(relay.port) for _ in range(300)]
    for client in clients:
        await client.send(request())
    for client in clients:
        assert (await client.response()).body == b"ok"


async def test_a_provider_that_refuses_a_burst_gets_it_again(lab: Lab, tmp_path: Path) -> None:
    def late(server: H2Server, stream_id: int) -> None:
        if stream_id <= 100:
            server.reset(stream_id, frames.REFUSED_STREAM)
        else:
            server.answer(stream_id)

    relay = await _relay(lab, tmp_path, H2Site(late))
    clients = [await lab.client(relay.port) for _ in range(60)]
    for client in clients:
        await client.send(request())
    for client in clients:
        assert (await client.response()).body == b"ok"
    assert sum(line["attempts"] for line in await relay.access(60)) == 110
    assert relay.relay.metrics.upstreams[0].health.opened == 0


async def test_goaway_lets_old_streams_finish_and_sends_new_and_refused_ones_elsewhere(
    lab: Lab, tmp_path: Path
) -> None:
    site = H2Site(silent)
    relay = await _relay(lab, tmp_path, site)
    clients = [await lab.client(relay.port) for _ in range(6)]
    for number, client in enumerate(clients[:5]):
        await client.send(request())
        await eventually(lambda number=number: site.open == number + 1)  # type: ignore[misc]
    first = site.servers[0]
    site.on_request = ok
    first.goaway(last=5)
    await first.flush()
    for client in clients[3:5]:
        assert (await client.response()).body == b"ok"  # over another connection
    await clients[5].send(request())
    assert (await clients[5].response()).body == b"ok"
    for stream_id in (1, 3, 5):
        first.answer(stream_id, b"old")
    await first.flush()
    for client in clients[:3]:
        assert (await client.response()).body == b"old"
    assert len(first.requests) == 5
    assert len(site.servers) == 2
    await eventually(lambda: relay.relay.metrics.pools[0].open_connections == 1)
    attempts = sorted(line["attempts"] for line in await relay.access(6))
    assert attempts == [1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("began", [False, True], ids=["before the head", "in the middle"])
async def test_a_reset_stream_breaks_its_own_exchange_only(lab: Lab, tmp_path: Path, began: bool) -> None:
    site = H2Site(silent)
    relay = await _relay(lab, tmp_path, site)
    broken, other = await lab.client(relay.port), await lab.client(relay.port)
    for client in (broken, other):
        await client.send(request())
    await eventually(lambda: site.open == 2)
    [server] = site.servers
    for stream_id in (1, 3):
        if began or stream_id == 3:
            server.head(stream_id)
            server.body(stream_id, b"begun")
    await server.flush()
    if began:
        await broken.until(b"begun")
    server.reset(1, frames.INTERNAL_ERROR)
    server.body(3, b" and whole", end=True)
    await server.flush()
    if began:
        assert await broken.rest() == (b"\r\n", End.CLOSED)
    else:
        assert (await broken.response()).status == 502
    assert (await other.response()).body == b"begun and whole"
    assert len(site.servers) == 1


async def test_a_refused_stream_goes_again(lab: Lab, tmp_path: Path) -> None:
    def once(server: H2Server, stream_id: int) -> None:
        if stream_id == 1:
            server.reset(stream_id, frames.REFUSED_STREAM)
        else:
            server.answer(stream_id, server.bodies[stream_id])

    relay = await _relay(lab, tmp_path, H2Site(once))
    client = await lab.client(relay.port)
    await client.send(request("POST", body=b"once more"))
    assert (await client.response()).body == b"once more"


async def test_each_client_that_leaves_resets_its_stream(lab: Lab, tmp_path: Path) -> None:
    site = H2Site(silent, max_concurrent_streams=5)
    relay = await _relay(lab, tmp_path, site, max_connections=1)
    for round_number in range(6):
        clients = [await lab.client(relay.port) for _ in range(5)]
        for client in clients:
            await client.send(request())
        await eventually(lambda: site.open == 5, f"{round_number} {len(site.servers)} {relay.output!r}")
        [server] = site.servers
        for stream_id in sorted(server.requests)[-5:-2]:
            server.head(stream_id)
        await server.flush()
        for client in clients:
            client.close()
        await eventually(lambda n=round_number, server=server: len(server.resets) == 5 * (n + 1))  # type: ignore[misc]
        assert server.open == 0
    assert set(server.resets.values()) == {frames.CANCEL}
    assert relay.relay.metrics.pools[0].open_connections == 1


async def test_a_provider_that_answers_no_ping_is_given_up(lab: Lab, tmp_path: Path) -> None:
    async def deaf(caller: object) -> None:
        await asyncio.sleep(0)

    provider = await lab.provider(deaf)
    config = toml(tmp_path, {"only": {"url": provider.url, "protocol": "h2"}})
    relay = await lab.relay(None, config=config, upstream_ping_interval="200ms", keepalive_timeout="200ms")
    client = await lab.client(relay.port)
    await client.send(request())
    assert (await client.response()).status == 502
    assert await relay.ended() == "upstream_failed"


# --- floods ---

PROVIDER_FLOODS = {
    "settings": lambda n: frames.settings() * 5000,
    "pings": lambda n: frames.ping() * 4000,
    "resets": lambda n: frames.rst_stream(n) * 5000,
    "window-updates": lambda n: frames.window_update(0, 1) * 5000,
    "priority": lambda n: frames.priority(n) * 5000,
    "unknown": lambda n: frames.frame(0x42, 0, n) * 7000,
    "empty-data": lambda n: frames.headers(n, [(":status", "200")], end=False) + frames.data(n) * 7000,
    "goaways": lambda n: frames.goaway(2**31 - 1) * 4000,
}


@pytest.mark.parametrize("flood", PROVIDER_FLOODS.values(), ids=PROVIDER_FLOODS.keys())
async def test_a_provider_that_floods_is_given_up_and_others_lose_nothing(
    lab: Lab, tmp_path: Path, flood: Callable[[int], bytes]
) -> None:
    def on_request(server: H2Server, stream_id: int) -> None:
        server.raw(flood(stream_id) * 10)

    site = H2Site(on_request)
    hostile = await lab.provider(site.script)
    simulator = await lab.simulator()
    config = toml(
        tmp_path,
        {"good": {"url": simulator.url}, "bad": {"url": hostile.url, "protocol": "h2"}},
        '[[routes]]\npath = "/bad*"\nupstreams = ["bad"]\n[[routes]]\npath = "*"\nupstreams = ["good"]\n',
    )
    relay = await lab.relay(None, config=config)
    client = await h2_client(lab, relay.port)
    honest = ask(client, events=100, rate=200, id="honest")
    await client.until(lambda: client.peer.answers[honest].body)
    bad = [client.peer.request("POST", "/bad", body=b"{}") for _ in range(3)]
    await client.until(lambda: client.peer.answers[honest].whole, within=30)
    assert numbers(client.peer.answers[honest].body) == list(range(100))
    await client.until(lambda: all(_is_over(client.peer.answers[n]) for n in bad))
    metrics = await relay.metrics()
    assert metrics['flow_upstream_failures_total{reason="upstream_failed",upstream="bad"}'] >= 1
    assert client.peer.goaways == []
    client.close()
    await eventually(lambda: not relay.relay.metrics.open)


def _is_over(answer: H2Answer) -> bool:
    return answer.status == 502 or answer.reset is not None
