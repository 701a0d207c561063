"""Providers behind TLS: trusted ones work like plain ones, the others are refused by name."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import trustme

from flowserver.app.relay import Relay
from flowserver.config.environment import load
from flowserver.config.errors import ConfigError
from flowserver.telemetry.log import Log
from tests.support.lab import Lab, chat, eventually, numbers
from tests.support.topology import toml
from tests.support.wire import CHUNKED_HEAD, LAST_CHUNK, End, chunk, request, response


@pytest.fixture
def trusted(authority: trustme.CA) -> Iterator[str]:
    with authority.cert_pem.tempfile() as path:
        yield path


def _context(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def _scripted(lab: Lab, context: ssl.SSLContext, answer: bytes, *, notify: bool) -> str:
    """A provider that sends `answer` to its first request and then hangs up, with or without TLS's own goodbye."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        await asyncio.sleep(0.1)
        if notify:
            writer.close()
        else:
            descriptor = os.dup(writer.transport.get_extra_info("socket").fileno())
            with socket.socket(fileno=descriptor) as behind:
                behind.shutdown(socket.SHUT_WR)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    lab.on_exit(server.close)
    return f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_streams_and_whole_answers_pass(lab: Lab, authority: trustme.CA, trusted: str) -> None:
    simulator = await lab.simulator(tls=_context(authority))
    relay = await lab.relay(simulator.url, upstream_ca=trusted)
    client = await lab.client(relay.port)
    for _ in range(3):
        await client.send(chat(events=40, rate=400))
        assert numbers((await client.response()).body) == list(range(40))
        await client.send(chat(events=5000))
        assert numbers((await client.response()).body) == list(range(5000))
        await client.send(request(target="/v1/models"))
        assert (await client.response()).status == 200
    assert simulator.records.connections == 1


