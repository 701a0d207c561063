"""The values that limits are made of."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flowserver.quota.limits import (
    SMALL_LEASE,
    Limit,
    Quota,
    RequestBucket,
    Slots,
    TokenBucket,
    lease_size,
    tag_of,
    tenant_key,
)


@pytest.mark.parametrize(
    ("tenant", "names", "key"),
    [
        ("acme", (), "{acme}"),
        ("acme", ("day",), "{acme}:day"),
        ("acme", ("gpt-5", "day"), "{acme}:gpt-5:day"),
        ("a}c{me", ("{x}",), "{a%7Dc%7Bme}:{x}"),
        ("naïve team", ("day",), "{na%C3%AFve%20team}:day"),
    ],
)
def test_keys_begin_with_their_tenant(tenant: str, names: tuple[str, ...], key: str) -> None:
    assert tenant_key(tenant, *names) == key
    assert key.startswith(tag_of(key))
    assert tag_of(key) == tenant_key(tenant)


@pytest.mark.parametrize("key", ["", "day", "{}:day", "{acme", "x{acme}:day"])
def test_a_key_without_a_tenant_is_refused(key: str) -> None:
    with pytest.raises(ValueError):
        tag_of(key)
    with pytest.raises(ValueError):
        Slots(key, 2)


def test_a_tenant_has_a_name() -> None:
    with pytest.raises(ValueError):
        tenant_key("", "day")


@pytest.mark.parametrize(
    "make",
    [
        lambda: RequestBucket("{t}", 0, 1),
        lambda: RequestBucket("{t}", 1, 0),
        lambda: TokenBucket("{t}", 1, 1, period=0),
        lambda: TokenBucket("{t}", 10**10, 1, period=3600),
        lambda: Quota("{t}", 1),
        lambda: Quota("{t}", 1, ends_at=5, ttl=5),
    ],
)
def test_limits_that_cannot_be(make: Callable[[], Limit]) -> None:
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize(
    ("want", "left", "size"),
    [
        (100, 10_000, 100),
        (5000, 10_000, 2500),
        (5000, 4 * SMALL_LEASE, SMALL_LEASE),
        (5000, SMALL_LEASE + 1, SMALL_LEASE),
        (5000, 10, 10),
        (5, 10, 5),
        (5, 0, 0),
        (5, -7, 0),
        (0, 100, 0),
    ],
)
def test_the_size_of_a_lease(want: int, left: int, size: int) -> None:
    assert lease_size(want, left) == size
