"""Proxies in front: whose a connection or a request is, and how many of them one client may have open."""

from __future__ import annotations

import asyncio
import socket
import textwrap
from pathlib import Path

import orjson
import pytest

from tests.support.h2_lab import Certificates, h2_client
from tests.support.h2_peer import H2Peer
from tests.support.h2_wire import H2Wire, secure
from tests.support.lab import Lab, RunningRelay, chat, eventually, free_port, numbers
from tests.support.peers import listening, program
from tests.support.provider import Caller, Provider, ok, silent
from tests.support.proxy_header import LOCAL, bits, text
from tests.support.wire import End, Message, Wire, request

FORWARDED = ("Forwarded: for=203.0.113.9", "X-Forwarded-For: 203.0.113.9")


async def _asked(client: Wire, header: bytes = b"", *fields: str) -> Message:
    await client.send(header + request(headers=fields))
    return await client.response()


async def _refused(relay: RunningRelay, reason: str) -> float:
    return (await relay.metrics())[f'flow_clients_refused_total{{reason="{reason}"}}']


async def _told(relay: RunningRelay) -> dict[str, object]:
    """The only line of a connection that was closed."""
    await eventually(lambda: relay.lines("connection_refused"))
    [line] = relay.lines("connection_refused")
    return line


# --- the PROXY protocol ---


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (text("192.0.2.1"), "192.0.2.1"),
        (text("2001:db8::1"), "2001:db8::1"),
        (bits("192.0.2.1"), "192.0.2.1"),
        (bits("2001:db8::1", b"\x04\x00\x10" + bytes(16)), "2001:db8::1"),
        (bits("::ffff:192.0.2.1"), "192.0.2.1"),
        (LOCAL, "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ],
)
async def test_a_header_names_the_client_of_its_connection(lab: Lab, header: bytes, client: str) -> None:
    _, relay, wire = await lab.between(ok, proxy_protocol="on")
    assert (await _asked(wire, header)).body == b"ok"
    assert (await _asked(wire)).body == b"ok"
    assert [line["client"] for line in await relay.access(2)] == [client] * 2


async def test_a_header_in_pieces_before_either_protocol(lab: Lab) -> None:
    _, relay, wire = await lab.between(ok, proxy_protocol="on")
    for byte in bits("192.0.2.1") + request():
        await wire.send(bytes((byte,)))
        await asyncio.sleep(0)
    assert (await wire.response()).body == b"ok"
    client = H2Wire(await lab.client(relay.port), H2Peer())
    await client.wire.send(text("192.0.2.2"))
    assert (await client.get()).body == b"ok"
    assert [line["client"] for line in await relay.access(2)] == ["192.0.2.1", "192.0.2.2"]


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
@pytest.mark.parametrize("apart", [False, True])
async def test_a_header_comes_in_the_clear_before_tls(lab: Lab, tmp_path: Path, protocol: str, apart: bool) -> None:
    certificates = Certificates(tmp_path)
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url, proxy_protocol="on", **certificates.settings)
    wire = await lab.client(relay.port)
    if not apart:  # the kernel sends it together with what follows
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    await wire.send(text("192.0.2.1"))
    await asyncio.sleep(0.05 if apart else 0)
    secured = await secure(wire, certificates.client(protocol))
    if protocol == "h2":
        assert (await H2Wire(secured, H2Peer()).get()).body == b"ok"
    else:
        assert (await _asked(secured)).body == b"ok"
    [line] = await relay.access()
    assert line["client"] == "192.0.2.1"


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (request(), "does not begin with a header"),
        (b"PROXY TCP4 a b c d\r\n" + request(), "two addresses and two ports"),
        (b"\x16\x03\x01\x02\x00\x01", "does not begin with a header"),
    ],
)
async def test_a_connection_without_a_header_is_closed(lab: Lab, first: bytes, why: str) -> None:
    provider, relay, wire = await lab.between(ok, proxy_protocol="on")
    await wire.send(first)
    answer, _ = await wire.rest()
    assert answer == b""
    line = await _told(relay)
    assert line["client"] == "127.0.0.1"
    assert why in str(line["error"])
    assert "FLOW_PROXY_PROTOCOL" in str(line["error"])
    assert await _refused(relay, "proxy_header") == 1
    assert not provider.requests


