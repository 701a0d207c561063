"""Which worker checks a provider, and the resulting health, in the parent. No I/O."""

from __future__ import annotations

from typing import Protocol

from .checked_health import CheckedHealth
from .shared_health import Tell


class Checking(Protocol):
    """A worker that may make the checks."""

    tell: Tell


class SharedChecks:
    """The worker that joined first makes the checks. When it is gone the next one does."""

    __slots__ = ("_verdict", "_willing")

    def __init__(self) -> None:
        self._verdict = CheckedHealth()
        self._willing: dict[Checking, None] = {}

    @property
    def cause(self) -> str | None:
        """See `CheckedHealth.cause`."""
        return self._verdict.cause

    def begin(self, member: Checking, failures: int, successes: int) -> None:
        self._verdict.begin(failures=failures, successes=successes)
        self._willing[member] = None
        member.tell("verdict", self.cause)
        self._appoint()

    def end(self, member: Checking) -> None:
        """The worker's configuration no longer has these checks."""
        self.part(member)
        if not self._willing:
            self._verdict.end()

    def part(self, member: Checking) -> None:
        """The worker is gone. The result of its checks is kept."""
        if member in self._willing:
            del self._willing[member]
            self._appoint()

    def note(self, problem: str | None) -> None:
        """Record a check; None: it passed."""
        if self._verdict.note(problem):
            for member in self._willing:
                member.tell("verdict", self.cause)

    def _appoint(self) -> None:
        for member in self._willing:
            member.tell("appointed")
            return
