"""A relay between a client and a provider, without sockets: tests read as what each of the three says.

relay = Relay()
client, provider = relay.client(), relay.provider()
client.says(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
provider.says(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nhi")
assert client.hears().endswith(b"\\r\\n\\r\\nhi")
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

import h11

from flowserver.dialects.estimate import Ratios
from flowserver.downstream.context import ConnectionSettings, ListenerContext
from flowserver.downstream.h1 import DownstreamH1
from flowserver.errors import RelayError
from flowserver.flow.bounded_buffer import Watermarks
from flowserver.flow.memory_budget import MemoryBudget
from flowserver.flow.read_gate import PauseTotals
from flowserver.flow.turns import READING, Turns
from flowserver.net.hangup import HangupWatcher
from flowserver.quota.identify import QuotaContext
from flowserver.relay.account import AccountSettings
from flowserver.relay.interfaces import OpenExchange
from flowserver.relay.provider import Deadlines
from flowserver.relay.uploads import Uploads
from flowserver.routing.admission import Admission
from flowserver.routing.routes import Route
from flowserver.upstream.dialer import DialError, Prepare
from flowserver.upstream.h1 import UpstreamH1
from flowserver.upstream.pool import Connected, Failed, Pool, PooledConnection, PoolSettings

from .clock import FakeClock
from .recording import RecordingObserver, exchange_context, routing, target
from .transport import FakeTransport

_P = TypeVar("_P", bound=asyncio.BaseProtocol)


class FakeHangups:
    """A `HangupWatcher` whose hang-ups a test makes."""

    def __init__(self) -> None:
        self.watched: dict[Callable[[], None], bool] = {}
        """Callbacks, and whether a FIN is enough for them."""

    def watch(self, descriptor: int, callback: Callable[[], None], *, half_close: bool) -> None:
        self.watched[callback] = half_close

    def forget(self, descriptor: int, callback: Callable[[], None]) -> None:
        self.watched.pop(callback, None)

    def hang_up(self, *, by_fin: bool = False) -> None:
        """Every watched client is gone; `by_fin`: it has closed its sending side only."""
        for callback, half_close in list(self.watched.items()):
            if half_close or not by_fin:
                del self.watched[callback]
                callback()


class FakeDialer:
    """A `Dialer` whose connections are made of nothing. `outcome` is awaited first, and may fail."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[None] | None = None
        self.error: DialError | None = None
        self.transports: list[FakeTransport] = []
        self.on_connected: Callable[[FakeTransport], None] = lambda transport: None

    async def dial(self, factory: Callable[[], _P], prepare: Prepare) -> _P:
        if self.outcome is not None:
            await self.outcome
        if self.error is not None:
            raise self.error
        protocol = factory()
        transport = FakeTransport(protocol)
        self.transports.append(transport)
        self.on_connected(transport)
        return protocol


class FakeAttempt:
    """A connection that is being made; `connected` or `failed` tells how that went."""

    def __init__(self, connected: Connected, failed: Failed) -> None:
        self._connected = connected
        self._failed = failed
        self.state = "under way"

    def connected(self, connection: PooledConnection) -> None:
        assert self.state == "under way"
        self.state = "connected"
        self._connected(connection)

    def failed(self, error: RelayError) -> None:
        assert self.state == "under way"
        self.state = "failed"
        self._failed(error)

    def cancel(self) -> None:
        assert self.state == "under way"
        self.state = "cancelled"


class FakeDial:
    """A `pool.Dial` whose outcomes a test decides."""

    def __init__(self) -> None:
        self.attempts: list[FakeAttempt] = []
        self.wholes: list[bool] = []
        """Whether the answers that they were made for are known to be whole."""

    def __call__(self, connected: Connected, failed: Failed, whole: bool) -> FakeAttempt:
        self.wholes.append(whole)
        self.attempts.append(FakeAttempt(connected, failed))
        return self.attempts[-1]

    @property
    def under_way(self) -> list[FakeAttempt]:
        return [attempt for attempt in self.attempts if attempt.state == "under way"]


class Side:
    """One end of a connection, as the other program sees it."""

    def __init__(self, transport: FakeTransport) -> None:
        self.transport = transport
        self._heard = 0

    def says(self, *pieces: bytes) -> None:
        """Each piece is one read, while the relay reads."""
        for piece in pieces:
            self.transport.arrive(piece)

    def hears(self) -> bytes:
        """What came since this was last asked."""
        data = bytes(self.transport.sent[self._heard :])
        self._heard += len(data)
        return data

    def shuts(self) -> None:
        """A FIN: it sends no more."""
        self.transport.arrive_eof()

    def resets(self) -> None:
        self.transport.lose(ConnectionResetError())

    def stops_reading(self) -> None:
        self.transport.block()

    def reads(self, size: int | None = None) -> None:
        """Takes `size` bytes; None: everything, from now on."""
        self.transport.drain(size)

    @property
    def end(self) -> str:
        return self.transport.end


class Client(Side):
    """A client of a `DownstreamH1`."""

    def __init__(self, context: ListenerContext, *, tls: bool = False) -> None:
        self.connection = DownstreamH1(context)
        super().__init__(FakeTransport(self.connection, tls=tls))


class Provider(Side):
    """A provider at the other end of an `UpstreamH1`."""

    def __init__(self, connection: UpstreamH1, transport: FakeTransport) -> None:
        self.connection = connection
        super().__init__(transport)


@dataclass
class Answer:
    """What a client makes of the bytes it got."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    interim: list[int] = field(default_factory=list)
    whole: bool = False
    """It came to a clean end."""
    rest: bytes = b""


def understood(data: bytes, *, closed: bool = False, method: bytes = b"GET") -> Answer:
    """`data` as h11 reads it in a client; `closed` when the connection ended (not by a reset)."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    if closed:
        connection.receive_data(b"")
    answer = Answer()
    while connection.their_state in (h11.SEND_RESPONSE, h11.SEND_BODY):
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            break
        if isinstance(event, h11.InformationalResponse):
            answer.interim.append(event.status_code)
        elif isinstance(event, h11.Response):
            answer.status = event.status_code
            answer.headers = dict(event.headers)
        elif isinstance(event, h11.Data):
            answer.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            answer.whole = True
            answer.rest = connection.trailing_data[0]
        else:
            break
    return answer


def listener_context(
    open_exchange: OpenExchange,
    *,
    watermarks: Watermarks | None = None,
    max_connections: int = 100,
    head_timeout: float | None = None,
    keepalive_timeout: float | None = None,
    stall_timeout: float | None = None,
    stall_tokens: int | None = None,
    observer: RecordingObserver | None = None,
    clock: FakeClock | None = None,
    hangups: FakeHangups | None = None,
    limits_unsent: bool = False,
    serves_half_closed: bool = False,
) -> ListenerContext:
    watermarks = watermarks or Watermarks(16384, 4096, 16)
    clock = clock or FakeClock()
    return ListenerContext(
        settings=ConnectionSettings(
            watermarks,
            max_connections,
            head_timeout,
            keepalive_timeout,
            stall_timeout,
            stall_tokens,
            limits_unsent=limits_unsent,
            serves_half_closed=serves_half_closed,
        ),
        open_exchange=open_exchange,
        observer=observer or RecordingObserver(),
        clock=clock,
        hangups=cast(HangupWatcher, hangups or FakeHangups()),
        uploads=Uploads(clock=clock, later=_nobody_waits),
        turns=Turns(READING, clock, _nobody_waits),
        memory=MemoryBudget(),
    )


def _nobody_waits(call: object) -> None:
    raise AssertionError("neither uploads without a bound nor requests wait")


class Relay:
    """Everything between the two transports, as the server wires it."""

    def __init__(
        self,
        *,
        watermarks: Watermarks | None = None,
        deadlines: Deadlines | None = None,
        max_body: int = 1 << 20,
        url: str = "http://provider.test",
        api_key: bytes | None = None,
        stall_timeout: float | None = None,
        max_tokens: int | None = None,
        quota: QuotaContext | None = None,
        limits_unsent: bool = False,
        serves_half_closed: bool = False,
        fast_path: bool = True,
    ) -> None:
        self.clock = FakeClock()
        self.observer = RecordingObserver()
        self.hangups = FakeHangups()
        self.pauses = PauseTotals()
        self.dial = FakeDial()
        self.watermarks = watermarks or Watermarks(16384, 4096, 16)
        settings = PoolSettings(keepalive=30.0, timeout=10.0, max_connections=100, multiplexed=False)
        self.pool = Pool("provider", self.dial, self.watermarks, settings, self.clock)
        context = exchange_context(
            clock=self.clock,
            observer=self.observer,
            deadlines=deadlines,
            pauses=self.pauses,
            max_body=max_body,
            fast_path=fast_path,
        )
        self.target = target(self.pool, url=url, api_key=api_key, deadlines=deadlines)
        admission = Admission(
            routing(routes=[Route("*", (), ((self.target,),), max_tokens=max_tokens)], clock=self.clock),
            context,
            AccountSettings(Ratios(), max_event=1 << 20, hold=8192, quota=quota),
        )
        self.context = listener_context(
            admission.open_exchange,
            watermarks=self.watermarks,
            stall_timeout=stall_timeout,
            observer=self.observer,
            clock=self.clock,
            hangups=self.hangups,
            limits_unsent=limits_unsent,
            serves_half_closed=serves_half_closed,
        )

    def client(self, *, tls: bool = False) -> Client:
        return Client(self.context, tls=tls)

    def provider(self) -> Provider:
        """A connection that stands already and takes the next request."""
        connection = UpstreamH1(self.pool, self.watermarks)
        transport = FakeTransport(connection)
        self.pool.on_connected(connection)
        return Provider(connection, transport)

    def sweep(self, seconds: float) -> None:
        """Time passes, and everything is looked at."""
        now = self.clock.advance(seconds)
        for connection in list(self.context.connections):
            connection.sweep(now)
        self.pool.sweep(now)
