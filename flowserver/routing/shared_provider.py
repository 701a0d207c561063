"""The shared state of one provider, in the parent: its places, its queue, and its health. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any

from ..relay.interfaces import Clock
from .adaptive_limit import REFUSED, SLOW
from .circuit_breaker import CircuitBreaker
from .claim import Claim
from .cooldowns import Cooldowns
from .place_scheduler import PlaceScheduler
from .shared_checks import SharedChecks
from .shared_health import Tell, read_subject, written_subject
from .shared_limit import SharedLimit
from .upstream_host import trouble


class Member:
    """One worker's part in one provider."""

    __slots__ = ("decreases", "held", "is_told_batch_full", "is_told_full", "opened", "plain", "tell", "wants")

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.held: dict[int, Claim] = {}
        """Places that it holds, by number."""
        self.plain = 0
        """Places that it took while there was no limit."""
        self.wants: dict[int, Want] = {}
        """Its waiting requests, by number."""
        self.is_told_full = False
        self.is_told_batch_full = False
        """Whether it must be told when a place is free; the second is for batch only."""
        self.opened = 0
        """How often its failures opened the breaker; the total is the sum over workers, as for other counters."""
        self.decreases: Counter[str] = Counter()
        """Decreases of the adaptive limit caused by its reports, by cause."""


class Want:
    """A request that waits for a place."""

    __slots__ = ("claim", "member", "number")

    def __init__(self, member: Member, number: int, claim: Claim) -> None:
        self.member = member
        self.number = number
        self.claim = claim


