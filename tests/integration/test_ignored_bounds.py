"""Providers that ignore a request's own bound, as many do with one of `max_tokens` and `max_completion_tokens`: what a
client names there makes nothing cheaper, and no budget longer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.bills import JSON, Till, answer
from tests.support.lab import Lab
from tests.support.streams import CHAT, INPUT
from tests.support.wholes import WHOLES

WORDS = ["some words of an answer, and more of them here. "] * 400
TOKENS = 4000
"""Of `WORDS`, as the provider counts them."""
ASKED = CHAT.body | {"max_completion_tokens": 1}
CLOSED = (*CHAT.opening, *map(CHAT.content, WORDS), *CHAT.closing)


@pytest.mark.parametrize("fast_path", ["on", "off"])
async def test_a_report_that_the_answer_bears_out_is_charged(lab: Lab, tmp_path: Path, fast_path: str) -> None:
    till = await Till.of(lab, tmp_path, fast_path=fast_path)
    for http2 in (False, True):
        bill = await till.play(CHAT.target, ASKED, answer(*CHAT.events(WORDS, TOKENS)), http2=http2)
        assert (bill.charge, bill.line["estimated"]) == (INPUT + TOKENS, False)


async def test_a_whole_answer_likewise(lab: Lab, tmp_path: Path) -> None:
    till = await Till.of(lab, tmp_path)
    [whole] = [each for each in WHOLES if each.name == "openai-chat"]
    given = answer(whole.answer("".join(WORDS), TOKENS), kind=JSON)
    bill = await till.play(whole.target, whole.body | {"max_completion_tokens": 1}, given)
    assert bill.charge == INPUT + TOKENS


async def test_without_a_report_what_came_is_charged(lab: Lab, tmp_path: Path) -> None:
    till = await Till.of(lab, tmp_path)
    bound = await till.play(CHAT.target, ASKED, answer(*CLOSED))
    free = await till.play(CHAT.target, CHAT.body, answer(*CLOSED))
    assert bound.charge == free.charge > TOKENS
    left = await till.play(CHAT.target, ASKED, replace(answer(*CLOSED[:-2]), holds=True), leaves=80_000)
    assert left.charge > TOKENS * 0.9


@pytest.mark.parametrize("fast_path", ["on", "off"])
async def test_a_budget_ends_it_all_the_same(lab: Lab, tmp_path: Path, fast_path: str) -> None:
    till = await Till.of(lab, tmp_path, fast_path=fast_path)
    bill = await till.play(CHAT.target, ASKED, answer(*CHAT.events(WORDS, TOKENS)), budget=200)
    assert (bill.line["end"], bill.output) == ("budget", 200)
    assert bill.body.count(b"some words") <= 200 // 9


async def test_a_report_that_nothing_bears_out_is_not_believed(lab: Lab, tmp_path: Path) -> None:
    till = await Till.of(lab, tmp_path)
    bill = await till.play(CHAT.target, ASKED, answer(*CHAT.events(["Yes", "."], 70_000)))
    assert (bill.output, bill.line["estimated"]) == (1, True)
