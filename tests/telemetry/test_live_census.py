"""Rates of streams, and what tenants have used, as the live feed tells them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flowserver.quota.limits import Limit, Usage
from flowserver.quota.tenants import Tenant, TenantLimits
from flowserver.relay.record import AccountRecord, ExchangeRecord
from flowserver.telemetry.live_census import Rates, Share
from flowserver.telemetry.live_tenants import MOST, REFRESH, TenantFigures

from ..support.clock import FakeClock


class Stream:
    """A `relay.record.RecordedExchange` of which only the tokens matter."""

    def __init__(self, started_at: float) -> None:
        self._record = ExchangeRecord()
        self._record.started_at = self._record.first_token_at = started_at
        self._record.account = AccountRecord()
        self._record.account.output = 0

    def emit(self, tokens: int) -> None:
        self._record.account.output += tokens

    def record(self) -> ExchangeRecord:
        return self._record

    def unacknowledged_tokens(self) -> int:
        return 0


def rate(rates: Rates, stream: Stream, now: float) -> float:
    return rates.of(stream, stream.record(), now)


def test_the_first_rate_is_that_since_the_first_token() -> None:
    stream = Stream(100.0)
    stream.emit(40)
    assert rate(Rates(), stream, 104.0) == 10.0


def test_a_rate_follows_what_a_stream_does_now() -> None:
    rates, stream = Rates(), Stream(0.0)
    assert rate(rates, stream, 0.0) == 0.0
    for second in range(1, 11):
        stream.emit(50)
        last = rate(rates, stream, float(second))
    assert 49 < last <= 50
    for second in range(11, 21):
        last = rate(rates, stream, float(second))
    assert last < 1


def test_two_looks_within_a_moment_tell_the_same() -> None:
    rates, stream = Rates(), Stream(0.0)
    rate(rates, stream, 0.0)
    stream.emit(50)
    known = rate(rates, stream, 1.0)
    stream.emit(1)
    assert rate(rates, stream, 1.01) == known == rates.last(stream)


def test_one_that_has_ended_is_forgotten() -> None:
    rates, stream = Rates(), Stream(0.0)
    rate(rates, stream, 0.0)
    rates.keep(set())
    stream.emit(50)
    assert rates.last(stream) == 0.0
    assert rate(rates, stream, 10.0) == 5.0


def test_the_rate_of_all_has_those_that_ended_in_it_and_never_is_negative() -> None:
    rates, stays, ends = Rates(), Stream(0.0), Stream(0.0)
    for stream in (stays, ends):
        stream.emit(100)
        rate(rates, stream, 0.0)
    assert rates.total(1000, 0.0) is None
    stays.emit(50)
    rate(rates, stays, 1.0)
    rates.keep({id(stays)})
    assert rates.total(1000 + 130, 1.0) == 50 + 30  # the other one had 30 more tokens
    assert rates.total(1000 + 130, 1.1) == 80
    stays.emit(50)
    rate(rates, stays, 2.0)
    rates.keep(set())
    assert rates.total(1130 + 20, 2.0) == 50  # it was seen with 200, and its provider reports 20


def test_what_begins_and_ends_between_two_looks_counts() -> None:
    rates = Rates()
    rates.total(0, 0.0)
    assert rates.total(70, 1.0) == 70


class Store:
    """A `live_tenants.TenantSource`."""

    def __init__(self, *tenants: Tenant) -> None:
        self.known = list(tenants)
        self.asked: list[str] = []
        self.answers = True
        self.late: list[Callable[[], None]] = []

    def tenants(self) -> Sequence[Tenant]:
        return self.known

    def usage(self, limits: Sequence[Limit], done: Callable[[Sequence[Usage]], None]) -> None:
        self.asked += [limit.key for limit in limits]
        found = tuple(Usage(limit, 7, 2, 60.0) for limit in limits)
        if self.answers:
            done(found)
        else:
            self.late.append(lambda: done(()))


def test_tenants_are_told_with_what_they_have_used() -> None:
    clock = FakeClock()
    store = Store(
        Tenant("acme", limits=TenantLimits(tokens_per_day=100, concurrent=5, usd_per_day=2_500_000_000)), Tenant("free")
    )
    figures = TenantFigures(store, clock, lambda: 1000.0)
    list(figures.refresh({}))
    acme, free = figures.rows({})
    assert [(limit["name"], limit["limit"], limit["used"], limit["reserved"]) for limit in acme["limits"]] == [
        ("concurrent", 5, 7, 2),
        ("tokens_per_day", 100, 7, 2),
        ("usd_per_day", 2.5, 7e-9, 2e-9),
    ]
    assert (free["name"], free["limits"], free["streams"]) == ("free", [], 0)


def test_the_store_is_asked_now_and_then_and_not_while_it_does_not_answer() -> None:
    clock = FakeClock()
    store = Store(Tenant("acme", limits=TenantLimits(concurrent=5)))
    figures = TenantFigures(store, clock, lambda: 1000.0)
    for _ in range(3):
        list(figures.refresh({}))
    assert len(store.asked) == 1
    store.answers = False
    clock.advance(REFRESH)
    list(figures.refresh({}))
    clock.advance(REFRESH)
    list(figures.refresh({}))
    assert len(store.asked) == 2
    [answer] = store.late
    answer()
    assert figures.rows({})[0]["limits"] != []  # what it said before
    list(figures.refresh({}))
    assert len(store.asked) == 3


def test_of_many_tenants_those_with_streams_are_told() -> None:
    store = Store(*(Tenant(f"t{each}", limits=TenantLimits(concurrent=5)) for each in range(MOST * 2)))
    figures = TenantFigures(store, FakeClock(), lambda: 1000.0)
    share = Share()
    share.streams = 3
    rows = figures.rows({f"t{MOST + 9}": share})
    assert (len(rows), rows[0]["name"], rows[0]["streams"]) == (MOST, f"t{MOST + 9}", 3)
