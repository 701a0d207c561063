"""Caches the TLS session of one provider, which shortens the handshake of its next connections."""

from __future__ import annotations

import ssl
from typing import Protocol

from ..relay.interfaces import Clock

TICKET_TIME = 1.0
"""Seconds after the handshake within which a provider has sent its ticket (TLS 1.3, RFC 8446 section 4.6.1)."""
RENEWAL = 300.0
"""Seconds between two reads of a session. CPython before 3.12.7 leaks some 7 KB each time (python/cpython#116810)."""


class Resumable(Protocol):
    """A connection over TLS, such as a `net.tls_transport.TlsTransport`."""

    @property
    def session(self) -> ssl.SSLSession | None: ...

    @property
    def is_resumed(self) -> bool:
        """Whether the provider accepted the session that was offered."""

    def is_closing(self) -> bool: ...


class SessionCache:
    """Offers one session until the provider no longer accepts it, then that of a newer connection."""

    __slots__ = ("_clock", "_read_after", "_session", "_source", "_source_since")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._session: ssl.SSLSession | None = None
        self._source: Resumable | None = None
        """The connection whose session is read next; None: the current session is still accepted, or too new to be
        replaced."""
        self._source_since = 0.0
        self._read_after = clock()

    def offer(self) -> ssl.SSLSession | None:
        """The session for a new connection; None: there is none yet."""
        source = self._source
        if source is not None:
            now = self._clock()
            if source.is_closing() or now - self._source_since >= TICKET_TIME:
                self._session, self._source = source.session, None
                self._read_after = now + RENEWAL
        return self._session

    def on_established(self, connection: Resumable) -> None:
        now = self._clock()
        if self._source is None and now >= self._read_after and not connection.is_resumed:
            self._source, self._source_since = connection, now
