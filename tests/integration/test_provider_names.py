"""Providers with names: DNS that hangs or changes, several addresses, connections that grow old."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.support.h2_lab import h2_client
from tests.support.h2_provider import H2Site, silent
from tests.support.lab import Lab, RunningRelay, eventually, finishes, full_backlog
from tests.support.names import FakeNames
from tests.support.provider import ok
from tests.support.topology import toml
from tests.support.wire import Message, request

ROUTES = "".join(f'[[routes]]\npath = "/{name}/*"\nupstreams = ["{name}"]\n' for name in ("dead", "good", "plain"))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNames]:
    """What the system's resolver says in this process."""
    names, system = FakeNames(), socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *, type: int, flags: int = 0) -> object:
        return system(host, port, type=type, flags=flags) if flags & socket.AI_NUMERICHOST else names(host, port)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield names
    names.released.set()


async def _ask(lab: Lab, relay: RunningRelay, path: str = "/x") -> Message:
    client = await lab.client(relay.port)
    await client.send(request("POST", path, body=b"{}"))
    answer = await client.response()
    client.close()
    return answer


async def _hanging(lab: Lab, folder: Path, names: FakeNames, **settings: object) -> tuple[RunningRelay, float]:
    """A relay between a provider whose DNS is silent and two others, eight requests at it; and when they began."""
    provider = await lab.provider(ok)
    names.answers["good.test"] = ("127.0.0.1",)
    names.hanging.add("dead.test")
    urls = {name: f"http://{name}.test:{provider.port}" for name in ("dead", "good")} | {"plain": provider.url}
    relay = await lab.relay(None, config=toml(folder, urls, ROUTES), **settings)
    began = asyncio.get_running_loop().time()
    for _ in range(8):
        client = await lab.client(relay.port)
        await client.send(request("POST", "/dead/x", body=b"{}"))
    await eventually(lambda: names.asked["dead.test"])
    return relay, began


async def test_a_name_whose_dns_is_silent_holds_up_no_other_provider(
    lab: Lab, tmp_path: Path, names: FakeNames
) -> None:
    relay, began = await _hanging(lab, tmp_path, names, connect_timeout="20s")
    for path in ("/good/x", "/plain/x"):
        assert (await _ask(lab, relay, path)).status == 200
    assert asyncio.get_running_loop().time() - began < 10
    assert names.asked["dead.test"] == 1
    for client in lab.wires:
        client.close()


async def test_a_look_up_that_hangs_is_a_504_a_figure_and_one_line_of_the_log(
    lab: Lab, tmp_path: Path, names: FakeNames
) -> None:
    relay, _ = await _hanging(lab, tmp_path, names, connect_timeout="300ms")
    for client in lab.wires:
        answer = await client.response()
        assert answer.status == 504
        assert b"DNS did not resolve" in answer.body
    assert (await _ask(lab, relay, "/good/x")).status == 200
    figures = await relay.metrics()
    assert figures['flow_upstream_dns_lookups_total{upstream="dead"}'] == 1
    assert figures['flow_upstream_dns_failures_total{upstream="dead"}'] == 1
    assert figures['flow_upstream_dns_seconds_total{upstream="dead"}'] >= 0.3
    assert figures['flow_upstream_dns_failures_total{upstream="good"}'] == 0
    assert 'flow_upstream_dns_lookups_total{upstream="plain"}' not in figures  # it has no name
    await eventually(lambda: relay.lines("dns_failed"))  # the log has a thread of its own
    [line] = relay.lines("dns_failed")
    assert (line["level"], line["host"], line["old_answer"]) == ("warning", "dead.test", False)


async def test_a_relay_closes_at_once_while_a_look_up_hangs(lab: Lab, tmp_path: Path, names: FakeNames) -> None:
    relay, _ = await _hanging(lab, tmp_path, names, connect_timeout="60s")
    for client in lab.wires:
        client.close()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await finishes(relay.close())
    assert loop.time() - began < 5


