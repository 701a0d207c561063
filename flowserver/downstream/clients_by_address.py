"""Which client a connection or a request belongs to, by address, and how much each client may have open.

A client is an IPv4 address, or an IPv6 /64 network, since a single host is given a whole one (RFC 6177). All
connections by Unix sockets are one client, without an address.

What counts as open are a client's connections, and the requests that trusted proxies pass on for it; trusted proxies'
connections are shared and not counted. A proxy's request that names no client counts as the proxy's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final, Protocol

from ..config.addresses import IpAddress, Networks, plain_address
from ..http.forwarded import Node, forwarded, x_forwarded_for
from ..http.messages import RequestHead

_PREFIX = 64
"""Bits of an IPv6 address that identify a client."""
_MAPPED = "::ffff:"
"""How an IPv6 socket shows an IPv4 address (RFC 4291 section 2.5.5.2)."""
_BY_UNIX = -1
"""The key of clients without an address."""
NOBODY = Networks()
_MOST_SHARED: Final = 4096
"""Addresses whose connections share an object, where nothing is counted."""


class Client:
    """The client of a connection or a request. Without limits and trusted proxies an address has one object for all of
    its connections: it takes 130 bytes, and behind a gateway most of them come from a few addresses."""

    __slots__ = ("address", "is_over_limit", "is_trusted", "key")

    def __init__(self, address: str | None, key: int | None = None, *, is_trusted: bool = False) -> None:
        self.address = address
        """As text; None: unknown, or a Unix socket."""
        self.key = key
        """The key by which it is counted; None: it is not counted."""
        self.is_trusted = is_trusted
        """Whether it is a trusted proxy, whose requests name their clients."""
        self.is_over_limit = False
        """Whether the client had reached its limit when this began."""

    def __repr__(self) -> str:
        marks = [mark for mark, holds in (("trusted", self.is_trusted), ("over limit", self.is_over_limit)) if holds]
        return f"<Client {' '.join([self.address or 'without address', *marks])}>"


UNKNOWN = Client(None)


class Elsewhere(Protocol):
    """Counts what clients have open in several processes, by key."""

    def enter(self, key: int) -> None: ...

    def leave(self, key: int) -> None: ...

    def is_full(self, key: int) -> bool:
        """Whether a client has reached its limit, over all processes."""


class ClientsByAddress:
    """The clients of one listener."""

    __slots__ = ("_elsewhere", "_most", "_open", "_shared", "_trusted", "refused")

    def __init__(self, most: int | None = None, trusted: Networks = NOBODY, elsewhere: Elsewhere | None = None) -> None:
        """`most`: connections, and requests by trusted proxies, that each client may have open; None: no limit.
        `elsewhere`: None if there are no other processes."""
        self._most = most
        self._elsewhere = elsewhere
        self._trusted = trusted
        self._open: dict[int, int] = {}
        """By key, for clients with anything open."""
        self._shared: dict[str | None, Client] = {}
        """By address, where there is nothing to count."""
        self.refused = dict.fromkeys(("client_connections", "client_requests", "proxy_header", "tls_handshake"), 0)
        """Refused connections and requests by reason: a client's connections, or its requests by trusted proxies, above
        the limit; no valid PROXY protocol header; a failed TLS handshake."""

    def __repr__(self) -> str:
        return f"<ClientsByAddress most={self._most} clients={len(self._open)}>"

    @property
    def has_trusted(self) -> bool:
        """Whether there are trusted proxies."""
        return bool(self._trusted)

    # --- who it is ---

    def connected(self, text: str | None) -> Client:
        """A connection begins from the address `text`, in the sockets' form; None: a Unix socket."""
        if text is not None and text.startswith(_MAPPED) and "." in text:
            text = text[len(_MAPPED) :]
        if self._most is None and not self._trusted:
            return self._uncounted(text)  # parsing it would take half as long as the rest of a connection's start
        address = None if text is None else plain_address(ip_address(text))
        return self._judged(text, self._key(address), is_trusted=address in self._trusted)

    def _uncounted(self, text: str | None) -> Client:
        shared = self._shared
        client = shared.get(text)
        if client is None:
            if len(shared) >= _MOST_SHARED:
                shared.clear()
            client = shared[text] = Client(text)
        return client

    def requested(self, proxy: Client, request: RequestHead) -> Client:
        """A request begins on a connection of the trusted `proxy`. Returns its client, as far as the named one can be
        trusted. It counts until `leave`."""
        address = self._told_by(request)
        client = self._judged(
            proxy.address if address is None else str(address), proxy.key if address is None else self._key(address)
        )
        if client.is_over_limit:
            self.refused["client_requests"] += 1
        self.enter(client)
        return client

    def _judged(self, address: str | None, key: int | None, *, is_trusted: bool = False) -> Client:
        client = Client(address, key, is_trusted=is_trusted)
        client.is_over_limit = self._most is not None and not is_trusted and self._is_full(client, self._most)
        return client

    def _is_full(self, client: Client, most: int) -> bool:
        if self.open(client) >= most:
            return True
        return self._elsewhere is not None and client.key is not None and self._elsewhere.is_full(client.key)

    def _key(self, address: IpAddress | None) -> int | None:
        if self._most is None or address is None:
            return None if self._most is None else _BY_UNIX
        number = int(address)
        return number if address.version == 4 else (1 << _PREFIX) + (number >> _PREFIX)

    def _told_by(self, request: RequestHead) -> IpAddress | None:
        """The client by the fields of a trusted proxy's request; None if unknown. If both fields are present and
        disagree, one is the proxy's, and the other may have been passed on from the client."""
        fields = request.fields
        if b"forwarded" not in fields:
            return self._walk(x_forwarded_for(request)) if b"x-forwarded-for" in fields else None
        told = self._walk(forwarded(request))
        if b"x-forwarded-for" in fields and self._walk(x_forwarded_for(request)) != told:
            return None
        return told

    def _walk(self, nodes: Iterator[Node]) -> IpAddress | None:
        """The first address that is not a trusted proxy's, from the nearest on; or the last one before an entry that is
        not an address. None: there is none."""
        reached: IpAddress | None = None
        for node in nodes:
            if node is None:
                break
            reached = plain_address(node)
            if reached not in self._trusted:
                break
        return reached

    # --- what it has open ---

    def open(self, client: Client) -> int:
        """How much `client` has open, as far as it is counted."""
        return 0 if client.key is None else self._open.get(client.key, 0)

    def is_far_over(self, client: Client) -> bool:
        """Whether to close `client`'s connection without an answer: answers to connections above the limit are bounded,
        too."""
        most = self._most
        return client.is_over_limit and most is not None and self.open(client) >= most + max(1, most // 10)

    def enter(self, client: Client) -> None:
        """Count one more of `client`. A trusted proxy's connections are not counted."""
        key = client.key
        if key is not None and not client.is_trusted:
            self._open[key] = self._open.get(key, 0) + 1
            if self._elsewhere is not None:
                self._elsewhere.enter(key)

    def leave(self, client: Client) -> None:
        """The opposite of `enter`."""
        key = client.key
        if key is not None and not client.is_trusted:
            if self._elsewhere is not None:
                self._elsewhere.leave(key)
            left = self._open[key] - 1
            if left:
                self._open[key] = left
            else:
                del self._open[key]
