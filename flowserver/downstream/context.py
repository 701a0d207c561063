"""What the client connections of one listener share, in any protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import OVERLOADED, TOO_MANY_CONNECTIONS, TOO_MANY_OF_CLIENT, RelayError
from ..flow.bounded_buffer import Watermarks
from ..flow.memory_budget import CONNECTION, UNLIMITED, MemoryBudget
from ..flow.turns import Turns
from ..http.h2_flood_guard import H2Limits
from ..net.hangup import HangupWatcher
from ..relay.interfaces import Clock, H2Totals, Observer, OpenExchange
from ..relay.uploads import Uploads
from .clients_by_address import Client, ClientsByAddress
from .drop_budget import SharedDrops

DRAIN_GRACE = 3.0
"""Seconds within which a connection without a request may send one after a drain has begun. Its client may be sending
it already, and would lose it if the connection were closed at once."""
H2_STREAM_WINDOW = 64 * 1024
H2_CONNECTION_WINDOW = 1024 * 1024


@dataclass(frozen=True, slots=True)
class H2Settings:
    """Settings of HTTP/2 connections; windows in bytes, times in seconds, None is off."""

    stream_window: int = H2_STREAM_WINDOW
    connection_window: int = H2_CONNECTION_WINDOW
    windows_grow: bool = False
    """Whether windows grow with the clients' distance."""
    max_streams: int = 250
    max_requests: int = 1000
    max_uploads: int = 32 * 1024 * 1024
    """Bytes that unfinished uploads of one connection may hold."""
    ping_interval: float | None = 30.0
    limits: H2Limits = field(default_factory=H2Limits)


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Settings of client connections; times in seconds, None is off."""

    watermarks: Watermarks
    max_connections: int
    head_timeout: float | None
    keepalive_timeout: float | None
    stall_timeout: float | None
    stall_tokens: int | None = None
    """Tokens that may arrive for a client while it acknowledges nothing."""
    unsent: int | None = None
    """Bytes that the kernel may hold unsent for a client, see `net.send_queue`; None: its own bound."""
    limits_unsent: bool = False
    """Whether what the kernel may hold unsent follows the client's pace."""
    serves_half_closed: bool = False
    """Whether HTTP/1.1 clients that close their sending side still get their answers; otherwise they count as gone."""
    h2: H2Settings = field(default_factory=H2Settings)
    reads_proxy_header: bool = False
    """Whether each connection begins with a PROXY protocol header."""


class Connection(Protocol):
    """A client's connection, as its listener sees it."""

    client: Client
    """Does not change while the connection is open."""

    def sweep(self, now: float) -> None:
        """Check the deadlines of this connection and of its exchanges."""

    def drain(self) -> None:
        """Close after the answer to the current request, or to the next one if it arrives within `DRAIN_GRACE`."""

    def end_drain(self) -> None:
        """The drain time is over."""

    def abort(self) -> None:
        """Close at once."""


class DrainState:
    """Whether a listener drains. Also used by connections that open during the drain, whose sockets were accepted
    before."""

    __slots__ = ("has_begun",)

    def __init__(self) -> None:
        self.has_begun = False


class ConnectionCount(Protocol):
    """Counts connections over several processes."""

    def changed(self, connections: int) -> None:
        """`connections` are open in this process now."""

    def elsewhere(self) -> int:
        """Number of open connections in other processes."""


class OpenConnections:
    """The open connections of one listener, counted for their clients."""

    __slots__ = ("_count", "_open", "clients")

    def __init__(self, clients: ClientsByAddress | None = None, count: ConnectionCount | None = None) -> None:
        """`count`: of the processes that share one limit; None: there are no others."""
        self.clients = ClientsByAddress() if clients is None else clients
        self._open: set[Connection] = set()
        self._count = count

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._open)

    def __contains__(self, connection: object) -> bool:
        return connection in self._open

    def add(self, connection: Connection) -> None:
        self._open.add(connection)
        self.clients.enter(connection.client)
        if self._count is not None:
            self._count.changed(len(self._open))

    def discard(self, connection: Connection) -> None:
        """Harmless if it is not there, because another one has taken over."""
        if connection in self._open:
            self._open.remove(connection)
            self.clients.leave(connection.client)
            if self._count is not None:
                self._count.changed(len(self._open))

    def exceed(self, limit: int) -> bool:
        """Whether another one would exceed `limit`, which holds across all processes."""
        return len(self._open) + (0 if self._count is None else self._count.elsewhere()) >= limit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ListenerContext:
    """What the connections of one listener share."""

    settings: ConnectionSettings
    open_exchange: OpenExchange
    observer: Observer
    clock: Clock
    hangups: HangupWatcher
    uploads: Uploads
    """Bounds what unfinished uploads may hold."""
    turns: Turns
    h2_totals: H2Totals = field(default_factory=H2Totals)
    connections: OpenConnections = field(default_factory=OpenConnections)
    """The open connections."""
    drain: DrainState = field(default_factory=DrainState)
    memory: MemoryBudget = UNLIMITED
    drops: SharedDrops = field(default_factory=SharedDrops)

    @property
    def clients(self) -> ClientsByAddress:
        """The clients of the connections."""
        return self.connections.clients

    def refusal(self, client: Client) -> RelayError | None:
        """Why a new connection of `client` is refused; None: it is not."""
        self.memory.spend(CONNECTION)
        if self.memory.is_full:
            return OVERLOADED
        if self.connections.exceed(self.settings.max_connections):
            return TOO_MANY_CONNECTIONS
        return TOO_MANY_OF_CLIENT if client.is_over_limit else None
