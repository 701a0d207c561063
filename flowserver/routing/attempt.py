"""One request at one provider: its events, and what its outcome says about the provider. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol

from ..errors import Party, RelayError
from ..flow.drain_rate import DrainRate
from ..http.messages import RequestHead, ResponseHead
from ..relay.failures import is_unhealthy
from ..relay.fast_path import FastPath
from ..relay.interfaces import Clock, UpstreamEvents, UpstreamStream
from ..relay.request_trace import AttemptTrace
from .claim import Claim
from .dispatch_events import NOBODY
from .outliers import Outliers
from .upstream_host import UpstreamHost


class AttemptState(Enum):
    ASKED = "asked"
    """Waiting for the answer's head."""
    ANSWERED = "answered"
    """The exchange has the head; the body follows."""
    OVER = "over"
    """Failed, cancelled or complete. No more events follow."""


_ASKED: Final = AttemptState.ASKED
_ANSWERED: Final = AttemptState.ANSWERED
_OVER: Final = AttemptState.OVER
"""Python 3.11 takes 75 ns to look up an enum member."""


class AttemptOwner(Protocol):
    """Decides what to do with an attempt's outcome."""

    def on_attempt_head(self, attempt: Attempt, head: ResponseHead) -> None:
        """The provider answers: `accept` passes the answer on, `cancel` drops it."""

    def on_attempt_failed(self, attempt: Attempt, error: RelayError) -> None:
        """The attempt has failed, and its place is free."""

    def on_attempt_full(self) -> None:
        """The upload must stop."""

    def on_attempt_drained(self) -> None:
        """The upload may go on."""


