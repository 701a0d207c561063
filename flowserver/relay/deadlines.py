"""The deadlines of one exchange, checked about once a second. No I/O.

Each has its own end reason, and is suspended while the relay itself holds things up.
"""

from __future__ import annotations

from typing import Protocol

from ..errors import EndReason, Party, RelayError
from ..flow.progress import Activity
from .failures import timeout
from .provider import Deadlines


class WatchedExchange(Protocol):
    """An exchange, as seen by its deadlines."""

    deadlines: Deadlines
    started_at: float
    waiting_since: float
    """When the current wait for the provider began."""
    first_byte_at: float | None
    request_whole: bool
    bytes_up: int

    @property
    def bytes_down(self) -> int: ...

    @property
    def is_paused(self) -> bool:
        """Whether the relay has stopped the provider."""

    @property
    def upload_is_stopped(self) -> bool:
        """Whether the client is held back because the provider lags."""

    @property
    def upload_waits(self) -> bool:
        """Whether the client is held back because unfinished uploads hold too much."""


class DeadlineWatch(Activity):
    """Detects what has stopped. Created at the first check: most exchanges are over before. One object with the
    activity that it watches: each costs 64 bytes per stream."""

    __slots__ = ("_output",)

    def __init__(self) -> None:
        super().__init__()
        self._output: Activity | None = None
        """None: nobody asked for the silence towards the client."""

    def check(self, exchange: WatchedExchange, now: float) -> RelayError | None:
        """The error with which `exchange` must end now; None: it continues."""
        limits = exchange.deadlines
        if limits.total is not None and now - exchange.started_at >= limits.total:
            return timeout("The answer took", limits.total, "FLOW_TOTAL_TIMEOUT", EndReason.TOTAL_TIMEOUT)
        if not exchange.request_whole:
            return self._check_upload(exchange, now)
        if exchange.first_byte_at is None:
            return _check_first_byte("The provider sent nothing for", now - exchange.waiting_since, limits)
        return self._check_answer(exchange, now)

    def silence(self, now: float, writes: int, *, paused: bool) -> float:
        """Seconds without a write to the client, pauses excluded. `writes`: number of writes so far."""
        if self._output is None:
            self._output = Activity()
        still = self._output.still_for(now, writes, paused)
        return 0.0 if paused else still

    def _check_upload(self, exchange: WatchedExchange, now: float) -> RelayError | None:
        limits, held_back = exchange.deadlines, exchange.upload_is_stopped
        progress = (exchange.bytes_up, exchange.bytes_down, held_back, exchange.upload_waits)
        still = self.still_for(now, "up", *progress)
        if held_back:
            return _check_first_byte("The provider accepted no more of the request for", still, limits)
        if limits.body is None or still < limits.body:
            return None
        message = f"The request body stalled for {limits.body:g} s (FLOW_BODY_TIMEOUT). Send it without a pause."
        return RelayError(408, "body_timeout", message, Party.CLIENT, EndReason.BODY_TIMEOUT)

    def _check_answer(self, exchange: WatchedExchange, now: float) -> RelayError | None:
        limit, paused = exchange.deadlines.idle, exchange.is_paused
        if limit is None:
            return None
        still = self.still_for(now, "down", exchange.bytes_down, paused)
        if paused or still < limit:
            return None
        return timeout("The provider was silent for", limit, "FLOW_IDLE_TIMEOUT", EndReason.IDLE_TIMEOUT)


def _check_first_byte(what: str, seconds: float, limits: Deadlines) -> RelayError | None:
    if limits.first_byte is None or seconds < limits.first_byte:
        return None
    return timeout(what, limits.first_byte, "FLOW_FIRST_BYTE_TIMEOUT", EndReason.FIRST_BYTE_TIMEOUT)
