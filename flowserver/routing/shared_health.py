"""A provider's breaker and cooldowns in one of several workers. No I/O.

Each worker acts at once on what it sees itself and reports it to the parent, whose breaker and cooldowns apply to all:
after each event their state is sent to all workers, which adopt it. Times are of the monotonic clock, which is the same
in all processes of a machine.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from .circuit_breaker import CircuitBreaker
from .cooldowns import MAX_COOLDOWN, Cooldowns

KEY, MODEL = "key", "model"
"""Kinds of a cooldown's subject; see `candidates.subjects`."""

Tell = Callable[..., None]
"""Sends the name of an event and its arguments: numbers, texts, lists, None. Harmless if there is no receiver."""


class SharedBreaker(CircuitBreaker):
    """A breaker that probes only with the parent's permission, which comes with a place: see `SharedPlaces`."""

    __slots__ = ("_is_alone", "_may_probe", "_tell")

    def __init__(self, tell: Tell, *, failures: int, cooldown: float) -> None:
        super().__init__(failures=failures, cooldown=cooldown)
        self._tell = tell
        self._may_probe = False
        """True from the permission to probe until the probe begins."""
        self._is_alone = False

    def permit_probe(self) -> None:
        """The next request that starts is the probe of all workers."""
        self._may_probe = True

    def return_permit(self) -> None:
        """Give back the permission to probe if it was not used."""
        if self._may_probe:
            self._may_probe = False
            self.abandoned(probe=True)

    def go_alone(self) -> None:
        """The parent is gone, so nobody else can be the probe."""
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
    """A key's digest or a model's name, which may be anything that a client sends, as valid JSON text."""
    assert isinstance(subject, tuple)
    kind, name = subject
    if name is None:
        return [kind, None]
    return [kind, (name if kind == KEY else name.encode("utf-8", "surrogatepass")).hex()]


def read_subject(written: list[str | None]) -> tuple[str, bytes] | tuple[str, str | None]:
    """The inverse of `written_subject`. Raises ValueError."""
    kind, name = written
    if kind == KEY and name is not None:
        return KEY, bytes.fromhex(name)
    return MODEL, None if name is None else bytes.fromhex(name).decode("utf-8", "surrogatepass")
