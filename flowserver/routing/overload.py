"""Refuses requests while the relay itself is overloaded. No I/O.

The signal is queueing delay: how long input waits for the event loop, and requests for their turn. When even the
shortest delay of an interval is above the target (CoDel, RFC 8289), or any delay soon after an overload, a share of the
requests is refused, which grows and shrinks with the delay: first of class batch, then of tenants that use more than
their share, then, if the overload lasts, of all. Requests are also refused by the level of memory.

Each process has its own gate, since it has its own event loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import EndReason, Party, RelayError
from ..flow.codel import StandingDelay
from ..flow.loop_delay import LoopDelay
from ..flow.memory_budget import MemoryBudget
from ..flow.pressure import Pressure
from ..flow.readmission import Readmission
from ..quota.tenants import Tenant
from ..quota.traffic_class import BATCH, INTERACTIVE, TrafficClass
from ..relay.uploads import MEDIUM
from .tenant_shares import TenantShares

TIGHT, NO_BATCH, FULL = 1, 2, 3
"""Levels of memory: from TIGHT on some requests of class batch and some large ones may be refused, from NO_BATCH on all
of these, from FULL on all requests."""
LARGE = MEDIUM
"""Bytes of a body above which a request gives way with those of class batch where memory is short. 97 % of all requests
to models have less than 64 KB."""
BETWEEN_LOOKS = 0.01
"""Seconds between two measurements. One costs two callbacks of the event loop, 2 us."""
MOST = 0.95
"""The largest share of all requests that is refused for the delay: the others show when to stop."""

PATIENCE = 3.0
"""Seconds that an overload lasts before requests are refused that are neither of class batch nor above their tenant's
share. Most bursts, as of clients that all connect again, are over by then."""

ALERT = 60.0
"""Seconds after an overload, or after memory was short, in which the next overload is noticed at the first delay above
a quarter of the target: whoever was kept out comes in at once then, more than can be started in CoDel's interval."""

RETURN = 5.0
"""Seconds after an overload, after memory was short, or after this was needed, in which batch comes back at a rate that
grows."""

_BATCH, _ABOVE, _ALL = range(3)
GIVE_WAY = ("batch", "above_share", "all")
"""Which requests are refused, in this order: of class batch, of tenants above their share, all."""

Shares = tuple[float, float, float]
"""The share of each of these that is refused."""


@dataclass(frozen=True, slots=True)
class OverloadSettings:
    """Seconds: the highest acceptable delay, and for how long it must be exceeded."""

    target: float
    interval: float


@dataclass(frozen=True, slots=True)
class OverloadChange:
    """Overload has begun or ended. `delay`: the latest measurement, in seconds."""

    begins: bool
    delay: float
    seconds: float = 0.0
    """Duration of the overload; like the next two, only set at its end."""
    most: Shares = (0.0, 0.0, 0.0)
    """The highest shares that were refused."""
    refused: int = 0