async def test_a_dead_first_address_costs_little_and_less_the_next_time(lab: Lab, names: FakeNames) -> None:
    with full_backlog("127.0.0.5") as port:
        await lab.provider(ok, port=port)
        names.answers["two.test"] = ("127.0.0.5", "127.0.0.1")
        relay = await lab.relay(f"http://two.test:{port}", connect_timeout="20s", upstream_keepalive="off")
        for _ in range(3):
            answer = await _ask(lab, relay)
            assert answer.status == 200
        lines = await relay.access(3)
    times = [line["duration_ms"] for line in lines]
    assert 250 <= times[0] < 10_000
    assert min(times[1:]) < 250
    assert [line["attempts"] for line in lines] == [1, 1, 1]


async def test_connections_move_to_where_the_name_moved(lab: Lab, names: FakeNames) -> None:
    old = await lab.provider(ok)
    new = await lab.provider(ok, host="127.0.0.2", port=old.port)
    names.answers["api.test"] = ("127.0.0.1",)
    url = f"http://api.test:{old.port}"
    relay = await lab.relay(url, upstream_max_age="300ms", connect_timeout="300ms")
    for _ in range(2):
        assert (await _ask(lab, relay)).status == 200
    assert len(old.callers) <= 2
    names.answers["api.test"] = ("127.0.0.2",)

    async def moved() -> None:
        while not new.requests:
            assert (await _ask(lab, relay)).status == 200

    await finishes(moved())
    seen = len(old.requests)
    await asyncio.sleep(0.4)
    for _ in range(3):
        assert (await _ask(lab, relay)).status == 200
    assert len(old.requests) == seen


async def test_an_idle_connection_that_is_too_old_is_closed(lab: Lab) -> None:
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url, upstream_max_age="200ms")
    assert (await _ask(lab, relay)).status == 200
    await eventually(lambda: relay.relay.metrics.pools[0].open_connections == 0)


async def test_without_a_largest_age_connections_stay(lab: Lab, tmp_path: Path) -> None:
    provider = await lab.provider(ok)
    config = toml(tmp_path, {"only": {"url": provider.url, "max_age": "off"}})
    relay = await lab.relay(None, config=config, upstream_max_age="100ms")
    for _ in range(4):
        assert (await _ask(lab, relay)).status == 200
        await asyncio.sleep(0.1)
    assert len(provider.callers) == 1


async def test_an_old_http_2_connection_keeps_its_streams_and_takes_no_more(lab: Lab, tmp_path: Path) -> None:
    site = H2Site(silent)
    provider = await lab.provider(site.script)
    table = {"url": provider.url, "protocol": "h2", "max_age": "200ms"}
    relay = await lab.relay(None, config=toml(tmp_path, {"only": table}))
    client = await h2_client(lab, relay.port)
    first = client.peer.request(path="/first")
    await client.flush()
    await eventually(lambda: site.servers and site.servers[0].whole)
    await asyncio.sleep(0.4)
    client.peer.request(path="/second")
    await client.flush()
    await eventually(lambda: len(site.servers) == 2 and site.servers[1].whole)
    old, new = site.servers
    assert len(old.requests) == len(new.requests) == 1
    pool = relay.relay.metrics.pools[0]
    assert pool.open_connections == 2
    for server in (old, new):
        [stream_id] = server.requests
        server.answer(stream_id, b"whole")
        await server.flush()
    await client.until(lambda: len(client.peer.answers) == 2 and all(a.ended for a in client.peer.answers.values()))
    assert client.peer.answers[first].body == b"whole"
    await eventually(lambda: pool.open_connections <= 1)


@pytest.mark.parametrize("host", ["good.test", "good.test."])
async def test_a_final_dot_stays_in_the_host_field_and_out_of_tls(
    lab: Lab, tmp_path: Path, names: FakeNames, host: str
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("good.test").configure_cert(context)
    server_names: list[str | None] = []
    context.sni_callback = lambda connection, name, context: server_names.append(name)
    simulator = await lab.simulator(tls=context)
    names.answers[host] = ("127.0.0.1",)
    port = int(simulator.url.rpartition(":")[2])
    relay = await lab.relay(f"https://{host}:{port}", upstream_ca=tmp_path / "ca.pem")
    assert (await _ask(lab, relay, "/v1/nothing")).status == 404
    assert server_names == ["good.test"]
