"""Keys and models that a provider refuses for now, while it serves others. No I/O, no clock.

A status is an answer, so it says nothing against the provider as a whole (the circuit breaker is for that). 429 is
about the key that was sent; 502, 503, 504 and 529 are about the model that was asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import NamedTuple

MAX_COOLDOWN = 60.0
"""Seconds; a provider that asks for more is tried again after that."""
_MOST = 1000
"""Keys and models that are remembered; the ones refused longest ago are forgotten first."""


class CooldownRecord(NamedTuple):
    """All that is remembered of one key or model, as others are told."""

    at: float
    failures: int
    until: float


class _Refused:
    """One key or model."""

    __slots__ = ("at", "failures", "until")

    def __init__(self) -> None:
        self.at = 0.0
        """When it was refused last."""
        self.failures = 0
        """In a row."""
        self.until = 0.0
        """When its cooldown ends."""


class Cooldowns:
    """The refused keys and models of one provider. Times are seconds of one monotonic clock.

    What was not refused again within twice the longest cooldown is forgotten: until then one more failure of a model is
    enough for its next cooldown.
    """

    __slots__ = ("_cooldown", "_failures", "_memory", "_refused")

    def __init__(self, *, failures: int, cooldown: float) -> None:
        """A model that failed `failures` times in a row is left alone for `cooldown` seconds."""
        self._failures = failures
        self._cooldown = cooldown
        self._memory = 2 * max(cooldown, MAX_COOLDOWN)
        self._refused: OrderedDict[Hashable, _Refused] = OrderedDict()
        """The ones refused longest ago first."""

    def __bool__(self) -> bool:
        """Whether anything was refused: nearly never, so that nobody need find out who asks."""
        return bool(self._refused)

    def __len__(self) -> int:
        """Keys and models that are remembered."""
        return len(self._refused)

    def __repr__(self) -> str:
        return f"<Cooldowns of {len(self._refused)} keys and models>"

    def __iter__(self) -> Iterator[Hashable]:
        """Keys and models that are remembered; the ones refused longest ago first."""
        return iter(self._refused)

    def record(self, subject: Hashable) -> CooldownRecord | None:
        """None: nothing is remembered of it."""
        refused = self._refused.get(subject)
        return None if refused is None else CooldownRecord(refused.at, refused.failures, refused.until)

    def adopt(self, subject: Hashable, record: CooldownRecord | None) -> None:
        """Know of `subject` what other cooldowns know, and nothing else."""
        if record is None:
            self._refused.pop(subject, None)
        else:
            refused = self._note(record.at, subject)
            refused.at, refused.failures, refused.until = record

    def allows(self, now: float, *subjects: Hashable) -> bool:
        """Whether none of `subjects`, a key and a model, is to be left alone."""
        self._forget(now)
        return all(refused is None or now >= refused.until for refused in map(self._refused.get, subjects))

    def limited(self, now: float, subject: Hashable, after: float | None) -> None:
        """The provider refuses `subject` for `after` seconds (None: it does not say)."""
        if after is not None:
            _leave_alone(self._note(now, subject), now + min(after, MAX_COOLDOWN))

    def failed(self, now: float, subject: Hashable, after: float | None) -> None:
        """The provider can't serve `subject` now; it asks for `after` seconds (None: it does not say)."""
        refused = self._note(now, subject)
        refused.failures += 1
        if refused.failures >= self._failures:
            _leave_alone(refused, now + self._cooldown)
        if after is not None:
            _leave_alone(refused, now + min(after, MAX_COOLDOWN))

    def served(self, *subjects: Hashable) -> None:
        for subject in subjects:
            self._refused.pop(subject, None)

    def _note(self, now: float, subject: Hashable) -> _Refused:
        self._forget(now)
        refused = self._refused.get(subject)
        if refused is None:
            refused = self._refused[subject] = _Refused()
            if len(self._refused) > _MOST:
                self._refused.popitem(last=False)
        self._refused.move_to_end(subject)
        refused.at = now
        return refused

    def _forget(self, now: float) -> None:
        """Forget what was refused so long ago that its cooldown is over for sure."""
        while self._refused and now - next(iter(self._refused.values())).at >= self._memory:
            self._refused.popitem(last=False)


def _leave_alone(refused: _Refused, until: float) -> None:
    refused.until = max(refused.until, until)