class OverloadGate:
    """Decides on each request as soon as its tenant is known."""

    __slots__ = (
        "_began_at",
        "_changed",
        "_interval",
        "_look_at",
        "_loop_delay",
        "_memory",
        "_most",
        "_pressed_at",
        "_pressure",
        "_random",
        "_readmission",
        "_refused_before",
        "_short_at",
        "_short_of",
        "_standing",
        "_tenants",
        "_waited",
        "delay",
        "is_overloaded",
        "memory_level",
        "refused",
    )

    def __init__(
        self,
        settings: OverloadSettings | None,
        loop_delay: LoopDelay,
        waited: Callable[[], float],
        memory: MemoryBudget,
        *,
        random: Callable[[], float],
        changed: Callable[[OverloadChange], None],
    ) -> None:
        """`settings` None: only memory refuses requests. `waited` returns the longest time in seconds, since it was
        last called, that requests waited for their turn after they were read."""
        self._loop_delay = loop_delay
        self._waited = waited
        self._memory = memory
        self._random = random
        self._changed = changed
        target, interval = (1.0, 1.0) if settings is None else (settings.target, settings.interval)
        self._interval = interval
        self._standing = StandingDelay(target, interval)
        # Once requests are refused, a delay as long as the target gains nothing: throughput is the same with a shorter
        # one, and a refusal takes twice the delay. Batch must give way before others notice.
        self._pressure = Pressure(easy=target / 8, hard=target / 4)
        self._tenants = TenantShares()
        self._look_at = float("inf") if settings is None else 0.0
        """From when on the next request triggers a measurement."""
        self._readmission = Readmission()
        self._short_at = -math.inf
        """When a request was last decided on in an overload, while memory was short, or by the rate ..."""
        self._short_of = "delay"
        """... and which of the two there was: a reason of `refused`."""
        self._began_at = 0.0
        self._pressed_at = 0.0
        """When the pressure was last above 0, or the rate too high."""
        self._most: Shares = (0.0, 0.0, 0.0)
        self._refused_before = 0
        self.is_overloaded = False
        self.delay = 0.0
        """The last measured delay, in seconds."""
        self.memory_level = 0
        """0 normal, 1 tight, 2 no batch, 3 full, 4 cutting; set by the memory watch."""
        self.refused = {(cls, reason): 0 for cls in TrafficClass for reason in ("delay", "memory")}

    # --- requests --------------------------------------------------------------------------------------------------

    def refusal(
        self,
        traffic_class: TrafficClass,
        tenant: Tenant | None,
        now: float,
        *,
        is_large: bool = False,
        is_again: bool = False,
    ) -> RelayError | None:
        """Why a request of this class may not start now; None: it may. `tenant` None: there are none, and all requests
        count as one's. `is_large`: its body is announced with more than LARGE. `is_again`: it could have started a
        while ago."""
        if now >= self._look_at:
            self._look_at = now + BETWEEN_LOOKS
            self._loop_delay.measure(self._observe)
        error = None
        if self.is_overloaded or self.memory_level >= TIGHT:
            self._short_at = now
            self._short_of = "delay" if self.is_overloaded else "memory"
            error = self._refusal_by_memory(traffic_class, is_large=is_large)
            if error is None and self.is_overloaded:
                error = self._refusal_by_delay(traffic_class, tenant)
        elif is_large:  # memory is short for large ones first
            error = self._refusal_by_memory(traffic_class, is_large=True)
        if error is None and traffic_class is BATCH and not is_again:
            error = self._refusal_by_rate(now)
        return error

    def refusal_as_batch(self, now: float) -> RelayError | None:
        """The same for an admitted request that turns out to be of class batch."""
        error = None
        if self.is_overloaded or self.memory_level >= TIGHT:
            error = self._refusal_by_memory(BATCH)
            if error is None and self._is_hit(self.shares[_BATCH]):
                error = self._refuse(BATCH, _BATCH)
        return error or self._refusal_by_rate(now)

    def _refusal_by_rate(self, now: float) -> RelayError | None:
        if self._readmission.admits(now, is_limited=now - self._short_at < RETURN):
            return None
        self._short_at = self._pressed_at = now
        self.refused[BATCH, self._short_of] += 1
        return self._one_of((_FOR_DELAY if self._short_of == "delay" else _FOR_MEMORY)[_BATCH])

    def _refusal_by_memory(self, traffic_class: TrafficClass, *, is_large: bool = False) -> RelayError | None:
        level, gives_way = self.memory_level, traffic_class is BATCH or is_large
        share = self._memory.large_refusals if is_large else self._memory.batch_refusals
        if level < FULL and not (gives_way and (level >= NO_BATCH or self._is_hit(share))):
            return None
        self.refused[traffic_class, "memory"] += 1
        if traffic_class is BATCH:
            return self._one_of(_FOR_MEMORY[_BATCH])
        return self._one_of(_LARGE_FOR_MEMORY if is_large else _FOR_MEMORY[_ALL])

    def _refusal_by_delay(self, traffic_class: TrafficClass, tenant: Tenant | None) -> RelayError | None:
        batch, above, everyone = self.shares
        name, weight = ("", 1) if tenant is None else (tenant.name, tenant.weight)
        if traffic_class is BATCH and self._is_hit(batch):
            return self._refuse(traffic_class, _BATCH)
        if above and self._tenants.is_above(name) and self._is_hit(above):
            return self._refuse(traffic_class, _ABOVE)
        if self._is_hit(everyone):
            return self._refuse(traffic_class, _ALL)
        self._tenants.count(name, weight)
        return None

    def _is_hit(self, share: float) -> bool:
        return share > 0 and self._random() < share

    def _refuse(self, traffic_class: TrafficClass, why: int) -> RelayError:
        self.refused[traffic_class, "delay"] += 1
        return self._one_of(_FOR_DELAY[why])

    def _one_of(self, errors: Sequence[RelayError]) -> RelayError:
        """They differ in when clients may come back, so that they do not come back together."""
        return errors[int(self._random() * len(errors))]

    @property
    def shares(self) -> Shares:
        """The shares that are refused for the delay now."""
        pressure = self._pressure
        last = 2 if len(self._tenants) > 1 else 1  # a single tenant is never above its share
        return pressure.share(0), pressure.share(1) if last == 2 else 0.0, min(MOST, pressure.share(last))

    # --- the delay -------------------------------------------------------------------------------------------------

    def _observe(self, delay: float, now: float) -> None:
        self.delay = delay = max(delay, self._waited())
        stands = self._standing.observe(delay, now)
        is_alert = now - self._short_at < ALERT and delay > self._pressure.hard
        if self.is_overloaded:
            self._steer(delay, now)
        elif stands or is_alert:
            self._begin(delay, now)
        if self.is_overloaded or self._standing.is_suspected:
            self._loop_delay.measure(self._observe, after=BETWEEN_LOOKS)

    def _begin(self, delay: float, now: float) -> None:
        self.is_overloaded = True
        self._began_at = self._pressed_at = now
        self._refused_before = self._refused_by_delay
        self._tenants.clear()
        self._pressure.begin(delay, now)
        self._most = self.shares
        self._changed(OverloadChange(True, delay))

    def _steer(self, delay: float, now: float) -> None:
        pressure = self._pressure
        self._tenants.refresh(now)
        steps = 2 if len(self._tenants) > 1 else 1
        pressure.steer(delay, now, steps=steps + (now - self._began_at >= PATIENCE))
        most, shares = self._most, self.shares
        self._most = max(most[0], shares[0]), max(most[1], shares[1]), max(most[2], shares[2])
        if pressure.level > 0:
            self._pressed_at = now
        elif now - self._pressed_at >= self._interval:
            self._end(delay, now)

    def _end(self, delay: float, now: float) -> None:
        self.is_overloaded = False
        refused = self._refused_by_delay - self._refused_before
        self._changed(OverloadChange(False, delay, now - self._began_at, self._most, refused))

    @property
    def _refused_by_delay(self) -> int:
        return self.refused[BATCH, "delay"] + self.refused[INTERACTIVE, "delay"]


def _errors(problem: str, *, earliest: int, latest: int) -> tuple[RelayError, ...]:
    message = f"This relay {problem}. Send the request again after the seconds in retry-after."
    return tuple(
        RelayError(503, "overloaded", message, Party.RELAY, EndReason.REFUSED, retry_after=seconds)
        for seconds in range(earliest, latest + 1)
    )


def _by_who_gives_way(problem: str) -> tuple[tuple[RelayError, ...], ...]:
    return (
        _errors(f"{problem}, and requests of class batch give way first", earliest=2, latest=10),
        _errors(f"{problem}, and you have used more than your share of it", earliest=1, latest=5),
        _errors(problem, earliest=1, latest=3),
    )


_FOR_DELAY = _by_who_gives_way("is overloaded")
_FOR_MEMORY = _by_who_gives_way("is short of memory")
_LARGE_FOR_MEMORY = _errors("is short of memory, and large requests give way first", earliest=2, latest=10)
