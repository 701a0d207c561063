"""The addresses from which proxies say they received a request: Forwarded (RFC 7239), X-Forwarded-For. No I/O.

Each proxy appends the address of whoever connected to it. So the last entry comes from the nearest proxy; earlier ones
are only as trustworthy as their senders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from .messages import RequestHead

MAX_HOPS = 16
"""Most entries that are read."""
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = rf'({_TOKEN})=(?:({_TOKEN})|"([^"\\,]*)")'  # no value that is used here needs a comma or an escape
_ELEMENT = re.compile(rf"{_PAIR}(?:;{_PAIR})*")
_PAIRS = re.compile(_PAIR)
_NODE = re.compile(r"(?:\[([0-9A-Fa-f]*:[0-9A-Fa-f:.]*)\]|([0-9.]+))(?::[0-9]{1,5})?|([0-9A-Fa-f]*:[0-9A-Fa-f:.]*)")
"""An address with or without a port; IPv6 without brackets only where there is no port."""

Node = IPv4Address | IPv6Address | None
"""None: an entry that is malformed or not an address, such as `unknown`."""


def forwarded(request: RequestHead) -> Iterator[Node]:
    """The addresses of its Forwarded fields, the nearest first."""
    return _nodes(request, b"forwarded", _forwarded_node)


def x_forwarded_for(request: RequestHead) -> Iterator[Node]:
    """The addresses of its X-Forwarded-For fields, the nearest first."""
    return _nodes(request, b"x-forwarded-for", parse_node)


def _nodes(request: RequestHead, name: bytes, parse: Callable[[str], Node]) -> Iterator[Node]:
    fields = [value.decode("latin-1") for field, value in request.headers if field == name]
    entries = ",".join(fields).rsplit(",", MAX_HOPS)
    if len(entries) > MAX_HOPS:
        entries[0] = ""
    for entry in reversed(entries):
        yield parse(entry.strip(" \t"))


def _forwarded_node(element: str) -> Node:
    """The address of a `for` parameter (RFC 7239 section 5.2)."""
    if not _ELEMENT.fullmatch(element):
        return None
    nodes = [token or quoted for name, token, quoted in _PAIRS.findall(element) if name.lower() == "for"]
    return parse_node(nodes[0]) if len(nodes) == 1 else None


def parse_node(text: str) -> Node:
    """An address without its port (RFC 7239 section 6)."""
    match = _NODE.fullmatch(text)
    if match is None:
        return None
    try:
        return ip_address(match[1] or match[2] or match[3])
    except ValueError:
        return None
