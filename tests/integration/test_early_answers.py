"""An answer that comes before its upload is over arrives, though the client sends everything before it reads."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.h2_lab import Certificates
from tests.support.lab import Lab, RunningRelay, eventually
from tests.support.provider import Caller, ok
from tests.support.topology import tenant, toml
from tests.support.wire import LAST_CHUNK, Wire, chunk, request, response

PIECES, PIECE, PACE = 32, 256 * 1024, 0.1
"""An upload of 8 MB takes a few seconds."""


def _pieces() -> Iterator[bytes]:
    for _ in range(PIECES):
        yield b"x" * PIECE
        time.sleep(PACE)


async def _refuses(caller: Caller) -> None:
    """A provider that does not like the key, and reads the rest as it should."""
    await caller.head()
    await caller.send(response(b"no key", status="401 Unauthorized", headers=["Connection: close"]))
    await caller.rest()


async def _relays(lab: Lab, folder: Path, **settings: object) -> list[RunningRelay]:
    """Each refuses an upload in its own way: the key, the size, and what the provider says."""
    provider, refusing = await lab.provider(ok), await lab.provider(_refuses)
    return [
        await lab.relay(None, config=toml(folder, {"api": provider.url}, tenant("sk-known")), **settings),
        await lab.relay(provider.url, max_body="1m", **settings),
        await lab.relay(refusing.url, **settings),
    ]


STATUSES = [401, 413, 401]


def _h1(connection: http.client.HTTPConnection, *, chunked: bool) -> int:
    headers = {"Authorization": "Bearer sk-unknown"}
    if not chunked:
        headers["Content-Length"] = str(PIECES * PIECE)
    connection.request("POST", "/v1/files", body=_pieces(), headers=headers, encode_chunked=chunked)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_http_1(lab: Lab, tmp_path: Path, chunked: bool) -> None:
    relays = await _relays(lab, tmp_path)
    uploads = (
        asyncio.to_thread(_h1, http.client.HTTPConnection("127.0.0.1", relay.port, timeout=30), chunked=chunked)
        for relay in relays
    )
    assert await asyncio.gather(*uploads) == STATUSES


async def test_http_1_over_tls(lab: Lab, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    relays = await _relays(lab, tmp_path, **certificates.settings)
    context = certificates.client("http/1.1")
    uploads = (
        asyncio.to_thread(
            _h1, http.client.HTTPSConnection("localhost", relay.port, timeout=30, context=context), chunked=False
        )
        for relay in relays
    )
    assert await asyncio.gather(*uploads) == STATUSES


async def test_http_2(lab: Lab, tmp_path: Path) -> None:
    """And the connection goes on."""
    relays = await _relays(lab, tmp_path)

    def upload(relay: RunningRelay) -> tuple[int, int]:
        with httpx.Client(http1=False, http2=True, base_url=relay.url, timeout=30) as client:
            headers = {"Authorization": "Bearer sk-unknown", "Content-Length": str(PIECES * PIECE)}
            first = client.post("/v1/files", content=_pieces(), headers=headers)
            return first.status_code, client.get("/v1/models", headers=headers | {"Content-Length": "0"}).status_code

    answers = await asyncio.gather(*(asyncio.to_thread(upload, relay) for relay in relays))
    assert answers == [(401, 401), (413, 200), (401, 401)]
    for relay in relays:
        await eventually(lambda r=relay: not r.relay.connections)  # type: ignore[misc]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_on_the_second_request_of_a_connection(lab: Lab, version: str) -> None:
    _, relay, client = await lab.between(ok, max_body="1m")
    await client.send(request())
    assert (await client.response()).body == b"ok"
    await client.send(request("POST", headers=["Content-Length: 2000000"], version=version))
    for _ in range(PIECES // 2):
        await client.send(b"x" * 60_000)
        await asyncio.sleep(PACE)
    answer = await client.response()
    assert (answer.status, answer.get("connection")) == (413, "close")
    assert {line["end"] for line in await relay.access(2)} == {"complete", "client_error"}


async def test_what_is_sent_behind_the_upload_is_no_request(lab: Lab) -> None:
    provider, relay, client = await lab.between(ok, max_body=1000)
    await client.send(request("POST", headers=["Transfer-Encoding: chunked"]) + chunk(b"x" * 2000))
    await client.send(LAST_CHUNK + request(target="/v1/smuggled"))
    assert (await client.response()).status == 413
    client.half_close()
    assert (await client.rest())[0] == b""
    await eventually(lambda: not relay.relay.connections)
    assert all("smuggled" not in message.start for message in provider.requests)


async def test_a_client_that_never_closes_is_closed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowserver.downstream.linger.LINGER_SILENCE", 0.2)
    _, relay, _ = await lab.between(ok, max_body=1000)
    client = await Wire.connect(relay.port)
    await client.send(request("POST", headers=["Content-Length: 200000"]))
    assert (await client.response()).status == 413
    await eventually(lambda: not relay.relay.connections)
    client.close()