async def test_a_header_has_the_time_of_a_head(lab: Lab) -> None:
    _, relay, wire = await lab.between(ok, proxy_protocol="on", head_timeout="100ms")
    await wire.send(text("192.0.2.1")[:20])
    assert await wire.rest() == (b"", End.CLOSED)
    line = await _told(relay)
    assert "0.1 s (FLOW_HEAD_TIMEOUT)" in str(line["error"])


async def test_a_connection_that_ends_within_its_header_is_told_and_a_mere_probe_is_not(lab: Lab) -> None:
    _, relay, wire = await lab.between(ok, proxy_protocol="on")
    probe = await lab.client(relay.port)
    probe.close()
    await wire.send(b"PROXY TCP4 ")
    wire.half_close()
    assert await wire.rest() == (b"", End.CLOSED)
    await eventually(lambda: not relay.relay.connections)
    line = await _told(relay)
    assert "ended within its PROXY protocol header" in str(line["error"])
    assert await _refused(relay, "proxy_header") == 1


async def test_only_trusted_proxies_may_send_headers_where_there_are_some(lab: Lab) -> None:
    _, relay, wire = await lab.between(ok, proxy_protocol="on", trusted_proxies="192.0.2.0/24")
    assert (await wire.rest())[0] == b""
    line = await _told(relay)
    assert "FLOW_TRUSTED_PROXIES" in str(line["error"])
    assert await _refused(relay, "proxy_header") == 1


async def test_a_header_may_name_a_trusted_proxy_whose_requests_name_their_clients(lab: Lab) -> None:
    _, relay, wire = await lab.between(ok, proxy_protocol="on", trusted_proxies="127.0.0.1,192.0.2.0/24")
    await _asked(wire, text("192.0.2.1"), "X-Forwarded-For: 203.0.113.9")
    other = await lab.client(relay.port)
    await _asked(other, text("198.51.100.1"), "X-Forwarded-For: 203.0.113.9")
    assert [line["client"] for line in await relay.access(2)] == ["203.0.113.9", "198.51.100.1"]


async def test_the_admin_pages_need_no_header(lab: Lab) -> None:
    _, relay, wire = await lab.between(ok, proxy_protocol="on")
    assert (await relay.page("/healthz")).body == b"ok\n"
    wire.close()


@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id"])
async def test_haproxy_in_front(lab: Lab, tmp_path: Path, version: str) -> None:
    binary, port = program("haproxy"), free_port()
    simulator = await lab.simulator()
    relay = await lab.relay(simulator.url, proxy_protocol="on")
    (tmp_path / "haproxy.cfg").write_text(
        textwrap.dedent(f"""\
            defaults
                mode tcp
                timeout connect 5s
                timeout client 30s
                timeout server 30s
            frontend clients
                bind 127.0.0.1:{port}
                unique-id-format %[uuid()]
                default_backend relay
            backend relay
                source 127.0.0.3
                server relay 127.0.0.1:{relay.port} {version}
        """)
    )
    async with listening(port, binary, "-f", "haproxy.cfg", "-db", folder=tmp_path):
        with socket.socket() as mine:
            mine.setblocking(False)
            mine.bind(("127.0.0.2", 0))
            await asyncio.get_running_loop().sock_connect(mine, ("127.0.0.1", port))
            wire = Wire(mine)
            await wire.send(chat(events=20))
            assert numbers((await wire.response()).body) == list(range(20))
    [line] = await relay.access()
    assert line["client"] == "127.0.0.2"
    assert not relay.lines("connection_refused")


# --- fields of requests ---


