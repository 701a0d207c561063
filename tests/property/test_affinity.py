"""Rendezvous hashing with a load bound: orders are permutations that change as little as they can, and nobody has more
than the bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowserver.routing.affinity import BOUND, SLACK, bound, order
from tests.routing.equals import choose, fill, hosts

WEIGHTS = st.lists(st.integers(1, 9), min_size=1, max_size=6)
KEYS = st.binary(min_size=16, max_size=16)


@given(KEYS, WEIGHTS)
def test_an_order_has_each_once(given_key: bytes, weights: list[int]) -> None:
    tier = hosts(*weights)
    ordered = order(given_key, tier)
    assert sorted(ordered, key=tier.index) == tier
    assert order(given_key, tier[::-1]) == ordered


@given(KEYS, WEIGHTS, st.data())
def test_who_goes_leaves_the_order_of_the_others(given_key: bytes, weights: list[int], data: st.DataObject) -> None:
    """So only the keys that preferred it move, and each to the next in its order."""
    tier = hosts(*weights)
    gone = data.draw(st.sampled_from(tier))
    without = [host for host in order(given_key, tier) if host is not gone]
    assert order(given_key, [host for host in tier if host is not gone]) == without


@given(KEYS, WEIGHTS, st.data())
def test_who_gets_more_weight_takes_keys_and_loses_none(
    given_key: bytes, weights: list[int], data: st.DataObject
) -> None:
    grown = data.draw(st.integers(0, len(weights) - 1))
    before = order(given_key, hosts(*weights))[0].name
    after = order(given_key, hosts(*weights[:grown], weights[grown] * 2, *weights[grown + 1 :]))[0].name
    assert after in (before, f"gpu-{grown}")


@given(WEIGHTS, st.data())
def test_one_is_always_below_the_bound(weights: list[int], data: st.DataObject) -> None:
    tier = hosts(*weights)
    for host in tier:
        fill(host, data.draw(st.integers(0, 50)))
    slack = data.draw(st.sampled_from([SLACK, SLACK / 8, 0.0]))
    unit = bound(tier, slack)
    assert any(host.open < unit * host.weight for host in tier)


@given(WEIGHTS, st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=300))
def test_no_provider_is_given_more_than_the_bound(weights: list[int], story: list[tuple[int, bool]]) -> None:
    """Few keys, many requests: whoever gets one has at most 1.25 times its share then, or 8 more."""
    tier = hosts(*weights)
    total, weight = 0, sum(weights)
    for number, ends in story:
        chosen = choose(number, tier)
        assert chosen is not None
        fill(chosen, 1)
        total += 1
        share = total * chosen.weight / weight
        slack = SLACK * len(tier) * chosen.weight / weight
        assert chosen.open < max(BOUND * share, share + slack) + 1
        busy = [host for host in tier if host.open]
        if ends and busy:
            busy[number % len(busy)].places.release(None)
            total -= 1
