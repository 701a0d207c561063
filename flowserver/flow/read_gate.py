"""A gate for reading one stream, with the reasons that keep it closed. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag
from typing import Protocol


class Reason(IntFlag):
    """Why a gate is closed. Each is a bit, so that several can hold one gate."""

    DOWNSTREAM = 1
    """The client accepts no more of the answer."""
    UPSTREAM = 2
    """The provider accepts no more of the upload."""
    QUOTA = 4
    """The answer waits for its next lease of tokens."""


class PauseTotals:
    """Pauses and paused seconds by reason, of all gates of a process."""

    __slots__ = ("pauses", "seconds")

    def __init__(self) -> None:
        self.pauses = dict.fromkeys(Reason, 0)
        self.seconds = dict.fromkeys(Reason, 0.0)


class Readable(Protocol):
    """Something whose reading can be stopped; both calls are harmless when repeated."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class PauseLog(Protocol):
    """Is told of one stream's pauses when they are over."""

    def paused(self, reason: Reason, since: float, until: float) -> None: ...


class ReadGate:
    """A gate for reading one stream, with the reasons that keep it closed.

    It is closed while any reason is set. Setting a reason twice counts once, so every pause has exactly one resume.
    """

    __slots__ = ("_clock", "_closed", "_log", "_reasons", "_since", "_stream", "_totals", "pauses", "seconds")

    def __init__(
        self, stream: Readable, clock: Callable[[], float], totals: PauseTotals, log: PauseLog | None = None
    ) -> None:
        self._stream = stream
        self._log = log
        self._clock = clock
        self._totals = totals
        self._closed = False
        self._reasons = 0
        self._since: dict[Reason, float] | None = None
        """Since when each reason holds; None: none ever did, as usual."""
        self.pauses = 0
        """How often the gate was closed."""
        self.seconds = 0.0
        """How long it was closed, without a pause that still lasts: see `paused_seconds`."""

    def __repr__(self) -> str:
        state = f"shut by {self.reasons.name}" if self._reasons else "closed" if self._closed else "open"
        return f"<ReadGate {state} pauses={self.pauses}>"

    @property
    def reasons(self) -> Reason:
        return Reason(self._reasons)

    @property
    def is_shut(self) -> bool:
        return self._reasons != 0

    def shut(self, reason: Reason) -> None:
        if self._closed or self._reasons & reason:
            return
        was_open = not self._reasons
        self._reasons |= reason
        if self._since is None:
            self._since = {}
        self._since[reason] = self._clock()
        self._totals.pauses[reason] += 1
        if was_open:
            self.pauses += 1
            self._stream.pause_reading()

    def open(self, reason: Reason) -> None:
        if not self._reasons & reason:
            return
        self._reasons &= ~reason
        self._account(reason)
        if not self._reasons:
            self._stream.resume_reading()

    def close(self) -> None:
        """The stream is over: finish the accounts, and no longer pause or resume it."""
        self._closed = True
        if self._reasons:
            for reason in Reason:
                if self._reasons & reason:
                    self._account(reason)
            self._reasons = 0

    def paused_seconds(self) -> float:
        """How long this gate was closed, until now."""
        if not self._since:
            return self.seconds
        now = self._clock()
        return self.seconds + sum(now - since for since in self._since.values())

    def _account(self, reason: Reason) -> None:
        assert self._since is not None
        since, now = self._since.pop(reason), self._clock()
        seconds = now - since
        self.seconds += seconds
        self._totals.seconds[reason] += seconds
        if self._log is not None:
            self._log.paused(reason, since, now)
