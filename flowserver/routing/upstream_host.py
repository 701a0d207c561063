"""A provider as the middle sees it: what requests to it look like, how many it takes, how it is doing. No I/O."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Protocol

from ..dialects import TABLE
from ..http.messages import Headers
from ..relay.interfaces import Connector
from ..relay.provider import Deadlines, ProviderSettings
from ..relay.usage_option import UsageOption
from .circuit_breaker import CircuitBreaker
from .standing import Standing


class Waiter(Protocol):
    """A request that waits for a place."""

    def on_place(self) -> None:
        """It has one now."""

    def on_no_place(self) -> None:
        """It waits no more: the provider is left alone."""


Later = Callable[[Callable[[], None]], object]
"""Calls something once the present event is over."""
_AT_ONCE = 32
"""Requests that get a place, or are told to look elsewhere, in one turn of the event loop."""


class UpstreamHost:
    """Places are given out in the order of asking, by one loop behind the present event: giving one back starts nothing
    in the same call stack. Who leaves the queue costs nothing."""

    __slots__ = (
        "_is_handing",
        "_is_moving",
        "_later",
        "_most",
        "_waiting",
        "answers",
        "authority",
        "connector",
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
        "standing",
        "started",
        "usage_option",
    )

    def __init__(
        self,
        settings: ProviderSettings,
        connector: Connector,
        health: CircuitBreaker,
        deadlines: Deadlines,
        *,
        standing: Standing | None = None,
        later: Later | None = None,
    ) -> None:
        """`later` None: places are given out at once."""
        self.settings = settings
        self.authority = settings.url.authority.encode("ascii")
        self.deadlines = deadlines
        self.connector = connector
        self.health = health
        self.standing = standing if standing is not None else Standing(failures=5, cooldown=5.0)
        self._later = later
        self._is_handing = False
        """Whether places are given out now, or will be."""
        self._is_moving = False
        """Whether all who wait are to look elsewhere."""
        self._most = math.inf if settings.max_concurrent is None else settings.max_concurrent
        self.open = 0
        """Requests under way."""
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()
        """Plain dicts walk over the holes that are left at their beginning."""
        self.started = 0
        """Requests begun."""
        self.retries = 0
        """Requests begun here after another attempt had failed here."""
        self.fallbacks = 0
        """Requests begun here after another target had failed them."""
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
        """What its rate limits leave, by kind, as its last answer told."""

    def reconfigure(self, settings: ProviderSettings, connector: Connector, deadlines: Deadlines) -> None:
        """Go on under other settings for the same URL. Places, queue, figures and what is known of it stay."""
        if settings.api_key != self.settings.api_key:
            self.standing.served(("key", b""))  # what it refused is another one
        self.settings = settings
        self.connector = connector
        self.deadlines = deadlines
        self._most = math.inf if settings.max_concurrent is None else settings.max_concurrent
        self._hand_on()  # there may be more places now

    def note_limits(self, headers: Headers) -> None:
        """Keep what an answer's head tells of rate limits: OpenAI's `x-ratelimit-remaining-tokens`, Anthropic's
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
        """What the choice between targets compares: requests for each unit of weight."""
        return (self.open + len(self._waiting)) / self.settings.weight

    def take_place(self) -> bool:
        """A place, if there is one and nobody waits for it."""
        if self.is_full or self._waiting:
            return False
        self.open += 1
        return True

    def wait(self, waiter: Waiter) -> bool:
        """Stand in the queue; False when it is full."""
        if len(self._waiting) >= self.settings.queue:
            return False
        self._waiting[waiter] = None
        return True

    def leave(self, waiter: Waiter) -> None:
        """Give up waiting; harmless when it does not wait."""
        self._waiting.pop(waiter, None)

    def give_back(self) -> None:
        """A request is over: its place goes to who waited longest."""
        self.open -= 1
        self._hand_on()

    def left_alone(self) -> None:
        """The breaker has opened: who waits looks elsewhere, without a place."""
        self._is_moving = bool(self._waiting)
        self._hand_on()

    def _hand_on(self) -> None:
        if self._is_handing or not self._waiting:
            return
        self._is_handing = True
        if self._later is None:
            self._hand_out()
        else:
            self._later(self._hand_out)

    def _hand_out(self) -> None:
        turns = 0
        while self._waiting and (self._is_moving or not self.is_full):
            if turns == _AT_ONCE and self._later is not None:
                self._later(self._hand_out)
                return
            turns += 1
            waiter, _ = self._waiting.popitem(last=False)
            if self._is_moving:
                waiter.on_no_place()
            else:
                self.open += 1
                waiter.on_place()
        self._is_handing = self._is_moving = False
