"""Handles a store that does not answer: this process limits on its own, or nothing may start.

A circuit breaker keeps calls away from a failed store, so that requests do not each wait for its deadline; after the
cooldown one call tests whether the store is back. Nothing is reconciled afterwards, only counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import TypeVar

from ..quota.limits import (
    Cause,
    Decision,
    Garbled,
    LeaseLost,
    Limit,
    LimitStore,
    StoreUnavailable,
    Usage,
    is_of_money,
)
from ..relay.interfaces import Clock
from ..routing.circuit_breaker import CircuitBreaker

AT_ONCE = 8
"""Most concurrent calls to the store, at most its number of connections. Further calls wait here, before their deadline
begins."""

_T = TypeVar("_T")


class Policy(Enum):
    """What happens to streams while the store does not answer."""

    OPEN = "open"
    """Streams pass, within the limits of a store in this process."""
    CLOSED = "closed"
    """No stream starts, and running ones get no more than their lease."""


class FailoverStats:
    """Counts what happened while the store did not answer."""

    __slots__ = ("failures", "money", "refused", "requests", "tokens", "unsettled")

    def __init__(self) -> None:
        self.failures = 0
        """Calls that the store did not answer."""
        self.requests = 0
        """Streams that the fallback admitted."""
        self.refused = 0
        """Streams refused because the store did not answer."""
        self.tokens = 0
        """Tokens granted without the store, to its streams whose leases could not be extended."""
        self.money = 0
        """Nano-dollars, likewise."""
        self.unsettled = 0
        """Streams whose final charge was lost. They stay charged with their usage at the last extension: later tokens
        are missing, and an estimate that was too high is not returned."""


class BreakerGate:
    """Passes at most `AT_ONCE` concurrent calls to a store, none while the breaker is open. `clock` is the
    breaker's."""

    __slots__ = ("_breaker", "_clock", "_stats", "_turns")

    def __init__(self, breaker: CircuitBreaker, clock: Clock, stats: FailoverStats) -> None:
        """`stats` counts failures."""
        self._breaker = breaker
        self._clock = clock
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._stats = stats

    def __repr__(self) -> str:
        return f"<BreakerGate: {self._breaker}>"

    @property
    def wait(self) -> float | None:
        """Seconds until the breaker permits a call; None: it does now."""
        return self._breaker.available_in(self._clock()) or None

    async def ask(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Call the store when it is this call's turn: a burst of calls must not make the store look down."""
        async with self._turns:
            return await self._ask_now(call)

    async def _ask_now(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Call the store unless the breaker is open, and report the outcome to the breaker."""
        breaker = self._breaker
        now = self._clock()
        if not breaker.allows(now):
            raise StoreUnavailable("the store is not called for now")
        probe = breaker.started(now)
        try:
            answer = await call()
        except (LeaseLost, Garbled):
            breaker.succeeded()
            raise
        except StoreUnavailable:
            self._stats.failures += 1
            breaker.failed(self._clock(), probe=probe)
            raise
        except BaseException:  # cancelled, or the caller's error: it proves nothing, but the probe must be released
            breaker.abandoned(probe=probe)
            raise
        breaker.succeeded()
        return answer


class FailoverStore:
    """A `LimitStore` whose calls, except `stored_usage`, never raise `StoreUnavailable`.

    A stream stays with the store that admitted it. `fallback` is a store that always answers: a `MemoryStore`.
    """

    __slots__ = ("_fallback", "_fallback_streams", "_gate", "_policy", "_store", "stats")

    def __init__(
        self, store: LimitStore, fallback: LimitStore, *, policy: Policy, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        self._store = store
        self._fallback = fallback
        self._policy = policy
        self._fallback_streams: set[str] = set()
        self.stats = FailoverStats()
        self._gate = BreakerGate(breaker, clock, self.stats)

    def __repr__(self) -> str:
        return f"<FailoverStore {self._policy.value}: {self._gate}, {len(self._fallback_streams)} streams here>"

    # --- LimitStore ---

    async def admit(self, stream_id: str, limits: Sequence[Limit], *, need: int, want: int) -> Decision:
        try:
            return await self._gate.ask(lambda: self._store.admit(stream_id, limits, need=need, want=want))
        except StoreUnavailable:
            pass
        if self._policy is Policy.CLOSED:
            self.stats.refused += 1
            return Decision(False, 0, (), Cause.UNAVAILABLE, retry_after=self._gate.wait)
        decision = await self._fallback.admit(stream_id, limits, need=need, want=want)
        if decision.admitted:
            self._fallback_streams.add(stream_id)
            self.stats.requests += 1
        return decision

    async def extend(self, stream_id: str, used: int, want: int) -> int:
        """If the store does not answer, the open policy grants everything requested."""
        try:
            if stream_id in self._fallback_streams:
                return await self._fallback.extend(stream_id, used, want)
            return await self._gate.ask(lambda: self._store.extend(stream_id, used, want))
        except StoreUnavailable:
            if self._policy is Policy.CLOSED:
                return 0
            if is_of_money(stream_id):
                self.stats.money += want
            else:
                self.stats.tokens += want
            return want

    async def settle(self, stream_id: str, used: int) -> bool:
        if stream_id in self._fallback_streams:
            self._fallback_streams.discard(stream_id)
            return await self._fallback.settle(stream_id, used)
        try:
            return await self._gate.ask(lambda: self._store.settle(stream_id, used))
        except StoreUnavailable:
            self.stats.unsettled += 1
            return False

    async def usage(self, limits: Sequence[Limit]) -> tuple[Usage, ...]:
        """If the store does not answer, the counts of this process in the meantime."""
        try:
            return await self.stored_usage(limits)
        except StoreUnavailable:
            return await self._fallback.usage(limits)

    async def stored_usage(self, limits: Sequence[Limit]) -> tuple[Usage, ...]:
        """The counts of the store alone, whoever counts meanwhile. Raises `StoreUnavailable`."""
        return await self._gate.ask(lambda: self._store.usage(limits))

    async def close(self) -> None:
        await self._store.close()
        await self._fallback.close()
