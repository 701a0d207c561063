"""Metrics of ended exchanges, by tenant and by provider: how they ended, which limits refused them, how long they
took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from ..errors import EndReason
from ..quota.tenants import scope_and_name
from ..relay.histogram import WAIT_BUCKETS, Histogram
from ..relay.record import ExchangeRecord
from .exposition import Family, counters, histograms

INTERVAL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
NO_STATUS = "none"
"""The status label of exchanges that ended without an answer."""


class _Times:
    """Times at one provider, in seconds."""

    __slots__ = ("duration", "first_token", "interval")

    def __init__(self) -> None:
        self.first_token = Histogram(WAIT_BUCKETS)
        self.interval = Histogram(INTERVAL_BUCKETS)
        self.duration = Histogram(DURATION_BUCKETS)


class RequestMetrics:
    """The totals of ended exchanges."""

    __slots__ = ("_ends", "_refusals", "_times")

    def __init__(self) -> None:
        self._ends: dict[tuple[str, int, EndReason], list[int]] = {}
        """By tenant, hundreds of the status, and end; each a list of one number, since hashing enum members is slow."""
        self._refusals: Counter[tuple[str, str, str]] = Counter()
        """By tenant, and the limit's scope and name."""
        self._times: dict[str, _Times] = {}

    def exchange_ended(self, record: ExchangeRecord, end: EndReason, tenant: str) -> None:
        """`tenant`: the label of its tenant."""
        account = record.account
        key = tenant, record.status // 100, end
        counted = self._ends.get(key)
        if counted is None:
            self._ends[key] = [1]
        else:
            counted[0] += 1
        if account.refused_by is not None:
            self._refusals[tenant, *scope_and_name(account.refused_by)] += 1
        ended, first, since = record.ended_at, record.first_token_at, record.waiting_since
        upstream = record.upstream
        if upstream is None or ended is None or not record.attempts:
            return
        times = self._times.get(upstream)
        if times is None:
            times = self._times[upstream] = _Times()
        times.duration.observe(ended - since if ended > since else 0.0)
        if first is None:
            return
        times.first_token.observe(first - since if first > since else 0.0)  # it may come before the upload is complete
        output = account.output
        if output > 1:
            times.interval.observe((ended - first) / (output - 1))

    def ends(self) -> dict[EndReason, int]:
        """Exchanges by end, including those with 0."""
        found = dict.fromkeys(EndReason, 0)
        for (_, _, end), [count] in self._ends.items():
            found[end] += count
        return found

    def collect(self, upstreams: Iterable[str]) -> Iterator[Family]:
        """`upstreams`: providers that are shown even if they had no requests."""
        ends = [
            ({"tenant": tenant, "status": _class_of(status), "end": str(end)}, count)
            for (tenant, status, end), [count] in sorted(self._ends.items())
        ]
        text = "Exchanges that ended, by tenant, class of the status (none: there was no answer) and end."
        yield counters("flow_requests", text, ends)
        text = "Requests refused with 429 by a tenant's limit. scope: of the tenant, each user, or models."
        refused = [
            ({"tenant": tenant, "scope": scope, "limit": limit}, count)
            for (tenant, scope, limit), count in sorted(self._refusals.items())
        ]
        yield counters("flow_limit_refusals", text, refused)
        for name in upstreams:
            self._times.setdefault(name, _Times())
        for name, text, bounds, found in (
            (
                "flow_upstream_first_token_seconds",
                "Time from when the provider had the whole request to the first token, for counted answers.",
                WAIT_BUCKETS,
                [(name, times.first_token) for name, times in self._times.items()],
            ),
            (
                "flow_upstream_token_interval_seconds",
                "Time between tokens after the first: the mean of each counted answer.",
                INTERVAL_BUCKETS,
                [(name, times.interval) for name, times in self._times.items()],
            ),
            (
                "flow_upstream_duration_seconds",
                "Time from when the provider had the whole request to the end of the exchange.",
                DURATION_BUCKETS,
                [(name, times.duration) for name, times in self._times.items()],
            ),
        ):
            yield histograms(name, text, bounds, [({"upstream": each}, histogram) for each, histogram in found])


def _class_of(hundreds: int) -> str:
    return f"{hundreds}xx" if hundreds else NO_STATUS
