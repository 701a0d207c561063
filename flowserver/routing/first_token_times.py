"""The times to the first token of one provider, with the quantile after which hedges begin. No I/O."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque

WINDOW = 256
"""Most times that are remembered per model, the latest ones."""
MAX_AGE = 600.0
"""Seconds after which a time is forgotten, because it says little about the provider now."""
ENOUGH = 64
"""Times of one model that are needed for a meaningful quantile: three of them are above the 95th percentile."""
MOST_MODELS = 64
"""Most models per provider. The least recently used is forgotten first: clients choose the names."""


class TimesOfModel:
    """Times of one model at one provider, in seconds.

    Requests that ended before their first token are recorded with the time that they had waited: in a ranking a lower
    bound counts correctly, and without them the slowest would be missing.
    """

    __slots__ = ("_by_age", "_sorted")

    def __init__(self) -> None:
        self._by_age: deque[tuple[float, float]] = deque()
        """When each was recorded, and the seconds."""
        self._sorted: list[float] = []

    def __repr__(self) -> str:
        return f"<TimesOfModel {self.known}>"

    @property
    def known(self) -> int:
        """Number of remembered times."""
        return len(self._sorted)

    def note(self, seconds: float, now: float) -> None:
        """A first token came after `seconds`, or had not come by then."""
        self._forget(now)
        if len(self._by_age) >= WINDOW:
            self._forget_oldest()
        self._by_age.append((now, seconds))
        insort(self._sorted, seconds)

    def quantile(self, share: float, now: float) -> float | None:
        """The seconds within which a `share` of the first tokens came; None: too few are known."""
        self._forget(now)
        known = self.known
        return self._sorted[min(known - 1, int(known * share))] if known >= ENOUGH else None

    def _forget(self, now: float) -> None:
        while self._by_age and now - self._by_age[0][0] > MAX_AGE:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, seconds = self._by_age.popleft()
        del self._sorted[bisect_left(self._sorted, seconds)]


class FirstTokenTimes:
    """The times of one provider, by model. Each worker has its own."""

    __slots__ = ("_models",)

    def __init__(self) -> None:
        self._models: OrderedDict[str | None, TimesOfModel] = OrderedDict()

    def of(self, model: str | None) -> TimesOfModel:
        """The times of `model`; None: the request names none."""
        times = self._models.get(model)
        if times is None:
            times = self._models[model] = TimesOfModel()
            if len(self._models) > MOST_MODELS:
                self._models.popitem(last=False)
        else:
            self._models.move_to_end(model)
        return times
