"""A provider as the relay sees it: how it is asked, how many requests it takes, how it is doing. No I/O."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from enum import Enum
from typing import Protocol

from ..dialects import TABLE
from ..http.messages import Headers
from ..relay.interfaces import Connector, Later
from ..relay.provider import Deadlines, ProviderSettings
from ..relay.usage_option import UsageOption
from .circuit_breaker import CircuitBreaker
from .cooldowns import Cooldowns


class Waiter(Protocol):
    """A request that waits for a place."""

    def on_place(self) -> None:
        """A place is reserved for it, and it left the queue."""

    def on_no_place(self) -> None:
        """It left the queue without a place: nobody may ask this provider now."""


_AT_ONCE = 32
"""Requests that leave the queue in one iteration of the event loop."""


class QueueState(Enum):
    RESTING = "resting"
    """Nobody waits, or no place is free."""
    SERVING = "serving"
    """Those who wait get the free places, after the present event."""
    EMPTYING = "emptying"
    """Those who wait are sent away, after the present event."""


class UpstreamHost:
    """Places are assigned in order of arrival. Releasing one starts nothing in the same call stack: one loop serves the
    queue after the present event. Leaving the queue costs nothing."""

    __slots__ = (
        "_later",
        "_most",
        "_queue_state",
        "_waiting",
        "answers",
        "authority",
        "connector",
        "cooldowns",
        "deadlines",
        "failures",
        "fallbacks",
        "head_seconds",
        "health",
        "open",
        "queued_seconds",
        "remaining",
        "retries",
        "settings",
        "started",
        "usage_option",
    )

    def __init__(
        self,
        settings: ProviderSettings,
        connector: Connector,
        *,
        health: CircuitBreaker,
        cooldowns: Cooldowns,
        deadlines: Deadlines,
        later: Later,
    ) -> None:
        self.settings = settings
        self.authority = settings.url.authority.encode("ascii")
        self.deadlines = deadlines
        self.connector = connector
        self.health = health
        self.cooldowns = cooldowns
        self._later = later
        self._queue_state = QueueState.RESTING
        self._most = math.inf if settings.max_concurrent is None else settings.max_concurrent
        self.open = 0
        """Requests under way."""
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()
        """Ordered: a plain dict walks over the holes that are left at its beginning."""
        self.started = 0
        """Requests begun."""
        self.retries = 0
        """Requests begun here after another attempt had failed here."""
        self.fallbacks = 0
        """Requests begun here after another provider had failed them."""
        self.failures: Counter[str] = Counter()
        """Failed attempts by reason."""
        self.queued_seconds = 0.0
        """How long requests waited for a place."""
        self.head_seconds = 0.0
        """Seconds from the beginning of requests to their answers' heads."""
        self.answers = 0
        """Answers passed on."""
        self.usage_option = UsageOption()
        self.remaining: dict[str, int] = {}
        """What its rate limits leave, by kind, according to its last answer."""

    def __repr__(self) -> str:
        places = "unlimited" if self._most == math.inf else self._most
        queue = f"{self.waiting} waiting ({self._queue_state.value})"
        return f"<UpstreamHost {self.name}: {self.open} open of {places}, {queue}, {self.health}>"

    def reconfigure(self, settings: ProviderSettings, connector: Connector, deadlines: Deadlines) -> None:
        """Continue with other settings for the same URL. Places, queue, figures and what is known of it stay."""
        if settings.api_key != self.settings.api_key:
            self.cooldowns.served(("key", b""))  # what it refused is another one
        self.settings = settings
        self.connector = connector
        self.deadlines = deadlines
        self._most = math.inf if settings.max_concurrent is None else settings.max_concurrent
        self._serve_queue()  # there may be more places now

    def note_limits(self, headers: Headers) -> None:
        """Keep what an answer's head says about rate limits: OpenAI's `x-ratelimit-remaining-tokens`, Anthropic's
        `anthropic-ratelimit-tokens-remaining`, and the like."""
        for name, value in headers:
            if name.startswith(TABLE.limit_prefixes):
                kind = TABLE.remaining_kind(name)
                if kind is not None and value.isdigit() and len(value) < 16:
                    self.remaining[kind] = int(value)

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        return self.open >= self._most

    @property
    def load(self) -> float:
        """What the choice between hosts compares: requests for each unit of weight."""
        return (self.open + len(self._waiting)) / self.settings.weight

    def reserve_place(self) -> bool:
        """Reserve a place, if one is free and nobody waits for it."""
        if self.is_full or self._waiting:
            return False
        self.open += 1
        return True

    def release_place(self) -> None:
        """A request is over: its place goes to whoever has waited longest."""
        self.open -= 1
        self._serve_queue()

    def wait(self, waiter: Waiter) -> bool:
        """Join the queue; False when it is full."""
        if len(self._waiting) >= self.settings.queue:
            return False
        self._waiting[waiter] = None
        return True

    def leave(self, waiter: Waiter) -> None:
        """Leave the queue; harmless for one that is not in it."""
        self._waiting.pop(waiter, None)

    def send_waiting_away(self) -> None:
        """The breaker has opened: those who wait look elsewhere, without a place."""
        if self._waiting:
            self._serve_queue()
            self._queue_state = QueueState.EMPTYING

    # --- the queue, after the present event -------------------------------------------------------------------------

    def _serve_queue(self) -> None:
        if self._waiting and self._queue_state is QueueState.RESTING:
            self._queue_state = QueueState.SERVING
            self._later(self._serve_waiting)

    def _serve_waiting(self) -> None:
        for _ in range(_AT_ONCE):
            if not self._waiting or (self.is_full and self._queue_state is QueueState.SERVING):
                self._queue_state = QueueState.RESTING
                return
            self._serve_next()
        self._later(self._serve_waiting)

    def _serve_next(self) -> None:
        waiter, _ = self._waiting.popitem(last=False)
        if self._queue_state is QueueState.EMPTYING:
            waiter.on_no_place()
        else:
            self.open += 1
            waiter.on_place()
