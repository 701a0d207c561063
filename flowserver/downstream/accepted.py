"""The beginning of a client's connection: its address, by its socket or the PROXY protocol, and whether it is accepted.

Whatever accepts sockets, this process or another one, each connection begins as an `Accepted`.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

from ..config.addresses import plain_address
from ..http.proxy_protocol import ProxyHeaderError, ProxyHeaderReader
from ..net.send_queue import limit_unsent
from ..net.shared_read import SharedReads
from .clients_by_address import UNKNOWN, Client
from .context import DRAIN_GRACE, ListenerContext
from .detect import Handshake, ProtocolDetector


class Accepted(asyncio.BufferedProtocol):
    """A connection that was just made. It passes the transport on at once. (An asyncio.Protocol would stay with the
    transport: see `SharedReads`.)"""

    __slots__ = ("_context", "_tls")

    def __init__(self, context: ListenerContext, tls: ssl.SSLContext | None) -> None:
        self._context = context
        self._tls = tls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raw = cast(asyncio.Transport, transport)
        address = _address_of(raw)
        unsent = self._context.settings.unsent
        if address is None and unsent is not None:  # TCP connections inherit it from the listening socket
            limit_unsent(raw.get_extra_info("socket"), unsent)
        if self._context.settings.reads_proxy_header:
            waiting = ProxiedConnection(self._context, self._tls, address)
            raw.set_protocol(waiting)
            waiting.connection_made(raw)
        else:
            begin(self._context, self._tls, raw, address)


def begin(
    context: ListenerContext,
    tls: ssl.SSLContext | None,
    transport: asyncio.Transport,
    address: str | None,
    first: bytes = b"",
) -> None:
    """Accept or refuse a connection from `address` (None: a Unix socket), of which `first` was read already."""
    client = context.clients.connected(address)
    if client.is_over_limit:
        context.clients.refused["client_connections"] += 1
        if context.clients.is_far_over(client):
            transport.close()
            return
    if tls is None:
        detector = ProtocolDetector(context, client)
        transport.set_protocol(detector)
        detector.connection_made(transport)
        if first:
            cast(SharedReads, transport.get_protocol()).receive(first)
    else:
        encrypted = Handshake(context, tls, client).transport
        transport.set_protocol(encrypted)
        encrypted.connection_made(transport)
        if first:
            encrypted.receive(first)


def _address_of(transport: asyncio.Transport) -> str | None:
    """The peer's address; None for a Unix socket."""
    peer = transport.get_extra_info("peername")
    return peer[0] if isinstance(peer, tuple) else None


class ProxiedConnection(SharedReads):
    """A connection until its PROXY protocol header has arrived."""

    __slots__ = ("_context", "_peer", "_reader", "_since", "_tls", "_transport", "client")

    def __init__(self, context: ListenerContext, tls: ssl.SSLContext | None, peer: str | None) -> None:
        self._context = context
        self._tls = tls
        self._peer = peer
        self._reader = ProxyHeaderReader()
        self._since = context.clock()
        """Since when it waits, or drains."""
        self.client: Client = UNKNOWN

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._context.connections.add(self)
        clients = self._context.clients
        if clients.has_trusted and not clients.connected(self._peer).is_trusted:
            self._refuse("only FLOW_TRUSTED_PROXIES may send a PROXY protocol header")

    def receive(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        try:
            header = self._reader.feed(data)
        except ProxyHeaderError as error:
            self._refuse(f"{error} (FLOW_PROXY_PROTOCOL)")
            return
        if header is not None:
            self._context.connections.discard(self)
            source = self._peer if header.source is None else str(plain_address(header.source))
            begin(self._context, self._tls, self._transport, source, header.rest)

    def eof_received(self) -> bool:
        """A connection without a byte is a load balancer's probe."""
        if not self._reader.is_empty:
            self._refuse("it ended within its PROXY protocol header")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._context.connections.discard(self)

    def _refuse(self, why: str) -> None:
        self._context.clients.refused["proxy_header"] += 1
        self._context.observer.connection_refused(self._peer, why)
        self._transport.close()

    # --- context.Connection ---

    def sweep(self, now: float) -> None:
        limit = self._context.settings.head_timeout
        if self._context.drain.has_begun:
            if now - self._since >= DRAIN_GRACE:
                self._transport.close()
        elif limit is not None and now - self._since >= limit and not self._transport.is_closing():
            self._refuse(f"it had no complete PROXY protocol header after {limit:g} s (FLOW_HEAD_TIMEOUT)")

    def drain(self) -> None:
        self._since = self._context.clock()

    def end_drain(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()
