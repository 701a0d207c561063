"""How far estimates are off, on recordings of repositories that had no part in the fit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.estimates import (
    Answer,
    Held,
    Question,
    errors,
    fit_input,
    fit_output,
    held_out_answers,
    held_out_questions,
    read,
)
from flowserver.dialects.estimate import FAMILIES, Content
from flowserver.dialects.input_estimate import INPUT_FAMILIES, InputContent

FOLDER = os.environ.get("FLOW_CORPUS")
needs_recordings = pytest.mark.skipif(not FOLDER, reason="FLOW_CORPUS does not name a folder of recordings")


def answer(number: int, tokens: int, *, factor: float = 1.0, repository: str = "a") -> Answer:
    content = Content(4 * tokens, 1, tokens / factor)
    return Answer(f"{number}", repository, "openai-chat", "text", "other", content, True, tokens)


def test_what_answers_have_in_common_is_found() -> None:
    fitted = fit_output([answer(number, 100 + 10 * number, factor=1.3) for number in range(40)])
    assert fitted["other"].factor == pytest.approx(1.3, rel=0.05)
    assert fitted["claude"].factor == pytest.approx(1.2), "nothing was seen of these"


def test_what_requests_have_in_common_is_found() -> None:
    def question(tokens: int) -> Question:
        content = InputContent(tokens, 1, 0, 0, 0)
        return Question("", "a", "openai-chat", "input", "other", content, False, tokens + 14)

    families, markup = fit_input([question(tokens) for tokens in range(10, 200, 5)])
    for tokens in (12, 50, 150):
        assert question(tokens).estimate(families["other"], markup) == pytest.approx(tokens + 14, rel=0.03, abs=2)


def test_an_answer_takes_no_part_in_its_own_estimate() -> None:
    like_others = [answer(number, 200, repository="a") for number in range(20)]
    odd = [answer(number, 600, factor=3.0, repository="b") for number in range(5)]
    held = held_out_answers([*like_others, *odd])
    assert errors(each for each in held if each.of.repository == "b").median > 0.5


def test_errors_are_relative() -> None:
    held = [Held(answer(number, 100), 100 + number) for number in range(1, 11)]
    assert (errors(held).count, errors(held).median, errors(held).p90) == (10, 0.05, 0.09)
    assert errors([]).count == 0


@needs_recordings
def test_output_is_estimated_well() -> None:
    """Text, tool calls and shown reasoning together."""
    assert FOLDER
    held = held_out_answers(read(Path(FOLDER)).answers)
    found = errors(held)
    assert found.count >= 100
    assert found.median <= 0.12
    assert found.p90 <= 0.40
    for kind, median in (("text", 0.05), ("reasoning", 0.06), ("tools", 0.20)):
        assert errors(each for each in held if each.of.kind == kind).median <= median, kind


@needs_recordings
def test_input_is_estimated_well() -> None:
    """Of requests that list no tool of the provider's own."""
    assert FOLDER
    recorded = read(Path(FOLDER))
    held = held_out_questions([each for each in recorded.questions if not each.has_server_tools])
    assert len(held) >= 80
    assert errors(held).median <= 0.15


@needs_recordings
def test_the_relays_constants_are_those_that_fit() -> None:
    """Up to rounding, and to what another order of the recordings makes."""
    assert FOLDER
    recorded = read(Path(FOLDER))
    for name, family in fit_output(recorded.answers).items():
        assert family.factor == pytest.approx(FAMILIES[name].factor, abs=0.02)
        assert family.call == pytest.approx(FAMILIES[name].call, abs=1)
    inputs, _ = fit_input([each for each in recorded.questions if not each.has_server_tools])
    for name, made in inputs.items():
        assert made.base == pytest.approx(INPUT_FAMILIES[name].base, abs=1)
