"""What the client connections of one listener share, whatever they speak."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ..flow.bounded_buffer import Watermarks
from ..http.h2_flood_guard import H2Limits
from ..net.hangup import HangupWatcher
from ..relay.interfaces import Clock, H2Totals, Observer, OpenExchange
from ..relay.uploads import Uploads


@dataclass(frozen=True, slots=True)
class H2Settings:
    """What an HTTP/2 connection needs to know beside that; windows in bytes, times in seconds, None is off."""

    stream_window: int = 64 * 1024
    connection_window: int = 1024 * 1024
    max_streams: int = 250
    max_requests: int = 1000
    max_uploads: int = 32 * 1024 * 1024
    """Bytes that unfinished uploads of one connection may hold."""
    ping_interval: float | None = 30.0
    limits: H2Limits = field(default_factory=H2Limits)


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """What a client connection needs to know; times in seconds, None is off."""

    watermarks: Watermarks
    max_connections: int
    head_timeout: float | None
    keepalive_timeout: float | None
    stall_timeout: float | None
    serves_half_closed: bool = False
    """Whether HTTP/1.1 clients that close their sending side get their answers; else they have left."""
    h2: H2Settings = field(default_factory=H2Settings)


class Connection(Protocol):
    """A client's connection, as its listener sees it."""

    def sweep(self, now: float) -> None:
        """Look at the deadlines of this connection and of its exchanges."""

    def drain(self) -> None:
        """Take no further request; close as soon as none is being served."""

    def end_drain(self) -> None:
        """The drain time is over."""

    def abort(self) -> None:
        """Close at once."""


class ListenerContext:
    """What the connections of one listener share."""

    __slots__ = ("clock", "connections", "h2_totals", "hangups", "observer", "open_exchange", "settings", "uploads")

    def __init__(
        self,
        settings: ConnectionSettings,
        open_exchange: OpenExchange,
        observer: Observer,
        clock: Clock,
        hangups: HangupWatcher,
        uploads: Uploads,
    ) -> None:
        """`uploads` bounds what unfinished ones may hold."""
        self.settings = settings
        self.open_exchange = open_exchange
        self.observer = observer
        self.clock = clock
        self.hangups = hangups
        self.h2_totals = H2Totals()
        self.uploads = uploads
        self.connections: set[Connection] = set()
