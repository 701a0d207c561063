"""Detects which protocol a new client speaks.

Over TLS, ALPN decides. On a plain port the first bytes do: HTTP/2's preface is not an HTTP/1.1 request (RFC 9113
section 3.3). Upgrades from HTTP/1.1 are not supported.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

from ..http.h2_frames import PREFACE
from ..net.shared_read import SharedReads
from ..net.tls_transport import TlsTransport
from .clients_by_address import Client
from .context import DRAIN_GRACE, ListenerContext
from .h1 import DownstreamH1
from .h2 import DownstreamH2


class ProtocolDetector(SharedReads):
    """Reads the first bytes and hands the transport over to the right protocol."""

    __slots__ = ("_context", "_first", "_since", "_transport", "client")

    def __init__(self, context: ListenerContext, client: Client) -> None:
        self._context = context
        self.client = client
        self._since = context.clock()
        """Since when it waits for the first bytes, or drains."""
        self._first = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._become(DownstreamH2 if tls.selected_alpn_protocol() == "h2" else DownstreamH1)
        elif self._context.refusal(self.client) is not None:
            self._become(DownstreamH1)  # which refuses it
        else:
            self._context.connections.add(self)

    def receive(self, data: bytes) -> None:
        self._first += data
        if not PREFACE.startswith(self._first[: len(PREFACE)]):
            self._become(DownstreamH1)
        elif len(self._first) >= len(PREFACE):
            self._become(DownstreamH2)

    def connection_lost(self, exc: Exception | None) -> None:
        self._context.connections.discard(self)

    def _become(self, protocol: type[DownstreamH1] | type[DownstreamH2]) -> None:
        self._context.connections.discard(self)
        successor = protocol(self._context, self.client)
        self._transport.set_protocol(successor)
        successor.connection_made(self._transport)
        if self._context.drain.has_begun:
            successor.drain()
        if self._first:
            successor.receive(self._first)

    # --- context.Connection ---

    def sweep(self, now: float) -> None:
        limit = DRAIN_GRACE if self._context.drain.has_begun else self._context.settings.head_timeout
        if (limit is not None and now - self._since >= limit) or self._context.memory.must_free:
            self._transport.close()

    def drain(self) -> None:
        self._since = self._context.clock()

    def end_drain(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()


class Handshake:
    """A connection during its TLS handshake; `transport` is the protocol of the accepted socket."""

    __slots__ = ("_context", "_since", "client", "transport")

    def __init__(self, context: ListenerContext, tls: ssl.SSLContext, client: Client) -> None:
        self._context = context
        self.client = client
        self._since = context.clock()
        self.transport = TlsTransport(tls, self._on_established, self._on_failed, server_side=True)
        context.connections.add(self)

    def _on_established(self, transport: TlsTransport) -> ProtocolDetector:
        self._context.connections.discard(self)
        return ProtocolDetector(self._context, self.client)

    def _on_failed(self, error: Exception) -> None:
        """A connection that is closed without a byte is a probe."""
        context = self._context
        context.connections.discard(self)
        if isinstance(error, ssl.SSLError):
            context.clients.refused["tls_handshake"] += 1
            context.observer.connection_refused(self.client.address, _why(error))

    # --- context.Connection ---

    def sweep(self, now: float) -> None:
        limit = self._context.settings.head_timeout
        if limit is not None and now - self._since >= limit:
            self.transport.abort()

    def drain(self) -> None:
        """Its client is about to send a request, so it continues."""

    def end_drain(self) -> None:
        self.transport.abort()

    def abort(self) -> None:
        self.transport.abort()


def _why(error: ssl.SSLError) -> str:
    if error.reason == "HTTP_REQUEST":
        return "it spoke plain HTTP where TLS is expected"
    reason = (error.reason or str(error)).replace("_", " ").lower()
    return f"the TLS handshake failed: {reason}"
