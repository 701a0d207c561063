"""Whether the configuration that was read last is in use. The names are those that Prometheus has for its own."""

from __future__ import annotations

from collections.abc import Iterator

from .exposition import Family, Merge, gauge


class ReloadFigures:
    """Of one process, or of a parent for its workers. Times are seconds since the epoch."""

    __slots__ = ("_is_good", "_used_since")

    def __init__(self, now: float) -> None:
        """A configuration is in use, that of the start."""
        self._is_good = True
        self._used_since = now

    def ended(self, now: float, *, is_good: bool) -> None:
        """The configuration was read again. `is_good`: it is in use, by all workers."""
        self._is_good = is_good
        if is_good:
            self._used_since = now

    def families(self) -> Iterator[Family]:
        text = "Whether the configuration could be used when it was read last."
        yield gauge("flow_config_last_reload_successful", text, float(self._is_good), Merge.MIN)
        text = "When it could be used last, in seconds since the epoch; the start counts."
        yield gauge("flow_config_last_reload_success_timestamp_seconds", text, self._used_since, Merge.MAX)
