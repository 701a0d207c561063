"""A client of a `DownstreamH2` without sockets and without an event loop: turns of it are taken one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import cast
from unittest import mock

from flowserver.downstream.context import ConnectionSettings, H2Settings, ListenerContext
from flowserver.downstream.h2 import DownstreamH2
from flowserver.flow.bounded_buffer import Watermarks
from flowserver.flow.turns import READING, Turns
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.net.hangup import HangupWatcher
from flowserver.relay.interfaces import DownstreamStream, H2Totals
from flowserver.relay.uploads import Uploads

from .clock import FakeClock
from .dialogue import FakeHangups, Side
from .h2_peer import H2Answer, H2Peer
from .recording import RecordingDownstreamEvents, RecordingObserver
from .transport import FakeTransport


class Iterations:
    """What a `DownstreamH2` asks of an event loop."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._calls.append(callback)

    def run(self, limit: int | None = None) -> int:
        """Turns until nothing is left to do, at most `limit`. Returns how many it took."""
        turns = 0
        while self._calls and turns != limit:
            calls, self._calls = self._calls, []
            for call in calls:
                call()
            turns += 1
            assert turns < 100_000, "it never comes to rest"
        return turns


class H2Client(Side):
    """`peer` says what is to be said; `talk` carries it over and brings the answers."""

    def __init__(
        self,
        context: ListenerContext,
        *,
        tls: bool = False,
        peer: H2Peer | None = None,
        greets: bool = True,
        iterations: Iterations | None = None,
    ) -> None:
        """`iterations`: of the event loop of `context`; None: its own."""
        self.turns = iterations or Iterations()
        self.peer = peer or H2Peer()
        with mock.patch.object(asyncio, "get_running_loop", return_value=self.turns):
            self.connection = DownstreamH2(context)
        super().__init__(FakeTransport(self.connection, tls=tls))
        self.turns.run()
        if greets:
            self.talk()

    def says(self, *pieces: bytes) -> None:
        """Raw bytes, each piece one read and one turn."""
        for piece in pieces:
            self.transport.arrive(piece)
            self.turns.run()

    def talk(self, raw: bytes = b"") -> None:
        """What the peer has to say and then `raw`, in one read; until neither side has more to say."""
        if raw:
            self.peer.raw(raw)
        while True:
            said = self.peer.take()
            if said:
                self.transport.arrive(said)
            while self.turns.run() and self.transport.unread:  # what was too much for one turn
                self.transport.deliver()
            heard = self.hears()
            self.peer.hear(heard)
            if not said and not heard:
                return

    def asks(self, method: str = "GET", **options: object) -> int:
        """A request, carried over."""
        stream_id = self.peer.request(method, **options)  # type: ignore[arg-type]
        self.talk()
        return stream_id

    def answer(self, stream_id: int) -> H2Answer:
        return self.peer.answers[stream_id]

    def sweep(self, now: float) -> None:
        self.connection.sweep(now)
        self.talk()


@dataclass
class Opened:
    """A request that came through."""

    request: RequestHead
    stream: DownstreamStream
    events: RecordingDownstreamEvents

    def answers(self, *chunks: bytes, status: int = 200, end: bool = True, length: int | None = None) -> None:
        """All in one turn."""
        self.stream.send_head(ResponseHead(status, [(b"content-type", b"text/plain")], content_length=length))
        for chunk in chunks:
            self.stream.send_data(chunk)
        if end:
            self.stream.send_end()


class Room:
    """What `DownstreamH2` connections stand in, with recordings in the place of exchanges."""

    def __init__(
        self,
        *,
        h2: H2Settings | None = None,
        watermarks: Watermarks | None = None,
        stall_tokens: int | None = None,
        limits_unsent: bool = False,
        **timeouts: float,
    ) -> None:
        self.clock = FakeClock()
        self.hangups = FakeHangups()
        self.observer = RecordingObserver()
        self.opened: list[Opened] = []
        settings = ConnectionSettings(
            watermarks or Watermarks(8192, 4096, 16),
            max_connections=10,
            head_timeout=timeouts.get("head_timeout"),
            keepalive_timeout=timeouts.get("keepalive_timeout"),
            stall_timeout=timeouts.get("stall_timeout"),
            stall_tokens=stall_tokens,
            limits_unsent=limits_unsent,
            h2=h2 or H2Settings(ping_interval=None),
        )
        hangups = cast(HangupWatcher, self.hangups)
        self.turns = Iterations()
        """Where uploads go on once others have ended."""
        self._iterations = Iterations()
        self.context = ListenerContext(
            settings=settings,
            open_exchange=self._open,
            observer=self.observer,
            clock=self.clock,
            hangups=hangups,
            uploads=Uploads(clock=self.clock, later=self.turns.call_soon),
            turns=Turns(READING, count(step=READING).__next__, self._iterations.call_soon),
        )

    @property
    def totals(self) -> H2Totals:
        return self.context.h2_totals

    def client(self, *, tls: bool = False, peer: H2Peer | None = None, greets: bool = True) -> H2Client:
        return H2Client(self.context, tls=tls, peer=peer, greets=greets, iterations=self._iterations)

    def sweep(self, client: H2Client, seconds: float, *, step: float = 1.0) -> None:
        """So much time passes, with a look each second."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            client.sweep(self.clock.advance(min(step, end - self.clock.now)))

    def _open(self, request: RequestHead, stream: DownstreamStream) -> None:
        opened = Opened(request, stream, RecordingDownstreamEvents())
        stream.attach(opened.events)
        self.opened.append(opened)
