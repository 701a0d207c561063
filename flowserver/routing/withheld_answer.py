"""Withholds an answer from the client until its first content. No I/O."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from ..errors import RelayError
from ..http.messages import ResponseHead
from ..relay.content_watch import ContentWatch
from ..relay.fast_path import FastPath
from ..relay.interfaces import Clock, UpstreamEvents
from .attempt import Attempt, AttemptState
from .dispatch_events import NOBODY
from .first_token_times import TimesOfModel

MOST_WITHHELD = 256 << 10
"""Most bytes that are withheld. OpenAI's Responses repeat the request's instructions and tools before the first
content."""
MOST_PIECES = 1024
"""Most reads that are withheld."""


class WithheldState(Enum):
    WITHHOLDING = "withholding"
    """Data is withheld until the first content."""
    SEEN_THROUGH = "seen through"
    """Data passes, but the first content is still watched for, to measure its time."""
    PASSING = "passing"


_WITHHOLDING, _SEEN_THROUGH, _PASSING = WithheldState
"""Python 3.11 takes 75 ns to look up an enum member."""


class WithheldFigures:
    """The figures of a process."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = 0
        """Bytes that are withheld now."""


class WithheldOwner(Protocol):
    """Decides what to do with the answer."""

    def on_content(self, answer: WithheldAnswer) -> None:
        """The answer may pass: it has content, is over, or is too large to withhold."""


class WithheldAnswer:
    """The `UpstreamEvents` of one attempt: withholds data until its owner calls `pass_on`, then passes everything on,
    unchanged and in order."""

    __slots__ = (
        "_clock",
        "_events",
        "_figures",
        "_interims",
        "_is_whole",
        "_owner",
        "_pieces",
        "_size",
        "_times",
        "_watch",
        "asked_at",
        "attempt",
        "head",
        "head_at",
        "state",
    )

    def __init__(
        self,
        events: UpstreamEvents,
        owner: WithheldOwner,
        watch: ContentWatch,
        times: TimesOfModel,
        *,
        figures: WithheldFigures,
        clock: Clock,
    ) -> None:
        """`events` gets the answer eventually. `times`: those of this provider and model."""
        self._events = events
        self._owner: WithheldOwner | None = owner
        """None: it no longer decides."""
        self._watch = watch
        self._times = times
        self._figures = figures
        self._clock = clock
        self._interims: list[ResponseHead] = []
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_whole = False
        self.attempt: Attempt | None = None
        """Set after its creation, before it begins."""
        self.asked_at: float | None = None
        """When the provider had the whole request; None: not yet."""
        self.head: ResponseHead | None = None
        self.head_at = 0.0
        self.state = _WITHHOLDING

    def __repr__(self) -> str:
        return f"<WithheldAnswer {self.state.value}: {self._size} bytes, {self._watch}>"

    # --- its owner's side -------------------------------------------------------------------------------------------

    def see_through(self) -> None:
        """Withhold nothing from now on. Only before there is a head."""
        self._owner = None
        self.state = _SEEN_THROUGH

    def pass_on(self) -> None:
        """Pass on what was withheld. Only once there is a head."""
        head, attempt, events = self.head, self.attempt, self._events
        assert head is not None
        assert attempt is not None
        pieces = self._forget()
        self._owner = None
        if self.state is _WITHHOLDING:
            self._let_pass(attempt, seen=self.asked_at is None)
        for interim in self._interims:
            events.on_upstream_interim(interim)
        if pieces:
            head.body_follows = True
        events.on_upstream_head(head)
        for piece in pieces:
            if attempt.state is AttemptState.OVER:
                return
            events.on_upstream_data(piece)
        if self._is_whole and attempt.state is not AttemptState.OVER:
            events.on_upstream_end()

    def drop(self) -> None:
        """Drop what was withheld, and send no more events."""
        self._forget()
        self._owner = None
        self._events = NOBODY
        self.state = _PASSING

    def note_wait(self) -> None:
        """Record the time to the first content, or so far without any."""
        if self.asked_at is not None:
            now = self._clock()
            self._times.note(now - self.asked_at, now)
            self.asked_at = None

    def _forget(self) -> list[bytes]:
        """Take what was withheld."""
        pieces, self._pieces = self._pieces, []
        self._figures.held -= self._size
        self._size = 0
        return pieces

    # --- relay.interfaces.UpstreamEvents ----------------------------------------------------------------------------

    def on_upstream_interim(self, head: ResponseHead) -> None:
        if self.state is _WITHHOLDING:
            self._interims.append(head)
        else:
            self._events.on_upstream_interim(head)

    def on_upstream_head(self, head: ResponseHead) -> None:
        self.head = head
        self.head_at = self._clock()
        self._watch.open(head)

    def on_upstream_data(self, data: bytes) -> None:
        if self.state is _PASSING:  # providers' connections keep this method for the whole answer
            self._events.on_upstream_data(data)
        elif self.state is _SEEN_THROUGH:
            self._events.on_upstream_data(data)
            self._look(data)
        else:
            self._hold(data)

    def fast_path(self) -> FastPath | None:
        return self._events.fast_path() if self.state is _PASSING else None

    def unacknowledged(self) -> int:
        return self._events.unacknowledged()

    def on_upstream_end(self) -> None:
        if self.state is not _WITHHOLDING:
            self._events.on_upstream_end()
        else:
            self._is_whole = True
            self.note_wait()
            self._tell()

    def on_upstream_failed(self, error: RelayError) -> None:
        self._events.on_upstream_failed(error)

    def on_upstream_full(self) -> None:
        self._events.on_upstream_full()

    def on_upstream_drained(self) -> None:
        self._events.on_upstream_drained()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _look(self, data: bytes) -> None:
        """Record the time if this is the first content."""
        if self._watch.feed(data):
            self.note_wait()
            if self.attempt is not None:
                self._let_pass(self.attempt, seen=True)

    def _let_pass(self, attempt: Attempt, *, seen: bool) -> None:
        """Pass on what follows at once. `seen`: the time of the first content is already recorded."""
        self.state = _PASSING if seen else _SEEN_THROUGH
        if seen and attempt.state is not AttemptState.OVER:
            attempt.answer_to(self._events)

    def _hold(self, data: bytes) -> None:
        size = len(data)
        self._pieces.append(data)
        self._size += size
        self._figures.held += size
        if self._watch.feed(data):
            self.note_wait()
            self._tell()
        elif self._size > MOST_WITHHELD or len(self._pieces) > MOST_PIECES:
            self._tell()

    def _tell(self) -> None:
        if self._owner is not None:
            self._owner.on_content(self)
