"""How many requests may be hedged, and how many of their tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowserver.routing.hedge_budget import MOST_REQUESTS, MOST_TOKENS, HedgeBudget


@given(st.lists(st.tuples(st.integers(0, 100_000), st.booleans()), max_size=500), st.floats(0.001, 1.0))
def test_both_shares_hold_at_any_time(requests: list[tuple[int, bool]], share: float) -> None:
    budget = HedgeBudget(share)
    tokens = hedges = hedged_tokens = 0
    for number, (size, is_late) in enumerate(requests, 1):
        budget.note_request()
        budget.note_tokens(size)
        tokens += size
        if is_late and budget.allows(size):
            budget.spend(size)
            hedges += 1
            hedged_tokens += size
        assert hedges <= share * number + 1e-6
        assert hedged_tokens <= share * tokens + 1e-3


def test_little_is_saved_up() -> None:
    budget = HedgeBudget(0.5)
    for _ in range(10_000):
        budget.note_request()
        budget.note_tokens(1000)
    hedges = 0
    while budget.allows(1):
        budget.spend(1)
        hedges += 1
    assert hedges == MOST_REQUESTS
    for _ in range(10_000):
        budget.note_request()
        budget.note_tokens(MOST_TOKENS)
    assert budget.allows(MOST_TOKENS)
    assert not budget.allows(MOST_TOKENS + 1)


def test_large_requests_are_not_hedged_at_the_cost_of_small_ones() -> None:
    budget = HedgeBudget(0.1)
    for _ in range(50):
        budget.note_request()
        budget.note_tokens(100)
    assert budget.allows(100)
    assert not budget.allows(10_000)
