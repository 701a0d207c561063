"""A provider as the relay sees it: how it is asked, how many requests it takes, how it is doing. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

from ..dialects import TABLE
from ..http.messages import Headers
from ..relay.histogram import WAIT_BUCKETS, Histogram
from ..relay.interfaces import Connector
from ..relay.provider import Deadlines, ProviderSettings
from ..relay.usage_option import UsageOption
from .checked_health import CheckedHealth
from .circuit_breaker import BreakerState, CircuitBreaker
from .cooldowns import Cooldowns
from .first_token_times import FirstTokenTimes
from .places import Places

TAKEN_OUT = "was taken out by the operator"


class ExtraAttempt(StrEnum):
    """Why a request was asked of a provider in addition to the attempt that counts in the end."""

    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    HEDGE = "hedge"


class Adaptation(Protocol):
    """What is learned of how many requests a provider takes at a time; see `adaptive_places`."""

    @property
    def limit(self) -> int:
        """How many places there are by it."""

    @property
    def decreases(self) -> Mapping[str, int]:
        """How often it fell, by cause."""

    def begin(self, queue: int | None) -> None:
        """From now on it sets the number of places; `queue` requests may wait, None: as many as there are places."""

    def first_token(self, now: float, kind: int, seconds: float) -> None:
        """The first token of a request of this kind came `seconds` after the request was sent."""

    def refused(self, now: float, began_at: float) -> None:
        """The provider refuses a request that began then, as it has too much to do. Its place is still taken."""

    def sweep(self, now: float) -> None:
        """Called about once a second."""


class UpstreamHost:
    """What requests to one provider share."""

    __slots__ = (
        "_adaptation",
        "adaptive",
        "affinity",
        "authority",
        "check_results",
        "checks",
        "connector",
        "cooldowns",
        "deadlines",
        "ejected",
        "ejections",
        "extra_tokens",
        "failures",
        "fallbacks",
        "first_token_timeouts",
        "first_token_times",
        "head_times",
        "health",
        "hedges",
        "hedges_won",
        "is_out",
        "places",
        "queued_seconds",
        "ramp",
        "remaining",
        "retries",
        "settings",
        "started",
        "tunnels",
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
        places: Places,
    ) -> None:
        self.settings = settings
        self.authority = settings.url.authority.encode("ascii")
        self.deadlines = deadlines
        self.connector = self.tunnels = connector
        """`tunnels`: of those; its own where a route leads WebSockets here."""
        self.health = health
        self.cooldowns = cooldowns
        self.places = places
        self._adaptation: Adaptation | None = None
        self.adaptive: Adaptation | None = None
        """None: the number of places is as configured."""
        self.checks = CheckedHealth()
        """The verdict of active health checks."""
        self.check_results: Counter[str] = Counter()
        """Active health checks by their results."""
        self.is_out = False
        """Whether the operator has taken it out: it gets no new requests, also where there is no other."""
        self.ejected = 0
        """Routes whose outlier detection has ejected it."""
        self.ejections: Counter[str] = Counter()
        """By the cause."""
        self.ramp = 1.0
        """The part of its weight that it has while it starts slowly."""
        self.started = 0
        """Requests begun."""
        self.retries = 0
        """Requests begun here after another attempt had failed here."""
        self.fallbacks = 0
        """Requests begun here after another provider had failed them."""
        self.failures: Counter[str] = Counter()
        """Failed attempts by reason."""
        self.affinity: Counter[str] = Counter()
        """Requests that prefer this provider by their affinity: whether they got it, or why not."""
        self.first_token_times = FirstTokenTimes()
        self.first_token_timeouts = 0
        """Attempts that were cancelled since they showed no content in time."""
        self.hedges = 0
        """Requests begun here since another attempt was slow, which went on."""
        self.hedges_won = 0
        """Of these, the ones whose answers were passed on."""
        self.extra_tokens = dict.fromkeys(ExtraAttempt, 0)
        """Input tokens of attempts that were made in addition to the one that counts."""
        self.queued_seconds = 0.0
        """How long requests waited for a place."""
        self.head_times = Histogram(WAIT_BUCKETS)
        """Seconds from the beginning of requests to the heads of their answers, of answers passed on."""
        self.usage_option = UsageOption()
        self.remaining: dict[str, int] = {}
        """What its rate limits leave, by kind, according to its last answer."""

    def __repr__(self) -> str:
        return f"<UpstreamHost {self.name}: {self.places}, {self.health}>"

    def adapt_by(self, adaptation: Adaptation) -> None:
        """Have `adaptation` set the number of places if the settings say so, now or after a reload. Once."""
        self._adaptation = adaptation
        if self.settings.adapts:
            self._set_places()

    def reconfigure(self, settings: ProviderSettings, connector: Connector, deadlines: Deadlines) -> None:
        """Continue with other settings for the same URL. Places, queue, figures and what is known of it stay."""
        if settings.api_key != self.settings.api_key:
            self.cooldowns.served(("key", b""))  # what it refused is another one
        self.settings = settings
        self.connector = connector
        self.deadlines = deadlines
        self._set_places()

    def _set_places(self) -> None:
        settings = self.settings
        self.adaptive = self._adaptation if settings.adapts else None
        if self.adaptive is not None:
            self.adaptive.begin(settings.queue)
        else:
            self.places.limit(settings.max_concurrent, settings.queue or 0)

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
    def answers(self) -> int:
        """Answers passed on."""
        return self.head_times.count

    @property
    def head_seconds(self) -> float:
        """Seconds from the beginning of requests to the heads of these answers."""
        return self.head_times.sum

    @property
    def open(self) -> int:
        """Requests under way."""
        return self.places.open

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return self.places.waiting

    @property
    def weight(self) -> float:
        """Its share of the load. That of a slow start is for a closed breaker: a probe is one request anyway."""
        if self.ramp == 1.0 or not self.health.is_closed:
            return self.settings.weight
        return self.settings.weight * self.ramp

    @property
    def load(self) -> float:
        """What the choice between hosts compares: requests for each unit of weight."""
        return (self.places.open + self.places.waiting) / self.weight

    def trouble(self, now: float) -> str | None:
        """Why it may not be asked, to be read behind its name; None: it may."""
        return TAKEN_OUT if self.is_out else trouble(self.checks.cause, self.health.state(now))


def trouble(cause: str | None, breaker: BreakerState) -> str | None:
    """`cause` as in `CheckedHealth`. A half-open breaker waits for a request, so that is none."""
    if cause is None and breaker is BreakerState.OPEN:
        return "failed its last requests"
    return cause
