"""Whether the last configuration that was read is in use. The names are those of Prometheus' own metrics."""

from __future__ import annotations

from collections.abc import Iterator

from .exposition import Family, Merge, gauge


class ReloadFigures:
    """The reload metrics of a process, or of a parent for its workers. Times are seconds since the epoch."""

    __slots__ = ("_is_good", "_used_since")

    def __init__(self, now: float) -> None:
        """The initial configuration is in use."""
        self._is_good = True
        self._used_since = now

    def ended(self, now: float, *, is_good: bool) -> None:
        """A reload has ended. `is_good`: the new configuration is in use, by all workers."""
        self._is_good = is_good
        if is_good:
            self._used_since = now

    def families(self) -> Iterator[Family]:
        text = "Whether the last reload succeeded."
        yield gauge("flow_config_last_reload_successful", text, float(self._is_good), Merge.MIN)
        text = "Time of the last successful reload, or the start, in seconds since the epoch."
        yield gauge("flow_config_last_reload_success_timestamp_seconds", text, self._used_since, Merge.MAX)
