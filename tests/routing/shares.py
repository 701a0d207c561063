"""A provider that several workers share, and the messages between them and the parent, which a test delivers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson

from flowserver.routing.claim import Claim, Refusal
from flowserver.routing.provider_share import ProviderShare
from flowserver.routing.shared_provider import Member, SharedProvider

from ..support.clock import FakeClock
from ..support.later import Later


class Wire:
    """One worker's messages that are under way, in both directions, as what is left of them after JSON."""

    def __init__(self) -> None:
        self.up: deque[list[Any]] = deque()
        self.down: deque[list[Any]] = deque()

    def tell(self, name: str, *given: Any) -> None:
        self.up.append(orjson.loads(orjson.dumps([name, *given])))

    def tell_worker(self, name: str, *given: Any) -> None:
        self.down.append(orjson.loads(orjson.dumps([name, *given])))


class Worker:
    def __init__(self, clock: FakeClock, later: Later, *, failures: int, cooldown: float) -> None:
        self.wire = Wire()
        self.share = ProviderShare(self.wire.tell, failures=failures, cooldown=cooldown, clock=clock, later=later)
        self.places = self.share.places
        self.health = self.share.health
        self.cooldowns = self.share.cooldowns
        self.member = Member(self.wire.tell_worker)
        self.is_gone = False


class Group:
    """The parent's `SharedProvider` and workers."""

    def __init__(
        self,
        workers: int = 2,
        *,
        most: int | None = None,
        queue: int = 0,
        failures: int = 3,
        cooldown: float = 10.0,
        clock: FakeClock | None = None,
        later: Later | None = None,
    ) -> None:
        self.clock = clock or FakeClock()
        self.later = later or Later()
        self._health = {"failures": failures, "cooldown": cooldown}
        self._limits = most, queue
        self.parent = SharedProvider(self.clock, failures=failures, cooldown=cooldown)
        self.workers: list[Worker] = []
        for _ in range(workers):
            self.add()
        self.settle()

    def add(self) -> Worker:
        worker = Worker(
            self.clock, self.later, failures=int(self._health["failures"]), cooldown=self._health["cooldown"]
        )
        self.workers.append(worker)
        self.parent.join(worker.member)
        worker.places.limit(*self._limits)
        return worker

    def kill(self, worker: Worker) -> None:
        """What it has sent arrives; what it was sent does not."""
        while worker.wire.up:
            self.deliver_up(worker)
        self.workers.remove(worker)
        worker.is_gone = True
        self.parent.part(worker.member)

    def deliver_up(self, worker: Worker) -> None:
        if worker.wire.up:
            self.parent.hear(worker.member, *worker.wire.up.popleft())

    def deliver_down(self, worker: Worker) -> None:
        if worker.wire.down:
            worker.share.hear(*worker.wire.down.popleft())

    def settle(self) -> None:
        """Deliver everything, and what follows from it."""
        busy = True
        while busy:
            busy = False
            for worker in self.workers:
                while worker.wire.up or worker.wire.down:
                    busy = True
                    self.deliver_up(worker)
                    self.deliver_down(worker)
            busy = busy or not self.later.is_idle
            self.later.run()


class Request:
    """A waiter that says what it heard; `on_place` may be made to do what a test wants."""

    def __init__(
        self, worker: Worker, name: str = "", heard: list[str] | None = None, claim: Claim | None = None
    ) -> None:
        self.worker = worker
        self.claim = claim or Claim()
        self.refusal: Refusal | None = None
        self._name = name
        self._all = heard
        self.heard: list[str] = []
        self.acts: Callable[[], None] | None = None

    def ask(self) -> Request:
        """As a dispatcher does."""
        places = self.worker.places
        if places.reserve(self):
            self.on_place()
        elif (refusal := places.wait(self)) is not None:
            self.refusal = refusal
            self._hear("no room")
        return self

    def leave(self) -> None:
        self.worker.places.leave(self)

    def end(self) -> None:
        assert self.has_place
        self.heard.append("ended")
        self.worker.places.release(self.claim)

    @property
    def has_place(self) -> bool:
        return self.heard[-1:] == ["place"]

    def on_place(self) -> None:
        self._hear("place")
        if self.acts is not None:
            self.acts()

    def on_no_place(self, refusal: Refusal | None) -> None:
        self.refusal = refusal
        self._hear("no place")

    def on_busy(self) -> None:
        self._hear("busy")

    def _hear(self, what: str) -> None:
        self.heard.append(what)
        if self._all is not None:
            self._all.append(f"{self._name} {what}")


class Probing(Request):
    """Takes the leave to probe with its place, as an attempt does; `is_probe` None: it did not begin."""

    def __init__(self, worker: Worker, clock: FakeClock) -> None:
        super().__init__(worker)
        self.is_probe: bool | None = None
        self.acts = partial(self._begin, clock)

    def _begin(self, clock: FakeClock) -> None:
        if self.worker.health.admits(clock()):
            self.is_probe = self.worker.health.started(clock())
        else:
            self.end()
