"""Which host names the admin pages answer to: a protection against DNS rebinding.

They ask for no password, as they are on a private address. A web page in the browser of somebody who reaches that
address could read them all the same if its own name leads there (DNS rebinding): to the browser both are one site. Its
requests carry that name, which is none of the relay's. An address as Host names no one, so it is no such trick.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from ..config.addresses import Address
from ..http.messages import PSEUDO_AUTHORITY, RequestHead


class AdminHosts:
    """`names` are those of FLOW_ADMIN_HOSTS, beside the host of `listen` and this machine's own: `localhost` and the
    addresses of loopback, and, where `listen` is another address, any address, since that is how scrapers ask."""

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
    """Without the port and the brackets, and the final dot of a name."""
    if authority.startswith("["):
        host, _, port = authority[1:].partition("]")
        return authority if port and not port.startswith(":") else host
    return authority.partition(":")[0].rstrip(".")


def _plain(host: str) -> str:
    """One spelling of each address."""
    address = _address(host)
    return host if address is None else str(address)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


NO_BROWSER = AdminHosts(frozenset({"*"}), None)
"""Of a Unix socket, which no browser reaches."""
