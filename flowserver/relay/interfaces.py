"""The interfaces between an exchange and its two sides. No I/O.

Two small interfaces meet at the `Exchange`, so that protocols cost N + M and not N x M. All calls are synchronous and
never raise; calls on a stream that has ended are ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from ..errors import EndReason, RelayError
from ..flow.drain_rate import DrainRate
from ..http.messages import RequestHead, ResponseHead
from .fast_path import FastPath
from .record import RecordedExchange


class UploadCount(Protocol):
    """Counts the bytes held of a request's body: see `uploads`."""

    def hold_upload(self, size: int, announced: int | None) -> None:
        """Count `size` more bytes of the request's body, which are held until it is complete. Above the bound no more
        are read. `announced`: the bytes of the complete body; None: unknown."""

    def end_upload(self) -> None:
        """Stop counting: the body is complete, or was dropped."""

    @property
    def upload_waits(self) -> bool:
        """Whether reading of the body is stopped, because too much is held."""

    def upload_is_overdue(self, now: float) -> bool:
        """Whether `upload_waits` has lasted too long."""


class RequestClient(Protocol):
    """The client of a request."""

    address: str | None
    """None: unknown, or a Unix socket."""
    is_over_limit: bool
    """Whether the client had reached its limit when the request arrived."""


class DownstreamStream(UploadCount, Protocol):
    """The client's side of one exchange."""

    @property
    def protocol(self) -> str:
        """For the access log: "h1" or "h2"."""

    @property
    def client(self) -> RequestClient: ...

    def attach(self, events: DownstreamEvents) -> None:
        """Set the receiver of events. Called before anything else."""

    def send_interim(self, head: ResponseHead) -> None:
        """Send a 1xx response, before the final head."""

    def send_head(self, head: ResponseHead) -> None:
        """Send the final head; once, before any data."""

    def send_data(self, data: bytes) -> None:
        """Send body bytes, never empty. They are sent or buffered; `on_downstream_full` says when to stop."""

    def direct_writer(self) -> tuple[Callable[[bytes], None], bool] | None:
        """Returns (write, framed), a direct writer for body bytes, valid until `on_downstream_blocked`; None if there
        is none now. `framed`: it takes whole HTTP/1.1 chunks, which are not counted in `writes`."""

    def send_end(self) -> None:
        """End cleanly, after all data. `on_downstream_finished` follows when everything was handed to the transport."""

    def cut(self, reason: EndReason) -> None:
        """Break off at once, without sending what is buffered. `on_downstream_reset` is called."""

    def break_off(self) -> None:
        """Break off after all data, so that the client does not mistake what it has for a complete answer. Nothing is
        called back."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    @property
    def held(self) -> int:
        """Bytes held for the client in user space."""

    @property
    def held_since(self) -> float | None:
        """Since when the client's side has blocked; None: it accepts data."""

    def client_seconds(self, now: float) -> float | None:
        """Returns the seconds so far for which a window that the client closed kept bytes from leaving; only
        differences are meaningful. None: unknown. Costs a system call."""

    def unacknowledged(self) -> int:
        """Returns the bytes, held here or by the kernel, that the client has not acknowledged, as far as is known.
        Costs a system call."""

    def keep_pace(self, pace: DrainRate) -> None:
        """The client is the bottleneck, with this pace: hold no more for it than the pace requires."""

    @property
    def writes(self) -> tuple[int, int]:
        """Chunks written, and how many of them found the transport blocked."""


class DownstreamEvents(Protocol):
    """The callbacks of a downstream stream: implemented by `Exchange`, and by the admin pages."""

    def on_downstream_data(self, data: bytes) -> None: ...

    def on_downstream_end(self) -> None:
        """The request is complete."""

    def on_downstream_reset(self, reason: EndReason) -> None:
        """The client is gone or stalled; the stream accepts nothing more."""

    def on_downstream_failed(self, error: RelayError) -> None:
        """The request turned out to be malformed; it can still be answered."""

    def on_downstream_blocked(self) -> None:
        """The `direct_writer` is no longer valid: bytes begin to wait."""

    def on_downstream_full(self) -> None:
        """Stop sending: the high watermark is reached."""

    def on_downstream_drained(self) -> None:
        """Resume: what was held has been sent."""

    def on_downstream_finished(self) -> None:
        """The whole response was handed to the transport."""

    def sweep(self, now: float) -> None:
        """Check the deadlines. Called about once a second."""

    def on_drain_timeout(self) -> None:
        """The drain time is over: end now."""

    @property
    def tokens(self) -> int:
        """Tokens of the answer so far."""


