"""Clients of HTTP/1.1 and HTTP/2, plain and over TLS, before providers by others of each kind: in every cell the same
bytes, backpressure that reaches the provider, and a cancellation that it sees."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import orjson
import pytest

from flowserver.simulator import Simulator
from flowserver.simulator.records import StreamRecord
from tests.support.foreign import served
from tests.support.h2_lab import Certificates, h2_client
from tests.support.h2_peer import H2Peer
from tests.support.h2_wire import secure
from tests.support.lab import Lab, RunningRelay, eventually, numbers, simulate
from tests.support.peers import nginx
from tests.support.topology import toml
from tests.support.wire import Wire, request

KB = 1024
EVENTS = 3000
PAYLOAD = random.Random(7).randbytes(50_000)
CELLS = [
    (name, protocol, tls, client)
    for name in ("hypercorn", "node", "go", "nginx")
    for protocol in ("h1", "h2")
    for tls in (False, True)
    for client in ("h1", "h1 over TLS", "h2", "h2 over TLS")
]
RELAYS_SHARE = 65_535 + 64 * KB + 64 * KB
"""Bytes that a stalled client may pull: what it reads, and what the relay and the provider's stream window hold."""
KERNELS = 4 << 20
"""What the provider's kernel may take beyond that, and the buffers of its own."""


def _largest(buffer: str) -> int:
    """Bytes to which the kernel itself lets a TCP buffer grow (`tcp_rmem` or `tcp_wmem`, tcp(7))."""
    return int(Path(f"/proc/sys/net/ipv4/{buffer}").read_text().split()[2])


ROOM = {("go", "h2"): 64 * KB, ("nginx", "h1"): KERNELS + _largest("tcp_rmem") + _largest("tcp_wmem")}
"""The same where it is another: a window stops Go before it writes; nginx adds two buffers of its kernel, which grow
as fast as it reads."""


class _Ask(NamedTuple):
    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None


class _Client:
    """One of either protocol."""

    def __init__(self, lab: Lab, relay: RunningRelay, kind: str, certificates: Certificates) -> None:
        self._lab, self._relay, self._kind, self._certificates = lab, relay, kind, certificates

    async def whole(self, ask: _Ask) -> bytes:
        if self._kind.startswith("h1"):
            wire = await self._wire()
            await wire.send(_raw(ask))
            answer = await wire.response()
            wire.close()
            assert answer.status == 200, (answer, self._relay.output)
            return answer.body
        client = await h2_client(self._lab, self._relay.port, tls=self._tls)
        got = await client.answer(client.peer.request(ask.method, ask.path, ask.headers, body=ask.body))
        assert (got.whole, got.status) == (True, 200), (got, self._relay.output)
        client.close()
        return got.body

    async def stalled(self, ask: _Ask) -> Wire:
        """Asks, reads a little, and no more."""
        if self._kind.startswith("h1"):
            wire = await self._wire(receive_buffer=16 * KB)
            await wire.send(_raw(ask))
            await wire.until(b"tok000003")
            return wire
        client = await h2_client(self._lab, self._relay.port, tls=self._tls, peer=H2Peer(window=65_535))
        stream_id = client.peer.request(ask.method, ask.path, ask.headers, body=ask.body)
        client.peer.stalled.add(stream_id)
        await client.until(lambda: len(client.peer.answers[stream_id].body) == 65_535)
        return client.wire

    async def _wire(self, *, receive_buffer: int | None = None) -> Wire:
        wire = await self._lab.client(self._relay.port, receive_buffer=receive_buffer)
        return wire if self._tls is None else await secure(wire, self._tls)

    @property
    def _tls(self) -> ssl.SSLContext | None:
        if "TLS" not in self._kind:
            return None
        return self._certificates.client("h2" if self._kind.startswith("h2") else "http/1.1")


def _raw(ask: _Ask) -> bytes:
    return request(ask.method, ask.path, [f"{name}: {value}" for name, value in ask.headers], body=ask.body)


class _Site(Protocol):
    """A provider as a cell sees it."""

    url: str
    echo: str

    def stream(self, events: int = 0) -> _Ask:
        """So many events, or an endless stream."""

    async def written(self, client: _Client) -> int:
        """Bytes that it got rid of, of streams."""

    async def cancelled(self, client: _Client) -> int:
        """Streams whose client's leaving it saw."""


class _Served:
    """One of `foreign`'s, which keeps its own counts."""

    echo = "/echo"

    def __init__(self, url: str) -> None:
        self.url = url

    def stream(self, events: int = 0) -> _Ask:
        return _Ask("GET", f"/stream?{events}")

    async def written(self, client: _Client) -> int:
        return (await self._counts(client))["written"]

    async def cancelled(self, client: _Client) -> int:
        return (await self._counts(client))["cancelled"]

    async def _counts(self, client: _Client) -> dict[str, int]:
        found: dict[str, int] = orjson.loads(await client.whole(_Ask("GET", "/count")))
        return found


class _Fronted:
    """The simulator behind nginx, which keeps the counts."""

    echo = "/v1/echo"

    def __init__(self, url: str, simulator: Simulator) -> None:
        self.url = url
        self._simulator = simulator

    def stream(self, events: int = 0) -> _Ask:
        name, _, value = simulate(events=events).partition(": ")
        headers = (("content-type", "application/json"), (name, value))
        return _Ask("POST", "/v1/chat/completions", headers, b'{"stream": true}')

    async def written(self, client: _Client) -> int:
        return sum(record.bytes_accepted for record in self._streams())

    async def cancelled(self, client: _Client) -> int:
        return sum(record.state == "cancelled" for record in self._streams())

    def _streams(self) -> Iterator[StreamRecord]:
        return (record for record in self._simulator.records if record.head.path == "/v1/chat/completions")


@contextlib.asynccontextmanager
async def _site(
    lab: Lab, name: str, protocol: str, folder: Path, certificates: Certificates | None
) -> AsyncIterator[_Site]:
    if name == "nginx":
        simulator = await lab.simulator()
        async with nginx(folder, simulator.url, protocol=protocol, certificates=certificates) as url:
            yield _Fronted(url, simulator)
    else:
        async with served(name, protocol, folder, certificates) as running:
            yield _Served(running.url)


async def _standstill(count: Callable[[], Awaitable[int]], most: int) -> None:
    """Wait until `count` changes no more; it may not exceed `most`."""
    before, after = -1, 0
    while before != after:
        before = after
        await asyncio.sleep(0.3)
        after = await count()
        assert after <= most


@pytest.mark.parametrize(
    ("name", "protocol", "tls", "kind"),
    CELLS,
    ids=[f"{kind} to {name} {protocol}{' over TLS' if tls else ''}" for name, protocol, tls, kind in CELLS],
)
async def test_cell(lab: Lab, tmp_path: Path, name: str, protocol: str, tls: bool, kind: str) -> None:
    certificates = Certificates(tmp_path)
    async with _site(lab, name, protocol, tmp_path, certificates if tls else None) as site:
        config = toml(tmp_path, {"only": {"url": site.url, "protocol": protocol, "ca": certificates.authority}})
        settings = certificates.settings if "TLS" in kind else {}
        relay = await lab.relay(None, config=config, **settings)
        client = _Client(lab, relay, kind, certificates)

        body = await client.whole(site.stream(EVENTS))
        assert numbers(body) == list(range(EVENTS))
        assert body.endswith(b"data: [DONE]\n\n")
        echoed = await client.whole(_Ask("POST", site.echo, body=PAYLOAD))
        assert hashlib.sha256(echoed).digest() == hashlib.sha256(PAYLOAD).digest()

        await _stalls_and_leaves(relay, client, site, ROOM.get((name, protocol), KERNELS), (name, protocol))
        await relay.close()


async def _stalls_and_leaves(
    relay: RunningRelay, client: _Client, site: _Site, room: int, provider: tuple[str, str]
) -> None:
    async def pulled() -> int:
        return exchange.bytes_down

    async def written() -> int:
        return await site.written(client) - base

    base = await site.written(client)
    ask = site.stream()
    wire = await client.stalled(ask)
    [exchange] = [e for e in relay.exchanges if e.request.path == ask.path.partition("?")[0].encode()]
    await _standstill(pulled, RELAYS_SHARE)
    assert exchange.state() == "paused"
    await client.whole(_Ask("POST", site.echo, body=PAYLOAD))
    # Only over HTTP/2 do two requests share a connection.
    assert relay.relay.metrics.pools[0].open_connections == (1 if provider[1] == "h2" else 2)
    if provider != ("hypercorn", "h2"):  # which takes from its application what its window shuts out
        await _standstill(written, RELAYS_SHARE + room)

    wire.close()
    await eventually(lambda: not relay.relay.metrics.open)
    for _ in range(100):
        if await site.cancelled(client) == 1:
            break
        await asyncio.sleep(0.05)
    assert await site.cancelled(client) == 1
    await eventually(lambda: not relay.relay.connections)
