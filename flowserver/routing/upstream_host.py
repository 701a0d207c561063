"""A provider as the relay sees it: its connector, its places, its health and figures. No I/O."""

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
    """Why an attempt was made in addition to the one that counts."""

    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    HEDGE = "hedge"


class Adaptation(Protocol):
    """The learned limit of a provider's concurrent requests; see `adaptive_places`."""

    @property
    def limit(self) -> int:
        """The current number of places."""

    @property
    def decreases(self) -> Mapping[str, int]:
        """How often it fell, by cause."""

    def begin(self, queue: int | None) -> None:
        """Set the number of places from now on; `queue` requests may wait, None: as many as there are places."""

    def wants(self, now: float) -> bool:
        """Whether a first token that comes now says something new."""

    def first_token(self, now: float, kind: int, seconds: float) -> None:
        """The first token of a request of this kind came `seconds` after the request was sent."""

    def refused(self, now: float, began_at: float) -> None:
        """The overloaded provider refused a request that began at `began_at`. Its place is still taken."""

    def sweep(self, now: float) -> None:
        """Called about once a second."""


class UpstreamHost:
    """One provider, shared by all requests to it."""

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
        """`tunnels`: the connector for WebSockets; a separate one if a route sends any here."""
        self.health = health
        self.cooldowns = cooldowns
        self.places = places
        self._adaptation: Adaptation | None = None
        self.adaptive: Adaptation | None = None
        """None: the number of places is configured."""
        self.checks = CheckedHealth()
        """The result of active health checks."""
        self.check_results: Counter[str] = Counter()
        """Active health checks by result."""
        self.is_out = False
        """Whether the operator has taken it out: it gets no new requests, even if there is no other."""
        self.ejected = 0
        """Routes whose outlier detection has ejected it."""
        self.ejections: Counter[str] = Counter()
        """By cause."""
        self.ramp = 1.0
        """The part of its weight that it has during a slow start."""
        self.started = 0
        """Requests begun."""
        self.retries = 0
        """Requests begun here after another attempt had failed here."""
        self.fallbacks = 0
        """Requests begun here after another provider had failed them."""
        self.failures: Counter[str] = Counter()
        """Failed attempts by reason."""
        self.affinity: Counter[str] = Counter()
        """Requests that preferred this provider by affinity, by outcome: whether they got it, or why not."""
        self.first_token_times = FirstTokenTimes()
        self.first_token_timeouts = 0
        """Attempts that were cancelled because they showed no content in time."""
        self.hedges = 0
        """Requests begun here because another attempt, which continued, was slow."""
        self.hedges_won = 0
        """How many of these had their answers passed on."""
        self.extra_tokens = dict.fromkeys(ExtraAttempt, 0)
        """Input tokens of attempts that were made in addition to the one that counts."""
        self.queued_seconds = 0.0
        """How long requests waited for a place."""
        self.head_times = Histogram(WAIT_BUCKETS)
        """Seconds from the beginning of a request to the head of its answer, for answers passed on."""
        self.usage_option = UsageOption()
        self.remaining: dict[str, int] = {}
        """What is left of its rate limits, by kind, according to its last answer."""

    def __repr__(self) -> str:
        return f"<UpstreamHost {self.name}: {self.places}, {self.health}>"

    def adapt_by(self, adaptation: Adaptation) -> None:
        """Let `adaptation` set the number of places if the settings say so, now or after a reload. Call this once."""
        self._adaptation = adaptation
        if self.settings.adapts:
            self._set_places()

    def reconfigure(self, settings: ProviderSettings, connector: Connector, deadlines: Deadlines) -> None:
        """Continue with other settings for the same URL. Places, queue, figures and health are kept."""
        if settings.api_key != self.settings.api_key:
            self.cooldowns.served(("key", b""))  # a refusal concerned the old key
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
        """Record what an answer's head says about rate limits: OpenAI's `x-ratelimit-remaining-tokens`, Anthropic's
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
        """Total seconds from the beginning of these requests to the heads of their answers."""
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
        """Its share of the load. A slow start applies only with a closed breaker: a probe is a single request
        anyway."""
        if self.ramp == 1.0 or not self.health.is_closed:
            return self.settings.weight
        return self.settings.weight * self.ramp

    @property
    def load(self) -> float:
        """The load for choosing between hosts: requests per unit of weight."""
        return (self.places.open + self.places.waiting) / self.weight

    def trouble(self, now: float) -> str | None:
        """Why it is unavailable, as text to follow its name; None: it is available."""
        return TAKEN_OUT if self.is_out else trouble(self.checks.cause, self.health.state(now))


def trouble(cause: str | None, breaker: BreakerState) -> str | None:
    """For `cause` see `CheckedHealth`. A half-open breaker waits for a request, so it is no trouble."""
    if cause is None and breaker is BreakerState.OPEN:
        return "failed its last requests"
    return cause
