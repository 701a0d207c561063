"""Keys and models that a provider refuses temporarily, while it serves others. No I/O, no clock.

A status is an answer, so it does not count against the provider as a whole (the circuit breaker is for that). 429
concerns the key that was sent; 502, 503, 504 and 529 concern the requested model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import NamedTuple

MAX_COOLDOWN = 60.0
"""Seconds; a provider that asks for more is tried again after that."""
_MOST = 1000
"""Most keys and models that are remembered; those refused longest ago are forgotten first."""


class CooldownRecord(NamedTuple):
    """The whole state of one key or model, for sharing."""

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
        """Consecutive failures."""
        self.until = 0.0
        """When its cooldown ends."""


class Cooldowns:
    """The refused keys and models of one provider. Times are seconds of one monotonic clock.

    What was not refused again within twice the longest cooldown is forgotten: until then a single failure of a model
    starts its next cooldown.
    """

    __slots__ = ("_cooldown", "_failures", "_memory", "_refused")

    def __init__(self, *, failures: int, cooldown: float) -> None:
        """A model that failed `failures` times in a row gets no requests for `cooldown` seconds."""
        self._failures = failures
        self._cooldown = cooldown
        self._memory = 2 * max(cooldown, MAX_COOLDOWN)
        self._refused: OrderedDict[Hashable, _Refused] = OrderedDict()
        """The ones refused longest ago first."""

    def __bool__(self) -> bool:
        """Whether anything was refused. Rarely so, which spares callers from determining key and model."""
        return bool(self._refused)

    def __len__(self) -> int:
        """Number of remembered keys and models."""
        return len(self._refused)

    def __repr__(self) -> str:
        return f"<Cooldowns of {len(self._refused)} keys and models>"

    def __iter__(self) -> Iterator[Hashable]:
        """Remembered keys and models, those refused longest ago first."""
        return iter(self._refused)

    def record(self, subject: Hashable) -> CooldownRecord | None:
        """The state of a subject; None: nothing is remembered."""
        refused = self._refused.get(subject)
        return None if refused is None else CooldownRecord(refused.at, refused.failures, refused.until)

    def adopt(self, subject: Hashable, record: CooldownRecord | None) -> None:
        """Adopt the state of `subject` from other cooldowns."""
        if record is None:
            self._refused.pop(subject, None)
        else:
            refused = self._note(record.at, subject)
            refused.at, refused.failures, refused.until = record

    def allows(self, now: float, *subjects: Hashable) -> bool:
        """Whether none of `subjects`, a key and a model, is in a cooldown."""
        self._forget(now)
        return all(refused is None or now >= refused.until for refused in map(self._refused.get, subjects))

    def limited(self, now: float, subject: Hashable, after: float | None) -> None:
        """The provider refuses `subject` for `after` seconds (None: not stated)."""
        if after is not None:
            _leave_alone(self._note(now, subject), now + min(after, MAX_COOLDOWN))

    def failed(self, now: float, subject: Hashable, after: float | None) -> None:
        """The provider can't serve `subject` now; it asks to wait `after` seconds (None: not stated)."""
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
        """Forget what was refused so long ago that its cooldown is certainly over."""
        while self._refused and now - next(iter(self._refused.values())).at >= self._memory:
            self._refused.popitem(last=False)


def _leave_alone(refused: _Refused, until: float) -> None:
    refused.until = max(refused.until, until)