class UpstreamStream(Protocol):
    """The provider's side of one exchange only. It exists at once, connected or not; calls after `cancel` and
    `on_upstream_failed` are ignored."""

    def send_data(self, data: bytes) -> None:
        """Send bytes of the request's body, never empty. They are sent or buffered; `on_upstream_full` says when to
        stop."""

    def send_end(self) -> None:
        """The request is complete."""

    def cancel(self, error: RelayError | None = None) -> None:
        """Cancel the provider's work now, in any state. Nothing is called back. `error`: the provider's fault; None: it
        has none."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def keep_pace(self, pace: DrainRate) -> None:
        """The client is the bottleneck, with this pace: let the provider be ahead only as far as the pace requires."""

    @property
    def reused(self) -> bool:
        """Whether it uses a reused connection."""


class UpstreamEvents(Protocol):
    """The callbacks of an upstream stream: implemented by `Exchange`."""

    def on_upstream_interim(self, head: ResponseHead) -> None: ...

    def on_upstream_head(self, head: ResponseHead) -> None: ...

    def on_upstream_data(self, data: bytes) -> None: ...

    def fast_path(self) -> FastPath | None:
        """An open fast path for the following body bytes, to be entered at once; None: they take the slow path."""

    def unacknowledged(self) -> int:
        """Bytes of the answer that are in flight to the client."""

    def on_upstream_end(self) -> None:
        """The response is complete."""

    def on_upstream_failed(self, error: RelayError) -> None:
        """No connection, a reset, or a broken response: nothing more follows."""

    def on_upstream_full(self) -> None:
        """Stop the upload: the high watermark is reached."""

    def on_upstream_drained(self) -> None:
        """Resume the upload."""


class RoutedStream(UpstreamStream, Protocol):
    """An upstream stream that chooses its provider itself, in one or more attempts."""

    times_content: bool
    """Whether `on_first_content` must be called, once."""

    @property
    def upstream(self) -> str:
        """The provider's name, for log and metrics."""

    @property
    def drain_on_disconnect(self) -> bool:
        """Whether the answer is read to its end if its client leaves."""

    @property
    def queued(self) -> float:
        """Seconds for which it has waited for places at providers."""

    @property
    def attempts(self) -> int:
        """Requests begun at providers so far."""

    @property
    def held(self) -> int:
        """Bytes of the request's body that wait, or are kept for another attempt."""

    def start(self) -> None:
        """Choose a provider, at once or when enough of the request has arrived."""

    def on_first_content(self) -> None:
        """The first content of the answer arrived: its first byte if content is not counted, and its last if it is not
        a stream."""

    def sweep(self, now: float) -> None:
        """End waits whose time is over. Called about once a second."""


class Connector(Protocol):
    """Opens streams to one provider."""

    def open(self, request: RequestHead, events: UpstreamEvents) -> UpstreamStream:
        """Begin a request. Failures are reported later, by `on_upstream_failed`."""


class Observer(Protocol):
    """Sees exchanges begin and end: metrics and access log."""

    def exchange_started(self, exchange: RecordedExchange) -> None: ...

    def exchange_ended(self, exchange: RecordedExchange) -> None: ...

    def waited(self, seconds: float) -> None:
        """A pause is over, in which the oldest byte waited `seconds` for the client's side."""

    def request_refused(self, error: RelayError, protocol: str) -> None:
        """A request that never became an exchange."""

    def connection_refused(self, peer: str | None, why: str) -> None:
        """A connection that broke a rule before its first request. `peer`: its address; None: a Unix socket."""


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
        """How often a stream had bytes while its window was closed."""
        self.stall_seconds = 0.0
        """Total seconds of stalls that are over."""


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Cancel the call. Safe to repeat, and after the call."""


Clock = Callable[[], float]
"""Returns seconds of a monotonic clock."""
Later = Callable[[Callable[[], None]], object]
"""Calls a function after the current event: an event loop's `call_soon`."""
Timers = Callable[[float, Callable[[], None]], Timer]
"""Calls a function in some seconds: an event loop's `call_later`."""
OpenExchange = Callable[[RequestHead, DownstreamStream], object]
"""What a listener calls for each request head; it attaches the events to the stream."""
