"""What a provider refuses to whom: some keys, some models, while it serves others. No I/O, no clock.

A status is an answer, so it says nothing against the provider as a whole (`health` is for that): 429 is about the key
that was sent, 502, 503, 504 and 529 are about the model that was asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

MAX_COOLDOWN = 60.0
"""Seconds; a provider that asks for more is tried again after that."""
_MOST = 1000
"""Keys and models in trouble that are remembered; the ones that had it longest ago are forgotten."""


class _Trouble:
    __slots__ = ("failures", "until")

    def __init__(self) -> None:
        self.failures = 0
        """In a row."""
        self.until = 0.0
        """When to ask again."""


class Standing:
    """Of the keys and models at one provider. Times are seconds of one monotonic clock."""

    __slots__ = ("_cooldown", "_limit", "_troubles")

    def __init__(self, *, failures: int, cooldown: float) -> None:
        """`failures` in a row for a model are a reason to leave it alone for `cooldown` seconds."""
        self._limit = failures
        self._cooldown = cooldown
        self._troubles: OrderedDict[Hashable, _Trouble] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether anything is in trouble: nearly never, so that nobody need find out who asks."""
        return bool(self._troubles)

    def allows(self, now: float, *subjects: Hashable) -> bool:
        """Whether none of `subjects`, a key and a model, is to be left alone."""
        return not self.wait(now, *subjects)

    def wait(self, now: float, *subjects: Hashable) -> float:
        """Seconds until that is so; 0 when it is."""
        found = [trouble.until for subject in subjects if (trouble := self._troubles.get(subject)) is not None]
        return max(0.0, max(found, default=now) - now)

    def limited(self, now: float, subject: Hashable, after: float | None) -> None:
        """The provider has had enough of `subject` for `after` seconds (None: it does not say)."""
        if after is not None:
            trouble = self._of(subject)
            trouble.until = max(trouble.until, now + min(after, MAX_COOLDOWN))

    def failed(self, now: float, subject: Hashable, after: float | None) -> None:
        """The provider can't serve `subject` now."""
        trouble = self._of(subject)
        trouble.failures += 1
        if trouble.failures >= self._limit:
            trouble.until = max(trouble.until, now + self._cooldown)
        self.limited(now, subject, after)

    def served(self, *subjects: Hashable) -> None:
        for subject in subjects:
            self._troubles.pop(subject, None)

    def _of(self, subject: Hashable) -> _Trouble:
        trouble = self._troubles.get(subject)
        if trouble is None:
            trouble = self._troubles[subject] = _Trouble()
            if len(self._troubles) > _MOST:
                self._troubles.popitem(last=False)
        return trouble
