"""An account, its lease and a store: whatever comes in whatever order, the charge is the provider's report or an
estimate within bounds, and the store loses that and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowserver.quota.tenants import TenantLimits

from ..support.accounts import count_of
from ..support.charges import Exchange
from ..support.streams import INPUT, STREAMS, Stream

QUOTA = 100_000
MOST = 1000
"""Tokens that each request bounds its answer to, where it has a bound."""

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
    exchange = Exchange(stream, limits=TenantLimits(tokens_per_day=quota), budget=budget)
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
