"""A provider of HTTP/2 without sockets and without an event loop. h2's own server state reads all that the relay says,
so a byte beyond a window or a frame out of order is an exception here."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from unittest import mock

import h2.config
import h2.connection
import h2.events
import h2.settings

from flowserver.flow.bounded_buffer import Watermarks
from flowserver.http.messages import RequestHead
from flowserver.relay.interfaces import Clock
from flowserver.upstream.h2 import H2Owner, UpstreamH2
from flowserver.upstream.h2_stream import H2Stream
from flowserver.upstream.receive_window import AdaptiveFlow, StreamWindows

from . import h2_frames as frames
from .clock import FakeClock
from .dialogue import Side
from .h2_dialogue import Iterations
from .recording import RecordingUpstreamEvents
from .transport import FakeTransport

_CODES = {code.name.lower(): code for code in h2.settings.SettingCodes}


class RecordingOwner:
    """An `H2Owner`."""

    def __init__(self) -> None:
        self.capacities: list[int] = []
        self.lost = 0

    def on_capacity(self, connection: UpstreamH2) -> None:
        self.capacities.append(connection.capacity)

    def on_lost(self, connection: UpstreamH2) -> None:
        self.lost += 1


@dataclass
class H2Request:
    """What came on one stream."""

    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    sizes: list[int] = field(default_factory=list)
    whole: bool = False
    reset: int | None = None
    behind_reset: list[int] = field(default_factory=list)
    """Kinds of frames that followed the reset: there may be none."""


class H2Provider(Side):
    """The other end of an `UpstreamH2`. `talk` carries what was said over, both ways, until all is quiet."""

    def __init__(
        self,
        owner: H2Owner | None = None,
        *,
        watermarks: Watermarks | None = None,
        stream_window: int = 65_536,
        flow: AdaptiveFlow | None = None,
        ping_interval: float | None = None,
        clock: Clock | None = None,
        tls: bool = False,
        **settings: int,
    ) -> None:
        self.turns = Iterations()
        self.server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self.server.local_settings = h2.settings.Settings(
            client=False, initial_values={_CODES[name]: value for name, value in settings.items()}
        )
        self.server.initiate_connection()
        self.requests: defaultdict[int, H2Request] = defaultdict(H2Request)
        self.frames: list[frames.Raw] = []
        """All that came."""
        self.pings = 0
        self.credits = True
        """Whether uploads get their windows back."""
        self.answers_pings = True
        self._unread = bytearray()
        with mock.patch.object(asyncio, "get_running_loop", return_value=self.turns):
            self.connection = UpstreamH2(
                owner or RecordingOwner(),
                watermarks or Watermarks(1000, 100, 8),
                stream_windows=StreamWindows(stream_window, flow),
                ping_interval=ping_interval,
                clock=clock or FakeClock(),
            )
        super().__init__(FakeTransport(self.connection, tls=tls))
        self.talk()

    def talk(self, raw: bytes = b"") -> None:
        while True:
            said = self.server.data_to_send() + raw
            raw = b""
            if said and not self.transport.is_closing():
                self.says(said)
            self.turns.run()
            heard = self.hears()
            self._hear(heard)
            if not heard:
                return

    def heard_frames(self) -> list[frames.Raw]:
        """What the relay says now, without an answer."""
        return list(frames.split(bytearray(self.hears())))

    def says(self, *pieces: bytes) -> None:
        """Each piece is read as it comes, and dealt with in as many turns as that takes."""
        for piece in pieces:
            self.transport.arrive(piece)
            while self.turns.run() and self.transport.unread:
                self.transport.deliver()

    def head(self, stream_id: int, *fields: tuple[str, str], status: int = 200, end: bool = False) -> None:
        self.server.send_headers(stream_id, [(":status", str(status)), *fields], end_stream=end)
        self.talk()

    def body(self, stream_id: int, data: bytes = b"", *, end: bool = False, pad: int | None = None) -> None:
        """One frame; h2 raises when a window does not allow it."""
        self.server.send_data(stream_id, data, end_stream=end, pad_length=pad)
        self.talk()

    def room(self, stream_id: int) -> int:
        return int(self.server.local_flow_control_window(stream_id))

    def change(self, **settings: int) -> None:
        self.server.update_settings({_CODES[name]: value for name, value in settings.items()})
        self.talk()

    def _hear(self, data: bytes) -> None:
        self._unread += data
        if self._unread[:24] == frames.PREFACE:
            self.server.receive_data(bytes(self._unread[:24]))
            del self._unread[:24]
        for raw in frames.split(self._unread):
            self.frames.append(raw)
            request = self.requests[raw.stream_id] if raw.stream_id else None
            if request is not None and request.reset is not None:
                request.behind_reset.append(raw.kind)
            if raw.kind == frames.PING and not raw.flags & frames.ACK:
                self.pings += 1
                if not self.answers_pings:
                    continue
            for event in self.server.receive_data(frames.frame(*raw)):
                self._on_event(event)

    def _on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self.requests[event.stream_id].fields = [(bytes(name), bytes(value)) for name, value in event.headers]
        elif isinstance(event, h2.events.DataReceived):
            request = self.requests[event.stream_id]
            request.body += event.data
            request.sizes.append(len(event.data))
            if self.credits and event.flow_controlled_length:
                self.server.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.requests[event.stream_id].whole = True
        elif isinstance(event, h2.events.StreamReset):
            self.requests[event.stream_id].reset = int(event.error_code)


class H2Events(RecordingUpstreamEvents):
    """As the exchange does: the end cancels the stream."""

    stream: H2Stream

    def on_upstream_end(self) -> None:
        super().on_upstream_end()
        self.stream.cancel()


def response(stream_id: int, *fields: tuple[str, str], end: bool = False) -> bytes:
    """The head of an answer, by hand."""
    return frames.headers(stream_id, [(":status", "200"), *fields], end=end)


def ask(
    provider: H2Provider, method: bytes = b"GET", *, has_body: bool = False, length: int | None = None
) -> tuple[H2Stream, H2Events]:
    """A request, carried over."""
    events = H2Events()
    head = RequestHead(
        method, b"/v1", [(b"host", b"api.test"), (b"x-a", b"b")], has_body=has_body, content_length=length
    )
    events.stream = stream = provider.connection.begin(head, events)
    if not has_body:
        stream.send_end()
    provider.talk()
    return stream, events
