"""A pool of connections to one provider that nothing connects: a test says how each attempt went."""

from __future__ import annotations

from flowserver.errors import EndReason, RelayError, upstream_error
from flowserver.flow.bounded_buffer import Watermarks
from flowserver.flow.drain_rate import DrainRate
from flowserver.http.messages import RequestHead
from flowserver.relay.interfaces import UpstreamEvents, UpstreamStream
from flowserver.upstream.h1 import UpstreamH1
from flowserver.upstream.pool import Pool, PoolSettings

from .clock import FakeClock
from .dialogue import FakeDial, Provider
from .recording import RecordingUpstreamEvents
from .transport import FakeTransport

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
MARKS = Watermarks(high=1000, low=100, chunks=16)
REFUSED = upstream_error(
    "connect_failed", "The provider can't be reached.", EndReason.CONNECT_FAILED, not_processed=True
)


class Events(RecordingUpstreamEvents):
    """As the exchange does: the end cancels the stream."""

    stream: UpstreamStream

    def on_upstream_end(self) -> None:
        super().on_upstream_end()
        self.stream.cancel()


class ManyStream:
    """A `pool.PooledStream` that does nothing but end."""

    is_full = False

    def __init__(self, connection: Many, events: UpstreamEvents) -> None:
        self._connection = connection
        self.events = events
        self.reused = connection.served > 0

    def send_data(self, data: bytes) -> None: ...

    def send_end(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def keep_pace(self, pace: DrainRate) -> None: ...

    def cancel(self, error: RelayError | None = None) -> None:
        if self in self._connection.streams:
            self._connection.streams.remove(self)
            self._connection.pool.on_capacity(self._connection)


class Many:
    """A connection of `limit` requests at once, without a wire."""

    def __init__(self, pool: Pool, limit: int) -> None:
        self.pool = pool
        self.limit = limit
        self.served = 0
        self.streams: list[ManyStream] = []
        self.alive = True
        self.closed = False
        self.is_wide = False

    @property
    def capacity(self) -> int:
        return 0 if self.closed else max(0, self.limit - len(self.streams))

    @property
    def busy(self) -> int:
        return len(self.streams)

    def begin(self, request: RequestHead, events: UpstreamEvents) -> ManyStream:
        assert self.capacity, "more than it can take"
        assert self.alive
        self.streams.append(ManyStream(self, events))
        self.served += 1
        return self.streams[-1]

    def is_alive(self) -> bool:
        return self.alive and not self.closed

    def sweep(self, now: float) -> None: ...

    def close(self) -> None:
        self.closed = True

    def lose(self) -> None:
        """What the transport's connection_lost does."""
        self.closed = True
        self.pool.on_lost(self)
        streams, self.streams = self.streams, []
        for stream in streams:
            stream.events.on_upstream_failed(REFUSED)


class Scene:
    def __init__(
        self,
        *,
        keepalive: float | None = 30.0,
        max_connections: int = 10,
        multiplexed: bool | None = False,
        max_age: float | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.dial = FakeDial()
        settings = PoolSettings(
            keepalive=keepalive,
            timeout=10.0,
            max_connections=max_connections,
            multiplexed=multiplexed,
            max_age=max_age,
        )
        self.pool = Pool("api", self.dial, MARKS, settings, self.clock)
        self.providers: list[Provider] = []

    def ask(self, *, has_body: bool = False) -> tuple[UpstreamStream, Events]:
        events = Events()
        head = RequestHead(b"POST", b"/", [(b"host", b"x")], has_body=has_body)
        events.stream = stream = self.pool.open(head, events)
        if not has_body:
            stream.send_end()
        return stream, events

    def connect(self, *, blocked: bool = False) -> Provider:
        """The oldest attempt comes to its end, with HTTP/1.1."""
        connection = UpstreamH1(self.pool, MARKS)
        provider = Provider(connection, FakeTransport(connection))
        if blocked:
            provider.stops_reading()
        self.providers.append(provider)
        self.dial.under_way[0].connected(connection)
        return provider

    def connect_many(self, limit: int) -> Many:
        """The same, with HTTP/2."""
        connection = Many(self.pool, limit)
        self.dial.under_way[0].connected(connection)
        return connection

    def answered(self) -> Provider:
        """A connection that was asked and has answered."""
        self.ask()
        provider = self.connect()
        provider.says(ANSWER)
        provider.hears()
        return provider

    @property
    def figures(self) -> tuple[int, int, int, int]:
        return self.pool.connects, self.pool.reuses, self.pool.open_connections, self.pool.idle_connections
