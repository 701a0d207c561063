"""One worker's part of a provider shared by all workers. No I/O."""

from __future__ import annotations

from typing import Any

from ..relay.interfaces import Clock, Later
from .adaptive_places import SharedAdaptation
from .checked_health import SharedCheckedHealth
from .circuit_breaker import BreakerRecord, BreakerState
from .cooldowns import CooldownRecord
from .shared_health import SharedBreaker, SharedCooldowns, Tell, read_subject
from .shared_places import SharedPlaces


class ProviderShare:
    """Its parts report to the parent what happens here, and `hear` tells them what happens elsewhere."""

    __slots__ = ("_clock", "adaptation", "checks", "cooldowns", "health", "places")

    def __init__(self, tell: Tell, *, failures: int, cooldown: float, clock: Clock, later: Later) -> None:
        """`failures` and `cooldown` as in `CircuitBreaker` and `Cooldowns`."""
        self._clock = clock
        self.health = SharedBreaker(tell, failures=failures, cooldown=cooldown)
        self.cooldowns = SharedCooldowns(tell, failures=failures, cooldown=cooldown)
        self.checks = SharedCheckedHealth(tell)
        self.places = SharedPlaces(tell, self.health, later)
        self.adaptation = SharedAdaptation(tell, self.places)

    def __repr__(self) -> str:
        return f"<ProviderShare: {self.places}, {self.health}>"

    def hear(self, event: str, *given: Any) -> None:
        """An event of `SharedProvider`."""
        match event:
            case "granted":
                self.places.on_granted(*given)
            case "refused":
                self.places.on_refused(*given)
            case "busy":
                self.places.on_busy(*given)
            case "queue":
                self.places.on_queue(*given)
            case "full":
                self.places.on_full(*given)
            case "adapted":
                self.adaptation.on_adapted(*given)
            case "breaker":
                self._on_breaker(BreakerRecord(*given))
            case "verdict":
                self.checks.adopt(*given)
            case "appointed":
                self.checks.appoint()
            case "cooldown":
                subject, record = given
                self.cooldowns.adopt(read_subject(subject), None if record is None else CooldownRecord(*record))

    def lost(self) -> None:
        """The parent is gone. The provider's state is kept, and this worker continues alone."""
        self.health.go_alone()
        self.checks.go_alone()
        self.places.on_lost()

    def _on_breaker(self, record: BreakerRecord) -> None:
        self.health.adopt(record)
        if self.health.state(self._clock()) is BreakerState.OPEN:
            self.places.send_waiting_away()
