"""TLS between clients and the relay."""

from __future__ import annotations

import ssl
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files; `client_ca` None: clients need no certificate."""

    certificate: str
    key: str
    client_ca: str | None


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """TLS 1.2 and up, HTTP/2 preferred by ALPN. A renewed file needs a new context. Raises OSError (ssl.SSLError among
    it)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # An empty password: for an encrypted key OpenSSL would otherwise prompt on the terminal, and block a running relay.
    context.load_cert_chain(files.certificate, files.key, password="")
    if files.client_ca is not None:
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