async def test_an_upload_passes_whole_and_is_held_back(lab: Lab, authority: trustme.CA, trusted: str) -> None:
    payload = random.Random(5).randbytes(16 * 1024 * 1024)
    simulator = await lab.simulator(tls=_context(authority))
    relay = await lab.relay(simulator.url, upstream_ca=trusted)
    client = await lab.client(relay.port)
    await client.send(request("POST", "/v1/sink", ["x-simulate: read_after=0.5", f"Content-Length: {len(payload)}"]))
    uploading = asyncio.create_task(client.send(payload))
    await eventually(lambda: simulator.requests)
    [exchange] = relay.exchanges
    await eventually(lambda: exchange.upload_is_stopped)
    assert exchange.bytes_up < 10 * 1024 * 1024
    answer = orjson.loads((await client.response()).body)
    assert answer == {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    await uploading


async def test_a_client_that_leaves_ends_the_providers_connection(
    lab: Lab, authority: trustme.CA, trusted: str
) -> None:
    simulator = await lab.simulator(tls=_context(authority))
    relay = await lab.relay(simulator.url, upstream_ca=trusted)
    for options in ({"delay": 60}, {"silence_after": 2}, {"events": 0, "rate": 100}, {"events": 0}):
        client = await lab.client(relay.port, receive_buffer=8192)
        await client.send(chat(**options))
        await eventually(lambda: len([s for s in simulator.streams if s["ended"] is None]) == 1)
        await asyncio.sleep(0.1)
        client.close()
        await eventually(lambda: {s["state"] for s in simulator.streams} == {"cancelled"})
    await eventually(lambda: simulator.records.connections_open == 0)


async def _refused(lab: Lab, url: str, text: str, **settings: object) -> None:
    relay = await lab.relay(url, **settings)
    client = await lab.client(relay.port)
    await client.send(request())
    answer = await client.response()
    assert answer.status == 502
    assert text in orjson.loads(answer.body)["error"]["message"]
    assert await relay.ended() == "connect_failed"


async def test_an_untrusted_certificate_gives_502_that_says_so(lab: Lab, authority: trustme.CA) -> None:
    simulator = await lab.simulator(tls=_context(authority))
    await _refused(lab, simulator.url, "not trusted")
    assert simulator.requests == []


async def test_a_certificate_for_another_name_gives_502_that_says_so(
    lab: Lab, authority: trustme.CA, trusted: str
) -> None:
    simulator = await lab.simulator(tls=_context(authority, "other.test"))
    await _refused(lab, simulator.url, "not trusted", upstream_ca=trusted)


async def test_a_file_of_authorities_that_is_none_is_a_bad_setting(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing of use")
    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        log = Log("error")
        with pytest.raises(ConfigError, match="FLOW_UPSTREAM_CA"):
            Relay(load({"FLOW_UPSTREAM": "https://127.0.0.1", "FLOW_UPSTREAM_CA": str(path)}), log)
        log.close()


async def test_a_body_that_ends_with_tls_s_goodbye_is_whole(lab: Lab, authority: trustme.CA, trusted: str) -> None:
    url = await _scripted(lab, _context(authority), b"HTTP/1.1 200 OK\r\n\r\nwhole", notify=True)
    relay = await lab.relay(url, upstream_ca=trusted)
    client = await lab.client(relay.port)
    await client.send(request())
    assert (await client.response()).body == b"whole"


async def test_a_body_that_ends_without_tls_s_goodbye_is_broken(lab: Lab, authority: trustme.CA, trusted: str) -> None:
    """Anyone on the way can end a connection; only the provider can say goodbye (RFC 9112 section 9.8)."""
    url = await _scripted(lab, _context(authority), b"HTTP/1.1 200 OK\r\n\r\ncut o", notify=False)
    relay = await lab.relay(url, upstream_ca=trusted)
    client = await lab.client(relay.port)
    await client.send(request())
    assert (await client.head()).status == 200
    body, _ = await client.rest()
    assert not body.endswith(LAST_CHUNK)
    assert await relay.ended() == "upstream_failed"


@pytest.mark.parametrize("notify", [True, False])
async def test_a_chunked_body_that_breaks_off_is_broken_with_and_without_goodbye(
    lab: Lab, authority: trustme.CA, trusted: str, notify: bool
) -> None:
    url = await _scripted(lab, _context(authority), CHUNKED_HEAD + chunk(b"cut off"), notify=notify)
    relay = await lab.relay(url, upstream_ca=trusted)
    client = await lab.client(relay.port)
    await client.send(request())
    await client.head()
    assert await client.rest() == (chunk(b"cut off"), End.CLOSED)
    assert await relay.ended() == "upstream_failed"


async def test_connections_that_ended_while_idle_are_not_used_again(
    lab: Lab, authority: trustme.CA, trusted: str
) -> None:
    url = await _scripted(lab, _context(authority), response(b"ok"), notify=True)
    relay = await lab.relay(url, upstream_ca=trusted)
    client = await lab.client(relay.port)
    for _ in range(3):
        await client.send(request())
        assert (await client.response()).body == b"ok"
        await eventually(lambda: relay.relay.metrics.pools[0].open_connections == 0)


async def test_a_new_connection_takes_up_the_session_of_an_earlier_one(
    lab: Lab, authority: trustme.CA, trusted: str
) -> None:
    reused: list[bool] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reused.append(writer.get_extra_info("ssl_object").session_reused)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(b"ok", headers=["Connection: close"]))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=_context(authority))
    async with server:
        relay = await lab.relay(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", upstream_ca=trusted)
        client = await lab.client(relay.port)
        for _ in range(3):
            await client.send(request())
            assert (await client.response()).body == b"ok"
    assert reused == [False, True, True]


async def test_a_provider_without_http_2_is_told_from_one_that_has_it(
    lab: Lab, authority: trustme.CA, trusted: str, tmp_path: Path
) -> None:
    context = _context(authority)
    context.set_alpn_protocols(["http/1.1"])
    simulator = await lab.simulator(tls=context)
    config = toml(tmp_path, {"only": {"url": simulator.url, "protocol": "h2"}})
    relay = await lab.relay(None, config=config, upstream_ca=trusted)
    client = await lab.client(relay.port)
    await client.send(chat(events=1))
    answer = await client.response()
    assert answer.status == 502
    assert "does not speak HTTP/2" in orjson.loads(answer.body)["error"]["message"]
