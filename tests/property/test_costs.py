"""Money: the charge is what the provider reports times the prices, to the nano-dollar, and streams that share a quota
never exceed it, whatever comes in whatever order."""

from __future__ import annotations

from dataclasses import replace
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from flowserver.config.prices import PRICE_KEYS
from flowserver.dialects.base import Usage
from flowserver.quota.limits import MoneyQuota
from flowserver.quota.money import NANO
from flowserver.quota.prices import Price, PriceRow, PriceTable
from flowserver.quota.tenants import TenantLimits, end_of_day
from flowserver.stores.memory import MemoryStore

from ..support.accounts import count_of
from ..support.charges import Exchange
from ..support.clock import FakeClock
from ..support.quota import NOW
from ..support.streams import INPUT, STREAMS, Stream

MONEY = "{acme}:usd_per_day"
MOST = 1000
"""Tokens of a report."""

dollars = st.decimals(0, 5000, places=6)
"""Per million tokens."""
texts = st.lists(st.text("abc xyz\n,.", min_size=1, max_size=40), min_size=1, max_size=30)
tokens = st.none() | st.integers(-5, 2**33)


def limit(most: int) -> MoneyQuota:
    return MoneyQuota(MONEY, most, ends_at=end_of_day(NOW))


def pico(price: Decimal) -> int:
    """As the file's reader has it."""
    [kind] = {key.kind for key in PRICE_KEYS if key.name == "output"}
    amount: int = kind.parse(str(price))
    return amount


@given(
    st.tuples(dollars, dollars, dollars, dollars, dollars),
    st.integers(0, 10**7),
    st.integers(0, 10**6),
    st.builds(Usage, cached=tokens, cache_written=tokens, reasoning=tokens),
)
def test_a_bill_is_exact(given: tuple[Decimal, ...], input: int, output: int, usage: Usage) -> None:
    """Against fractions of dollars, which no unit rounds."""
    price = Price(*map(pico, given))
    cached = min(max(0, usage.cached or 0), input)
    written = min(max(0, usage.cache_written or 0), input - cached)
    reasoning = min(max(0, usage.reasoning or 0), output)
    amounts = (input - cached - written, output - reasoning, cached, written, reasoning)
    exact = sum((Fraction(one) * amount / 10**6 for one, amount in zip(given, amounts, strict=True)), Fraction(0))
    assert price.cost(input, output, usage) == -(-(exact * NANO).numerator // (exact * NANO).denominator)


@given(st.data(), st.sampled_from(STREAMS), texts, st.none() | st.integers(0, MOST + 100), dollars, dollars)
def test_the_store_loses_what_the_report_costs(
    data: st.DataObject, stream: Stream, said: list[str], report: int | None, input: Decimal, output: Decimal
) -> None:
    row = PriceRow(("*",), Price(pico(input), pico(output), pico(input), pico(input), pico(output)))
    quota = data.draw(st.sampled_from([100 * NANO]) | st.integers(40_000_000, 200_000_000), "quota")
    bound = data.draw(st.none() | st.integers(0, 300), "its own bound, which its provider may ignore")
    if bound is not None:
        stream = replace(stream, body=stream.body | {"max_tokens": bound})
    exchange = Exchange(stream, limits=TenantLimits(usd_per_day=quota), prices=PriceTable([row]))
    account = exchange.account
    if exchange.outcomes != [None, None]:
        assert exchange.spent(limit(quota)) == (0, 0)
        return
    ending = stream.closing if report is None else stream.report(report)
    events = [*stream.opening, *map(stream.content, said), *ending]
    leaves = data.draw(st.booleans(), "leaves")
    for event in events[: data.draw(st.integers(0, len(events)), "when") if leaves else None]:
        for piece in (event[:7], event[7:]) if data.draw(st.booleans(), "in two") else (event,):
            exchange.feed(piece)
        if exchange.event_filter.is_waiting or data.draw(st.booleans(), "store"):
            exchange.wait()
    if not exchange.is_cut and not leaves:
        exchange.event_filter.finish()
    exchange.settle()
    used, reserved = exchange.spent(limit(quota))
    assert (used, reserved) == (account.cost, 0)
    if exchange.is_cut:
        assert used <= max(quota, row.price.cost(account.input, 0, Usage()))
    if not count_of(account).is_estimate:
        cost = (INPUT * input + (report or 0) * output) * 1000
        assert used == int(cost.to_integral_value(ROUND_CEILING))


@given(st.data(), st.sampled_from(STREAMS), st.lists(texts, min_size=2, max_size=4), st.integers(1, 10**9))
def test_streams_that_share_a_quota_never_exceed_it(
    data: st.DataObject, stream: Stream, said: list[list[str]], price: int
) -> None:
    """`price`: of an output token, in pico-dollars: up to the least that is leased at a time."""
    quota = data.draw(st.integers(1, 100 * max(1, price // 1000)), "quota")
    prices = PriceTable([PriceRow(("*",), Price(0, price, 0, 0, price))])
    store = MemoryStore(FakeClock(NOW))
    exchanges = [Exchange(stream, limits=TenantLimits(usd_per_day=quota), prices=prices, store=store) for _ in said]
    running = [
        (exchange, [*stream.opening, *map(stream.content, words)])
        for exchange, words in zip(exchanges, said, strict=True)
        if exchange.outcomes == [None, None]
    ]
    under_way = list(running)
    while under_way:
        exchange, events = data.draw(st.sampled_from(under_way), "whose turn")
        if exchange.event_filter.is_waiting or data.draw(st.booleans(), "store"):
            exchange.wait()
        if not events or exchange.is_cut:
            exchange.wait()
            exchange.settle()
            under_way.remove((exchange, events))
        else:
            exchange.feed(events.pop(0))
        used, reserved = exchange.spent(limit(quota))
        assert used + reserved <= quota
    used, reserved = exchanges[0].spent(limit(quota))
    assert reserved == 0
    assert used == sum(exchange.account.cost or 0 for exchange, _ in running)
