"""The adaptive limit of a provider that several workers share, in the parent. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .adaptive_limit import AdaptiveLimit


class SharedLimit:
    """Collects what workers observe of the provider. What was learned is kept while the configuration names a
    number."""

    __slots__ = ("_queue", "learned")

    def __init__(self) -> None:
        self.learned = AdaptiveLimit()
        self._queue: int | None = None

    def __repr__(self) -> str:
        return f"<SharedLimit: {self.learned}>"

    @property
    def decreases(self) -> dict[str, int]:
        return self.learned.decreases

    @property
    def places(self) -> tuple[int, int]:
        """The number of places, and of requests that may wait."""
        limit = self.learned.limit
        return limit, limit if self._queue is None else self._queue

    def adapt(self, queue: int | None) -> None:
        self._queue = queue

    def first_tokens(self, samples: Sequence[Sequence[Any]]) -> None:
        """Each is an `adaptive_places.Sample`, as a list from JSON."""
        for kind, now, seconds in samples:
            self.learned.first_token(now, kind, seconds)

    def overloaded(self, open_: int, now: float, began_at: float) -> None:
        self.learned.refused(now, began_at, open_ - 1)
