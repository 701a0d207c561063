"""Whom the admin pages answer: a web page whose name is made to lead to them is not among them."""

from __future__ import annotations

import pytest

from flowserver.config.addresses import Address
from flowserver.config.parsers import parse_hosts
from flowserver.http.messages import PSEUDO_AUTHORITY, RequestHead
from flowserver.telemetry.admin_hosts import AdminHosts

LOOPBACK = Address("127.0.0.1", 9090)
EVERYWHERE = Address("", 9090)
PRIVATE = Address("10.1.2.3", 9090)


def takes(host: str, listen: Address = LOOPBACK, names: str = "") -> bool:
    hosts = AdminHosts(parse_hosts(names), listen)
    first = hosts.accepts(RequestHead(b"GET", b"/metrics", [(b"host", host.encode())]))
    second = RequestHead(b"GET", b"/metrics", [], fields={PSEUDO_AUTHORITY: host.encode()})
    second.http_version = b"2"
    assert first == hosts.accepts(second)
    return first


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:9090",
        "localhost.:9090",
        "127.0.0.1",
        "127.0.0.1:9090",
        "127.1.2.3:1",
        "[::1]:9090",
        "[::1]",
        "[0:0:0:0:0:0:0:1]:9090",
        "[::ffff:127.0.0.1]:9090",
    ],
)
@pytest.mark.parametrize("listen", [LOOPBACK, EVERYWHERE, PRIVATE, Address("::1", 1), Address("localhost", 1)])
def test_this_machine_s_own_names_are_taken(host: str, listen: Address) -> None:
    assert takes(host, listen)


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:9090",
        "127.0.0.1.attacker.example:9090",
        "localhost.attacker.example",
        "attacker-localhost",
        "127.0.0.1.nip.io",
        "2130706433",
        "0x7f.0.0.1",
        "127.1",
        "[::1].attacker.example",
        "",
        ":9090",
    ],
)
@pytest.mark.parametrize("listen", [LOOPBACK, EVERYWHERE, PRIVATE])
def test_other_names_are_not(host: str, listen: Address) -> None:
    assert not takes(host, listen)


@pytest.mark.parametrize("host", ["10.1.2.3:9090", "10.9.9.9", "[fd00::1]:9090", "8.8.8.8"])
def test_addresses_are_taken_where_it_listens_on_more_than_loopback(host: str) -> None:
    assert takes(host, EVERYWHERE)
    assert takes(host, PRIVATE)
    assert takes(host, Address("relay.internal", 9090))
    assert not takes(host, LOOPBACK)
    assert not takes(host, Address("::1", 9090))
    assert not takes(host, Address("localhost", 9090))


def test_the_name_that_it_listens_on_is_its_own() -> None:
    assert takes("Relay.Internal:9090", Address("relay.internal", 9090))
    assert not takes("other.internal:9090", Address("relay.internal", 9090))


def test_names_of_the_setting_are_taken() -> None:
    names = "metrics.example, *.svc.cluster.local, 10.0.0.7, ::2"
    for host in ("metrics.example:9090", "METRICS.example.", "a.svc.cluster.local:1", "a.b.svc.cluster.local"):
        assert takes(host, names=names)
    for host in ("10.0.0.7:9090", "[0:0::2]:9090"):
        assert takes(host, names=names)
    for host in ("x.metrics.example", "svc.cluster.local", "asvc.cluster.local", "10.0.0.8"):
        assert not takes(host, names=names)
    assert takes("anything.example", names="*")


def test_http_1_0_needs_no_host() -> None:
    hosts = AdminHosts(frozenset(), LOOPBACK)
    head = RequestHead(b"GET", b"/metrics", [])
    head.http_version = b"1.0"
    assert hosts.accepts(head)
