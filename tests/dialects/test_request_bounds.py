"""How many tokens an answer may have, by the request: whichever reading of it the provider has."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from flowserver.dialects.base import Format
from flowserver.dialects.bedrock import BEDROCK_CONVERSE, BEDROCK_INVOKE
from flowserver.dialects.ollama import OLLAMA_CHAT
from flowserver.dialects.openai_chat import OPENAI_CHAT, OPENAI_COMPLETIONS
from flowserver.dialects.profiles import GENERIC


@pytest.mark.parametrize(
    ("body", "most"),
    [
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 8}, 8),
        ({"max_tokens": 9, "max_completion_tokens": 8}, 9),
        ({"max_tokens": 7, "n_predict": 500}, 500),
        ({"max_tokens": 7, "n_predict": -1}, None),
        ({"max_tokens": -1, "max_completion_tokens": 8}, None),
        ({"max_tokens": "7"}, 7),
        ({"max_tokens": [7]}, None),
        ({"n_predict": 7}, None),
        ({}, None),
    ],
)
def test_the_largest_bound_is_believed(body: dict[str, Any], most: int | None) -> None:
    assert OPENAI_CHAT.read_params("/v1/chat/completions", body).max_tokens == most
    assert OPENAI_COMPLETIONS.read_params("/v1/completions", body).max_tokens == most


@pytest.mark.parametrize(
    ("action", "body", "most"),
    [
        ("converse", {"inferenceConfig": {"maxTokens": 7}}, 7),
        ("converse", {"inferenceConfig": {"maxTokens": 500}, "max_tokens": 1}, 500),
        ("converse", {"inferenceConfig": {"max_new_tokens": 1}}, None),
        ("converse", {"max_tokens": 1}, None),
        ("invoke", {"max_tokens": 7}, 7),
        ("invoke", {"max_tokens": 1, "max_gen_len": 500}, 500),
        ("invoke", {"max_tokens": 1, "inferenceConfig": {"max_new_tokens": 500}}, 500),
        ("invoke", {"max_tokens": 1, "max_gen_len": -1}, None),
        ("invoke", {}, None),
    ],
)
def test_bedrock_s_bound_is_the_one_of_its_api(action: str, body: dict[str, Any], most: int | None) -> None:
    form = BEDROCK_CONVERSE if action == "converse" else BEDROCK_INVOKE
    assert form.read_params(f"/model/m/{action}", body).max_tokens == most


@pytest.mark.parametrize(
    ("form", "before", "after"),
    [
        (OPENAI_CHAT, {"max_tokens": 7, "n_predict": 500}, {"max_tokens": 7, "n_predict": 100}),
        (OPENAI_CHAT, {"n_predict": -1}, {"max_tokens": 100, "n_predict": 100}),
        (OPENAI_CHAT, {"n": "+10"}, {"n": "+10", "max_tokens": 10}),
        (OPENAI_CHAT, {"n": "1_0.0"}, {"n": "1_0.0", "max_tokens": 10}),
        (OPENAI_CHAT, {"max_tokens": 0}, {"max_tokens": 100}),
        (OPENAI_COMPLETIONS, {}, {}),
        (OPENAI_COMPLETIONS, {"prompt": 6}, {"prompt": 6}),
        (OPENAI_COMPLETIONS, {"prompt": 10}, {"prompt": 10, "max_tokens": 10}),
        (OPENAI_COMPLETIONS, {"prompt": 10, "n": 3}, {"prompt": 10, "n": 3, "max_tokens": 3}),
        (OPENAI_COMPLETIONS, {"prompt": 10, "best_of": 5}, {"prompt": 10, "best_of": 5, "max_tokens": 2}),
        (OPENAI_COMPLETIONS, {"max_tokens": 5000}, {"max_tokens": 100}),
        (OPENAI_COMPLETIONS, {"max_completion_tokens": 5000}, {"max_completion_tokens": 100}),
        (OPENAI_COMPLETIONS, {"max_tokens": 0}, {"max_tokens": 0}),
        (OPENAI_COMPLETIONS, {"n_predict": 5000}, {"n_predict": 100}),
        (BEDROCK_CONVERSE, {"max_tokens": 7}, {"max_tokens": 7, "inferenceConfig": {"maxTokens": 100}}),
        (BEDROCK_CONVERSE, {"inferenceConfig": {"maxTokens": 500}}, {"inferenceConfig": {"maxTokens": 100}}),
        (BEDROCK_INVOKE, {"max_tokens": 7, "max_gen_len": 500}, {"max_tokens": 7, "max_gen_len": 100}),
        (OLLAMA_CHAT, {"options": {"num_predict": 0}}, {"options": {"num_predict": 100}}),
        (OLLAMA_CHAT, {"options": {"num_predict": -1}}, {"options": {"num_predict": 100}}),
        (OLLAMA_CHAT, {"options": {"num_predict": 50}}, {"options": {"num_predict": 50}}),
    ],
)
def test_all_answers_together_are_bounded(form: Format, before: dict[str, Any], after: dict[str, Any]) -> None:
    """`prompt`: how many there are."""
    body = deepcopy(before)
    assert form.limit(body, 100, GENERIC) == (before != after)
    assert body == after
