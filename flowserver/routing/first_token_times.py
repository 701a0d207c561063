"""How long one provider takes to its first tokens: the quantile of late that hedges wait for. No I/O."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque

WINDOW = 256
"""Times that are remembered of one model, the latest ones."""
MAX_AGE = 600.0
"""Seconds after which a time is forgotten: what a provider did before says little of what it does now."""
ENOUGH = 64
"""Times of one model before a quantile of them means anything: three of them are above the 95th percentile."""
MOST_MODELS = 64
"""Models of one provider that are told apart. The one that was asked for longest ago is forgotten first: clients choose
their names."""


class TimesOfModel:
    """Of one model at one provider, in seconds.

    Requests that ended before their first token are noted with the time that they had waited: among times that are
    ranked, what is known to be at least as long counts right, and without it the slowest would be missing.
    """

    __slots__ = ("_by_age", "_sorted")

    def __init__(self) -> None:
        self._by_age: deque[tuple[float, float]] = deque()
        """When each was noted, and the seconds."""
        self._sorted: list[float] = []

    def __repr__(self) -> str:
        return f"<TimesOfModel {self.known}>"

    @property
    def known(self) -> int:
        """How many times are remembered."""
        return len(self._sorted)

    def note(self, seconds: float, now: float) -> None:
        """A first token came after so many `seconds`, or had not come by then."""
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
    """Of one provider, by model. Each worker has its own."""

    __slots__ = ("_models",)

    def __init__(self) -> None:
        self._models: OrderedDict[str | None, TimesOfModel] = OrderedDict()

    def of(self, model: str | None) -> TimesOfModel:
        """Those of `model`, which is None where a request names none."""
        times = self._models.get(model)
        if times is None:
            times = self._models[model] = TimesOfModel()
            if len(self._models) > MOST_MODELS:
                self._models.popitem(last=False)
        else:
            self._models.move_to_end(model)
        return times