@pytest.mark.parametrize("field", FORWARDED)
async def test_a_trusted_proxy_names_the_client_and_nobody_else_does(lab: Lab, field: str) -> None:
    provider, relay, wire = await lab.between(ok, trusted_proxies="127.0.0.1")
    await _asked(wire, b"", field)
    stranger = await lab.relay(provider.url)
    await _asked(await lab.client(stranger.port), b"", field)
    distrusting = await lab.relay(provider.url, trusted_proxies="10.0.0.0/8")
    await _asked(await lab.client(distrusting.port), b"", field)
    told = [(await each.access())[0]["client"] for each in (relay, stranger, distrusting)]
    assert told == ["203.0.113.9", "127.0.0.1", "127.0.0.1"]
    name = field.partition(":")[0].lower()
    assert all(name not in message.names for message in provider.requests), "no provider's business, as before"


async def test_each_request_has_its_own_client_over_both_protocols(lab: Lab) -> None:
    _, relay, wire = await lab.between(ok, trusted_proxies="127.0.0.1")
    await _asked(wire, b"", "X-Forwarded-For: 192.0.2.1")
    await _asked(wire, b"", "X-Forwarded-For: 192.0.2.2")
    client = await h2_client(lab, relay.port)
    for address in ("192.0.2.3", "192.0.2.4"):
        await client.get(x_forwarded_for=address)
    assert [line["client"] for line in await relay.access(4)] == [f"192.0.2.{number}" for number in (1, 2, 3, 4)]


async def test_who_a_stream_is_for_is_shown_while_it_runs(lab: Lab) -> None:
    _, relay, wire = await lab.between(silent, trusted_proxies="127.0.0.1")
    await wire.send(request(headers=["X-Forwarded-For: 192.0.2.1"]))
    await eventually(lambda: relay.exchanges)
    [shown] = orjson.loads((await relay.page("/streams")).body)
    assert shown["client"] == "192.0.2.1"
    wire.close()


async def test_a_proxy_by_a_unix_socket_is_trusted_as_such(lab: Lab, tmp_path: Path) -> None:
    provider = await lab.provider(ok)
    for number, (trusted, client) in enumerate((("unix", "203.0.113.9"), ("10.0.0.0/8", None))):
        path = tmp_path / f"{number}.sock"
        relay = await lab.relay(provider.url, listen=f"unix:{path}", trusted_proxies=trusted)
        await _asked(await lab.client_at(path), b"", FORWARDED[1])
        assert (await relay.access())[0]["client"] == client


# --- how many ---


async def _open(lab: Lab, relay: RunningRelay, count: int) -> list[Wire]:
    wires = []
    for number in range(count):
        wires.append(await lab.client(relay.port))
        await eventually(lambda number=number: relay.relay.connections > number)  # type: ignore[misc]
    return wires


async def test_a_client_above_its_limit_is_refused_until_it_has_closed_one(lab: Lab) -> None:
    _, relay, first = await lab.between(ok, max_connections_per_client=2)
    assert (await _asked(first)).body == b"ok"
    second = await lab.client(relay.port)
    assert (await _asked(second)).body == b"ok"
    third = await lab.client(relay.port)
    answer = await third.response()
    assert (answer.status, answer.get("retry-after")) == (429, "1")
    assert orjson.loads(answer.body)["error"]["code"] == "too_many_connections_of_client"
    assert await third.rest() == (b"", End.CLOSED)
    third.close()
    assert await _refused(relay, "client_connections") == 1
    first.close()
    await eventually(lambda: relay.relay.connections == 1)
    fourth = await lab.client(relay.port)
    assert (await _asked(fourth)).body == b"ok"
    assert (await _asked(second)).body == b"ok"


async def test_others_are_not_concerned(lab: Lab) -> None:
    _, relay, wire = await lab.between(ok, max_connections_per_client=1)
    assert (await _asked(wire)).body == b"ok"
    with socket.socket() as other:
        other.setblocking(False)
        other.bind(("127.0.0.2", 0))
        await asyncio.get_running_loop().sock_connect(other, ("127.0.0.1", relay.port))
        assert (await _asked(Wire(other))).body == b"ok"
    assert {line["client"] for line in await relay.access(2)} == {"127.0.0.1", "127.0.0.2"}


