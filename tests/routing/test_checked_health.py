"""The verdict of active checks, alone and over several workers."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from flowserver.routing.checked_health import CheckedHealth
from flowserver.routing.circuit_breaker import BreakerState
from flowserver.routing.provider_share import ProviderShare
from flowserver.routing.shared_provider import Member, SharedProvider
from flowserver.routing.upstream_host import trouble

from ..support.clock import FakeClock
from ..support.later import Later


def test_failures_in_a_row_and_then_successes_in_a_row_decide() -> None:
    health = CheckedHealth()
    health.begin(failures=3, successes=2)
    assert [health.note(problem) for problem in ("silent", "silent", None, "silent", "silent")] == [False] * 5
    assert health.note("status 503, not 200")
    assert health.cause == "failed its check 3 times: status 503, not 200"
    assert [health.note(problem) for problem in (None, "silent", None)] == [False] * 3
    assert health.note(None)
    assert health.cause is None


def test_what_is_known_stays_when_other_checks_begin_and_goes_when_they_end() -> None:
    health = CheckedHealth()
    health.begin(failures=1, successes=5)
    health.note("silent")
    health.begin(failures=1, successes=1)
    assert health.cause == "failed its check once: silent"
    health.end()
    assert health.cause is None


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_the_verdict_is_that_of_the_last_run_that_was_long_enough(
    checks: list[bool], failures: int, successes: int
) -> None:
    health = CheckedHealth()
    health.begin(failures=failures, successes=successes)
    expected, run, last = True, 0, True
    for passed in checks:
        health.note(None if passed else "bad")
        run = run + 1 if passed == last else 1
        last = passed
        if run >= (successes if passed else failures):
            expected = passed
        assert (health.cause is None) == expected


def test_a_breaker_that_waits_for_a_request_is_no_trouble() -> None:
    assert trouble(None, BreakerState.HALF_OPEN) is None
    assert trouble(None, BreakerState.OPEN) == "failed its last requests"
    assert trouble("failed its check once: silent", BreakerState.OPEN) == "failed its check once: silent"


class Fleet:
    """Workers that share a provider."""

    def __init__(self) -> None:
        clock = FakeClock()
        self.parent = SharedProvider(clock, failures=5, cooldown=10.0)
        self.members: list[Member] = []
        self.shares: list[ProviderShare] = []
        self._clock = clock

    def add(self, *, checks: bool = True) -> ProviderShare:
        heard: list[Callable[..., None]] = []
        member = Member(lambda *event: heard[0](*event))
        share = ProviderShare(
            lambda *event: self.parent.hear(member, *event),
            failures=5,
            cooldown=10.0,
            clock=self._clock,
            later=Later(),
        )
        heard.append(share.hear)
        self.parent.join(member)
        self.members.append(member)
        self.shares.append(share)
        if checks:
            share.checks.begin(failures=2, successes=1)
        return share

    @property
    def appointed(self) -> list[bool]:
        return [share.checks.is_appointed for share in self.shares]

    @property
    def causes(self) -> set[str | None]:
        return {share.checks.cause for share in self.shares}


def test_one_worker_checks_for_all() -> None:
    fleet = Fleet()
    first, second = fleet.add(), fleet.add()
    assert fleet.appointed == [True, False]
    first.checks.note("silent")
    assert fleet.causes == {None}
    first.checks.note("silent")
    assert fleet.causes == {"failed its check 2 times: silent"}
    assert fleet.parent.trouble == "failed its check 2 times: silent"
    third = fleet.add()
    assert third.checks.cause == second.checks.cause
    first.checks.note(None)
    assert fleet.causes == {None}


def test_another_worker_checks_when_the_one_is_gone_and_knows_what_it_knew() -> None:
    fleet = Fleet()
    first, second = fleet.add(), fleet.add()
    first.checks.note("silent")
    fleet.parent.part(fleet.members[0])
    assert second.checks.is_appointed
    second.checks.note("silent")
    assert second.checks.cause is not None
    fleet.parent.part(fleet.members[1])
    assert fleet.parent.trouble is not None
    third = fleet.add()
    assert (third.checks.is_appointed, third.checks.cause) == (True, "failed its check 2 times: silent")


def test_a_worker_whose_configuration_has_no_checks_is_neither_appointed_nor_told() -> None:
    fleet = Fleet()
    none, checking = fleet.add(checks=False), fleet.add()
    assert fleet.appointed == [False, True]
    checking.checks.note("silent")
    checking.checks.note("silent")
    assert (none.checks.cause, checking.checks.cause is None) == (None, False)


def test_checks_that_end_leave_nothing_behind() -> None:
    fleet = Fleet()
    first, second = fleet.add(), fleet.add()
    for _ in range(2):
        first.checks.note("silent")
    first.checks.end()
    assert fleet.appointed == [False, True]
    assert (first.checks.cause, second.checks.cause is None) == (None, False)
    second.checks.end()
    assert fleet.parent.trouble is None
    first.checks.begin(failures=2, successes=1)
    assert (first.checks.is_appointed, first.checks.cause) == (True, None)


def test_a_worker_without_its_parent_checks_by_itself() -> None:
    fleet = Fleet()
    _, second = fleet.add(), fleet.add()
    second.lost()
    assert second.checks.is_appointed
    assert not second.checks.note("silent")
    assert second.checks.note("silent")
    assert second.checks.cause is not None
