"""Places at a provider, whatever arrives and however long it takes: nobody is lost, tenants are even, classes hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowserver.routing.claim import GUESS, OUTPUT_WEIGHT, Claim, Refusal
from flowserver.routing.places import LocalPlaces

from ..support.clock import FakeClock
from ..support.later import Later


@dataclass
class Tokens:
    input: int
    output: int = 0


class Request:
    """A waiter with a place as long as its answer has tokens to come."""

    def __init__(self, tenant: str, weight: int, tokens: Tokens, length: int, *, is_batch: bool = False) -> None:
        self.tokens = tokens
        self.length = length
        self.claim = Claim(tenant, weight, is_batch=is_batch, served=tokens)
        self.heard: list[str] = []

    def on_place(self) -> None:
        self.heard.append("place")

    def on_no_place(self, refusal: Refusal | None) -> None:
        assert refusal is not None
        self.heard.append("no place")

    def on_busy(self) -> None:
        raise AssertionError

    @property
    def runs(self) -> bool:
        return self.heard[-1:] == ["place"]

    @property
    def cost(self) -> int:
        return self.tokens.input + OUTPUT_WEIGHT * self.tokens.output


MOST_INPUT, MOST_OUTPUT = 50, 40


@dataclass
class Backlogged:
    """A tenant that always has somebody waiting."""

    weight: int
    lengths: list[tuple[int, int]]
    sent: int = 0
    requests: list[Request] = field(default_factory=list)


tenants = st.builds(
    Backlogged,
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(1, MOST_INPUT), st.integers(0, MOST_OUTPUT)), min_size=1, max_size=5),
)


@given(st.lists(tenants, min_size=2, max_size=4), st.integers(1, 6), st.integers(1, 5))
def test_tenants_that_always_wait_are_served_evenly(backlogged: list[Backlogged], places: int, more: int) -> None:
    """The paper's bound, of the tokens that all places may have under way or are expected to: at any time two tenants
    differ by at most twice that."""
    depth = places + more  # somebody still waits once all places went to one tenant
    clock, later = FakeClock(), Later()
    made = LocalPlaces(places, 1000, later, clock)
    served = Counter[int]()
    bound = 2 * places * (1 + MOST_INPUT + OUTPUT_WEIGHT * max(MOST_OUTPUT, GUESS))
    for _ in range(150):
        for number, tenant in enumerate(backlogged):
            while sum(not request.heard for request in tenant.requests) < depth:
                before, length = tenant.lengths[tenant.sent % len(tenant.lengths)]
                request = Request(str(number), tenant.weight, Tokens(before), length)
                tenant.sent += 1
                tenant.requests.append(request)
                if made.reserve(request):
                    request.on_place()
                else:
                    assert made.wait(request) is None
        later.run()
        assert made.open == places, "no place is free while somebody waits"
        for number, tenant in enumerate(backlogged):
            for request in [each for each in tenant.requests if each.runs]:
                if request.tokens.output < request.length:
                    request.tokens.output += 1
                    made.charge(request.claim)
                else:
                    served[number] += request.cost
                    made.release(request.claim)
                    tenant.requests.remove(request)
        clock.advance(0.1)
        now = [
            (served[number] + sum(each.cost for each in tenant.requests if each.runs)) / tenant.weight
            for number, tenant in enumerate(backlogged)
        ]
        assert max(now) - min(now) <= bound


class Course(RuleBasedStateMachine):
    """Everything that may happen to places, in any order."""

    @initialize(most=st.integers(1, 5), queue=st.integers(0, 6))
    def begin(self, most: int, queue: int) -> None:
        self.clock, self.later = FakeClock(), Later()
        self.most: int | None = most
        self.queue = queue
        self.made = LocalPlaces(most, queue, self.later, self.clock)
        self.asked: list[Request] = []
        self.plain = 0

    def running(self) -> list[Request]:
        return [request for request in self.asked if request.runs]

    def waiting(self) -> list[Request]:
        return [request for request in self.asked if not request.heard]

    @rule(tenant=st.sampled_from("abc"), weight=st.integers(1, 3), is_batch=st.booleans(), tokens=st.integers(0, 9))
    def ask(self, tenant: str, weight: int, is_batch: bool, tokens: int) -> None:
        request = Request(tenant, weight, Tokens(tokens), 0, is_batch=is_batch)
        had_room = self.made.has_room(request)
        was_full = self.made.is_full(request)
        if self.made.reserve(request):
            assert not was_full
            request.heard.append("place")
            self.asked.append(request)
        elif self.made.wait(request) is None:
            assert had_room
            self.asked.append(request)
        else:
            assert not had_room

    @precondition(lambda self: self.running())
    @rule(data=st.data(), tokens=st.integers(0, 50))
    def tokens_pass(self, data: st.DataObject, tokens: int) -> None:
        request = data.draw(st.sampled_from(self.running()))
        request.tokens.output += tokens
        self.made.charge(request.claim)

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.running()))
        request.heard.append("ended")
        self.made.release(request.claim)

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.waiting()))
        request.heard.append("left")
        self.made.leave(request)

    @rule(most=st.none() | st.integers(1, 6), queue=st.integers(0, 6))
    def limit(self, most: int | None, queue: int) -> None:
        self.most, self.queue = most, max(queue, self.queue)
        self.made.limit(most, self.queue)

    @rule(seconds=st.sampled_from([0.1, 31.0, 100.0]))
    def time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def turn(self) -> None:
        self.later.run_once()

    @rule()
    def settle(self) -> None:
        """When all is done that follows, a place is free only where nobody who waits may have it."""
        self.later.run()
        waiting = self.waiting()
        interactive = [request for request in waiting if not request.claim.is_batch]
        if self.most is None:
            assert not waiting
        elif interactive:
            assert self.made.open >= self.most, "no place is kept from an interactive request"
        if waiting and not interactive and self.most is not None and self.made.open < self.most:
            running = self.running()
            assert any(request.claim.is_batch for request in running), "batch has its floor"

    @invariant()
    def nobody_is_lost_or_served_twice(self) -> None:
        if not hasattr(self, "made"):
            return
        assert all(request.heard.count("place") <= 1 for request in self.asked)
        assert self.made.open == len(self.running())
        assert self.made.waiting <= self.queue
        told = [request for request in self.waiting() if self.later.is_idle]
        assert not self.later.is_idle or self.made.waiting == len(told)

    def teardown(self) -> None:
        if not hasattr(self, "made"):
            return
        self.later.run()
        while self.running():
            self.end_first()
        assert (self.made.open, self.made.waiting) == (0, 0), "everybody who waits has a place in the end"

    def end_first(self) -> None:
        request = self.running()[0]
        request.heard.append("ended")
        self.made.release(request.claim)
        self.later.run()


TestCourse = Course.TestCase
TestCourse.settings = settings(max_examples=100, stateful_step_count=50)
