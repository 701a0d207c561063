"""Watches providers: active checks, slow starts, outliers, and what the log and /readyz report about them."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..config.parsers import Ready
from ..routing.candidates import is_dispensable
from ..routing.outliers import Change
from ..routing.slow_start import SlowStart
from ..routing.upstream_host import UpstreamHost
from ..telemetry.log import Log
from .health_checks import HealthChecks
from .providers import Providers


class _Watched:
    """The state of one provider at the last sweep."""

    __slots__ = ("cause", "slow_start")

    def __init__(self) -> None:
        self.cause: str | None = None
        self.slow_start = SlowStart()


class ProviderWatch:
    """Call `sweep` about once a second."""

    __slots__ = ("_checks", "_log", "_providers", "_watched")

    def __init__(self, log: Log, *, pseudonym: bytes, random: Callable[[], float]) -> None:
        """`pseudonym` is the relay's name in Via."""
        self._log = log
        self._checks = HealthChecks(pseudonym=pseudonym, random=random)
        self._providers: Providers | None = None
        self._watched: dict[UpstreamHost, _Watched] = {}

    def follow(self, providers: Providers) -> None:
        """Watch these from now on, and no others."""
        self._providers = providers
        self._watched = {host: self._watched.get(host) or _Watched() for host in providers.hosts}
        judges = [route.outliers for route in providers.routes.routes if route.outliers is not None]
        for host in providers.hosts:
            host.ejected = sum(host in outliers.ejected for outliers in judges)
        pairs = zip(providers.hosts, providers.pools, providers.specs, strict=True)
        self._checks.follow((host, pool, spec.health) for host, pool, spec in pairs)

    def close(self) -> None:
        self._checks.close()

    def unready(self, ready: Ready) -> str | None:
        """Why providers make the relay unready; None: they do not."""
        hosts = () if self._providers is None else self._providers.hosts
        now = time.monotonic()
        return unready(ready, {host.name: host.trouble(now) for host in hosts})

    def sweep(self, now: float) -> None:
        if self._providers is None:
            return
        for route in self._providers.routes.routes:
            if route.outliers is not None:
                for change in route.outliers.sweep(now):
                    self._on_outlier(change, route.path, now)
        for host, watched in self._watched.items():
            if host.checks.cause != watched.cause:
                watched.cause = host.checks.cause
                self._on_verdict(host, now)
            is_away = host.ejected > 0 or host.trouble(now) is not None
            host.ramp = watched.slow_start.ramp(now, host.settings.slow_start, is_away=is_away)

    def _on_verdict(self, host: UpstreamHost, now: float) -> None:
        cause = host.checks.cause
        if host.checks.is_appointed:  # one of several workers logs it
            if cause is None:
                self._log.write("info", "upstream_healthy", upstream=host.name)
            else:
                self._log.write("warning", "upstream_unhealthy", upstream=host.name, cause=cause)
        if cause is not None:
            self._send_away(host, now)

    def _on_outlier(self, change: Change, path: str, now: float) -> None:
        host, kind, cause, seconds = change
        if not seconds:
            host.ejected -= 1
            self._log.write("info", "upstream_returned", upstream=host.name, route=path)
            return
        host.ejected += 1
        self._log.write(
            "warning", "upstream_ejected", upstream=host.name, route=path, kind=kind, cause=cause, seconds=seconds
        )
        self._send_away(host, now)

    def _send_away(self, host: UpstreamHost, now: float) -> None:
        """Requests that wait for a place there go elsewhere, if there is another provider."""
        assert self._providers is not None
        if host.waiting and is_dispensable(host, self._providers.routes.routes, now):
            host.places.send_waiting_away()


def unready(ready: Ready, troubles: dict[str, str | None]) -> str | None:
    """Why providers make a relay unready; None: they do not. `troubles`: by provider, why it is unavailable (None: it
    is available)."""
    if ready is Ready.LISTENING:
        return None
    found = [f"{name} {trouble}" for name, trouble in troubles.items() if trouble is not None]
    if not found or (ready is Ready.ANY_UPSTREAM and len(found) < len(troubles)):
        return None
    which = "no provider is available" if ready is Ready.ANY_UPSTREAM else "not every provider is available"
    return "; ".join([which, *found])
