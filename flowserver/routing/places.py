"""Places at one provider, and the queue for them. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from ..relay.interfaces import Clock, Later
from .claim import AnswerLengths, Claim, Refusal
from .place_scheduler import PlaceScheduler


class Claimant(Protocol):
    """A request that asks for a place."""

    @property
    def claim(self) -> Claim:
        """Only used if places are limited."""


class Waiter(Claimant, Protocol):
    """A claimant that may wait for a place."""

    def on_place(self) -> None:
        """A place is reserved for it, and it has left the queue."""

    def on_no_place(self, refusal: Refusal | None) -> None:
        """It has left the queue without a place: its room went to another, or, without a `refusal`, the provider gets
        no requests now."""

    def on_busy(self) -> None:
        """No place is free any more, and it is not in the queue: others were faster. Only if workers share places."""


class Places(Protocol):
    """The places of one process, or its part of those shared by workers."""

    @property
    def open(self) -> int:
        """Requests under way."""

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""

    def waiting_of(self, *, is_batch: bool) -> int:
        """Waiting requests of one class."""

    def is_full(self, waiter: Waiter) -> bool:
        """Whether no place is free for such a request, as far as is known."""

    def has_room(self, waiter: Waiter) -> bool:
        """Whether it may wait, as far as is known."""

    def limit(self, most: int | None, queue: int) -> None:
        """Set the number of places (None: no limit), and of requests that may wait."""

    def reserve(self, claimant: Claimant) -> bool:
        """Reserve a place, if one is free now and nobody waits for it."""

    def charge(self, claim: Claim) -> None:
        """Called about once a second: charge what a request with a place was served in the meantime."""

    def release(self, claim: Claim | None) -> None:
        """A request is over: its place goes to the next waiter. `claim` None: it had none."""

    def wait(self, waiter: Waiter) -> Refusal | None:
        """Join the queue. Returns a refusal if it may not."""

    def leave(self, waiter: Waiter) -> None:
        """Leave the queue; harmless if it is not in it."""

    def refusal(self, waiter: Waiter) -> Refusal:
        """The refusal for a request that gets no place."""

    def send_waiting_away(self) -> None:
        """The provider gets no requests any more: send all waiters elsewhere."""


AT_ONCE = 32
"""Most requests that leave the queue in one iteration of the event loop."""


class QueueState(Enum):
    RESTING = "resting"
    """Nobody waits, or no place is free."""
    SERVING = "serving"
    """Waiters get the free places, after the current event."""
    EMPTYING = "emptying"
    """Waiters are sent away, after the current event."""


class LocalPlaces:
    """The `Places` of a single process, assigned by a `PlaceScheduler`. Releasing one starts nothing in the same call
    stack: one loop serves the queue after the current event."""

    __slots__ = ("_clock", "_later", "_lengths", "_outcasts", "_queue_state", "_scheduler")

    def __init__(self, most: int | None, queue: int, later: Later, clock: Clock) -> None:
        self._later = later
        self._clock = clock
        self._queue_state = QueueState.RESTING
        self._scheduler: PlaceScheduler[Waiter] = PlaceScheduler()
        self._scheduler.most, self._scheduler.queue = most, queue
        self._lengths = AnswerLengths()
        self._outcasts: OrderedDict[Waiter, Refusal] = OrderedDict()
        """Waiters that lost their room in the queue, to be told after the current event."""

    def __repr__(self) -> str:
        return f"{self._scheduler} ({self._queue_state.value})"

    def limit(self, most: int | None, queue: int) -> None:
        self._scheduler.most, self._scheduler.queue = most, queue
        self._serve_queue()  # there may be more places now

    def watch(self, on_change: Callable[[float, int, int], None]) -> None:
        """See `PlaceScheduler.on_change`."""
        self._scheduler.on_change = on_change

    @property
    def open(self) -> int:
        return self._scheduler.open

    @property
    def waiting(self) -> int:
        return self._scheduler.waiting

    def waiting_of(self, *, is_batch: bool) -> int:
        return self._scheduler.waiting_of(is_batch=is_batch)

    def is_full(self, waiter: Waiter) -> bool:
        scheduler = self._scheduler
        return scheduler.most is not None and scheduler.is_full(is_batch=waiter.claim.is_batch, now=self._clock())

    def has_room(self, waiter: Waiter) -> bool:
        return self._scheduler.has_room(waiter.claim)

    def reserve(self, claimant: Claimant) -> bool:
        scheduler = self._scheduler
        if scheduler.most is None:
            scheduler.open += 1
            return True
        claim = claimant.claim
        expected = self._lengths.expected_cost(claim)
        if not scheduler.reserve(claim, expected, self._clock()):
            return False
        claim.charged = expected
        return True

    def charge(self, claim: Claim) -> None:
        tokens = claim.advance()
        if tokens:
            self._scheduler.charge(claim.tenant, tokens, is_batch=claim.is_batch)
        self._serve_queue()  # batch may have more places by now

    def release(self, claim: Claim | None) -> None:
        scheduler = self._scheduler
        if claim is not None and claim.charged is not None:
            self._lengths.learn(claim)
            scheduler.release(claim.tenant, claim.settle(), is_batch=claim.is_batch, now=self._clock())
        elif scheduler.most is None:
            scheduler.open -= 1
            return
        else:
            scheduler.hold(-1, self._clock())
        self._serve_queue()

    def wait(self, waiter: Waiter) -> Refusal | None:
        scheduler, claim, now = self._scheduler, waiter.claim, self._clock()
        if not scheduler.has_room(claim):
            return scheduler.refusal(claim, now)
        lost = scheduler.join(waiter, claim, self._lengths.expected_cost(claim), now)
        if lost is not None:
            if not self._outcasts:
                self._later(self._send_outcasts_away)
            self._outcasts[lost] = scheduler.refusal(lost.claim, now)
        return None

    def leave(self, waiter: Waiter) -> None:
        if not self._scheduler.leave(waiter):
            self._outcasts.pop(waiter, None)

    def refusal(self, waiter: Waiter) -> Refusal:
        return self._scheduler.refusal(waiter.claim, self._clock())

    def send_waiting_away(self) -> None:
        if self.waiting:
            self._serve_queue()
            self._queue_state = QueueState.EMPTYING

    # --- the queue, after the present event -------------------------------------------------------------------------

    def _serve_queue(self) -> None:
        if self._scheduler.waiting and self._queue_state is QueueState.RESTING:
            self._queue_state = QueueState.SERVING
            self._later(self._serve_waiting)

    def _serve_waiting(self) -> None:
        for _ in range(AT_ONCE):
            if not self._serve_next():
                self._queue_state = QueueState.RESTING
                return
        self._later(self._serve_waiting)

    def _serve_next(self) -> bool:
        """Returns whether there was a waiter to serve."""
        if self._queue_state is QueueState.EMPTYING:
            sent_away = self._scheduler.remove_next()
            if sent_away is not None:
                sent_away.on_no_place(None)
            return sent_away is not None
        taken = self._scheduler.take(self._clock())
        if taken is None:
            return False
        waiter, charged = taken
        waiter.claim.charged = charged
        waiter.on_place()
        return True

    def _send_outcasts_away(self) -> None:
        for _ in range(AT_ONCE):
            if not self._outcasts:
                return
            waiter, refusal = self._outcasts.popitem(last=False)
            waiter.on_no_place(refusal)
        if self._outcasts:
            self._later(self._send_outcasts_away)
