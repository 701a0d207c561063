"""The adaptive limit, alone and at a simulated provider."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.routing.adaptive_limit import CEILING, FIRST, FLOOR, REFUSED, SLOW, AdaptiveLimit


class Site:
    """A provider that serves `places` requests at a time and has `queue` more wait; it has as many requests as the
    limit allows, at any time. Times are simulated seconds."""

    def __init__(self, places: int, queue: int, *, prompts: tuple[float, ...] = (0.3,), rest: float = 2.0) -> None:
        self.limit = AdaptiveLimit()
        self.places, self.queue = places, queue
        self.prompts, self.rest = prompts, rest
        self.demand = 10_000
        self.now = 0.0
        self.open = self.served = self.refused = 0
        self._running = 0
        self._waiting: deque[tuple[float, int]] = deque()
        self._random = random.Random(5)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        self._fill()
        while self._due and self._due[0][0] < end:
            self.now, _, call = heapq.heappop(self._due)
            call()
            self._fill()
        self.now = end

    def goodput(self, seconds: float) -> float:
        """Share of the requests that `places` could have served."""
        before = self.served
        self.run(seconds)
        whole = sum(self.prompts) / len(self.prompts) + self.rest
        return (self.served - before) / (seconds * self.places / whole)

    def _fill(self) -> None:
        while self.open < min(self.limit.limit, self.demand):
            self.open += 1
            self.limit.count(self.now, self.open)
            kind = 2 * self._random.randrange(len(self.prompts))
            if self._running < self.places:
                self._start(self.now, kind)
            elif len(self._waiting) < self.queue:
                self._waiting.append((self.now, kind))
            else:
                began = self.now
                self._after(0.01, lambda began=began: self._refuse(began))  # type: ignore[misc]

    def _start(self, began: float, kind: int) -> None:
        self._running += 1
        first = self.prompts[kind // 2] * self._random.uniform(0.8, 1.25)
        self._after(first, lambda: self.limit.first_token(self.now, kind, self.now - began))
        self._after(first + self.rest * self._random.uniform(0.5, 1.5), self._end)

    def _end(self) -> None:
        self._running -= 1
        self._leave()
        self.served += 1
        while self._waiting and self._running < self.places:
            self._start(*self._waiting.popleft())

    def _refuse(self, began: float) -> None:
        self.refused += 1
        self.limit.refused(self.now, began, self.open - 1)
        self._leave()

    def _leave(self) -> None:
        self.open -= 1
        self.limit.count(self.now, self.open, 1)

    def _after(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._numbers), call))


@pytest.mark.parametrize("prompts", [(0.3,), (0.1, 0.1, 0.4, 2.5)])
def test_it_follows_a_capacity_that_halves_and_doubles(prompts: tuple[float, ...]) -> None:
    site = Site(40, 40, prompts=prompts)
    site.run(30)
    for places in (20, 40, 80, 40):
        site.places = places
        site.run(10)
        assert site.goodput(20) > 0.88, (places, site.limit)
        assert site.limit.limit < 1.6 * places
    assert site.refused < 0.02 * site.served


def test_a_long_prompt_is_no_delay() -> None:
    learned = AdaptiveLimit()
    now = 0.0
    for number in range(3000):
        now += 0.05
        long = number % 3 == 0
        learned.count(now, learned.limit, 1)
        learned.first_token(now, 2 * long, 8.0 if long else 0.2)
    assert learned.decreases[SLOW] == 0
    assert learned.limit > FIRST


def test_a_few_that_hang_are_no_delay() -> None:
    learned = AdaptiveLimit()
    now = 0.0
    for number in range(2000):
        now += 0.05
        learned.count(now, learned.limit, 1)
        learned.first_token(now, 1, 30.0 if number % 12 == 7 else 0.2)
    assert learned.decreases[SLOW] == 0


def test_it_grows_only_while_it_is_used() -> None:
    site = Site(100, 100)
    site.demand = 12
    site.run(60)
    assert site.limit.limit < 2 * FIRST
    site.demand = 10_000
    site.run(30)
    assert site.limit.limit > 80


def test_what_is_learned_stays_while_little_is_asked() -> None:
    site = Site(100, 100)
    site.run(40)
    learned = site.limit.limit
    site.demand = 3
    site.run(120)
    assert site.limit.limit >= 0.7 * learned


def test_a_slower_provider_is_no_busier_one() -> None:
    """All takes three times as long, whatever the limit: decreases would not help."""
    site = Site(40, 40, prompts=(1.0,), rest=3.0)
    site.run(40)
    site.prompts, site.rest = (3.0,), 9.0
    site.run(60)
    assert site.goodput(60) > 0.7


def test_few_first_tokens_per_second_suffice() -> None:
    """Twelve places of six seconds each: two first tokens per second."""
    site = Site(12, 12, prompts=(0.8,), rest=5.2)
    site.run(20)
    for places in (6, 12, 24, 12):
        site.places = places
        site.run(10)
        assert 0.8 * places < site.limit.limit < 2.2 * places, places
        assert site.goodput(30) > 0.88, places
    assert site.refused < 0.05 * site.served


def test_it_finds_a_large_provider_within_seconds() -> None:
    site = Site(120, 120)
    site.run(6)
    assert site.limit.limit >= 100


@pytest.mark.parametrize("prompts", [(0.3,), (0.1, 0.1, 0.4, 2.5)])
def test_waiting_near_the_capacity_does_not_become_usual(prompts: tuple[float, ...]) -> None:
    site = Site(20, 60, prompts=prompts)
    for _ in range(60):
        site.run(20)
        assert site.limit.limit < 2 * site.places
    assert site.goodput(60) > 0.93


def test_those_that_waited_for_a_capacity_that_is_back_are_no_overload() -> None:
    site = Site(20, 20, prompts=(0.8,), rest=5.0)
    site.run(30)
    site.places = 10
    site.run(20)
    before = site.limit.limit
    decreases = site.limit.decreases[SLOW]
    site.places = 20
    site.run(3)
    assert site.limit.decreases[SLOW] == decreases
    assert site.limit.limit >= before


def test_a_new_connection_is_no_new_kind() -> None:
    """All that is known of requests over new connections is how long those over kept ones take."""
    learned = AdaptiveLimit()
    now = busy(learned, 5, 0.0)
    before = learned.limit
    for _ in range(100):
        now += 0.02
        learned.count(now, before, 1)
        learned.first_token(now, 0, 5.0)
    assert learned.decreases[SLOW] > 0


def busy(limit: AdaptiveLimit, seconds: float, now: float, under_way: int | None = None) -> float:
    """First tokens in time, fifty in a second. `under_way` None: as many as the limit allows."""
    for _ in range(int(seconds * 50)):
        now += 0.02
        limit.count(now, limit.limit if under_way is None else under_way, 1)
        limit.first_token(now, 1, 0.2)
    return now


def test_one_burst_of_refusals_is_one_event() -> None:
    learned = AdaptiveLimit()
    now = busy(learned, 5, 0.0)
    before = learned.limit
    assert before > 100
    for number in range(20):
        learned.refused(now + 0.01 + number / 1000, now, before - 1 - number)
    assert learned.decreases == {SLOW: 0, REFUSED: 1}
    busy(learned, 2, now + 0.1, 10)
    assert learned.limit == pytest.approx(0.9 * before, abs=1.5)


def test_the_places_of_refused_requests_are_not_filled_at_once() -> None:
    learned = AdaptiveLimit()
    now = busy(learned, 5, 0.0)
    before = learned.limit
    others = round(before * 0.6)
    learned.refused(now, now - 0.1, others)
    assert learned.limit == others
    learned.first_token(now + 0.1, 1, 0.2)
    assert learned.limit == others + 1


def test_a_refusal_of_a_request_begun_after_a_decrease_is_another_event() -> None:
    learned = AdaptiveLimit()
    learned.refused(1.0, 0.9, 15)
    learned.refused(1.2, 1.1, 14)
    assert learned.decreases[REFUSED] == 2


def test_where_it_was_refused_it_does_not_come_again_soon() -> None:
    learned = AdaptiveLimit()
    now = busy(learned, 5, 0.0)
    height = learned.limit
    learned.refused(now, now - 0.1, height - 1)
    now = busy(learned, 1, now)
    assert learned.limit < height
    busy(learned, 60, now)
    assert learned.limit > height


def test_one_refusal_while_little_is_asked_takes_a_tenth() -> None:
    learned = AdaptiveLimit()
    now = busy(learned, 5, 0.0)
    before = learned.limit
    learned.refused(now, now - 0.1, 2)
    busy(learned, 60, now, 2)
    assert learned.limit >= int(0.9 * before) - 1


counts = st.tuples(st.just("count"), st.floats(0, 5), st.integers(0, 20_000), st.integers(0, 3))
samples = st.tuples(st.just("sample"), st.floats(0, 5), st.integers(0, 3), st.floats(0, 1e4, allow_nan=False))
refusals = st.tuples(st.just("refusal"), st.floats(0, 5), st.floats(0, 100), st.integers(-1, 20_000))


@given(st.lists(st.one_of(counts, samples, refusals), max_size=300))
def test_it_stays_within_its_bounds_whatever_it_hears(events: list[tuple[object, ...]]) -> None:
    learned = AdaptiveLimit()
    now = 100.0
    for kind, passed, *rest in events:
        now += passed  # type: ignore[operator]
        if kind == "count":
            learned.count(now, *rest)  # type: ignore[arg-type]
        elif kind == "sample":
            learned.first_token(now, *rest)  # type: ignore[arg-type]
        else:
            age, under_way = rest
            learned.refused(now, now - age, under_way)  # type: ignore[operator, arg-type]
        assert FLOOR <= learned.limit <= CEILING
    assert repr(learned)
