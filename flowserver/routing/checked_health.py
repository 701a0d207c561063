"""What active health checks say of a provider. No I/O, no clock.

It is taken for healthy until `failures` checks in a row have failed, and then until `successes` in a row have passed.
"""

from __future__ import annotations

from .shared_health import Tell


class CheckedHealth:
    """The verdict on one provider, by the checks of this process."""

    __slots__ = ("_failures", "_run", "_successes", "cause", "is_appointed")

    def __init__(self) -> None:
        self._failures = self._successes = 1
        self._run = 0
        """Checks in a row that contradict the verdict."""
        self.cause: str | None = None
        """Why it is not to be asked; None: it passes its checks, or has none."""
        self.is_appointed = True
        """Whether this process is the one that checks."""

    def __repr__(self) -> str:
        return f"<CheckedHealth {'passes' if self.cause is None else self.cause}, {self._run} against it>"

    def begin(self, *, failures: int, successes: int) -> None:
        """There are checks from now on, or others than before; what is known stays."""
        self._failures, self._successes = failures, successes

    def end(self) -> None:
        """There are no checks any more."""
        self.cause = None
        self._run = 0

    def note(self, problem: str | None) -> bool:
        """One more check; None: it passed. Returns whether it changes the verdict."""
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
    """The same as one of several workers has it. One of them checks, whom the parent appoints; its results go to the
    parent, whose verdict is for all."""

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
        """The parent's verdict."""
        if self._is_on:
            self.cause = cause

    def go_alone(self) -> None:
        """The parent is gone."""
        self._is_alone = self.is_appointed = True
