"""Sends spans to a collector by OTLP over HTTP, from a thread of its own. The event loop never waits for it: a full
queue drops spans, and counts them."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol

from .log import Log
from .otlp import export_request, rejected
from .otlp_http import CollectorError, Reply

MOST_WAITING = 4096
"""Most spans that wait to be sent."""
MOST_BYTES = 16 << 20
"""Most bytes of all waiting spans."""
BATCH = 512
"""Most spans of one request."""
TRIES = 5
LONGEST_PAUSE = 30.0
"""Longest pause in seconds, even if the collector asks for more."""

_MAY_PASS = frozenset((429, 502, 503, 504))
"""Statuses after which a batch is sent again (OTLP, section "Retryable Response Codes")."""

FULL = "queue_full"
"""Too many were waiting: the collector is down, or slower than the relay."""
UNREACHABLE = "unreachable"
"""It did not answer, or was overloaded, at every attempt."""
REFUSED = "refused"
"""It rejected them."""
ENDED = "ended"
"""The relay ended first."""


class Collector(Protocol):
    """See `otlp_http.CollectorConnection`."""

    def post(self, body: bytes, headers: list[tuple[bytes, bytes]], timeout: float) -> Reply: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Told:
    """What each request contains besides spans: see `otlp.resource` and `otlp.scope`."""

    resource: bytes
    scope: bytes


@dataclass(frozen=True, slots=True)
class Pace:
    """Times, in seconds."""

    delay: float = 1.0
    """Longest wait for a batch to fill up."""
    timeout: float = 10.0
    """Timeout of one request."""
    pause: float = 1.0
    """Before the second attempt; doubled before each further one, plus or minus a half."""
    end: float = 3.0
    """For sending the remaining spans at the end."""


class SpanExporter:
    """The event loop calls `start`, `put` and `end`; everything else happens in the thread."""

    def __init__(
        self,
        collector: Collector,
        told: Told,
        headers: list[tuple[bytes, bytes]],
        *,
        log: Log,
        random: Callable[[], float],
        pace: Pace = Pace(),
    ) -> None:
        """`headers` are sent with each request; they may be replaced."""
        self.pace = pace
        self.headers = headers
        self._collector = collector
        self._told = told
        self._log = log
        self._random = random
        self._waiting: deque[bytes] = deque()
        self._bytes_in = 0
        self._bytes_out = 0
        """Bytes that were put into the queue, and taken out of it; each is counted by one thread only."""
        self._wake = threading.Event()
        """Set when a batch is full, and at the end."""
        self._closing = threading.Event()
        self._end_at = 0.0
        self._refused = 0
        """Spans that found the queue full; counted by the event loop, the others by the thread."""
        self._lost: Counter[str] = Counter()
        self._is_failing = False
        self.exported = 0
        self._exporter_thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def start(self) -> None:
        """Start the thread. Call this once, in the traced process: a fork has no threads."""
        self._exporter_thread.start()

    @property
    def dropped(self) -> Mapping[str, int]:
        return {FULL: self._refused, **{reason: self._lost[reason] for reason in (UNREACHABLE, REFUSED, ENDED)}}

    def put(self, span: bytes) -> None:
        waiting = self._waiting
        if len(waiting) >= MOST_WAITING or self._bytes_in - self._bytes_out > MOST_BYTES:
            self._refused += 1
            return
        self._bytes_in += len(span)
        waiting.append(span)
        if len(waiting) == BATCH:
            self._wake.set()

    def end(self) -> None:
        """Send the remaining spans, for `Pace.end` at most, then end; the event loop does not wait."""
        self._end_at = time.monotonic() + self.pace.end
        self._closing.set()
        self._wake.set()

    @property
    def is_running(self) -> bool:
        return self._exporter_thread.is_alive()

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(self.pace.delay)
            self._wake.clear()
            while self._waiting:
                self._send(self._next_batch())
                if len(self._waiting) < BATCH and not self._closing.is_set():
                    break
        while self._waiting and time.monotonic() < self._end_at:
            self._send(self._next_batch())
        self._lost[ENDED] += len(self._waiting)
        self._collector.close()

    def _next_batch(self) -> list[bytes]:
        batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        self._bytes_out += sum(map(len, batch))
        return batch

    def _send(self, batch: list[bytes]) -> None:
        body = export_request(self._told.resource, self._told.scope, batch)
        pause = self.pace.pause
        for tries_left in reversed(range(TRIES)):
            wait = self._try(body, len(batch))
            if wait is None:
                return
            if not tries_left or self._closing.is_set():
                break
            self._closing.wait(max(wait, pause * (0.5 + self._random())))
            pause *= 2
        self._lost[ENDED if self._closing.is_set() else UNREACHABLE] += len(batch)

    def _try(self, body: bytes, spans: int) -> float | None:
        """Returns the least seconds until a retry; None: nothing to retry."""
        timeout = self.pace.timeout
        if self._closing.is_set():
            timeout = min(timeout, max(0.1, self._end_at - time.monotonic()))
        try:
            reply = self._collector.post(body, self._fields(body), timeout)
        except CollectorError as error:
            self._note_failure(str(error))
            return 0.0
        if 200 <= reply.status < 300:
            refused = min(spans, rejected(reply.body))
            self.exported += spans - refused
            self._lost[REFUSED] += refused
            self._note_success()
            return None
        self._note_failure(f"status {reply.status}")
        if reply.status in _MAY_PASS:
            return _pause_asked_for(reply.retry_after)
        self._lost[REFUSED] += spans
        return None

    def _fields(self, body: bytes) -> list[tuple[bytes, bytes]]:
        return [*self.headers, (b"content-length", b"%d" % len(body))]

    def _note_failure(self, reason: str) -> None:
        """Log a failure, once until it works again."""
        if not self._is_failing:
            self._is_failing = True
            self._log.write("warning", "traces_failing", reason=reason)

    def _note_success(self) -> None:
        if self._is_failing:
            self._is_failing = False
            self._log.write("info", "traces_recovered")


def _pause_asked_for(retry_after: str) -> float:
    """Seconds of a Retry-After of either form (RFC 9110 section 10.2.3); 0 if it is invalid."""
    text = retry_after.strip()
    if text.isdecimal() and len(text) < 10:
        return min(float(text), LONGEST_PAUSE)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_PAUSE)
