"""Logs when a circuit breaker opens or closes: those of the providers, and that of the limit store."""

from __future__ import annotations

from collections.abc import Iterable

from ..routing.circuit_breaker import BreakerState, CircuitBreaker
from ..telemetry.log import Log


class BreakerWatch:
    """Call `look` now and then. A breaker that opens and closes in between is not logged, only counted in the
    metrics."""

    __slots__ = ("_log", "_open")

    def __init__(self, log: Log) -> None:
        self._log = log
        self._open: dict[str, float] = {}
        """Open breakers by name, and since when."""

    def look(self, breakers: Iterable[tuple[str, CircuitBreaker]], now: float) -> None:
        """`breakers`: all of them, by the names that the log uses; "" is the limit store."""
        seen = set()
        for name, breaker in breakers:
            seen.add(name)
            is_open = breaker.state(now) is not BreakerState.CLOSED
            if is_open and name not in self._open:
                self._open[name] = now
                self._told("warning", name, "store_lost" if not name else "breaker_opened")
            elif not is_open and name in self._open:
                seconds = round(now - self._open.pop(name), 3)
                self._told("info", name, "store_back" if not name else "breaker_closed", after_seconds=seconds)
        for name in self._open.keys() - seen:  # the provider is gone
            del self._open[name]

    def _told(self, level: str, name: str, event: str, **fields: float) -> None:
        if name:
            self._log.write(level, event, upstream=name, **fields)
        else:
            self._log.write(level, event, **fields)
