"""Keys and models that a provider refuses for now."""

from __future__ import annotations

import pytest

from flowserver.routing.cooldowns import MAX_COOLDOWN, Cooldowns

KEY, OTHER_KEY = ("key", b"1"), ("key", b"2")
MODEL, OTHER_MODEL = ("model", "cold"), ("model", "warm")


@pytest.fixture
def cooldowns() -> Cooldowns:
    return Cooldowns(failures=3, cooldown=10.0)


def test_a_key_is_left_alone_as_long_as_the_provider_asks_within_reason(cooldowns: Cooldowns) -> None:
    cooldowns.limited(0, KEY, 5)
    cooldowns.limited(1, KEY, 1)
    assert not cooldowns.allows(4.9, KEY, MODEL)
    assert cooldowns.allows(5, KEY, MODEL)
    cooldowns.limited(5, KEY, 1e9)
    assert cooldowns.allows(5 + MAX_COOLDOWN, KEY)


def test_other_keys_and_models_are_not_touched(cooldowns: Cooldowns) -> None:
    cooldowns.limited(0, KEY, 60)
    for _ in range(5):
        cooldowns.failed(0, MODEL, None)
    assert cooldowns.allows(1, OTHER_KEY, OTHER_MODEL)
    assert not cooldowns.allows(1, OTHER_KEY, MODEL)
    assert not cooldowns.allows(1, KEY, OTHER_MODEL)


def test_a_model_is_left_alone_after_failures_in_a_row(cooldowns: Cooldowns) -> None:
    cooldowns.failed(0, MODEL, None)
    cooldowns.failed(0, MODEL, None)
    assert cooldowns.allows(0, MODEL)
    cooldowns.failed(0, MODEL, None)
    assert not cooldowns.allows(9.9, MODEL)
    assert cooldowns.allows(10, MODEL)
    cooldowns.failed(10, MODEL, None)
    assert not cooldowns.allows(19.9, MODEL)


def test_an_answer_ends_the_trouble(cooldowns: Cooldowns) -> None:
    cooldowns.failed(0, MODEL, 30)
    cooldowns.limited(0, KEY, 30)
    assert cooldowns
    cooldowns.served(KEY, MODEL)
    assert cooldowns.allows(0, KEY, MODEL)
    assert not cooldowns


def test_no_time_told_is_no_reason_to_wait(cooldowns: Cooldowns) -> None:
    cooldowns.limited(0, KEY, None)
    assert cooldowns.allows(0, KEY)
    assert not cooldowns


def test_made_up_keys_and_models_fill_no_memory(cooldowns: Cooldowns) -> None:
    for number in range(5000):
        cooldowns.limited(0, ("model", str(number)), 60)
    assert len(cooldowns) == 1000
    assert not cooldowns.allows(1, ("model", "4999"))
    assert cooldowns.allows(1, ("model", "0"))


def test_the_ones_refused_longest_ago_make_room(cooldowns: Cooldowns) -> None:
    for number in range(1000):
        cooldowns.limited(0, ("model", str(number)), 60)
    cooldowns.limited(1, ("model", "0"), 60)
    cooldowns.limited(1, KEY, 60)
    assert not cooldowns.allows(2, ("model", "0"))
    assert cooldowns.allows(2, ("model", "1"))


def test_what_is_over_is_forgotten(cooldowns: Cooldowns) -> None:
    cooldowns.limited(0, KEY, 60)
    cooldowns.failed(50, MODEL, None)
    cooldowns.limited(100, OTHER_KEY, 1)
    assert cooldowns.allows(119, KEY)
    assert len(cooldowns) == 3
    assert cooldowns.allows(120, KEY)
    assert len(cooldowns) == 2
    cooldowns.limited(170, OTHER_KEY, 1)
    assert len(cooldowns) == 1
    assert cooldowns.allows(290, MODEL)
    assert not cooldowns


def test_a_failure_is_remembered_beyond_its_cooldown_and_not_for_ever(cooldowns: Cooldowns) -> None:
    for _ in range(3):
        cooldowns.failed(0, MODEL, None)
    cooldowns.failed(119, MODEL, None)
    assert not cooldowns.allows(128, MODEL)
    cooldowns.failed(239, MODEL, None)
    assert cooldowns.allows(239, MODEL), "the first of a new row"


def test_no_cooldown_is_forgotten_before_it_is_over() -> None:
    cooldowns = Cooldowns(failures=1, cooldown=600.0)
    cooldowns.failed(0, MODEL, None)
    assert not cooldowns.allows(599, MODEL)
    assert cooldowns.allows(600, MODEL)


def test_its_state_shows(cooldowns: Cooldowns) -> None:
    cooldowns.limited(0, KEY, 60)
    assert repr(cooldowns) == "<Cooldowns of 1 keys and models>"
