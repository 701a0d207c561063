"""Outlier detection: who is ejected, for how long, and who never is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.routing.outliers import Change, OutlierPolicy, Outliers
from flowserver.routing.upstream_host import UpstreamHost

from ..support.clock import FakeClock
from .scene import UNREACHABLE, Scene

POLICY = OutlierPolicy(
    interval=10.0,
    min_requests=10,
    max_errors=0.2,
    max_slowness=3.0,
    slow_intervals=3,
    ejection=30.0,
    max_ejected=0.5,
)
NAMES = ("a", "b", "c", "d")


class Tier:
    """Providers of one tier, and time in intervals."""

    def __init__(self, size: int = 3, policy: OutlierPolicy = POLICY) -> None:
        self.clock = FakeClock(0.0)
        self.scene = Scene(NAMES[:size], clock=self.clock, failures=1)
        self.hosts = self.scene.hosts
        self.policy = policy
        self.outliers = Outliers(policy, [list(self.hosts.values())], 0.0)

    def interval(
        self, errors: Mapping[str, float] | None = None, seconds: Mapping[str, float] | None = None, requests: int = 100
    ) -> list[Change]:
        """Serve so many requests at each host that is asked, with these shares of errors, and pass an interval."""
        for name, host in self.hosts.items():
            if host in self.outliers.ejected:
                continue
            bad = round((errors or {}).get(name, 0.0) * requests)
            for number in range(requests):
                self.outliers.answered(host, 500 if number < bad else 200)
                if number >= bad:
                    self.outliers.began(host, (seconds or {}).get(name, 0.1))
        return list(self.outliers.sweep(self.clock.advance(self.policy.interval)))

    @property
    def ejected(self) -> set[str]:
        return {host.name for host in self.outliers.ejected}


def test_one_that_fails_much_more_than_the_others_is_ejected_and_comes_back() -> None:
    tier = Tier()
    [change] = tier.interval({"a": 0.3, "b": 0.01})
    assert (change.host.name, change.kind, change.seconds) == ("a", "errors", 30.0)
    assert change.cause == "30% of its 100 requests failed, 0% of the others'"
    assert tier.ejected == {"a"}
    assert tier.interval() == tier.interval() == []
    [back] = tier.interval()
    assert (back.host.name, back.seconds, tier.ejected) == ("a", 0.0, set())
    assert tier.hosts["a"].ejections == {"errors": 1}


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_where_all_fail_nobody_is_ejected(share: float) -> None:
    tier = Tier()
    assert tier.interval(dict.fromkeys(NAMES, share)) == []


def test_errors_that_the_others_have_as_well_eject_nobody() -> None:
    assert Tier().interval({"a": 0.3, "b": 0.16, "c": 0.16}) == []


def test_ejections_in_a_row_last_longer_and_good_intervals_are_forgotten() -> None:
    tier = Tier()
    lasted = []
    for _ in range(3):
        [change] = tier.interval({"a": 0.5})
        lasted.append(change.seconds)
        while tier.ejected:
            tier.interval()
    assert lasted == [30.0, 60.0, 90.0]
    for _ in range(3):
        tier.interval()
    [change] = tier.interval({"a": 0.5})
    assert change.seconds == 30.0


def test_one_that_is_slow_for_three_intervals_is_ejected() -> None:
    tier = Tier()
    assert tier.interval(seconds={"a": 1.0}) == tier.interval(seconds={"a": 1.0}) == []
    [change] = tier.interval(seconds={"a": 1.0})
    assert (change.host.name, change.kind) == ("a", "latency")
    assert change.cause == "its answers begin after 1.00 s, the others' after 0.10 s"


def test_one_good_interval_begins_the_count_anew() -> None:
    tier = Tier()
    slow = {"a": 1.0}
    found = [tier.interval(seconds=each) for each in (slow, slow, {}, slow, slow)]
    assert found == [[]] * 5


def test_one_that_was_just_ejected_as_slow_needs_one_interval() -> None:
    tier = Tier()
    slow = {"a": 1.0}
    while not tier.ejected:
        tier.interval(seconds=slow)
    while tier.ejected:
        tier.interval(seconds=slow)
    [change] = tier.interval(seconds=slow)
    assert change.seconds == 60.0


def test_what_nobody_notices_is_not_slow() -> None:
    tier = Tier()
    for _ in range(5):
        assert tier.interval(seconds={"a": 0.09, "b": 0.01, "c": 0.01}) == []


def test_few_requests_say_nothing() -> None:
    tier = Tier()
    assert tier.interval({"a": 1.0}, requests=9) == []
    assert [change.host.name for change in tier.interval({"a": 1.0}, requests=10)] == ["a"]


def test_4xx_are_no_failures() -> None:
    tier = Tier()
    for host in tier.hosts.values():
        for _ in range(100):
            tier.outliers.answered(host, 429 if host.name == "a" else 200)
    assert list(tier.outliers.sweep(tier.clock.advance(10.0))) == []


def test_failures_without_an_answer_count_once() -> None:
    tier = Tier()
    a = tier.hosts["a"]
    for host in tier.hosts.values():
        for number in range(10):
            if host is a and number < 3:
                tier.outliers.failed(host, answered=False)
                continue
            tier.outliers.answered(host, 200)
            if host is a and number == 3:
                tier.outliers.failed(host, answered=True)
    [change] = tier.outliers.sweep(tier.clock.advance(10.0))
    assert change.cause == "40% of its 10 requests failed, 0% of the others'"


@pytest.mark.parametrize(("size", "share", "most"), [(2, 0.1, 1), (3, 0.5, 1), (4, 0.5, 2), (4, 1.0, 3), (1, 1.0, 0)])
def test_a_part_of_a_tier_at_most_is_ejected(size: int, share: float, most: int) -> None:
    tier = Tier(size, replace(POLICY, max_ejected=share, min_requests=1))
    bad = list(NAMES[:size])
    for _ in range(10):
        tier.interval({name: 1.0 / (2.5**number) for number, name in enumerate(bad)}, requests=1000)
        assert len(tier.ejected) <= most


def test_the_worst_goes_first() -> None:
    tier = Tier(4, replace(POLICY, max_ejected=0.25))
    tier.interval({"a": 0.5, "b": 0.9})
    assert tier.ejected == {"b"}


@pytest.mark.parametrize("how", ["breaker", "checks"])
def test_nobody_is_ejected_when_the_others_may_not_be_asked(how: str) -> None:
    tier = Tier()
    for name in ("b", "c"):
        host = tier.hosts[name]
        if how == "breaker":
            host.health.failed(tier.clock(), probe=False, cause=UNREACHABLE)
        else:
            host.checks.begin(failures=1, successes=1)
            host.checks.note("silent")
    assert tier.interval({"a": 0.5}) == []


def test_off_means_off() -> None:
    tier = Tier(3, replace(POLICY, max_errors=None, max_slowness=None))
    for _ in range(4):
        assert tier.interval({"a": 1.0}, {"b": 9.0}) == []


def test_a_new_configuration_knows_what_the_old_one_knew() -> None:
    tier = Tier()
    tier.interval({"a": 0.5})
    hosts: list[UpstreamHost] = [tier.hosts["a"], tier.hosts["b"]]
    after = Outliers(POLICY, [hosts], tier.clock())
    after.continue_from(tier.outliers)
    assert {host.name for host in after.ejected} == {"a"}
    assert [change.host.name for change in after.sweep(tier.clock.advance(30.0))] == ["a"]
    without = Outliers(POLICY, [[tier.hosts["b"]]], tier.clock())
    without.continue_from(tier.outliers)
    assert not without.ejected
    without.answered(tier.hosts["a"], 500)  # it was asked before the reload
    without.failed(tier.hosts["a"], answered=True)


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 40), st.floats(0, 1), st.floats(0.001, 60)), min_size=4, max_size=4),
        max_size=30,
    ),
    st.floats(0.01, 1.0),
)
def test_whatever_happens_one_always_stays(intervals: list[list[tuple[int, float, float]]], share: float) -> None:
    tier = Tier(4, replace(POLICY, max_ejected=share, min_requests=1, slow_intervals=1))
    for interval in intervals:
        for host, (requests, errors, seconds) in zip(tier.hosts.values(), interval, strict=True):
            for number in range(requests):
                tier.outliers.answered(host, 500 if number < errors * requests else 200)
                tier.outliers.began(host, seconds)
        changes = list(tier.outliers.sweep(tier.clock.advance(10.0)))
        assert len(tier.ejected) <= max(1, int(4 * share)) < 5
        assert len(tier.ejected) < 4
        assert all(change.seconds <= 300.0 for change in changes)