class Attempt:
    """One request at `host`, in a place reserved for it, which it releases at its end.

    It is the `UpstreamEvents` of the provider's stream. Body bytes bypass it in both directions: `on_upstream_data` is
    the exchange's own, `send_data` the stream's.
    """

    __slots__ = (
        "_claim",
        "_clock",
        "_events",
        "_has_head",
        "_is_probe",
        "_is_timed",
        "_outliers",
        "_owner",
        "_stream",
        "_was_reused",
        "asked_at",
        "began_at",
        "host",
        "is_full",
        "on_upstream_data",
        "send_data",
        "state",
        "trace",
    )

    def __init__(
        self,
        host: UpstreamHost,
        *,
        owner: AttemptOwner,
        events: UpstreamEvents,
        clock: Clock,
        outliers: Outliers | None = None,
        claim: Claim | None = None,
    ) -> None:
        """`events` gets the answer, `outliers` is told how the provider does. `claim`: the claim for the place; None:
        places are unlimited."""
        self.host = host
        self._claim = claim
        self._owner: AttemptOwner | None = owner
        """None once it is over."""
        self._events = events
        self._clock = clock
        self._stream: UpstreamStream | None = None
        """None before `open`, and once it is over."""
        self._outliers = outliers
        # Flags side by side: see CONTRIBUTING.md, "The compiled build".
        self._was_reused = False
        self._is_probe = False
        self._has_head = False
        self._is_timed = False
        """Whether to tell `outliers` when the answer's body begins."""
        self.is_full = False
        """Whether it has stopped the upload."""
        self.on_upstream_data = events.on_upstream_data if outliers is None else self._on_timed_data
        self.send_data: Callable[[bytes], None] = _ignore
        """Body bytes of the request, never empty."""
        self.state = _ASKED
        self.trace: AttemptTrace | None = None
        """None: the request is not traced."""
        self.began_at = self.asked_at = now = clock()
        host.started += 1
        self._is_probe = host.health.started(now)

    def __repr__(self) -> str:
        probe, full = " probe" if self._is_probe else "", ", upload stopped" if self.is_full else ""
        return f"<Attempt at {self.host.name}: {self.state.value}{probe}{full}>"

    @property
    def reused(self) -> bool:
        """Whether a kept connection served it."""
        return self._was_reused if self._stream is None else self._stream.reused

    def open(self, request: RequestHead) -> None:
        """Ask the provider; once, before anything else."""
        connector = self.host.tunnels if request.is_tunnel else self.host.connector
        self._stream = stream = connector.open(request, self)
        self.send_data = stream.send_data

    def send_end(self) -> None:
        self.send_data = _ignore  # a stream's method takes 80 bytes, and nothing more is sent
        if self._stream is not None:
            if self.host.adaptive is not None:
                self.asked_at = self._clock()  # the time to the first token does not count the upload
            self._stream.send_end()

    def pause_reading(self) -> None:
        if self._stream is not None:
            self._stream.pause_reading()

    def resume_reading(self) -> None:
        if self._stream is not None:
            self._stream.resume_reading()

    def keep_pace(self, pace: DrainRate) -> None:
        if self._stream is not None:
            self._stream.keep_pace(pace)

    def sweep(self) -> None:
        """Called about once a second."""
        if self._claim is not None:
            self.host.places.charge(self._claim)

    def accept(self, head_at: float | None = None) -> None:
        """Pass the answer on, whose head came at `head_at` (None: now): there will be no other attempt."""
        self.state = _ANSWERED
        self.host.head_times.observe((self._clock() if head_at is None else head_at) - self.began_at)

    def answer_to(self, events: UpstreamEvents) -> None:
        """Send the rest of the answer to `events`."""
        self._events = events
        self.on_upstream_data = events.on_upstream_data

    def belong_to(self, owner: AttemptOwner) -> None:
        """`owner` decides from now on. Not for an attempt that is over."""
        self._owner = owner

    def cancel(self, error: RelayError | None = None) -> None:
        """Cancel the provider's work and release the place. `error`: the provider's fault; None: it has none."""
        stream = self._close()
        if stream is not None:
            stream.cancel()
        self._leave_host(error)

    def cancel_request(self) -> None:
        """Cancel the provider's work. The place stays reserved, for another attempt at the same host."""
        stream = self._close()
        if stream is not None:
            stream.cancel()

    # --- relay.interfaces.UpstreamEvents ---

    def on_upstream_interim(self, head: ResponseHead) -> None:
        self._events.on_upstream_interim(head)

    def on_upstream_head(self, head: ResponseHead) -> None:
        if self._owner is not None:
            if self.trace is not None:
                self.trace.answered(head.status, self._clock())
            self.host.note_limits(head.headers)
            self.host.health.succeeded()  # whatever the status: the provider answers
            self._is_probe = False
            if self._outliers is not None:
                self._has_head = True
                self._outliers.answered(self.host, head.status)
                self._is_timed = head.status < 300
            self._owner.on_attempt_head(self, head)

    def _on_timed_data(self, data: bytes) -> None:
        if self._is_timed and self._outliers is not None:
            self._is_timed = False
            self._outliers.began(self.host, self._clock() - self.began_at)
        self._events.on_upstream_data(data)

    def fast_path(self) -> FastPath | None:
        return self._events.fast_path()

    def unacknowledged(self) -> int:
        return self._events.unacknowledged()

    def on_upstream_end(self) -> None:
        self._events.on_upstream_end()

    def on_upstream_failed(self, error: RelayError) -> None:
        owner = self._owner
        if owner is not None:
            self._close()
            self._leave_host(error)
            owner.on_attempt_failed(self, error)

    def on_upstream_full(self) -> None:
        if self._owner is not None:
            self.is_full = True
            self._owner.on_attempt_full()

    def on_upstream_drained(self) -> None:
        if self._owner is not None:
            self.is_full = False
            self._owner.on_attempt_drained()

    # --- its end ---

    def _close(self) -> UpstreamStream | None:
        """Detach from all events, and keep no reference that leads back here. Returns the stream, if there is one."""
        stream, self._stream = self._stream, None
        self._was_reused = stream is not None and stream.reused
        self._owner = None
        self._events = NOBODY
        self.on_upstream_data = NOBODY.on_upstream_data
        self.send_data = _ignore
        if self.trace is not None and self.state is not _OVER:
            self.trace.ended(self._clock(), is_passed_on=self.state is _ANSWERED)
        self.state = _OVER
        return stream

    def _leave_host(self, error: RelayError | None) -> None:
        """Account for the outcome at the host, and release the place."""
        host, health = self.host, self.host.health
        if error is not None and error.party is Party.UPSTREAM:
            host.failures[error.end.value] += 1
            if self.trace is not None:
                self.trace.error = error
        if error is not None and is_unhealthy(error):
            now = self._clock()
            if self._outliers is not None:
                self._outliers.failed(host, answered=self._has_head)
            health.failed(now, probe=self._is_probe, cause=error)
            if not health.allows(now):
                host.places.send_waiting_away()
        else:
            health.abandoned(probe=self._is_probe)
        host.places.release(self._claim)


def _ignore(data: bytes) -> None:
    """Stands in for the stream's method before and after it."""
