"""Answers that are fetched again."""

from __future__ import annotations

from flowserver.quota.charged_answers import ChargedAnswers


def test_prices_that_rise_make_no_answer_dearer_that_was_charged() -> None:
    charged = ChargedAnswers()
    charged.note("acme", "resp_1", 10, 100)
    assert charged.due("acme", "resp_1", 10, 200) == (0, 0)
    assert charged.due("acme", "resp_1", 12, 240) == (2, 40)