class SharedProvider:
    """Grants places to all workers, by a `PlaceScheduler`."""

    __slots__ = (
        "_adaptive",
        "_breaker",
        "_clock",
        "_cooldowns",
        "_is_adaptive",
        "_members",
        "_prober",
        "_scheduler",
        "checks",
    )

    def __init__(self, clock: Clock, *, failures: int, cooldown: float) -> None:
        self._clock = clock
        self._breaker = CircuitBreaker(failures=failures, cooldown=cooldown)
        self._cooldowns = Cooldowns(failures=failures, cooldown=cooldown)
        self.checks = SharedChecks()
        self._members: dict[Member, None] = {}
        self._prober: Member | None = None
        self._scheduler: PlaceScheduler[Want] = PlaceScheduler()
        self._adaptive = SharedLimit()
        self._is_adaptive = False

    def __repr__(self) -> str:
        return f"<SharedProvider: {self._scheduler}, {self._breaker}>"

    def join(self, member: Member) -> None:
        """A worker begins to use the provider: send it the current state."""
        self._members[member] = None
        self._tell_breaker([member])
        for subject in self._cooldowns:
            member.tell("cooldown", written_subject(subject), self._record(subject))

    def part(self, member: Member) -> None:
        """A worker is gone: free what it held, and drop its waiting requests."""
        scheduler, now = self._scheduler, self._clock()
        del self._members[member]
        for claim in member.held.values():
            scheduler.release(claim.tenant, 0, is_batch=claim.is_batch, now=now)
        scheduler.hold(-member.plain, now)
        for want in member.wants.values():
            scheduler.leave(want)
        member.held, member.plain, member.wants = {}, 0, {}
        self._on_abandoned(member)
        self.checks.part(member)
        self._serve()

    @property
    def trouble(self) -> str | None:
        """See `UpstreamHost.trouble`."""
        return trouble(self.checks.cause, self._breaker.state(self._clock()))

    def hear(self, member: Member, event: str, *given: Any) -> None:
        """Handle an event from a `ProviderShare`. Raises ValueError, LookupError or TypeError for an invalid one."""
        match event:
            case "want":
                self._on_want(member, *given)
            case "forgo":
                self._on_forgo(member, *given)
            case "charge":
                self._on_charge(*given)
            case "release":
                self._on_release(member, *given)
            case "hold":
                self._on_plain(member, *given)
            case "limit":
                self._is_adaptive = False
                self._scheduler.most, self._scheduler.queue = given
                self._serve()
            case "adapt" | "first_tokens" | "overloaded":
                self._adapt(member, event, *given)
            case _:
                self._hear_of_health(member, event, *given)

    # --- places -----------------------------------------------------------------------------------------------------

    def _on_want(self, member: Member, number: int, queues: bool, *claimed: Any) -> None:
        """`queues`: whether it waits if no place is free. `claimed`: tenant, weight, whether it is batch, and the
        tokens that it will probably use; empty if no limit is known."""
        scheduler, now = self._scheduler, self._clock()
        if not claimed:
            self._on_plain_want(member, number)
            return
        tenant, weight, is_batch, expected = claimed
        claim = Claim(tenant, weight, is_batch=is_batch)
        if scheduler.waiting:
            self._serve()  # batch may have more places by now
        if scheduler.reserve(claim, expected, now):
            self._grant(member, number, claim, expected)
            return
        self._tell_full(member, now)
        refusal = scheduler.refusal(claim, now)
        if queues and not scheduler.has_room(claim):
            member.tell("refused", number, *refusal)
            return
        member.tell("queue", refusal.waiting, refusal.wait)
        if not queues:
            member.tell("busy", number)
            return
        want = member.wants[number] = Want(member, number, claim)
        self._send_away(scheduler.join(want, claim, expected, now), now)

    def _on_forgo(self, member: Member, number: int) -> None:
        want = member.wants.pop(number, None)
        if want is not None:
            self._scheduler.leave(want)

    def _send_away(self, want: Want | None, now: float) -> None:
        """A request has lost its room in the queue to another."""
        if want is not None:
            del want.member.wants[want.number]
            want.member.tell("refused", want.number, *self._scheduler.refusal(want.claim, now))

    def _on_plain_want(self, member: Member, number: int) -> None:
        scheduler, now = self._scheduler, self._clock()
        if scheduler.is_full(is_batch=False, now=now):
            self._tell_full(member, now)
            member.tell("busy", number)
        else:
            scheduler.hold(1, now)
            self._grant(member, number, None, 0)

    def _on_plain(self, member: Member, places: int) -> None:
        member.plain += places
        self._scheduler.hold(places, self._clock())
        self._serve()

    def _on_release(self, member: Member, number: int | None = None, tokens: int = 0) -> None:
        """Without a `number`: a place that was taken without a limit."""
        if number is None:
            self._on_plain(member, -1)
            return
        claim = member.held.pop(number)
        self._scheduler.release(claim.tenant, tokens, is_batch=claim.is_batch, now=self._clock())
        self._serve()

    def _on_charge(self, charges: list[list[Any]]) -> None:
        """Each is a tenant, tokens, and whether they are of class batch."""
        for tenant, tokens, is_batch in charges:
            self._scheduler.charge(tenant, tokens, is_batch=is_batch)

    def _adapt(self, member: Member, event: str, *given: Any) -> None:
        adaptive = self._adaptive
        decreases, before = adaptive.decreases.copy(), adaptive.places
        if event == "adapt":
            self._is_adaptive = True
            self._scheduler.on_change = adaptive.learned.count
            adaptive.adapt(*given)
        elif not self._is_adaptive:  # a worker with the previous configuration
            return
        elif event == "first_tokens":
            adaptive.first_tokens(*given)
        else:
            adaptive.overloaded(self._scheduler.open, *given)
        member.decreases.update(adaptive.decreases)
        member.decreases.subtract(decreases)
        if event == "adapt" or adaptive.places != before:
            self._scheduler.most, self._scheduler.queue = adaptive.places
            for each in self._members:
                each.tell("adapted", *adaptive.places, each.decreases[SLOW], each.decreases[REFUSED])
            self._serve()
        self._serve()

    def _serve(self) -> None:
        now = self._clock()
        while (taken := self._scheduler.take(now)) is not None:
            want, charged = taken
            del want.member.wants[want.number]
            self._grant(want.member, want.number, want.claim, charged)
        for member in self._members:
            if member.is_told_full or member.is_told_batch_full:
                self._tell_free(member, now)

    def _tell_full(self, member: Member, now: float) -> None:
        """Tell a worker that no place is free."""
        self._tell_state(
            member,
            full=self._scheduler.is_full(is_batch=False, now=now),
            batch_full=self._scheduler.is_full(is_batch=True, now=now),
        )

    def _tell_free(self, member: Member, now: float) -> None:
        self._tell_state(
            member,
            full=member.is_told_full and self._scheduler.is_full(is_batch=False, now=now),
            batch_full=member.is_told_batch_full and self._scheduler.is_full(is_batch=True, now=now),
        )

    def _tell_state(self, member: Member, *, full: bool, batch_full: bool) -> None:
        if (full, batch_full) != (member.is_told_full, member.is_told_batch_full):
            member.is_told_full, member.is_told_batch_full = full, batch_full
            member.tell("full", full, batch_full)

    def _grant(self, member: Member, number: int, claim: Claim | None, charged: int) -> None:
        """Send a granted place, which is counted already, with the permission to probe if that is due, unless the
        breaker forbids it. `claim` None: it was requested without a limit."""
        now = self._clock()
        if not self._breaker.allows(now):
            if claim is None:
                self._scheduler.hold(-1, now)
            else:
                self._scheduler.release(claim.tenant, -charged, is_batch=claim.is_batch, now=now)
            member.tell("refused", number)
            return
        probe = self._breaker.started(now)
        if probe:
            self._prober = member
            self._tell_breaker()
        if claim is None:
            member.plain += 1
            member.tell("granted", number, probe, None)
        else:
            member.held[number] = claim
            member.tell("granted", number, probe, charged)

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
            case "checks":
                self.checks.begin(member, *given)
            case "checked":
                self.checks.note(*given)
            case "unchecked":
                self.checks.end(member)
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
        """Send the breaker's state. `members` None: to all."""
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
