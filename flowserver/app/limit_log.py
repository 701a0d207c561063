"""Logs when the learned limit of a provider has changed much."""

from __future__ import annotations

from collections.abc import Iterable

from ..routing.upstream_host import UpstreamHost
from ..telemetry.log import Log

_MUCH = 1.5
"""Factor, in either direction, by which a limit has changed much."""
_PAUSE = 10.0
"""Seconds between two lines about a provider."""


class LimitLog:
    __slots__ = ("_log", "_told")

    def __init__(self, log: Log) -> None:
        self._log = log
        self._told: dict[str, tuple[float, int]] = {}
        """By provider: when its limit was logged last, and the limit logged."""

    def look(self, hosts: Iterable[UpstreamHost], now: float) -> None:
        """Called about once a second."""
        for host in hosts:
            if host.adaptive is None:
                self._told.pop(host.name, None)
                continue
            limit = host.adaptive.limit
            at, before = self._told.setdefault(host.name, (now, limit))
            if now - at >= _PAUSE and not before / _MUCH < limit < before * _MUCH:
                self._told[host.name] = now, limit
                self._log.write("info", "limit_changed", upstream=host.name, limit=limit, before=before)
