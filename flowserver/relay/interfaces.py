"""What the middle asks of the two sides. Nothing here does I/O; the rooms downstream/ and upstream/ do.

Two small interfaces meet at the `Exchange`, so that protocols cost N + M and not N x M. All calls are synchronous and
never raise; calls on a stream that has ended are ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ..errors import EndReason, RelayError
from ..http.messages import RequestHead, ResponseHead

if TYPE_CHECKING:
    from .exchange import Exchange
    from .fast_path import FastPath


class UploadCount(Protocol):
    """What is held of a request's body: see `uploads`."""

    def hold_upload(self, size: int) -> None:
        """So many bytes more of the request's body are held until it is whole. Where there are too many, no more are
        asked for."""

    def end_upload(self) -> None:
        """None are held any more, or the body is whole."""

    @property
    def upload_waits(self) -> bool:
        """Whether no more of the body is asked for, since too much is held."""

    def upload_is_overdue(self, now: float) -> bool:
        """Whether that lasts too long."""


class DownstreamStream(UploadCount, Protocol):
    """The client's side of one exchange."""

    protocol: str
    """"h1" or "h2", for the access log."""

    def attach(self, events: DownstreamEvents) -> None:
        """Who is told what happens here; to be called before anything else."""

    def send_interim(self, head: ResponseHead) -> None:
        """A 1xx response before the final head."""

    def send_head(self, head: ResponseHead) -> None:
        """The final head; once, before any data."""

    def send_data(self, data: bytes) -> None:
        """Body bytes, never empty. They go out or wait; `on_downstream_full` says when to stop."""

    def direct_writer(self) -> tuple[Callable[[bytes], None], bool] | None:
        """What takes the body's next bytes until `on_downstream_blocked`, and whether as whole HTTP/1.1 chunks; None:
        nothing does now. Such chunks are no part of `writes`."""

    def send_end(self) -> None:
        """A clean end behind all data. `on_downstream_finished` follows when everything was handed to the transport."""

    def break_off(self) -> None:
        """A broken end behind all data: the client must not take what it has for whole. Nothing is called back."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    @property
    def held(self) -> int:
        """Bytes held for the client in user space."""

    @property
    def writes(self) -> tuple[int, int]:
        """Chunks written, and how many of them found the transport blocked."""


class DownstreamEvents(Protocol):
    """What a downstream stream tells: implemented by `Exchange`, and by the admin pages."""

    def on_downstream_data(self, data: bytes) -> None: ...

    def on_downstream_end(self) -> None:
        """The request is whole."""

    def on_downstream_reset(self, reason: EndReason) -> None:
        """The client is gone or stalled: the stream takes nothing more."""

    def on_downstream_failed(self, error: RelayError) -> None:
        """The request turned out malformed; it can still be answered."""

    def on_downstream_blocked(self) -> None:
        """There is no `direct_writer` any more: bytes begin to wait."""

    def on_downstream_full(self) -> None:
        """Stop: the high mark is reached."""

    def on_downstream_drained(self) -> None:
        """Go on: what was held is gone."""

    def on_downstream_finished(self) -> None:
        """The whole response was handed to the transport."""

    def sweep(self, now: float) -> None:
        """About once a second: look at the deadlines."""

    def on_drain_timeout(self) -> None:
        """The drain time is over: end what is still open."""


class UpstreamStream(Protocol):
    """The provider's side of one exchange, and of no other. It exists at once, connected or not; calls after `cancel`
    and `on_upstream_failed` are ignored."""

    def send_data(self, data: bytes) -> None:
        """Request body bytes, never empty. They go out or wait; `on_upstream_full` says when to stop."""

    def send_end(self) -> None:
        """The request is whole."""

    def cancel(self, error: RelayError | None = None) -> None:
        """End the provider's work now, in whatever state. Nothing is called back. `error` tells what it did wrong."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    @property
    def reused(self) -> bool:
        """Whether a kept connection served it."""


class UpstreamEvents(Protocol):
    """What an upstream stream tells: implemented by `Exchange`."""

    def on_upstream_interim(self, head: ResponseHead) -> None: ...

    def on_upstream_head(self, head: ResponseHead) -> None: ...

    def on_upstream_data(self, data: bytes) -> None: ...

    def fast_path(self) -> FastPath | None:
        """A fast path for the body bytes that follow, where the answer's ordinary events may take the fast path now."""

    def on_upstream_end(self) -> None:
        """The response is whole."""

    def on_upstream_failed(self, error: RelayError) -> None:
        """No connection, a reset, or a broken response: nothing more comes."""

    def on_upstream_full(self) -> None:
        """Stop the upload: the high mark is reached."""

    def on_upstream_drained(self) -> None:
        """Go on with the upload."""


class RoutedStream(UpstreamStream, Protocol):
    """An upstream stream that finds its provider itself, in one attempt or more."""

    @property
    def upstream(self) -> str:
        """The provider's name, for log and metrics."""

    @property
    def drain_on_disconnect(self) -> bool:
        """Whether the answer is to be read to its end when its client leaves."""

    @property
    def attempts(self) -> int:
        """Requests begun at providers so far."""

    def start(self) -> None:
        """Choose a provider, at once or when enough of the request is there."""

    def sweep(self, now: float) -> None:
        """About once a second: waits that take their time."""


class Connector(Protocol):
    """Opens streams to one provider."""

    def open(self, request: RequestHead, events: UpstreamEvents) -> UpstreamStream:
        """Never fails at once: what goes wrong is told by `on_upstream_failed`, later."""


class Observer(Protocol):
    """Sees exchanges begin and end: metrics and access log."""

    def exchange_started(self, exchange: Exchange) -> None: ...

    def exchange_ended(self, exchange: Exchange) -> None: ...

    def request_refused(self, error: RelayError, protocol: str) -> None:
        """A request that never became an exchange."""


class H2Totals:
    """Figures of all HTTP/2 connections of clients."""

    __slots__ = ("connections", "goaways", "stall_seconds", "stalls", "streams")

    def __init__(self) -> None:
        self.connections = 0
        """Open now."""
        self.streams = 0
        """Open on them now."""
        self.goaways: Counter[str] = Counter()
        """GOAWAYs sent, by reason."""
        self.stalls = 0
        """Times a stream had bytes and its window was shut."""
        self.stall_seconds = 0.0
        """How long, of stalls that are over."""


Clock = Callable[[], float]
"""Seconds of a monotonic clock."""
OpenExchange = Callable[[RequestHead, DownstreamStream], object]
"""What a listener calls for each request head; it attaches the events to the stream."""
