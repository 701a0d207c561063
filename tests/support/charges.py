"""An exchange's account over a store that answers when it is told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import orjson

from flowserver.dialects import recognise
from flowserver.dialects.estimate import Ratios
from flowserver.dialects.profiles import QUIRKS
from flowserver.quota.identify import QuotaContext
from flowserver.quota.limits import Decision, Limit, Quota
from flowserver.quota.prices import PriceTable
from flowserver.quota.tenants import TenantLimits, Tenants
from flowserver.relay.account import Account, AccountSettings
from flowserver.relay.event_filter import EventFilter
from flowserver.stores.limiter import StoreLimiter
from flowserver.stores.memory import MemoryStore, at_once

from .clock import FakeClock
from .quota import KEY, NOW, asking, tenant
from .recording import target
from .streams import Stream

LEASE = 20
"""Tokens."""


class Slow:
    """A `Limiter` whose calls reach the store when `go_on` is called, in their order."""

    lease = LEASE
    renewal = 20.0

    def __init__(self, near: StoreLimiter) -> None:
        self._near = near
        self._under_way: list[Callable[[], None]] = []

    def admit(
        self, stream_id: str, limits: Sequence[Limit], *, need: int, want: int, done: Callable[[Decision], None]
    ) -> None:
        self._near.admit(stream_id, limits, need=need, want=want, done=done)

    def extend(self, stream_id: str, used: int, want: int, done: Callable[[int], None]) -> None:
        self._under_way.append(lambda: self._near.extend(stream_id, used, want, done))

    def settle(self, stream_id: str, used: int) -> None:
        self._under_way.append(lambda: self._near.settle(stream_id, used))

    def go_on(self) -> bool:
        """Whether there was something to do."""
        if self._under_way:
            self._under_way.pop(0)()
        return bool(self._under_way)


class Exchange:
    """What an exchange does with its account."""

    def __init__(
        self,
        stream: Stream,
        *,
        limits: TenantLimits,
        budget: int | None = None,
        prices: PriceTable | None = None,
        store: MemoryStore | None = None,
    ) -> None:
        """`store`: one that others use as well; None: its own."""
        clock = FakeClock(NOW)
        self._store = MemoryStore(clock) if store is None else store  # an empty one is false
        self.limiter = Slow(StoreLimiter(self._store, lease=LEASE, life=60.0, is_local=True))
        acme = tenant(limits=limits)
        context = QuotaContext(Tenants([acme]), self.limiter, clock)
        settings = AccountSettings(Ratios(), max_event=1 << 20, hold=1 << 16, prices=prices, quota=context)
        request = asking(key=KEY, target=stream.target.encode())
        self.account = Account(settings, recognise(stream.target), request)
        self.account.bound(budget)
        self.account.request.open()
        self.outcomes: list[object] = []
        self.account.identify(request, self.outcomes.append)
        body = orjson.dumps(stream.body)
        self.account.request.feed(body)
        self.account.request.finish()
        only = target(name="only", quirks=QUIRKS["openai-compatible"])
        self.account.request_permit(request, self.outcomes.append, self._resume, providers=[only])
        self.account.ask(only, [body], repeatable=True)
        self.account.open(stream.head)
        self.is_cut = False

    @property
    def event_filter(self) -> EventFilter:
        assert isinstance(self.account.event_filter, EventFilter)
        return self.account.event_filter

    def feed(self, data: bytes) -> None:
        if not self.is_cut:
            self.event_filter.feed(data)
            self._look()

    def _resume(self) -> None:
        if not self.is_cut:
            self.event_filter.resume()
            self._look()

    def _look(self) -> None:
        if self.event_filter.spent and not self.is_cut:
            self.is_cut = True
            self.account.ending()

    def wait(self) -> None:
        """Let the store answer until nothing waits."""
        while self.limiter.go_on() or self.event_filter.is_waiting:
            pass

    def settle(self) -> None:
        self.account.settle()
        self.wait()

    @property
    def charged(self) -> int:
        """What the quota has lost, if it had as much, by what the next request finds."""
        limits = self._limits()
        found: list[Decision] = []
        self.limiter.admit("{acme}:next", limits, need=0, want=LEASE, done=found.append)
        [decision] = found
        [state] = decision.states
        assert isinstance(state.limit, Quota)
        return state.limit.limit - state.remaining - decision.granted

    def _limits(self) -> Sequence[Limit]:
        lease = self.account.lease
        assert lease is not None
        assert lease.decision is not None
        return [state.limit for state in lease.decision.states]

    def spent(self, limit: Limit) -> tuple[int, int]:
        """What is charged to `limit`, and what is reserved of it."""
        [usage] = at_once(self._store.usage([limit]))
        return usage.used, usage.reserved
