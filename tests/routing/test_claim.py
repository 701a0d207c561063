"""What a request is charged for its place, and what it is told if it gets none."""

from __future__ import annotations

import pytest

from flowserver.routing.claim import MOST_KNOWN, AnswerLengths, Claim, Refusal
from flowserver.routing.queue_refusal import queue_is_full, waited_in_vain
from flowserver.routing.turnover import WINDOW, RecentPeak, Turnover


class Served:
    def __init__(self, input_tokens: int = 0, output: int = 0) -> None:
        self.input = input_tokens
        self.output = output


def claim(served: Served, tenant: str = "a", bound: int | None = None) -> Claim:
    return Claim(tenant, served=served, bound=bound)


def test_what_passes_is_charged_once_and_only_beyond_what_was_expected() -> None:
    served = Served(10)
    made = claim(served)
    made.charged = 51
    served.output = 15
    assert made.advance() == 0
    served.output = 30
    assert [made.advance(), made.advance()] == [20, 0]
    served.output = 31
    assert made.settle() == 2
    assert made.advance() == 0, "it has no place any more"


def test_at_the_end_what_was_not_used_comes_back() -> None:
    made = claim(Served(10, 5))
    made.charged = 411
    assert made.settle() == 21 - 411


def test_without_tenants_nothing_is_counted() -> None:
    made = Claim()
    made.charged = AnswerLengths().expected_cost(made)
    assert (made.charged, made.advance(), made.settle()) == (1, 0, 0)


def test_an_answer_is_expected_to_be_as_long_as_its_tenant_s_last_ones() -> None:
    lengths = AnswerLengths()
    for _ in range(50):
        lengths.learn(claim(Served(0, 1000)))
    lengths.learn(claim(Served(0, 0)))  # failed
    assert lengths.expected_cost(claim(Served(7))) == 1 + 7 + 2000
    assert lengths.expected_cost(claim(Served(7), bound=100)) == 1 + 7 + 200
    assert lengths.expected_cost(claim(Served(7), "new")) == pytest.approx(2000, rel=0.05)


def test_few_tenants_lengths_are_kept() -> None:
    lengths = AnswerLengths()
    lengths.learn(claim(Served(0, 9), "first"))
    for number in range(MOST_KNOWN):
        lengths.learn(claim(Served(0, 1000), str(number)))
    assert lengths.expected_cost(claim(Served(), "first")) > 1000


def test_the_status_says_whose_doing_it_is() -> None:
    own = queue_is_full(Refusal(12, 3.2, is_own=True))
    assert (own.status, own.code, own.retry_after) == (429, "too_many_waiting", 4)
    assert "12 requests wait. The expected wait is 4 s." in own.message
    other = queue_is_full(Refusal(1, None, is_own=False))
    assert (other.status, other.code, other.retry_after) == (503, "no_capacity", 1)
    assert other.message.endswith("its queue is full. 1 request waits.")
    assert "queue" not in queue_is_full(Refusal(0, 1.0, is_own=False)).message
    late = waited_in_vain(Refusal(5, 600.0, is_own=True), 5.0)
    assert (late.status, late.retry_after) == (503, 60)
    assert "The expected wait is 600 s." in late.message


def test_how_long_places_are_held_follows_a_change() -> None:
    turnover, now = Turnover(), 0.0
    assert turnover.hold_time(now) is None
    for seconds in (2.0, 5.0):
        for _ in range(500):
            turnover.changed(4, now)
            now += seconds / 4
            turnover.changed(3, now)
        assert turnover.hold_time(now) == pytest.approx(seconds, rel=0.05)


def test_a_peak_is_forgotten_after_one_to_two_windows() -> None:
    peak = RecentPeak()
    peak.note(9, 100.0)
    peak.note(3, 101.0)
    assert peak.at(101.0 + WINDOW - 2) == 9
    peak.note(2, 100.0 + WINDOW)
    assert peak.at(100.0 + WINDOW) == 9
    assert peak.at(100.0 + 2 * WINDOW) == 2
    assert peak.at(100.0 + 5 * WINDOW) == 0
