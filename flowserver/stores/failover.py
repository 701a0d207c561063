"""What happens while a store does not answer: limits go on in this process alone, or nothing may start.

A breaker leaves a store alone that failed, so that requests do not each wait for its deadline, and lets one call
through after its cooldown to see whether it is back. Nothing is reconciled afterwards; it is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import TypeVar

from ..quota.limits import Cause, Decision, Garbled, LeaseLost, Limit, LimitStore, StoreUnavailable, Usage
from ..relay.interfaces import Clock
from ..routing.circuit_breaker import CircuitBreaker

AT_ONCE = 8
"""Calls to the store; no more than it has connections. The next ones wait here, where the time is not the store's."""

_T = TypeVar("_T")


class Policy(Enum):
    """What a store that does not answer means."""

    OPEN = "open"
    """Streams pass, by the limits of a store of this process."""
    CLOSED = "closed"
    """No stream starts, and those that run get no more than their lease."""


class FailoverStats:
    """What happened while the store did not answer."""

    __slots__ = ("failures", "refused", "requests", "tokens", "unsettled")

    def __init__(self) -> None:
        self.failures = 0
        """Calls that the store did not answer."""
        self.requests = 0
        """Streams that the fallback admitted."""
        self.refused = 0
        """Streams refused because there was no store."""
        self.tokens = 0
        """Tokens that no store granted: to streams of the store whose leases it could not extend."""
        self.unsettled = 0
        """Streams whose settling was lost. They stay charged with what they used until they last extended: what came
        after is missing, what was estimated too high is not given back."""


class BreakerGate:
    """Calls to what may not answer: so many at once, and none while the breaker is open. `clock` is the breaker's."""

    __slots__ = ("_breaker", "_clock", "_turns", "passed")

    def __init__(self, breaker: CircuitBreaker, clock: Clock, passed: FailoverStats) -> None:
        self._breaker = breaker
        self._clock = clock
        self._turns = asyncio.Semaphore(AT_ONCE)
        self.passed = passed
        """Where failures are counted."""

    @property
    def wait(self) -> float | None:
        """Seconds until the breaker lets a call through; None: it does."""
        return self._breaker.available_in(self._clock()) or None

    async def ask(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Ask the store when it is this call's turn. A rush of calls is no reason to think that it does not answer."""
        async with self._turns:
            return await self._ask_now(call)

    async def _ask_now(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Ask the store, unless the breaker is open. What comes of it tells the breaker."""
        breaker = self._breaker
        now = self._clock()
        if not breaker.allows(now):
            raise StoreUnavailable("the store is left alone for now")
        probe = breaker.started(now)
        try:
            answer = await call()
        except (LeaseLost, Garbled):
            breaker.succeeded()
            raise
        except StoreUnavailable:
            self.passed.failures += 1
            breaker.failed(self._clock(), probe=probe)
            raise
        except BaseException:  # cancelled, or a caller's error: it tells nothing, but the probe must not be lost
            breaker.abandoned(probe=probe)
            raise
        breaker.succeeded()
        return answer


class FailoverStore:
    """A `LimitStore` that never raises `StoreUnavailable`.

    A stream stays with the store that admitted it. `fallback` is one that always answers: a `MemoryStore`.
    """

    __slots__ = ("_fallback", "_guard", "_here", "_policy", "_store", "passed")

    def __init__(
        self, store: LimitStore, fallback: LimitStore, *, policy: Policy, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        self._store = store
        self._fallback = fallback
        self._policy = policy
        self._here: set[str] = set()
        """Streams of the fallback."""
        self.passed = FailoverStats()
        self._guard = BreakerGate(breaker, clock, self.passed)

    # --- LimitStore ---

    async def admit(self, stream_id: str, limits: Sequence[Limit], *, need: int, want: int) -> Decision:
        try:
            return await self._guard.ask(lambda: self._store.admit(stream_id, limits, need=need, want=want))
        except StoreUnavailable:
            pass
        if self._policy is Policy.CLOSED:
            self.passed.refused += 1
            return Decision(False, 0, (), Cause.UNAVAILABLE, retry_after=self._guard.wait)
        decision = await self._fallback.admit(stream_id, limits, need=need, want=want)
        if decision.admitted:
            self._here.add(stream_id)
            self.passed.requests += 1
        return decision

    async def extend(self, stream_id: str, used: int, want: int) -> int:
        """Where the store cannot tell, an open policy grants all that is wanted."""
        try:
            if stream_id in self._here:
                return await self._fallback.extend(stream_id, used, want)
            return await self._guard.ask(lambda: self._store.extend(stream_id, used, want))
        except StoreUnavailable:
            if self._policy is Policy.CLOSED:
                return 0
            self.passed.tokens += want
            return want

    async def settle(self, stream_id: str, used: int) -> bool:
        if stream_id in self._here:
            self._here.discard(stream_id)
            return await self._fallback.settle(stream_id, used)
        try:
            return await self._guard.ask(lambda: self._store.settle(stream_id, used))
        except StoreUnavailable:
            self.passed.unsettled += 1
            return False

    async def usage(self, limits: Sequence[Limit]) -> tuple[Usage, ...]:
        """Without the store, what this process counted meanwhile."""
        try:
            return await self._guard.ask(lambda: self._store.usage(limits))
        except StoreUnavailable:
            return await self._fallback.usage(limits)

    async def close(self) -> None:
        await self._store.close()
        await self._fallback.close()
