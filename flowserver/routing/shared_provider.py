"""What all workers share of one provider, in the parent: who has its places, who waits, and how it is doing. No I/O."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable
from typing import Any

from ..relay.interfaces import Clock
from .adaptive_limit import REFUSED, SLOW
from .circuit_breaker import CircuitBreaker
from .cooldowns import Cooldowns
from .shared_health import Tell, read_subject, written_subject
from .shared_limit import SharedLimit


class Member:
    """One worker's part in one provider."""

    __slots__ = ("decreases", "held", "is_told_full", "opened", "tell")

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.held = 0
        """Places that it has."""
        self.is_told_full = False
        """Whether it has to be told when a place is free."""
        self.opened = 0
        """How often the breaker opened by its failures: that of all is the sum, as for other counters."""
        self.decreases: Counter[str] = Counter()
        """Decreases of the adaptive limit that followed from what it told, by cause."""


class SharedProvider:
    """Places are granted in the order in which they were asked for, over all workers."""

    __slots__ = (
        "_adaptive",
        "_breaker",
        "_clock",
        "_cooldowns",
        "_is_adaptive",
        "_members",
        "_most",
        "_open",
        "_prober",
        "_queue",
        "_waiting",
    )

    def __init__(self, clock: Clock, *, failures: int, cooldown: float) -> None:
        self._clock = clock
        self._breaker = CircuitBreaker(failures=failures, cooldown=cooldown)
        self._cooldowns = Cooldowns(failures=failures, cooldown=cooldown)
        self._members: dict[Member, None] = {}
        self._prober: Member | None = None
        self._most: int | None = None
        self._queue = 0
        self._adaptive = SharedLimit()
        self._is_adaptive = False
        self._open = 0
        self._waiting: OrderedDict[tuple[Member, int], None] = OrderedDict()

    def __repr__(self) -> str:
        places = "unlimited" if self._most is None else self._most
        return f"<SharedProvider: {self._open} open of {places}, {len(self._waiting)} waiting, {self._breaker}>"

    def join(self, member: Member) -> None:
        """A worker begins to use the provider: it is told what the others know."""
        self._members[member] = None
        self._tell_breaker([member])
        for subject in self._cooldowns:
            member.tell("cooldown", written_subject(subject), self._record(subject))

    def part(self, member: Member) -> None:
        """A worker is gone: all it had is free, and its requests wait no more."""
        del self._members[member]
        self._open -= member.held
        member.held = 0
        for each in [waiting for waiting in self._waiting if waiting[0] is member]:
            del self._waiting[each]
        self._on_abandoned(member)
        self._serve()

    def hear(self, member: Member, event: str, *given: Any) -> None:
        """An event of `ProviderShare`. Raises ValueError or TypeError for one that no worker sends."""
        match event:
            case "want":
                self._on_want(member, *given)
            case "forgo":
                self._waiting.pop((member, *given), None)
            case "release":
                self._add(member, -1)
            case "hold":
                self._add(member, *given)
            case "limit":
                self._is_adaptive = False
                self._most, self._queue = given
                self._serve()
            case "adapt" | "first_tokens" | "overloaded":
                self._adapt(member, event, *given)
            case _:
                self._hear_of_health(member, event, *given)

    # --- places -----------------------------------------------------------------------------------------------------

    @property
    def _is_full(self) -> bool:
        return self._most is not None and self._open >= self._most

    def _on_want(self, member: Member, number: int, queues: bool) -> None:
        """`queues`: whether it waits if no place is free."""
        if not self._is_full:
            self._grant(member, number)
            return
        if not member.is_told_full:
            member.is_told_full = True
            member.tell("full", True)
        if not queues:
            member.tell("busy", number)
        elif len(self._waiting) >= self._queue:
            member.tell("refused", number)
        else:
            self._waiting[member, number] = None

    def _adapt(self, member: Member, event: str, *given: Any) -> None:
        adaptive = self._adaptive
        decreases, before = adaptive.decreases.copy(), adaptive.places
        if event == "adapt":
            self._is_adaptive = True
            adaptive.adapt(*given)
        elif not self._is_adaptive:  # a worker that has the configuration of before
            return
        elif event == "first_tokens":
            adaptive.first_tokens(self._open, *given)
        else:
            adaptive.overloaded(self._open, *given)
        member.decreases.update(adaptive.decreases)
        member.decreases.subtract(decreases)
        if event == "adapt" or adaptive.places != before:
            self._most, self._queue = adaptive.places
            for each in self._members:
                each.tell("adapted", self._most, self._queue, each.decreases[SLOW], each.decreases[REFUSED])
            self._serve()

    def _add(self, member: Member, places: int) -> None:
        member.held += places
        self._open += places
        self._serve()

    def _serve(self) -> None:
        while self._waiting and not self._is_full:
            self._grant(*self._waiting.popitem(last=False)[0])
        if not self._is_full:
            for member in self._members:
                if member.is_told_full:
                    member.is_told_full = False
                    member.tell("full", False)

    def _grant(self, member: Member, number: int) -> None:
        """Grant a free place, and with it the leave to probe if that is due, unless the breaker forbids it."""
        now = self._clock()
        if not self._breaker.allows(now):
            member.tell("refused", number)
            return
        probe = self._breaker.started(now)
        if probe:
            self._prober = member
            self._tell_breaker()
        self._open += 1
        member.held += 1
        member.tell("granted", number, probe)

    # --- health -----------------------------------------------------------------------------------------------------

    def _hear_of_health(self, member: Member, event: str, *given: Any) -> None:
        match event:
            case "succeeded":
                self._on_succeeded()
            case "failed":
                self._on_failed(member, *given)
            case "abandoned":
                self._on_abandoned(member)
            case "limited" | "unable" | "served":
                self._on_cooldown(event, *given)
            case _:
                raise ValueError(f"no such event: {event!r}")

    def _on_succeeded(self) -> None:
        if not self._breaker.is_spotless:
            self._prober = None
            self._breaker.succeeded()
            self._tell_breaker()

    def _on_failed(self, member: Member, probe: bool) -> None:
        is_probe = probe and member is self._prober
        if is_probe:
            self._prober = None
        before = self._breaker.opened
        self._breaker.failed(self._clock(), probe=is_probe)
        member.opened += self._breaker.opened - before
        self._tell_breaker()

    def _on_abandoned(self, member: Member) -> None:
        if member is self._prober:
            self._prober = None
            self._breaker.abandoned(probe=True)
            self._tell_breaker()

    def _tell_breaker(self, members: Iterable[Member] | None = None) -> None:
        """None: all."""
        record = self._breaker.record
        for member in self._members if members is None else members:
            member.tell("breaker", *record._replace(opened=member.opened))

    def _on_cooldown(self, event: str, written: list[str | None], after: float | None = None) -> None:
        subject: Hashable = read_subject(written)
        if event == "limited":
            self._cooldowns.limited(self._clock(), subject, after)
        elif event == "unable":
            self._cooldowns.failed(self._clock(), subject, after)
        else:
            self._cooldowns.served(subject)
        record = self._record(subject)
        for member in self._members:
            member.tell("cooldown", written, record)

    def _record(self, subject: Hashable) -> list[float] | None:
        record = self._cooldowns.record(subject)
        return None if record is None else list(record)
