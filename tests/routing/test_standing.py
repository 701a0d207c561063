"""What a provider refuses to whom."""

from __future__ import annotations

import pytest

from flowserver.routing.standing import MAX_COOLDOWN, Standing

KEY, OTHER_KEY = ("key", b"1"), ("key", b"2")
MODEL, OTHER_MODEL = ("model", "cold"), ("model", "warm")


@pytest.fixture
def standing() -> Standing:
    return Standing(failures=3, cooldown=10.0)


def test_a_key_is_left_alone_as_long_as_the_provider_asks_within_reason(standing: Standing) -> None:
    standing.limited(0, KEY, 5)
    standing.limited(1, KEY, 1)
    assert not standing.allows(4.9, KEY, MODEL)
    assert standing.wait(3, KEY) == 2
    assert standing.allows(5, KEY, MODEL)
    standing.limited(5, KEY, 1e9)
    assert standing.allows(5 + MAX_COOLDOWN, KEY)


def test_other_keys_and_models_are_not_touched(standing: Standing) -> None:
    standing.limited(0, KEY, 60)
    for _ in range(5):
        standing.failed(0, MODEL, None)
    assert standing.allows(1, OTHER_KEY, OTHER_MODEL)
    assert not standing.allows(1, OTHER_KEY, MODEL)
    assert not standing.allows(1, KEY, OTHER_MODEL)


def test_a_model_is_left_alone_after_failures_in_a_row(standing: Standing) -> None:
    standing.failed(0, MODEL, None)
    standing.failed(0, MODEL, None)
    assert standing.allows(0, MODEL)
    standing.failed(0, MODEL, None)
    assert not standing.allows(9.9, MODEL)
    assert standing.allows(10, MODEL)
    standing.failed(10, MODEL, None)
    assert not standing.allows(19.9, MODEL)


def test_an_answer_ends_the_trouble(standing: Standing) -> None:
    standing.failed(0, MODEL, 30)
    standing.limited(0, KEY, 30)
    assert standing
    standing.served(KEY, MODEL)
    assert standing.allows(0, KEY, MODEL)
    assert not standing


def test_no_time_told_is_no_reason_to_wait(standing: Standing) -> None:
    standing.limited(0, KEY, None)
    assert standing.allows(0, KEY)
    assert not standing


def test_made_up_keys_and_models_fill_no_memory(standing: Standing) -> None:
    for number in range(5000):
        standing.limited(0, ("model", str(number)), 60)
    assert not standing.allows(1, ("model", "4999"))
    assert standing.allows(1, ("model", "0"))
