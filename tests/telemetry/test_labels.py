"""Which models get labels, whatever names clients make up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.telemetry.labels import ANSWERS, AT_ONCE, LEAD, MAX_CANDIDATES, MAX_MODELS, OTHER, ModelLabels


def label(labels: ModelLabels, model: str, tokens: int = 1, *, answered: bool = True) -> str:
    return labels.count(model, tokens, answered=answered)[0]


def full(*configured: str) -> ModelLabels:
    """All labels are given away, to `m-0` and on, by tokens in this order."""
    labels = ModelLabels()
    labels.configure(configured)
    for _ in range(ANSWERS):
        for number in range(MAX_MODELS - len(configured)):
            label(labels, f"m-{number}", 10 + number)
    return labels


def test_the_first_models_have_labels_at_once() -> None:
    labels = ModelLabels()
    names = [f"m-{number}" for number in range(AT_ONCE)]
    assert [label(labels, name) for name in names] == names
    assert [label(labels, "late") for _ in range(ANSWERS + 1)] == [OTHER] * (ANSWERS - 1) + ["late"] * 2


def test_a_name_that_no_provider_answers_for_gets_none() -> None:
    labels = ModelLabels()
    assert label(labels, "m", answered=False) == OTHER
    assert label(labels, "m") == "m"
    assert label(labels, "m", answered=False) == "m"


@pytest.mark.parametrize("name", ["", OTHER])
def test_no_name_and_the_common_one_are_always_there(name: str) -> None:
    assert full().count(name, 10**9, answered=True) == (name, None)


def test_when_all_are_given_away_tokens_decide() -> None:
    labels = full()
    least = 10 * ANSWERS
    for _ in range(ANSWERS):
        assert label(labels, "poor", 1) == OTHER
    assert labels.count("rich", LEAD * least, answered=True) == (OTHER, None)
    assert labels.count("rich", 0, answered=True) == (OTHER, None)
    assert labels.count("rich", 0, answered=True) == ("rich", "m-0")
    assert label(labels, "m-1") == "m-1"


def test_a_model_earns_its_label_again() -> None:
    labels = full()
    for _ in range(ANSWERS):
        label(labels, "rich", 10**6)
    assert label(labels, "m-0") == OTHER
    assert labels.count("m-0", 10**6, answered=True) == ("m-0", "m-1")


def test_the_configuration_s_models_are_always_there() -> None:
    labels = full("a", "b")
    assert label(labels, "a") == "a"
    assert label(labels, "b", answered=False) == "b"
    for _ in range(ANSWERS):
        label(labels, "rich", 10**6)
    assert label(labels, "a") == "a"


def test_with_another_configuration_labels_go_to_others() -> None:
    labels = full("a", "b")
    label(labels, "a", 10**6)
    label(labels, "b", 1)
    assert labels.configure({"c", "d"}) == ["b", "m-0"]
    assert label(labels, "a") == "a"
    assert label(labels, "b") == OTHER
    assert label(labels, "c") == "c"


def test_a_configuration_may_name_more_than_there_are_labels() -> None:
    names = [f"c-{number}" for number in range(2 * MAX_MODELS)]
    labels = ModelLabels()
    assert label(labels, "m") == "m"
    assert labels.configure(names) == ["m"]
    assert [label(labels, name) for name in names] == names
    assert [label(labels, "m", 10**6) for _ in range(5)] == [OTHER] * 5


def test_what_is_never_used_again_is_forgotten_first() -> None:
    labels = ModelLabels()
    for number in range(AT_ONCE):
        label(labels, f"m-{number}")
    for number in range(10 * MAX_CANDIDATES):
        assert label(labels, f"junk-{number}") == OTHER
        if number % 500 == 0 and number < 500 * ANSWERS:
            seen = label(labels, "real")
    assert seen == "real"
    assert label(labels, "junk-0") == label(labels, "junk-0") == OTHER


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 1000), st.booleans()), max_size=600))
def test_there_are_never_too_many(uses: list[tuple[int, int, bool]]) -> None:
    labels, shown = ModelLabels(), set()
    labels.configure({"0", "1"})
    for number, tokens, answered in uses:
        given_label, lost = labels.count(str(number % 230), tokens, answered=answered)
        shown.add(given_label)
        shown.discard(lost or "-")
        assert len(shown - {OTHER}) <= MAX_MODELS


def test_names_that_are_made_up_at_will_make_few_series() -> None:
    """Each takes over a label once it has twice the tokens of the least used one."""
    labels, changes = ModelLabels(), 0
    for number in range(5000):
        for _ in range(ANSWERS):
            changes += labels.count(f"junk-{number}", 100, answered=True)[1] is not None
    assert changes == 0