async def test_far_above_its_limit_a_client_is_not_answered(lab: Lab) -> None:
    _, relay, _ = await lab.between(ok, max_connections_per_client=1)
    await eventually(lambda: relay.relay.connections == 1)
    answered = await lab.client(relay.port)
    assert (await answered.response()).status == 429
    silent_one = await lab.client(relay.port)
    assert await silent_one.rest() == (b"", End.CLOSED)
    assert await _refused(relay, "client_connections") == 2


async def test_http2_above_the_limit_gets_a_goaway(lab: Lab, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url, max_connections_per_client=1, **certificates.settings)
    first = await h2_client(lab, relay.port, tls=certificates.client())
    assert (await first.get()).body == b"ok"
    second = await h2_client(lab, relay.port, tls=certificates.client())
    await second.ended()
    assert second.peer.goaways
    metrics = await relay.metrics()
    assert metrics['flow_h2_goaways_total{reason="too_many_connections_of_client"}'] == 1


async def test_behind_the_proxy_protocol_clients_count_by_its_address(lab: Lab) -> None:
    _, relay, first = await lab.between(ok, proxy_protocol="on", max_connections_per_client=1)
    assert (await _asked(first, text("192.0.2.1"))).body == b"ok"
    other = await lab.client(relay.port)
    assert (await _asked(other, text("192.0.2.2"))).body == b"ok"
    again = await lab.client(relay.port)
    await again.send(text("192.0.2.1"))
    assert (await again.response()).status == 429


@pytest.mark.parametrize("multiplexed", [False, True], ids=["h1", "h2"])
async def test_behind_a_trusted_proxy_open_requests_count(lab: Lab, multiplexed: bool) -> None:
    """Not the proxy's connections, which are shared and kept."""
    goes_on = asyncio.Event()

    async def script(caller: Caller) -> None:
        while True:
            message = await caller.request()
            if message.start.startswith("GET /slow"):
                await goes_on.wait()
            await caller.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    provider: Provider = await lab.provider(script)
    relay = await lab.relay(provider.url, trusted_proxies="127.0.0.1", max_connections_per_client=1)
    field, victim = "X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 192.0.2.2"
    slow = await lab.client(relay.port)
    await slow.send(request(target="/slow", headers=[field]))
    await eventually(lambda: relay.exchanges)
    if multiplexed:
        proxy = await h2_client(lab, relay.port)
        statuses = [(await proxy.get(x_forwarded_for=f"192.0.2.{number}")).status for number in (1, 2, 1)]
    else:
        wire = await lab.client(relay.port)
        statuses = [(await _asked(wire, b"", each)).status for each in (field, victim, field)]
    assert statuses == [429, 200, 429]
    assert await _refused(relay, "client_requests") == 2
    goes_on.set()
    assert (await slow.response()).body == b"ok"
    assert (await _asked(slow, b"", field)).status == 200
    lines = await relay.access(5)
    assert [line["client"] for line in lines if line["status"] == 429] == ["192.0.2.1"] * 2
    assert {line["end"] for line in lines if line["status"] == 429} == {"refused"}


async def test_nothing_is_counted_for_ever(lab: Lab) -> None:
    """Whatever way requests and connections end, their client may come again."""
    _, relay, _ = await lab.between(silent, trusted_proxies="127.0.0.1", max_connections_per_client=1)
    field = "X-Forwarded-For: 192.0.2.1"
    for end in ("close", "reset", "half"):
        wire = await lab.client(relay.port)
        await wire.send(request(headers=[field]))
        await eventually(lambda: relay.exchanges)
        if end == "close":
            wire.close()
        elif end == "reset":
            wire.reset()
        else:
            wire.half_close()
            await wire.rest()
        await eventually(lambda: not relay.exchanges)
    client = await h2_client(lab, relay.port)
    for _ in range(3):
        stream = client.peer.request(headers=[("x-forwarded-for", "192.0.2.1")])
        await client.flush()
        await eventually(lambda: relay.exchanges)
        client.peer.reset(stream)
        await client.flush()
        await eventually(lambda: not relay.exchanges)
    assert await _refused(relay, "client_requests") == 0
