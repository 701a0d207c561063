"""Outlier detection: providers that do worse than the others of their tier get no requests for a while. No I/O, no
clock.

As in Envoy, providers are compared at the end of each interval, an ejection lasts longer each time, and only a part of
a tier may be ejected. A problem of the whole tier ejects nobody: a request that makes all of them fail, a model that is
slow today, the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from .upstream_host import UpstreamHost

CONTRAST = 2.0
"""A provider's share of failures must be this many times that of the others, or they share the problem."""
LEAST_DELAY = 0.1
"""Seconds by which a slow provider must be behind the others: nobody notices less."""
LONGEST = 10
"""Ejections in a row after which their duration no longer grows."""


@dataclass(frozen=True, slots=True)
class OutlierPolicy:
    """Times in seconds; None is off."""

    interval: float
    min_requests: int
    """Least requests in an interval, of the provider and of those that it is compared with."""
    max_errors: float | None
    """Share of failed requests from which on a provider is ejected."""
    max_slowness: float | None
    """Factor by which a provider may take longer than the others to begin its answers."""
    slow_intervals: int
    """Slow intervals in a row before the first ejection."""
    ejection: float
    """Duration of the first ejection; the next one in a row lasts twice as long, then three times."""
    max_ejected: float
    """Largest share of a tier; of two or more, one may always be ejected, and one always stays."""


class Change(NamedTuple):
    """`host` was ejected for `seconds`, or has returned (0)."""

    host: UpstreamHost
    kind: str
    """`errors` or `latency`."""
    cause: str
    seconds: float


class _Member:
    """One provider of a tier, in the current interval."""

    __slots__ = ("begun", "ejected_until", "failed", "host", "in_row", "kind", "requests", "seconds", "slow_for")

    def __init__(self, host: UpstreamHost) -> None:
        self.host = host
        self.ejected_until: float | None = None
        """None: it is not ejected."""
        self.kind = ""
        """The kind of the last ejection."""
        self.in_row = 0
        """Ejections in a row, less one for each good interval."""
        self.slow_for = 0
        """Slow intervals in a row."""
        self.reset()

    def reset(self) -> None:
        self.requests = self.failed = self.begun = 0
        self.seconds = 0.0
        """Total time to the beginning of the answers, of `begun` requests."""

    @property
    def mean(self) -> float:
        return self.seconds / self.begun


class Outliers:
    """The outlier detection of one route. Reports about other hosts are ignored."""

    __slots__ = ("_members", "_policy", "_since", "_tiers", "ejected")

    def __init__(self, policy: OutlierPolicy, tiers: Iterable[Sequence[UpstreamHost]], now: float) -> None:
        self._policy = policy
        self._members: dict[UpstreamHost, _Member] = {}
        self._tiers = [[self._members.setdefault(host, _Member(host)) for host in tier] for tier in tiers]
        self._since = now
        self.ejected: set[UpstreamHost] = set()

    def __repr__(self) -> str:
        return f"<Outliers: {len(self.ejected)} of {len(self._members)} ejected>"

    def continue_from(self, before: Outliers) -> None:
        """Take over the state of `before`, the same route in an earlier configuration."""
        self._since = before._since
        for tier in self._tiers:
            for place, member in enumerate(tier):
                known = before._members.get(member.host)
                if known is not None:
                    tier[place] = self._members[member.host] = known
                    if known.ejected_until is not None:
                        self.ejected.add(known.host)

    # --- what happens -----------------------------------------------------------------------------------------------

    def answered(self, host: UpstreamHost, status: int) -> None:
        """The head of an answer arrived. 4xx are the client's fault, and 429 concerns its key."""
        member = self._members.get(host)
        if member is not None:
            member.requests += 1
            member.failed += status >= 500

    def began(self, host: UpstreamHost, seconds: float) -> None:
        """The first bytes of a good answer arrived, `seconds` after the request was begun."""
        member = self._members.get(host)
        if member is not None:
            member.begun += 1
            member.seconds += seconds

    def failed(self, host: UpstreamHost, *, answered: bool) -> None:
        """No connection, no answer in time, or a broken one. `answered`: its head had arrived."""
        member = self._members.get(host)
        if member is not None:
            member.requests += not answered
            member.failed += 1

    # --- what follows -----------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> Iterator[Change]:
        """Let hosts return whose ejection is over, and compare the others once an interval has passed."""
        for member in self._members.values():
            if member.ejected_until is not None and now >= member.ejected_until:
                member.ejected_until = None
                member.reset()
                self.ejected.discard(member.host)
                yield Change(member.host, member.kind, "the ejection is over", 0.0)
        if now - self._since < self._policy.interval:
            return
        self._since = now
        for tier in self._tiers:
            yield from self._judge(tier, now)
        for member in self._members.values():
            member.reset()

    def _judge(self, tier: list[_Member], now: float) -> Iterator[Change]:
        present = [member for member in tier if member.ejected_until is None]
        found = [bad for member in present if (bad := self._fault(member, present)) is not None]
        for _, member, kind, cause in sorted(found, key=lambda bad: -bad[0]):
            if self._may_eject(member, tier):
                yield self._eject(member, kind, cause, now)

    def _fault(self, member: _Member, present: list[_Member]) -> tuple[float, _Member, str, str] | None:
        """(severity, member, kind, cause) of a fault; None: there is none, or too little is known."""
        least = self._policy.min_requests
        others = [other for other in present if other is not member]
        errors = self._errors(member, others) if member.requests >= least else None
        slowness = None
        timed = [other.mean for other in others if other.begun >= least]
        if member.begun >= least and timed:
            slowness = self._slowness(member, median(timed))
        if errors is not None:
            return errors[0], member, "errors", errors[1]
        if slowness is not None:
            return 0.0, member, "latency", slowness
        if member.requests >= least and not member.slow_for:
            member.in_row = max(0, member.in_row - 1)
        return None

    def _errors(self, member: _Member, others: list[_Member]) -> tuple[float, str] | None:
        requests = sum(other.requests for other in others)
        if self._policy.max_errors is None or requests < self._policy.min_requests:
            return None
        share, usual = member.failed / member.requests, sum(other.failed for other in others) / requests
        if share < self._policy.max_errors or share <= CONTRAST * usual:
            return None
        return share, f"{share:.0%} of its {member.requests} requests failed, {usual:.0%} of the others'"

    def _slowness(self, member: _Member, usual: float) -> str | None:
        most = self._policy.max_slowness
        if most is None or member.mean <= most * usual or member.mean - usual < LEAST_DELAY:
            member.slow_for = 0
            return None
        member.slow_for += 1
        if member.slow_for < (1 if member.in_row else self._policy.slow_intervals):
            return None
        return f"its answers begin after {member.mean:.2f} s, the others' after {usual:.2f} s"

    def _may_eject(self, member: _Member, tier: list[_Member]) -> bool:
        """Whether that leaves enough of the tier, and an available provider."""
        most = min(len(tier) - 1, max(1, int(len(tier) * self._policy.max_ejected)))
        if sum(each.ejected_until is not None for each in tier) >= most:
            return False
        rest = [each for each in tier if each is not member and each.ejected_until is None]
        return any(each.host.health.is_closed and each.host.checks.cause is None for each in rest)

    def _eject(self, member: _Member, kind: str, cause: str, now: float) -> Change:
        member.in_row = min(LONGEST, member.in_row + 1)
        member.slow_for = 0
        member.kind = kind
        seconds = self._policy.ejection * member.in_row
        member.ejected_until = now + seconds
        member.host.ejections[kind] += 1
        self.ejected.add(member.host)
        return Change(member.host, kind, cause, seconds)
