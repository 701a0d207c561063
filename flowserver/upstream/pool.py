"""Connections to one provider, kept between requests, and the streams that use them.

The pool decides synchronously and without I/O: it hands out a connection, dials, or has the request wait. `dial` does
the I/O and calls back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Protocol

from ..errors import EndReason, Party, RelayError, upstream_error
from ..flow.bounded_buffer import ONE_WRITE, ChunkQueue, Watermarks
from ..flow.drain_rate import DrainRate
from ..http.messages import RequestHead
from ..relay.interfaces import Clock, UpstreamEvents, UpstreamStream


class PooledStream(UpstreamStream, Protocol):
    """One request on a connection, over HTTP/1.1 or HTTP/2."""

    @property
    def is_full(self) -> bool:
        """Whether the upload is stopped at the high watermark."""


class PooledConnection(Protocol):
    """A connection that carries requests: one at a time over HTTP/1.1, many over HTTP/2."""

    served: int
    """Requests begun on it."""

    @property
    def capacity(self) -> int:
        """Requests that it can accept now."""

    @property
    def busy(self) -> int:
        """Requests under way."""

    @property
    def is_wide(self) -> bool:
        """Whether its provider may be far ahead of a client, whatever is done now."""

    def begin(self, request: RequestHead, events: UpstreamEvents) -> PooledStream: ...

    def is_alive(self) -> bool:
        """Whether an idle connection can be used."""

    def sweep(self, now: float) -> None: ...

    def close(self) -> None: ...


class Cancellable(Protocol):
    def cancel(self) -> object: ...


Connected = Callable[[PooledConnection], None]
Failed = Callable[[RelayError], None]
Dial = Callable[[Connected, Failed, bool], Cancellable]
"""Starts to connect; calls exactly one of the two callbacks later, unless cancelled."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """`keepalive` is how many seconds an idle connection is kept (None: connections are not reused); it should be less
    than the provider's own time, since a request sent while the provider closes is lost. `timeout` bounds the wait for
    a connection when `max_connections` are in use. `multiplexed`: True for HTTP/2, False for HTTP/1.1, None if the
    first connection decides (ALPN). `max_age` is how many seconds after its establishment a connection takes its last
    request (None: no limit), so that DNS changes reach a busy relay, too."""

    keepalive: float | None
    timeout: float
    max_connections: int
    multiplexed: bool | None
    max_age: float | None = None


class Pool:
    """A `relay.interfaces.Connector` for one provider. Waiters are served in order."""

    __slots__ = (
        "_clock",
        "_closed",
        "_connections",
        "_dial",
        "_dial_number",
        "_dials",
        "_idle",
        "_idle_wide",
        "_multiplexed",
        "_retired",
        "_settings",
        "_shares",
        "_waiting",
        "connects",
        "name",
        "reuses",
        "watermarks",
    )

    def __init__(self, name: str, dial: Dial, watermarks: Watermarks, settings: PoolSettings, clock: Clock) -> None:
        self.name = name
        self.watermarks = watermarks
        self._dial = dial
        self._settings = settings
        self._clock = clock
        self._multiplexed = settings.multiplexed
        """Whether the next connection is expected to be HTTP/2; None: not known yet."""
        self._shares = False
        """Whether a connection ever took several requests."""
        self._connections: dict[PooledConnection, float] = {}
        """All connections that accept requests, and since when they exist; the oldest first."""
        self._retired: set[PooledConnection] = set()
        """HTTP/2 connections past their age: their requests continue, new ones go elsewhere."""
        self._idle: dict[PooledConnection, float] = {}
        """Idle connections, and since when; the most recently used last."""
        self._idle_wide: dict[PooledConnection, float] = {}
        """The same for wide ones, which are for whole answers, and for streams only if no other is possible."""
        self._dials: dict[int, Cancellable] = {}
        """Dials under way, by number."""
        self._dial_number = 0
        """Of the last dial that was begun."""
        self._waiting: OrderedDict[WaitingStream, float] = OrderedDict()
        """Requests without a connection, in order, and since when. Ten thousand may leave at once, from the middle."""
        self._closed = False
        self.connects = 0
        """Connections made."""
        self.reuses = 0
        """Requests that used a kept connection."""

    def __repr__(self) -> str:
        connections = f"open={self.open_connections} idle={self.idle_connections} retired={self.retired_connections}"
        state = " closed" if self._closed else ""
        return f"<Pool {self.name} {connections} dials={len(self._dials)} waiting={len(self._waiting)}{state}>"

    # --- relay.interfaces.Connector ---

    def open(self, request: RequestHead, events: UpstreamEvents) -> UpstreamStream:
        connection = self._find(whole=request.awaits_whole)
        if connection is not None:
            return self.begin(connection, request, events)
        stream = WaitingStream(self, request, events)
        self._waiting[stream] = self._clock()
        self._dial_as_needed()
        return stream

    # --- for the streams ---

    def begin(self, connection: PooledConnection, request: RequestHead, events: UpstreamEvents) -> PooledStream:
        """Put a request on a connection that has room for it."""
        if connection.served:
            self.reuses += 1
        return connection.begin(request, events)

    def leave(self, stream: WaitingStream) -> None:
        """A stream no longer waits, because its client left. A dial that only it needed is cancelled."""
        self._waiting.pop(stream, None)
        while len(self._dials) > self._dials_wanted():
            _, dial = self._dials.popitem()
            dial.cancel()

    # --- for the connections ---

    def on_capacity(self, connection: PooledConnection) -> None:
        """A request on `connection` is over, or its capacity has changed."""
        if connection in self._retired:
            if not connection.busy:
                connection.close()
            return
        if connection not in self._connections:
            return  # it is not handed over yet; its provider's SETTINGS came first
        busy, capacity, now = connection.busy, connection.capacity, self._clock()
        old = self._is_old(connection, now)
        if busy + capacity > 1:
            self._shares = True
            if self._settings.multiplexed is None:
                self._multiplexed = True  # however few it accepted at first
        if self._waiting and not old:
            self._serve(connection)
            busy, capacity = connection.busy, connection.capacity
        if busy:
            self._take_from_idle(connection)
        elif self._closed or self._settings.keepalive is None or not capacity or old:
            self._take_from_idle(connection)
            connection.close()
        else:
            idle = self._idle_wide if connection.is_wide else self._idle
            idle.setdefault(connection, now)

    def on_lost(self, connection: PooledConnection) -> None:
        self._take_from_idle(connection)
        self._connections.pop(connection, None)
        self._retired.discard(connection)
        self._dial_as_needed()

    # --- for the process ---

    def sweep(self, now: float) -> None:
        """Close connections that were idle for too long, fail requests that waited for too long."""
        for connection in [*self._connections, *self._retired]:
            connection.sweep(now)
        self._retire_old(now)
        for idle in (self._idle, self._idle_wide):
            for connection, since in list(idle.items()):
                if self._settings.keepalive is not None and now - since < self._settings.keepalive:
                    break  # the others were used later
                del idle[connection]
                connection.close()
        overdue = []
        while self._waiting and not self._dials and now - next(iter(self._waiting.values())) >= self._settings.timeout:
            overdue.append(self._waiting.popitem(last=False)[0])
        text = f"All {self._settings.max_connections} connections to the provider {self.name} are in use."
        for stream in overdue:
            stream.fail(
                RelayError(503, "no_capacity", text, Party.RELAY, EndReason.REFUSED, retry_after=1, not_processed=True)
            )

    def dial_by(self, dial: Dial) -> None:
        """Make further connections with `dial`."""
        self._dial = dial

    @property
    def is_unused(self) -> bool:
        """Whether no request is under way or waits for a connection."""
        is_idle = len(self._connections) == self.idle_connections and not self._retired
        return is_idle and not self._waiting and not self._dials

    def close(self) -> None:
        """Close all connections, and keep none from now on. Later requests, which waited for their next attempt during
        a reload, are still served."""
        self._closed = True
        for dial in self._dials.values():
            dial.cancel()
        self._dials.clear()
        for connection in [*self._connections, *self._retired]:
            connection.close()
        self._idle.clear()
        self._idle_wide.clear()

    @property
    def is_full(self) -> bool:
        """Whether another request would have to wait for the end of one."""
        if len(self._connections) < self._settings.max_connections:
            return False
        return not self.idle_connections and not any(connection.capacity for connection in self._connections)

    @property
    def connections(self) -> list[PooledConnection]:
        """All of them."""
        return [*self._connections, *self._retired]

    @property
    def open_connections(self) -> int:
        return len(self._connections) + len(self._retired)

    @property
    def idle_connections(self) -> int:
        return len(self._idle) + len(self._idle_wide)

    @property
    def retired_connections(self) -> int:
        """HTTP/2 connections past their age whose requests continue."""
        return len(self._retired)

    @property
    def waiting_requests(self) -> int:
        """Requests that wait for a connection."""
        return len(self._waiting)

    # --- deciding ---

    def _find(self, *, whole: bool) -> PooledConnection | None:
        """A connection for a request now: the most recently used, so that the others can be closed as idle. `whole`:
        its answer is known not to be a stream."""
        now = self._clock()
        if self._shares:
            for connection in self._connections:
                if connection.busy and connection.capacity and not self._is_old(connection, now):
                    return connection
        if whole:
            return self._find_idle(self._idle_wide, now) or self._find_idle(self._idle, now)
        found = self._find_idle(self._idle, now)
        if found is None and len(self._connections) + len(self._dials) >= self._settings.max_connections:
            found = self._find_idle(self._idle_wide, now)
        return found

    def _find_idle(self, idle: dict[PooledConnection, float], now: float) -> PooledConnection | None:
        while idle:
            connection, _ = idle.popitem()
            if connection.is_alive() and connection.capacity and not self._is_old(connection, now):
                return connection
            connection.close()
        return None

    def _take_from_idle(self, connection: PooledConnection) -> None:
        self._idle.pop(connection, None)
        self._idle_wide.pop(connection, None)

    def _dials_wanted(self) -> int:
        """How many dials should be under way for the waiting requests."""
        waiting = len(self._waiting)
        room = self._settings.max_connections - len(self._connections)
        return min(waiting if self._multiplexed is False else min(waiting, 1), max(0, room))

    def _dial_as_needed(self) -> None:
        while len(self._dials) < self._dials_wanted():
            self._begin_dial()

    def _begin_dial(self) -> None:
        self._dial_number += 1
        number = self._dial_number
        whole = next(reversed(self._waiting)).awaits_whole
        self._dials[number] = self._dial(
            partial(self._on_dialled, number), partial(self._on_dial_failed, number), whole
        )

    def _on_dialled(self, number: int, connection: PooledConnection) -> None:
        if connection.capacity:
            self._dials.pop(number, None)
            self.on_connected(connection)
        else:  # otherwise waiting requests would cause one useless connection after the other
            connection.close()
            reason = EndReason.CONNECT_FAILED
            text = "The provider accepts no requests."
            self._on_dial_failed(number, upstream_error(reason.value, text, reason, not_processed=True))

    def on_connected(self, connection: PooledConnection) -> None:
        """A dial has made `connection`, which accepts requests now."""
        self.connects += 1
        self._connections[connection] = self._clock()
        if self._settings.multiplexed is None:
            self._multiplexed = connection.capacity > 1
        self.on_capacity(connection)
        self._dial_as_needed()

    def _on_dial_failed(self, number: int, error: RelayError) -> None:
        """Fail the share of the waiting requests that this dial was made for, the oldest first."""
        under_way = len(self._dials)
        self._dials.pop(number, None)
        while self._waiting and (connection := self._find_idle(self._idle_wide, self._clock())) is not None:
            self._serve(connection)
        count = -(-len(self._waiting) // max(1, under_way))
        for stream in [self._waiting.popitem(last=False)[0] for _ in range(count)]:
            stream.fail(error)
        self._dial_as_needed()

    def _is_old(self, connection: PooledConnection, now: float) -> bool:
        max_age = self._settings.max_age
        return max_age is not None and now - self._connections[connection] >= max_age

    def _retire_old(self, now: float) -> None:
        """Close idle connections that are too old. HTTP/2 ones with requests accept no more and no longer count towards
        `max_connections`, or one long stream could hold up all requests; HTTP/1.1 ones end with their request."""
        for connection in list(self._connections):
            if not self._is_old(connection, now):
                break  # the others are younger
            if not connection.busy:
                self._take_from_idle(connection)
                connection.close()
            elif connection.capacity or connection.busy > 1:
                del self._connections[connection]
                self._retired.add(connection)
        self._dial_as_needed()

    def _serve(self, connection: PooledConnection) -> None:
        """Give `connection` to the requests that have waited longest."""
        while self._waiting and connection.capacity and connection.is_alive():
            stream, _ = self._waiting.popitem(last=False)
            self._take_from_idle(connection)
            stream.begin(connection)


class _Phase(Enum):
    WAITING = 0
    """For a connection."""
    BEGUN = 1
    OVER = 2


class StreamPool(Protocol):
    """The pool of a `WaitingStream`."""

    watermarks: Watermarks

    def begin(self, connection: PooledConnection, request: RequestHead, events: UpstreamEvents) -> PooledStream:
        """Put a request on a connection that has room for it."""

    def leave(self, stream: WaitingStream) -> None:
        """A stream no longer waits, because its client left."""


class WaitingStream:
    """A `relay.interfaces.UpstreamStream` that exists before its connection, and then delegates to it.

    Until then the request's body waits here, up to the high watermark.
    """

    __slots__ = (
        "_events",
        "_full",
        "_paused",
        "_phase",
        "_pool",
        "_request",
        "_request_whole",
        "_stream",
        "_waiting",
    )

    def __init__(self, pool: StreamPool, request: RequestHead, events: UpstreamEvents) -> None:
        self._pool = pool
        self._request: RequestHead | None = request
        """None: its connection has sent it. A head takes 0.6 KB, which a stream would keep to its end."""
        self._events = events
        self._phase = _Phase.WAITING
        self._stream: PooledStream | None = None
        """The request on its connection; None: it waits, or never had one."""
        self._waiting: ChunkQueue | None = None
        """None: nothing waits."""
        self._full = False
        self._paused = False
        self._request_whole = False

    def __repr__(self) -> str:
        waiting = self._waiting.size if self._waiting is not None else 0
        return f"<WaitingStream {self._phase.name} held={waiting} stream={self._stream}>"

    # --- relay.interfaces.UpstreamStream ---

    def send_data(self, data: bytes) -> None:
        if self._phase is _Phase.OVER:
            return
        if self._stream is not None:
            self._stream.send_data(data)
            return
        if self._waiting is None:
            self._waiting = ChunkQueue()
        self._waiting.push(data)
        if not self._full and self._pool.watermarks.are_reached(self._waiting.size, len(self._waiting)):
            self._full = True
            self._events.on_upstream_full()

    def send_end(self) -> None:
        if self._phase is _Phase.OVER:
            return
        self._request_whole = True
        if self._stream is not None:
            self._stream.send_end()

    def cancel(self, error: RelayError | None = None) -> None:
        if self._phase is _Phase.OVER:
            return
        self._phase = _Phase.OVER
        self._waiting = None
        if self._stream is not None:
            self._stream.cancel(error)
        else:
            self._pool.leave(self)

    def pause_reading(self) -> None:
        self._paused = True
        if self._stream is not None and self._phase is _Phase.BEGUN:
            self._stream.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        if self._stream is not None and self._phase is _Phase.BEGUN:
            self._stream.resume_reading()

    def keep_pace(self, pace: DrainRate) -> None:
        if self._stream is not None:
            self._stream.keep_pace(pace)

    @property
    def reused(self) -> bool:
        return self._stream is not None and self._stream.reused

    # --- for the pool ---

    @property
    def awaits_whole(self) -> bool:
        """Whether its answer is known not to be a stream."""
        return self._request is not None and self._request.awaits_whole

    def begin(self, connection: PooledConnection) -> None:
        """A connection is available: send what waited."""
        request, self._request = self._request, None
        assert request is not None
        self._phase = _Phase.BEGUN
        self._stream = stream = self._pool.begin(connection, request, self._events)
        if self._paused:
            stream.pause_reading()
        waiting, self._waiting = self._waiting, None
        while waiting is not None and waiting.size:
            stream.send_data(waiting.take(ONE_WRITE))
        if self._full and self._phase is _Phase.BEGUN and not stream.is_full:
            self._events.on_upstream_drained()
        if self._request_whole and self._phase is _Phase.BEGUN:
            stream.send_end()

    def fail(self, error: RelayError) -> None:
        """There will be no connection."""
        if self._phase is not _Phase.OVER:
            self._phase = _Phase.OVER
            self._events.on_upstream_failed(error)
