"""Which host names the admin pages answer to: a protection against DNS rebinding.

The pages need no password, as they are on a private address. But a web page in the browser of somebody who can reach
that address could read them if its own name resolves to it (DNS rebinding): to the browser both are the same site. Its
requests carry that name, which is not one of the relay's. A numeric address as Host can't be used for this attack.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from ..config.addresses import Address
from ..http.messages import PSEUDO_AUTHORITY, RequestHead


class AdminHosts:
    """The accepted host names: `names` from FLOW_ADMIN_HOSTS, the host of `listen`, `localhost` and loopback addresses;
    and any numeric address, which scrapers use, if `listen` is not a loopback address."""

    __slots__ = ("_any", "_any_address", "_names", "_suffixes")

    def __init__(self, names: frozenset[str], listen: Address | None) -> None:
        host = listen.host.lower().rstrip(".") if listen is not None else "localhost"
        bound = _address(host)
        self._any = "*" in names or (listen is not None and listen.path != "")  # no browser reaches a Unix socket
        self._any_address = host != "localhost" and (bound is None or not bound.is_loopback)
        self._names = {_plain(name) for name in (*names, host, "localhost") if name and not name.startswith("*")}
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*."))

    def accepts(self, request: RequestHead) -> bool:
        """Whether to answer this request. One without Host is HTTP/1.0, which no browser speaks."""
        authority = request.fields.get(PSEUDO_AUTHORITY, request.fields.get(b"host"))
        return self._any or authority is None or self._accepts_host(_host(authority.decode("latin-1").lower()))

    def _accepts_host(self, host: str) -> bool:
        address = _address(host)
        if address is not None and (self._any_address or address.is_loopback):
            return True
        return _plain(host) in self._names or host.endswith(self._suffixes)


def _host(authority: str) -> str:
    """The host, without port, brackets, or a name's final dot."""
    if authority.startswith("["):
        host, _, port = authority[1:].partition("]")
        return authority if port and not port.startswith(":") else host
    return authority.partition(":")[0].rstrip(".")


def _plain(host: str) -> str:
    """The canonical spelling of an address."""
    address = _address(host)
    return host if address is None else str(address)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


NO_BROWSER = AdminHosts(frozenset({"*"}), None)
"""For a Unix socket, which no browser can reach."""
