"""Clients of HTTP/1.1 and HTTP/2, plain and over TLS, before providers by others of each kind: in every cell the same
bytes, backpressure that reaches the provider, and a cancellation that it sees."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from tests.support.foreign import hypercorn, node
from tests.support.h2_lab import Certificates, h2_client
from tests.support.h2_peer import H2Peer
from tests.support.lab import Lab, RunningRelay, eventually, numbers
from tests.support.topology import toml
from tests.support.wire import Wire, request

KB = 1024
EVENTS = 3000
PAYLOAD = random.Random(7).randbytes(50_000)
CELLS = [
    (name, protocol, tls, client)
    for name, protocol in (("hypercorn", "h1"), ("hypercorn", "h2"), ("node", "h1"), ("node", "h2"))
    for tls in (False, True)
    for client in ("h1", "h2", "h2 over TLS")
]


@contextlib.asynccontextmanager
async def _provider(name: str, protocol: str, folder: Path, certificates: Certificates | None) -> AsyncIterator[str]:
    started = hypercorn(folder, certificates) if name == "hypercorn" else node(folder, protocol, certificates)
    async with started as url:
        yield url


class _Client:
    """One of either protocol."""

    def __init__(self, lab: Lab, relay: RunningRelay, kind: str, certificates: Certificates) -> None:
        self._lab, self._relay, self._kind, self._certificates = lab, relay, kind, certificates

    async def whole(self, method: str, path: str, body: bytes | None = None) -> bytes:
        if self._kind == "h1":
            wire = await self._lab.client(self._relay.port)
            await wire.send(request(method, path, body=body))
            answer = (await wire.response()).body
            wire.close()
            return answer
        client = await h2_client(self._lab, self._relay.port, tls=self._tls)
        got = await client.answer(client.peer.request(method, path, body=body))
        assert got.whole
        client.close()
        return got.body

    async def stalled(self, path: str) -> Wire:
        """Asks, reads a little, and no more."""
        if self._kind == "h1":
            wire = await self._lab.client(self._relay.port, receive_buffer=16 * KB)
            await wire.send(request(target=path))
            await wire.until(b"tok000003")
            return wire
        client = await h2_client(self._lab, self._relay.port, tls=self._tls, peer=H2Peer(window=65_535))
        stream_id = client.peer.request(path=path)
        client.peer.stalled.add(stream_id)
        await client.until(lambda: len(client.peer.answers[stream_id].body) == 65_535)
        return client.wire

    @property
    def _tls(self):  # type: ignore[no-untyped-def]
        return self._certificates.client("h2") if "TLS" in self._kind else None


async def _counts(client: _Client) -> dict[str, int]:
    found: dict[str, int] = orjson.loads(await client.whole("GET", "/count"))
    return found


async def _standstill(relay: RunningRelay) -> int:
    """What the relay pulled for the stalled client when it pulls no more."""
    before, after = -1, 0
    while before != after:
        before = after
        await asyncio.sleep(0.3)
        [after] = [e.bytes_down for e in relay.relay.metrics.open if e.request.path == b"/stream"]
    return after


@pytest.mark.parametrize(
    ("name", "protocol", "tls", "kind"),
    CELLS,
    ids=[f"{kind} to {name} {protocol}{' over TLS' if tls else ''}" for name, protocol, tls, kind in CELLS],
)
async def test_cell(lab: Lab, tmp_path: Path, name: str, protocol: str, tls: bool, kind: str) -> None:
    certificates = Certificates(tmp_path)
    async with _provider(name, protocol, tmp_path, certificates if tls else None) as url:
        config = toml(tmp_path, {"only": {"url": url, "protocol": protocol, "ca": certificates.authority}})
        settings = certificates.settings if "TLS" in kind else {}
        relay = await lab.relay(None, config=config, **settings)
        client = _Client(lab, relay, kind, certificates)

        body = await client.whole("GET", f"/stream?{EVENTS}")
        assert numbers(body) == list(range(EVENTS))
        assert body.endswith(b"data: [DONE]\n\n")
        echoed = await client.whole("POST", "/echo", PAYLOAD)
        assert hashlib.sha256(echoed).digest() == hashlib.sha256(PAYLOAD).digest()

        base = (await _counts(client))["written"]
        wire = await client.stalled("/stream")
        assert await _standstill(relay) <= 65_535 + 64 * KB + 64 * KB
        [exchange] = [e for e in relay.relay.metrics.open if e.request.path == b"/stream"]
        assert exchange.state() == "paused"
        if (name, protocol) != ("hypercorn", "h2"):  # which takes from its application what its window shuts out
            written = (await _counts(client))["written"] - base
            assert written <= 4 << 20  # the provider's own buffers, and its kernel's, are in it

        wire.close()
        await eventually(lambda: not relay.relay.metrics.open)
        for _ in range(100):
            if (await _counts(client))["cancelled"] == 1:
                break
            await asyncio.sleep(0.05)
        assert (await _counts(client))["cancelled"] == 1
        await eventually(lambda: not relay.relay._clients.connections)
        await relay.close()
