"""What proxies say of where a request came from: the nearest first, and nonsense is no address."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.http.forwarded import MAX_HOPS, forwarded, parse_node, x_forwarded_for
from flowserver.http.messages import RequestHead


def _said(name: str, *values: str) -> list[str | None]:
    head = RequestHead(b"GET", b"/", [(name.encode(), value.encode("latin-1")) for value in values])
    nodes = forwarded(head) if name == "forwarded" else x_forwarded_for(head)
    return [None if node is None else str(node) for node in nodes]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:DB8::1]:4711", "2001:db8::1"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        ("unknown", None),
        ("_hidden", None),
        ("192.0.2.1:_port", None),
        ("192.0.2.256", None),
        ("192.0.2.01", None),
        ("[192.0.2.1]", None),
        ("fe80::1%eth0", None),
        ("[::1", None),
        ("localhost", None),
        ("", None),
        (":", None),
        ("1" * 5000, None),
    ],
)
def test_nodes(text: str, address: str | None) -> None:
    node = parse_node(text)
    assert node == (None if address is None else ip_address(address))


def test_the_last_entry_is_the_nearest() -> None:
    assert _said("x-forwarded-for", "203.0.113.1, 198.51.100.2", "10.0.0.3:80") == [
        "10.0.0.3",
        "198.51.100.2",
        "203.0.113.1",
    ]
    assert _said("forwarded", 'for=192.0.2.43, for="[2001:db8:cafe::17]:4711";proto=https', "By=x;For=10.0.0.1") == [
        "10.0.0.1",
        "2001:db8:cafe::17",
        "192.0.2.43",
    ]


@pytest.mark.parametrize(
    "element",
    [
        "",
        "by=10.0.0.1",
        "for",
        "for=",
        "for= 10.0.0.1",
        "for=10.0.0.1;",
        "for=10.0.0.1; proto=http",
        "for=10.0.0.1;for=10.0.0.2",
        'for="10.0.0.1',
        'for=10.0.0.1"',
        'for="10.0.0.\\1"',
        "for=2001:db8::1",
        "for=unknown",
    ],
)
def test_an_element_that_names_nobody(element: str) -> None:
    assert _said("forwarded", f"for=192.0.2.1,{element}")[0] is None


def test_an_open_quote_of_a_client_hides_nothing() -> None:
    """A proxy appends its element behind what a client sent: that one is read whatever stands before it."""
    assert _said("forwarded", 'for="192.0.2.1, for=198.51.100.7')[0] == "198.51.100.7"


def test_so_many_hops_are_looked_at() -> None:
    nodes = _said("x-forwarded-for", ",".join(["10.0.0.1"] * 5000))
    assert nodes == ["10.0.0.1"] * MAX_HOPS + [None]


@given(st.text(max_size=60), st.sampled_from(["forwarded", "x-forwarded-for"]))
def test_nothing_raises(text: str, name: str) -> None:
    _said(name, text.encode("utf-8", "ignore").decode("latin-1"))


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.booleans())
def test_every_address_is_read_in_both_fields(address: object, port: bool) -> None:
    bracketed = f"[{address}]" if ":" in str(address) else str(address)
    node = bracketed + (":80" if port else "")
    assert _said("x-forwarded-for", node) == [str(address)]
    assert _said("forwarded", f'for="{node}"') == [str(address)]
