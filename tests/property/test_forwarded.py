"""Whatever a client sends, behind a trusted proxy it is itself, or the proxy, and never somebody else."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

from hypothesis import given
from hypothesis import strategies as st

from flowserver.config.parsers import parse_networks
from flowserver.downstream.clients_by_address import ClientsByAddress
from flowserver.http.messages import RequestHead

PROXY, CLIENT = "10.0.0.1", "192.0.2.77"
CLAIMS = st.lists(
    st.one_of(
        st.text(alphabet='for=;,"[]:. \\_1209abunknow', max_size=25),
        st.sampled_from(
            ["10.0.0.9", "198.51.100.1", 'for="', "for=10.0.0.9", "for=198.51.100.1", 'for="[2001:db8::1]"']
        ),
    ),
    max_size=4,
)
"""What a client sends in either field."""


def _told(fields: list[tuple[bytes, bytes]]) -> str | None:
    clients = ClientsByAddress(None, parse_networks("10.0.0.0/8"))
    proxy = clients.connected(PROXY)
    return clients.requested(proxy, RequestHead(b"GET", b"/", fields)).address


def _field(name: bytes, texts: list[str]) -> list[tuple[bytes, bytes]]:
    return [(name, ", ".join(texts).encode("latin-1"))] if texts else []


@given(CLAIMS, CLAIMS, st.booleans(), st.booleans())
def test_no_client_can_pass_for_another(
    forwarded: list[str], x_forwarded_for: list[str], writes_forwarded: bool, on_a_line_of_its_own: bool
) -> None:
    """The proxy appends to one field, to the client's own or on another line, and lets the other one pass."""
    name, claims, own = (
        (b"forwarded", forwarded, f"for={CLIENT}")
        if writes_forwarded
        else (b"x-forwarded-for", x_forwarded_for, CLIENT)
    )
    other = _field(b"x-forwarded-for", x_forwarded_for) if writes_forwarded else _field(b"forwarded", forwarded)
    if on_a_line_of_its_own:
        fields = [*other, *_field(name, claims), (name, own.encode())]
    else:
        fields = [*other, *_field(name, [*claims, own])]
    assert _told(fields) in (CLIENT, PROXY)


@given(st.lists(st.ip_addresses(), min_size=1, max_size=8))
def test_the_first_stranger_from_the_right_is_the_client(hops: list[object]) -> None:
    addresses = [str(hop) for hop in hops]
    trusted = parse_networks("10.0.0.0/8")
    strangers = [text for text in reversed(addresses) if ip_address(text) not in trusted]
    expected = strangers[0] if strangers else addresses[0]
    told = _told([(b"x-forwarded-for", ",".join(addresses).encode())])
    assert told is not None
    mapped = getattr(ip_address(expected), "ipv4_mapped", None)
    assert ip_address(told) == (mapped or ip_address(expected))


@given(st.lists(st.ip_addresses(v=4, network="10.0.0.0/28"), max_size=6), st.integers(0, 6))
def test_an_entry_that_is_none_ends_the_search(hops: list[IPv4Address], place: int) -> None:
    addresses = [str(hop) for hop in hops]
    broken = [*addresses[:place], "unknown", *addresses[place:]]
    behind = broken[min(place, len(addresses)) + 1 :]
    assert _told([(b"x-forwarded-for", ", ".join(broken).encode())]) == (behind[0] if behind else PROXY)
