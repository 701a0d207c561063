"""Listening addresses, providers' URLs, and clients' networks. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import quote

DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 means any free port."""

    host: str
    """Empty: all interfaces."""
    port: int
    path: str = ""
    """Path of a Unix socket, which has neither host nor port; empty: it is not a Unix socket."""

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{_bracketed(self.host)}:{self.port}"

    def leads_here(self, url: Url) -> bool:
        """Whether a process on this machine that connects to `url` reaches this address, as far as that is known
        without a look-up."""
        if self.path or url.socket:
            return self.path == url.socket
        own = self.host or "0.0.0.0"
        near = _is_loopback(url.host) and (own in ("0.0.0.0", "::") or _is_loopback(own))
        return url.port == self.port and (url.host == own or near)


@dataclass(frozen=True, slots=True)
class Url:
    """A provider's base URL in its parts. `path` has no trailing slash and may be empty."""

    scheme: str
    host: str
    port: int
    path: str
    socket: str = ""
    """Path of the provider's Unix socket; empty: it is reached by host and port. The Host header is localhost then."""

    @property
    def authority(self) -> str:
        """Host and port as in the Host header: without the scheme's default port."""
        host = _bracketed(self.host)
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def server_name(self) -> str:
        """The host without the final dot of a fully qualified name, which certificates and TLS do not have (RFC 6066
        section 3)."""
        return self.host.removesuffix(".")

    @property
    def place(self) -> str:
        """The address that connections are made to, for messages and as a name."""
        return self.socket or self.host

    def __str__(self) -> str:
        if self.socket:
            return f"{self.scheme}+unix://{quote(self.socket, safe='')}{self.path}"
        return f"{self.scheme}://{self.authority}{self.path}"


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1", "0.0.0.0") or host.startswith("127.")


def _bracketed(host: str) -> str:
    """`host` as it is written before a port: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


IpAddress = IPv4Address | IPv6Address


class Networks:
    """A set of IP networks, and optionally Unix sockets."""

    __slots__ = ("_networks", "_text", "has_unix")

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network] = (), *, has_unix: bool = False) -> None:
        listed = list(networks)
        self.has_unix = has_unix
        self._text = ",".join([*map(str, listed), *(["unix"] if has_unix else [])])
        self._networks: dict[tuple[int, int], set[int]] = {}
        """The networks' prefixes by version and number of host bits: one look-up per such number."""
        for network in listed:
            other = network.max_prefixlen - network.prefixlen
            self._networks.setdefault((network.version, other), set()).add(int(network.network_address) >> other)

    def __contains__(self, address: IpAddress | None) -> bool:
        """Whether `address` is in one of them. None: a Unix socket."""
        if address is None:
            return self.has_unix
        version, number = address.version, int(address)
        return any(known == version and number >> other in bits for (known, other), bits in self._networks.items())

    def __bool__(self) -> bool:
        return self.has_unix or bool(self._networks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Networks) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return self._text


def plain_address(address: IpAddress) -> IpAddress:
    """An IPv4-mapped IPv6 address as IPv4 (RFC 4291 section 2.5.5.2); others unchanged."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped
