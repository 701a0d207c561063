"""Each implementation of the relay's two stream ports, with the other program's side in a test's hands.

A new protocol joins the suites by a rig of its own and its name in `DOWNSTREAM` or `UPSTREAM`.
"""

from __future__ import annotations

import abc

import h11

from flowserver.flow.bounded_buffer import Watermarks
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.relay.interfaces import DownstreamStream, UpstreamStream
from flowserver.upstream.h1 import UpstreamH1
from flowserver.upstream.pool import Pool, PoolSettings

from ..support import h2_frames as frames
from ..support.clock import FakeClock
from ..support.dialogue import Answer, Client, FakeDial, FakeHangups, Side, listener_context, understood
from ..support.h2_dialogue import H2Client
from ..support.h2_upstream import H2Provider
from ..support.recording import RecordingDownstreamEvents, RecordingUpstreamEvents
from ..support.transport import FakeTransport

MARKS = Watermarks(high=1000, low=100, chunks=8)


class DownstreamRig(abc.ABC):
    """A stream whose client a test plays. `open` makes the one request of the rig."""

    stream: DownstreamStream
    events: RecordingDownstreamEvents
    _client: Side

    def __init__(self) -> None:
        self._clock = FakeClock()

    def _open_exchange(self, request: RequestHead, stream: DownstreamStream) -> None:
        self.stream = stream
        self.events = RecordingDownstreamEvents()
        stream.attach(self.events)

    @abc.abstractmethod
    def open(self, method: bytes = b"GET", *, has_body: bool = False) -> None: ...

    @abc.abstractmethod
    def client_sends(self, data: bytes) -> None:
        """Request body bytes."""

    @abc.abstractmethod
    def client_ends(self) -> None:
        """The end of the request's body."""

    @abc.abstractmethod
    def client_leaves(self) -> None: ...

    @abc.abstractmethod
    def client_stops_reading(self) -> None: ...

    @abc.abstractmethod
    def client_reads(self) -> None: ...

    def time_passes(self, seconds: float) -> float:
        """Returns the time that it is then."""
        return self._clock.advance(seconds)

    @property
    def now(self) -> float:
        return self._clock.now

    def window_is_shut_for(self, seconds: float) -> None:
        """By the kernel's count, the client's receive window was shut for so much longer."""
        self._client.transport.socket.receive_limited += round(seconds * 1e6)

    @abc.abstractmethod
    def body_waits_unread(self) -> bool:
        """Whether request bytes wait with the client or its kernel, since the stream is paused."""

    @abc.abstractmethod
    def answer(self) -> Answer:
        """What the client makes of all that came."""

    @property
    @abc.abstractmethod
    def is_broken(self) -> bool:
        """Whether the client was shown a broken end."""


class DownstreamH1Rig(DownstreamRig):
    def __init__(self) -> None:
        super().__init__()
        self._hangups = FakeHangups()
        context = listener_context(self._open_exchange, watermarks=MARKS, hangups=self._hangups, clock=self._clock)
        self._client = Client(context)
        self._method = b""
        self._heard = b""

    def open(self, method: bytes = b"GET", *, has_body: bool = False) -> None:
        self._method = method
        framing = b"Transfer-Encoding: chunked\r\n" if has_body else b""
        self._client.says(b"%b / HTTP/1.1\r\nHost: x\r\n%b\r\n" % (method, framing))

    def client_sends(self, data: bytes) -> None:
        self._client.says(b"%x\r\n%b\r\n" % (len(data), data))

    def client_ends(self) -> None:
        self._client.says(b"0\r\n\r\n")

    def client_leaves(self) -> None:
        self._client.resets()

    def client_stops_reading(self) -> None:
        self._client.stops_reading()

    def client_reads(self) -> None:
        self._client.reads()
        self._client.transport.deliver()

    def body_waits_unread(self) -> bool:
        return self._client.transport.unread > 0

    def answer(self) -> Answer:
        self._heard += self._client.hears()
        return understood(self._heard, closed=self._client.end == "closed", method=self._method)

    @property
    def is_broken(self) -> bool:
        return self._client.end in ("closed", "reset") and not self.answer().whole


class DownstreamH2Rig(DownstreamRig):
    """What a client stops reading is this one stream: it shuts its window."""

    _client: H2Client

    def __init__(self) -> None:
        super().__init__()
        self._client = H2Client(listener_context(self._open_exchange, watermarks=MARKS, clock=self._clock))
        self._id = 0
        self._unsent = b""

    @property
    def events(self) -> RecordingDownstreamEvents:
        self._client.turns.run()
        return self._events

    @events.setter
    def events(self, events: RecordingDownstreamEvents) -> None:
        self._events = events

    def open(self, method: bytes = b"GET", *, has_body: bool = False) -> None:
        self._id = self._client.asks(method.decode(), end=not has_body)

    def client_sends(self, data: bytes) -> None:
        if self._client.answer(self._id).ended:
            self._client.talk(frames.data(self._id, data))
            return
        self._unsent += data
        while self._unsent and (room := self._client.peer.room(self._id)) > 0:
            piece, self._unsent = self._unsent[:room], self._unsent[room:]
            self._client.peer.upload(self._id, piece)
            self._client.talk()

    def client_ends(self) -> None:
        self._client.talk(frames.data(self._id, end=True))

    def client_leaves(self) -> None:
        self._client.peer.reset(self._id)
        self._client.talk()

    def client_stops_reading(self) -> None:
        self._client.peer.settings(initial_window_size=0)
        self._client.talk()

    def client_reads(self) -> None:
        self._client.peer.settings(initial_window_size=65_535)
        self._client.talk()
        self.client_sends(b"")

    def body_waits_unread(self) -> bool:
        return bool(self._unsent)

    def answer(self) -> Answer:
        self._client.talk()
        answer = self._client.answer(self._id)
        headers = {name.encode(): value.encode() for name, value in answer.headers.items()}
        return Answer(answer.status, headers, answer.body, answer.interim, answer.whole)

    @property
    def is_broken(self) -> bool:
        self._client.talk()
        return self._client.answer(self._id).reset is not None


class UpstreamRig(abc.ABC):
    """A stream whose provider a test plays. `open` makes the one request of the rig."""

    stream: UpstreamStream
    events: RecordingUpstreamEvents

    @abc.abstractmethod
    def open(self, method: bytes = b"POST", *, has_body: bool = False, length: int | None = None) -> None: ...

    @abc.abstractmethod
    def provider_answers(self, status: int = 200, *, length: int | None = None) -> None:
        """The head of the answer."""

    @abc.abstractmethod
    def provider_sends(self, data: bytes) -> None:
        """Body bytes of an answer without a length."""

    @abc.abstractmethod
    def provider_ends(self) -> None: ...

    @abc.abstractmethod
    def provider_breaks_off(self) -> None: ...

    @abc.abstractmethod
    def provider_stops_reading(self) -> None: ...

    @abc.abstractmethod
    def provider_reads(self) -> None: ...

    @abc.abstractmethod
    def deliver(self) -> None:
        """Let the relay read what waits."""

    @abc.abstractmethod
    def request(self) -> tuple[bytes, bool]:
        """The request's body so far, and whether it is whole."""

    @property
    @abc.abstractmethod
    def is_cancelled(self) -> bool:
        """Whether the provider was told to stop."""


class UpstreamH1Rig(UpstreamRig):
    def __init__(self) -> None:
        settings = PoolSettings(keepalive=30.0, timeout=10.0, max_connections=1, multiplexed=False)
        self._pool = Pool("api", FakeDial(), MARKS, settings, FakeClock())
        connection = UpstreamH1(self._pool, MARKS)
        self._transport = FakeTransport(connection)
        self._pool.on_connected(connection)

    def open(self, method: bytes = b"POST", *, has_body: bool = False, length: int | None = None) -> None:
        self.events = RecordingUpstreamEvents()
        head = RequestHead(method, b"/", [(b"host", b"x")], has_body=has_body, content_length=length)
        self.stream = self._pool.open(head, self.events)

    def provider_answers(self, status: int = 200, *, length: int | None = None) -> None:
        framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
        self._transport.arrive(b"HTTP/1.1 %d X\r\n%b\r\n\r\n" % (status, framing))

    def provider_sends(self, data: bytes) -> None:
        self._transport.arrive(b"%x\r\n%b\r\n" % (len(data), data))

    def provider_ends(self) -> None:
        self._transport.arrive(b"0\r\n\r\n")

    def provider_breaks_off(self) -> None:
        self._transport.lose(ConnectionResetError())

    def provider_stops_reading(self) -> None:
        self._transport.block()

    def provider_reads(self) -> None:
        self._transport.drain()

    def deliver(self) -> None:
        self._transport.deliver()

    def request(self) -> tuple[bytes, bool]:
        server = h11.Connection(h11.SERVER)
        server.receive_data(bytes(self._transport.sent))
        body, whole = b"", False
        while not whole:
            event = server.next_event()
            if isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                whole = True
            elif not isinstance(event, h11.Request):
                break
        return body, whole

    @property
    def is_cancelled(self) -> bool:
        return self._transport.end == "reset"


class UpstreamH2Rig(UpstreamRig):
    """What a provider stops reading is this one stream: it gives no window back."""

    def __init__(self) -> None:
        settings = PoolSettings(keepalive=30.0, timeout=10.0, max_connections=1, multiplexed=True)
        self._pool = Pool("api", FakeDial(), MARKS, settings, FakeClock())
        self._provider = H2Provider(self._pool, watermarks=MARKS)
        self._pool.on_connected(self._provider.connection)
        self._unsent = b""

    @property
    def events(self) -> RecordingUpstreamEvents:
        self._provider.talk()
        return self._events

    @events.setter
    def events(self, events: RecordingUpstreamEvents) -> None:
        self._events = events

    def open(self, method: bytes = b"POST", *, has_body: bool = False, length: int | None = None) -> None:
        self.events = RecordingUpstreamEvents()
        head = RequestHead(method, b"/", [(b"host", b"x")], has_body=has_body, content_length=length)
        self.stream = self._pool.open(head, self.events)
        self._provider.talk()

    def provider_answers(self, status: int = 200, *, length: int | None = None) -> None:
        fields = [] if length is None else [("content-length", str(length))]
        self._provider.head(1, *fields, status=status, end=length == 0)

    def provider_sends(self, data: bytes) -> None:
        self._unsent += data
        self.deliver()

    def provider_ends(self) -> None:
        self._provider.body(1, end=True)

    def provider_breaks_off(self) -> None:
        if not self.is_cancelled:
            self._provider.server.reset_stream(1, frames.INTERNAL_ERROR)
        self._provider.talk()

    def provider_stops_reading(self) -> None:
        self._provider.change(initial_window_size=0)

    def provider_reads(self) -> None:
        self._provider.change(initial_window_size=1_000_000)

    def deliver(self) -> None:
        self._provider.talk()
        while self._unsent and (room := min(self._provider.room(1), 16_384)) > 0:
            piece, self._unsent = self._unsent[:room], self._unsent[room:]
            self._provider.body(1, piece)

    def request(self) -> tuple[bytes, bool]:
        self._provider.talk()
        return self._provider.requests[1].body, self._provider.requests[1].whole

    @property
    def is_cancelled(self) -> bool:
        self._provider.talk()
        return self._provider.requests[1].reset is not None


def head(status: int = 200, *, length: int | None = None) -> ResponseHead:
    return ResponseHead(status, [(b"content-type", b"text/plain")], content_length=length)


DOWNSTREAM: list[type[DownstreamRig]] = [DownstreamH1Rig, DownstreamH2Rig]
UPSTREAM: list[type[UpstreamRig]] = [UpstreamH1Rig, UpstreamH2Rig]
