"""A provider's health by its active checks. No I/O, no clock.

It starts healthy, becomes unhealthy after `failures` failed checks in a row, and healthy again after `successes` passed
ones.
"""

from __future__ import annotations

from .shared_health import Tell


class CheckedHealth:
    """The health of one provider, by the checks of this process."""

    __slots__ = ("_failures", "_run", "_successes", "cause", "is_appointed")

    def __init__(self) -> None:
        self._failures = self._successes = 1
        self._run = 0
        """Checks in a row that contradict the current state."""
        self.cause: str | None = None
        """Why it must not get requests; None: it passes its checks, or has none."""
        self.is_appointed = True
        """Whether this process makes the checks."""

    def __repr__(self) -> str:
        return f"<CheckedHealth {'passes' if self.cause is None else self.cause}, {self._run} against it>"

    def begin(self, *, failures: int, successes: int) -> None:
        """Checks begin, or change; the state is kept."""
        self._failures, self._successes = failures, successes

    def end(self) -> None:
        """The checks end."""
        self.cause = None
        self._run = 0

    def note(self, problem: str | None) -> bool:
        """Record a check; None: it passed. Returns whether it changes the state."""
        if (problem is None) == (self.cause is None):
            self._run = 0
            return False
        self._run += 1
        if self._run < (self._successes if problem is None else self._failures):
            return False
        self.cause = None if problem is None else f"failed its check {_times(self._run)}: {problem}"
        self._run = 0
        return True


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


class SharedCheckedHealth(CheckedHealth):
    """The same in one of several workers. The parent appoints the worker that checks; its results go to the parent,
    whose state applies to all."""

    __slots__ = ("_is_alone", "_is_on", "_tell")

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell = tell
        self._is_on = False
        self._is_alone = False
        self.is_appointed = False

    def begin(self, *, failures: int, successes: int) -> None:
        super().begin(failures=failures, successes=successes)
        self._is_on = True
        self._tell("checks", failures, successes)

    def end(self) -> None:
        super().end()
        self._is_on = False
        self.is_appointed = self._is_alone
        self._tell("unchecked")

    def note(self, problem: str | None) -> bool:
        if self._is_alone:
            return super().note(problem)
        self._tell("checked", problem)
        return False

    def appoint(self) -> None:
        self.is_appointed = self._is_on

    def adopt(self, cause: str | None) -> None:
        """Adopt the parent's state."""
        if self._is_on:
            self.cause = cause

    def go_alone(self) -> None:
        """The parent is gone."""
        self._is_alone = self.is_appointed = True
