"""Whether a provider takes the question for a usage report is found out once for each model."""

from __future__ import annotations

from flowserver.relay.usage_option import UsageOption


def test_what_is_not_known_is_tried_where_it_can_be_repeated() -> None:
    option = UsageOption()
    assert option.may_ask("m", repeatable=True)
    assert not option.may_ask("m", repeatable=False)
    assert option.may_be_refused("m")


def test_what_is_taken_is_asked_always() -> None:
    option = UsageOption()
    option.accepted("m")
    assert option.may_ask("m", repeatable=False)
    assert not option.may_be_refused("m")


def test_what_is_refused_is_not_asked_again() -> None:
    option = UsageOption()
    option.refused("m")
    assert not option.may_ask("m", repeatable=True)


def test_models_are_told_apart() -> None:
    option = UsageOption()
    option.refused("m")
    option.accepted(None)
    assert option.may_ask("another", repeatable=True)
    assert option.may_ask(None, repeatable=False)


def test_a_provider_may_learn() -> None:
    option = UsageOption()
    option.refused("m")
    option.accepted("m")
    assert option.may_ask("m", repeatable=False)


def test_invented_models_push_out_each_other() -> None:
    option = UsageOption()
    option.refused("first")
    for number in range(1000):
        option.accepted(f"m{number}")
    assert option.may_ask("first", repeatable=True)
    assert option.may_ask("m999", repeatable=False)


def test_a_model_in_use_is_not_pushed_out() -> None:
    option = UsageOption()
    option.refused("used")
    for number in range(3000):
        option.accepted(f"m{number}")
        assert not option.may_ask("used", repeatable=True)
