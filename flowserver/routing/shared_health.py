"""A provider's breaker and cooldowns as one of several workers has them. No I/O.

Each worker acts at once on what it sees itself and tells the parent, whose breaker and cooldowns count for all: what
they know after each event is told to all workers, which adopt it. Times are of the monotonic clock, which is the same
in all processes of a machine.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from .circuit_breaker import CircuitBreaker
from .cooldowns import MAX_COOLDOWN, Cooldowns

KEY, MODEL = "key", "model"
"""What the subject of a cooldown is; see `candidates.subjects`."""

Tell = Callable[..., None]
"""Takes the name of an event and what belongs to it: numbers, texts, lists, None. Harmless when nobody hears it."""


class SharedBreaker(CircuitBreaker):
    """A breaker that probes only with the parent's leave, which comes with a place: see `SharedPlaces`."""

    __slots__ = ("_is_alone", "_may_probe", "_tell")

    def __init__(self, tell: Tell, *, failures: int, cooldown: float) -> None:
        super().__init__(failures=failures, cooldown=cooldown)
        self._tell = tell
        self._may_probe = False
        """Between the leave to probe and the beginning of the probe."""
        self._is_alone = False

    def permit_probe(self) -> None:
        """The next request that starts is the probe of all workers."""
        self._may_probe = True

    def return_permit(self) -> None:
        """Give back the leave to probe if it was not used."""
        if self._may_probe:
            self._may_probe = False
            self.abandoned(probe=True)

    def go_alone(self) -> None:
        """The parent is gone, and with it whoever else probes."""
        self._is_alone = True
        self.adopt(self.record._replace(probing=False))

    def allows(self, now: float) -> bool:
        return self._may_probe or super().allows(now)

    def admits(self, now: float) -> bool:
        if self._is_alone:
            return super().allows(now)
        return self._may_probe or self.is_closed

    def started(self, now: float) -> bool:
        if self._is_alone:
            return super().started(now)
        may_probe, self._may_probe = self._may_probe, False
        return may_probe

    def succeeded(self) -> None:
        if not self.is_spotless:
            super().succeeded()
            self._tell("succeeded")

    def failed(self, now: float, *, probe: bool, cause: object = None) -> bool:
        counts = super().failed(now, probe=probe, cause=cause)
        if counts:
            self._tell("failed", probe)
        return counts

    def abandoned(self, *, probe: bool) -> None:
        if probe:
            super().abandoned(probe=True)
            self._tell("abandoned")


class SharedCooldowns(Cooldowns):
    __slots__ = ("_tell",)

    def __init__(self, tell: Tell, *, failures: int, cooldown: float) -> None:
        super().__init__(failures=failures, cooldown=cooldown)
        self._tell = tell

    def limited(self, now: float, subject: Hashable, after: float | None) -> None:
        if after is not None:
            super().limited(now, subject, after)
            self._tell("limited", written_subject(subject), min(after, MAX_COOLDOWN))

    def failed(self, now: float, subject: Hashable, after: float | None) -> None:
        super().failed(now, subject, after)
        self._tell("unable", written_subject(subject), None if after is None else min(after, MAX_COOLDOWN))

    def served(self, *subjects: Hashable) -> None:
        for subject in subjects:
            if self.record(subject) is not None:
                super().served(subject)
                self._tell("served", written_subject(subject))


def written_subject(subject: Hashable) -> list[str | None]:
    """A key's digest or a model's name, which may be anything a client sends, as text that JSON can have."""
    assert isinstance(subject, tuple)
    kind, name = subject
    if name is None:
        return [kind, None]
    return [kind, (name if kind == KEY else name.encode("utf-8", "surrogatepass")).hex()]


def read_subject(written: list[str | None]) -> tuple[str, bytes] | tuple[str, str | None]:
    """Raises ValueError."""
    kind, name = written
    if kind == KEY and name is not None:
        return KEY, bytes.fromhex(name)
    return MODEL, None if name is None else bytes.fromhex(name).decode("utf-8", "surrogatepass")
