"""Workers that share a provider, whatever happens in whatever order the messages arrive."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowserver.routing.claim import Claim

from ..routing.shares import Group, Request, Worker

MOST = 3
QUEUE = 4


class Tokens:
    """What a request was served."""

    def __init__(self) -> None:
        self.input = 1
        self.output = 0


class Attempt(Request):
    """A request that begins as an attempt does: with the leave to probe, or not at all."""

    def __init__(self, group: Group, worker: Worker, tenant: str, *, is_batch: bool) -> None:
        self.tokens = Tokens()
        super().__init__(worker, claim=Claim(tenant, is_batch=is_batch, served=self.tokens))
        self._group = group
        self.is_probe = False
        self.era: float | None = None
        """Until when the breaker had been open when it began."""
        self.acts = self._begin

    def _begin(self) -> None:
        health = self.worker.health
        if health.admits(self._group.clock()):
            self.is_probe = health.started(self._group.clock())
            self.era = health.record.open_until
        else:
            self.end()

    @property
    def waits(self) -> bool:
        return not self.heard


class Sharing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.group = Group(3, most=MOST, queue=QUEUE, failures=1, cooldown=5.0)
        self.asked: list[Attempt] = []

    def under_way(self) -> list[Attempt]:
        return [each for each in self.asked if each.has_place and not each.worker.is_gone]

    def waiting(self) -> list[Attempt]:
        return [each for each in self.asked if each.waits and not each.worker.is_gone]

    @initialize(limited=st.booleans())
    def begin(self, limited: bool) -> None:
        self.limited = limited
        if not limited:
            for worker in self.group.workers:
                worker.places.limit(None, 0)
            self.group.settle()

    @rule(number=st.integers(0, 2), tenant=st.sampled_from("ab"), is_batch=st.booleans())
    def ask(self, number: int, tenant: str, is_batch: bool) -> None:
        worker = self.group.workers[number]
        if worker.health.allows(self.group.clock()):
            request = Attempt(self.group, worker, tenant, is_batch=is_batch)
            self.asked.append(request)
            request.ask()

    @precondition(lambda self: self.under_way())
    @rule(data=st.data(), how=st.sampled_from(["answered", "failed", "left"]))
    def end(self, data: st.DataObject, how: str) -> None:
        request = data.draw(st.sampled_from(self.under_way()))
        health = request.worker.health
        if how == "answered":
            health.succeeded()
        elif how == "failed":
            health.failed(self.group.clock(), probe=request.is_probe)
            if not health.allows(self.group.clock()):
                request.worker.places.send_waiting_away()
        else:
            health.abandoned(probe=request.is_probe)
        request.end()

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.waiting()))
        request.leave()
        request.heard.append("left")

    @precondition(lambda self: self.under_way())
    @rule(data=st.data(), tokens=st.integers(0, 100))
    def tokens_pass(self, data: st.DataObject, tokens: int) -> None:
        request = data.draw(st.sampled_from(self.under_way()))
        request.tokens.output += tokens
        request.worker.places.charge(request.claim)

    @rule(number=st.integers(0, 2), down=st.booleans())
    def deliver(self, number: int, down: bool) -> None:
        worker = self.group.workers[number]
        (self.group.deliver_down if down else self.group.deliver_up)(worker)

    @rule()
    def deliver_all(self) -> None:
        self.group.settle()

    @rule()
    def turn(self) -> None:
        self.group.later.run_once()

    @rule(seconds=st.sampled_from([0.1, 5.0]))
    def time(self, seconds: float) -> None:
        self.group.clock.advance(seconds)

    @rule(number=st.integers(0, 2))
    def trouble(self, number: int) -> None:
        """The provider fails a request that nobody sees here, and its cooldown passes."""
        self.group.workers[number].health.failed(self.group.clock(), probe=False)
        self.group.settle()
        self.group.clock.advance(5.0)

    @rule()
    def crash(self) -> None:
        self.group.kill(self.group.workers[0])
        worker = self.group.add()
        if not self.limited:
            worker.places.limit(None, 0)

    @invariant()
    def places_are_bounded(self) -> None:
        assert not self.limited or len(self.under_way()) <= MOST

    @invariant()
    def workers_count_their_own(self) -> None:
        for worker in self.group.workers:
            assert worker.places.open == sum(each.worker is worker for each in self.under_way())
            assert worker.places.waiting == sum(each.worker is worker for each in self.waiting())

    @invariant()
    def one_request_probes(self) -> None:
        probes = [each.era for each in self.under_way() if each.is_probe]
        assert len(probes) == len(set(probes))

    def teardown(self) -> None:
        """When all is delivered nobody waits in vain, nothing has leaked, and all workers know the same."""
        group = self.group
        group.settle()
        under_way = self.under_way()
        if any(not request.claim.is_batch for request in self.waiting()):
            assert len(under_way) == MOST
        elif self.waiting():
            assert len(under_way) == MOST or any(request.claim.is_batch for request in under_way)
        for request in self.under_way():
            request.worker.health.abandoned(probe=request.is_probe)
            request.end()
            group.settle()
        while self.under_way():
            self.under_way()[0].end()
            group.settle()
        [record] = {worker.health.record._replace(opened=0) for worker in group.workers}
        assert not record.probing
        group.workers[0].health.succeeded()
        group.settle()
        taken = [Request(group.workers[number % 3]).ask() for number in range(MOST)]
        group.settle()
        assert all(request.has_place for request in taken)


TestSharing = Sharing.TestCase
TestSharing.settings = settings(max_examples=60, stateful_step_count=60)
