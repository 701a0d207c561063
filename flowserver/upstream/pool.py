"""Connections to one provider, kept between requests, and the streams that use them."""

from __future__ import annotations

import asyncio

from ..errors import EndReason, RelayError, upstream_error
from ..flow import Marks, StreamBuffer
from ..messages import RequestHead
from ..relay.ports import Clock, UpstreamEvents
from .dial import Dialer, DialError
from .h1 import UpstreamH1

MAX_IDLE = 512
"""Idle connections kept to one provider."""


class Pool:
    """A `relay.ports.Connector` for one provider over HTTP/1.1.

    `keepalive` is how many seconds an idle connection is kept (None: connections are not reused). It should be less
    than the provider's own time, since a request sent while the provider closes is lost.
    """

    __slots__ = ("_clock", "_connections", "_dialer", "_idle", "_keepalive", "connects", "marks", "name", "reuses")

    def __init__(self, name: str, dialer: Dialer, marks: Marks, *, keepalive: float | None, clock: Clock) -> None:
        self.name = name
        self.marks = marks
        self._dialer = dialer
        self._keepalive = keepalive
        self._clock = clock
        self._idle: dict[UpstreamH1, float] = {}
        self._connections: set[UpstreamH1] = set()
        self.connects = 0
        """Connections made."""
        self.reuses = 0
        """Requests that took a kept connection."""

    def open(self, request: RequestHead, events: UpstreamEvents) -> PooledStream:
        stream = PooledStream(self, request, events)
        stream.acquire()
        return stream

    def take_idle(self) -> UpstreamH1 | None:
        """The most recently used live connection; None when there is none."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.is_alive():
                self.reuses += 1
                return connection
            connection.close()
        return None

    async def connect(self) -> UpstreamH1:
        """A new connection. Raises DialError."""
        connection = await self._dialer.dial(lambda: UpstreamH1(self, self.marks))
        self.connects += 1
        if not connection.is_alive():  # or nobody would be told that it is lost
            connection.close()
            reason = EndReason.CONNECT_FAILED
            raise DialError(upstream_error(reason.value, f"The provider {self.name} closed at once.", reason))
        self._connections.add(connection)
        return connection

    def on_idle(self, connection: UpstreamH1) -> None:
        if self._keepalive is None or len(self._idle) >= MAX_IDLE:
            connection.close()
        else:
            self._idle[connection] = self._clock()

    def on_lost(self, connection: UpstreamH1) -> None:
        self._idle.pop(connection, None)
        self._connections.discard(connection)

    def sweep(self, now: float) -> None:
        """Close what was idle for too long."""
        for connection, since in list(self._idle.items()):
            if self._keepalive is not None and now - since < self._keepalive:
                break  # the rest was used later
            del self._idle[connection]
            connection.close()

    def close(self) -> None:
        for connection in list(self._connections):
            connection.close()
        self._idle.clear()

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    @property
    def idle_connections(self) -> int:
        return len(self._idle)


class PooledStream:
    """A `relay.ports.UpstreamStream` that exists before its connection does.

    Until then the request's body waits here, up to the high mark.
    """

    __slots__ = (
        "_connecting",
        "_connection",
        "_ended",
        "_events",
        "_full",
        "_paused",
        "_pool",
        "_request",
        "_request_whole",
        "_waiting",
        "reused",
        "upstream",
    )

    def __init__(self, pool: Pool, request: RequestHead, events: UpstreamEvents) -> None:
        self.upstream = pool.name
        self.reused = False
        self._pool = pool
        self._request = request
        self._events = events
        self._connecting: asyncio.Task[None] | None = None
        self._connection: UpstreamH1 | None = None
        self._waiting = StreamBuffer()
        self._full = False
        self._paused = False
        self._request_whole = False
        self._ended = False

    def acquire(self) -> None:
        """Take a kept connection, or begin to make one."""
        connection = self._pool.take_idle()
        if connection is not None:
            self.reused = True
            self._begin(connection)
        else:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def send_data(self, data: bytes) -> None:
        if self._ended:
            return
        if self._connection is not None:
            self._connection.send_data(data)
            return
        self._waiting.push(data)
        if self._waiting.size >= self._pool.marks.high and not self._full:
            self._full = True
            self._events.on_upstream_full()

    def send_end(self) -> None:
        if self._ended:
            return
        self._request_whole = True
        if self._connection is not None:
            self._connection.send_end()

    def cancel(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._waiting.clear()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.release()

    def pause_reading(self) -> None:
        self._paused = True
        if self._connection is not None and not self._ended:
            self._connection.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        if self._connection is not None and not self._ended:
            self._connection.resume_reading()

    async def _connect(self) -> None:
        try:
            connection = await self._pool.connect()
        except DialError as failure:
            self._connecting = None
            self._fail(failure.error)
            return
        self._connecting = None
        if self._ended:  # cancelled in the same turn as the connection was made
            connection.close()
        else:
            self._begin(connection)

    def _begin(self, connection: UpstreamH1) -> None:
        self._connection = connection
        connection.begin(self._request, self._events)
        if self._paused:
            connection.pause_reading()
        if self._waiting.size:
            connection.send_data(self._waiting.take())
        if self._full and not self._ended and not connection.is_full:
            self._events.on_upstream_drained()
        if self._request_whole and not self._ended:
            connection.send_end()

    def _fail(self, error: RelayError) -> None:
        if not self._ended:
            self._ended = True
            self._events.on_upstream_failed(error)
