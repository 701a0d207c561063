"""An account, its lease and a store: whatever comes in whatever order, the charge is the provider's report or an
estimate within bounds, and the store loses that and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import orjson
from hypothesis import given
from hypothesis import strategies as st

from flowserver.dialects import recognise
from flowserver.dialects.estimate import Ratios
from flowserver.dialects.profiles import QUIRKS
from flowserver.quota.identify import QuotaContext
from flowserver.quota.limits import Decision, Limit, Quota
from flowserver.quota.tenants import TenantLimits, Tenants
from flowserver.relay.account import Account, AccountSettings
from flowserver.relay.event_filter import EventFilter
from flowserver.stores.limiter import StoreLimiter
from flowserver.stores.memory import MemoryStore

from ..support.accounts import count_of
from ..support.clock import FakeClock
from ..support.quota import KEY, NOW, asking, tenant
from ..support.recording import target
from ..support.streams import INPUT, STREAMS, Stream

QUOTA = 100_000
LEASE = 20
MOST = 1000
"""Tokens that each request bounds its answer to, where it has a bound."""


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

    def __init__(self, stream: Stream, *, quota: int, budget: int | None) -> None:
        clock = FakeClock(NOW)
        self._store = MemoryStore(clock)
        self.limiter = Slow(StoreLimiter(self._store, lease=LEASE, life=60.0, is_local=True))
        acme = tenant(limits=TenantLimits(tokens_per_day=quota))
        context = QuotaContext(Tenants([acme]), self.limiter, clock)
        settings = AccountSettings(Ratios(), max_event=1 << 20, hold=1 << 16, quota=context)
        request = asking(key=KEY, target=stream.target.encode())
        self.account = Account(settings, recognise(stream.target), request)
        self.account.bound(budget)
        self.account.request.open()
        self.outcomes: list[object] = []
        self.account.identify(request, self.outcomes.append)
        body = orjson.dumps(stream.body)
        self.account.request.feed(body)
        self.account.request.finish()
        self.account.request_permit(request, self.outcomes.append, self._resume, providers=())
        self.account.ask(target(name="only", quirks=QUIRKS["openai-compatible"]), [body], repeatable=True)
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


MARKUP = 8
"""Tokens that an estimate has for what frames an answer, at most."""

texts = st.lists(st.text("abc xyz\n,.", min_size=1, max_size=40), min_size=1, max_size=30)
reports = st.one_of(st.none(), st.integers(0, MOST + 100), st.sampled_from([2**32 - 1, 5_000_000]))


def _events(stream: Stream, said: list[str], report: int | None) -> list[bytes]:
    return [*stream.opening, *map(stream.content, said), *(stream.closing if report is None else stream.report(report))]


@given(st.data(), st.sampled_from(STREAMS), texts, reports)
def test_the_store_loses_the_report_or_an_estimate(
    data: st.DataObject, stream: Stream, said: list[str], report: int | None
) -> None:
    quota = data.draw(st.one_of(st.just(QUOTA), st.integers(600, 1000)), "quota")
    budget = data.draw(st.one_of(st.none(), st.integers(1, 200)), "budget")
    exchange = Exchange(stream, quota=quota, budget=budget)
    assert exchange.outcomes == [None, None]
    account = exchange.account
    passes_all = data.draw(st.booleans(), "whole")
    events = _events(stream, said, report)
    for event in events if passes_all else events[: data.draw(st.integers(0, len(events)), "events")]:
        for piece in (event[:7], event[7:]) if data.draw(st.booleans(), "in two") else (event,):
            exchange.feed(piece)
        if exchange.event_filter.is_waiting or data.draw(st.booleans(), "store"):
            exchange.wait()
    if passes_all and not exchange.is_cut:
        exchange.event_filter.finish()
    exchange.settle()

    content = sum(len(text) for text in said)
    believed = report if report is not None and report <= 2 * MOST else 0
    assert exchange.charged == min(quota, account.input + account.output)
    assert account.output <= MOST + MOST // 10 + 64 or "max_tokens" not in stream.body
    if count_of(account).is_estimate:
        assert account.output <= max(content + MARKUP, believed)
        if exchange.is_cut:
            assert account.output <= (budget if budget is not None else quota)
            assert exchange.charged <= max(quota, account.input)
    else:
        assert account.output == report
        assert account.input == INPUT
    if passes_all and not exchange.is_cut and report is not None and content / 32 <= report <= MOST:
        assert (account.input + account.output, count_of(account).is_estimate) == (INPUT + report, False)
