"""Which tenants have more than their share."""

from __future__ import annotations

from flowserver.routing.tenant_shares import MEMORY, TenantShares


def _shares(**counts: tuple[int, int]) -> TenantShares:
    """Requests and weight of each tenant."""
    shares = TenantShares()
    for name, (count, weight) in counts.items():
        for _ in range(count):
            shares.count(name, weight)
    return shares


def _above(shares: TenantShares, *names: str) -> list[str]:
    return [name for name in names if shares.is_above(name)]


def test_who_has_more_than_the_average_is_above() -> None:
    assert _above(_shares(a=(100, 1), b=(40, 1), c=(1, 1)), "a", "b", "c", "new") == ["a"]


def test_equal_ones_are_not() -> None:
    assert _above(_shares(a=(10, 1), b=(10, 1)), "a", "b") == []


def test_one_alone_is_not() -> None:
    assert _above(_shares(a=(1000, 1)), "a") == []


def test_it_goes_by_weight() -> None:
    assert _above(_shares(a=(100, 10), b=(20, 1)), "a", "b") == ["b"]


def test_what_is_long_ago_counts_less_and_is_forgotten() -> None:
    shares = _shares(a=(100, 1), b=(1, 1))
    shares.refresh(0.0)
    now = 0.0
    while shares.is_above("a") and now < 100:
        shares.count("b", 1)
        shares.refresh(now := now + 0.1)
    assert MEMORY < now < 5 * MEMORY
    shares.refresh(now + 20 * MEMORY)
    assert len(shares) == 0
    shares.count("a", 1)
    assert _above(shares, "a", "b") == []
