"""Schedules the active health checks of this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from itertools import count

from ..config.topology import HealthSpec
from ..routing.health_probe import CheckResult, HealthProbe, check_request
from ..routing.upstream_host import UpstreamHost
from ..upstream.pool import Pool

JITTER = 0.1
"""Checks vary by up to this part of the interval, so that many relays do not check at once."""


class _Checker:
    """Checks one provider, one check at a time."""

    __slots__ = (
        "_began_at",
        "_host",
        "_loop",
        "_numbers",
        "_pool",
        "_probe",
        "_pseudonym",
        "_random",
        "_spec",
        "_timer",
    )

    def __init__(
        self, host: UpstreamHost, pool: Pool, spec: HealthSpec, *, pseudonym: bytes, random: Callable[[], float]
    ) -> None:
        self._host = host
        self._pool = pool
        self._spec = spec
        self._pseudonym = pseudonym
        self._random = random
        self._numbers = count(1)
        self._loop = asyncio.get_running_loop()
        self._probe: HealthProbe | None = None
        """None: no check is under way."""
        self._began_at = 0.0
        host.checks.begin(failures=spec.failures, successes=spec.successes)
        self._timer = self._loop.call_later(spec.interval * random(), self._check)

    def serves(self, host: UpstreamHost, spec: HealthSpec) -> bool:
        """Whether this checker is the one that `spec` describes."""
        return self._host is host and self._spec == spec

    def use(self, pool: Pool) -> None:
        """Use the connections of `pool` from now on."""
        self._pool = pool

    def cancel(self) -> None:
        """No more checks."""
        self._timer.cancel()
        if self._probe is not None:
            self._probe.cancel()

    def _check(self) -> None:
        self._began_at = time.monotonic()
        if not self._host.checks.is_appointed:
            self._schedule()
        elif self._pool.is_full:
            self._on_done(CheckResult.SKIPPED, "")
        else:
            request_id = b"health-%d" % next(self._numbers)
            request = check_request(self._host, self._spec.path, pseudonym=self._pseudonym, request_id=request_id)
            self._probe = probe = HealthProbe(self._host, request, self._spec.expect, self._on_done)
            self._timer = self._loop.call_later(self._spec.timeout, probe.expire, self._spec.timeout)
            probe.start()

    def _on_done(self, result: CheckResult, problem: str) -> None:
        self._timer.cancel()
        self._probe = None
        self._host.check_results[result.value] += 1
        if result is not CheckResult.SKIPPED:
            self._host.checks.note(problem or None)
        self._schedule()

    def _schedule(self) -> None:
        interval = self._spec.interval * (1.0 + JITTER * (2.0 * self._random() - 1.0))
        passed = time.monotonic() - self._began_at
        self._timer = self._loop.call_later(max(0.0, interval - passed), self._check)


class HealthChecks:
    """The checks of the current configuration. Each has its own timer, and uses the provider's own connections."""

    __slots__ = ("_checkers", "_pseudonym", "_random")

    def __init__(self, *, pseudonym: bytes, random: Callable[[], float]) -> None:
        """`pseudonym` is the relay's name in Via."""
        self._pseudonym = pseudonym
        self._random = random
        self._checkers: dict[UpstreamHost, _Checker] = {}

    def follow(self, wanted: Iterable[tuple[UpstreamHost, Pool, HealthSpec | None]]) -> None:
        """Check these from now on, and no others. Checks whose configuration has not changed continue."""
        before, self._checkers = self._checkers, {}
        for host, pool, spec in wanted:
            if spec is None:
                continue
            checker = before.pop(host, None)
            if checker is not None and checker.serves(host, spec):
                checker.use(pool)
            else:
                if checker is not None:
                    checker.cancel()
                checker = _Checker(host, pool, spec, pseudonym=self._pseudonym, random=self._random)
            self._checkers[host] = checker
        for host, checker in before.items():
            checker.cancel()
            host.checks.end()

    def close(self) -> None:
        for checker in self._checkers.values():
            checker.cancel()
        self._checkers.clear()
