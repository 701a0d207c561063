"""Estimates of requests: what counts as text, attachments, large bodies, and that cuts make no difference."""

from __future__ import annotations

import json
import random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.dialects.input_estimate import (
    ATTACHED,
    BLOCK,
    INPUT_FAMILIES,
    LONG,
    InputContent,
    InputEstimate,
    input_family,
)

PROSE = "All that glitters is not gold, and not all those who wander are lost. "


def content(body: Any, *, size: int = 1 << 20) -> InputContent:
    """Of a request, that comes in pieces of `size`."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    estimate = InputEstimate()
    for start in range(0, len(data), size):
        estimate.feed(data[start : start + size])
    return estimate.content()


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def tokens(body: Any, format: str = "openai-chat", model: str = "gpt-4o") -> int:
    return content(body).tokens(input_family(format, model))


def packed(size: int) -> str:
    return "".join(random.Random(size).choices("ABCDEFGHabcdefgh0123456789+/", k=size))


def test_a_short_question() -> None:
    assert 12 <= tokens(chat("What is the capital of France?")) <= 16


def test_settings_and_ids_are_no_text() -> None:
    plain = content(chat("What is the capital of France?"))
    more = chat("What is the capital of France?", temperature=0.25, user="someone-with-a-long-name", stop=["a", "b"])
    assert content(more) == plain


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": PROSE},
        {"input": PROSE},
        {"input": [PROSE]},
        {"system": PROSE},
        {"instructions": PROSE},
        {"messages": [{"content": [{"type": "text", "text": PROSE}]}]},
        {"contents": [{"parts": [{"text": PROSE}]}]},
        {"tools": [{"description": PROSE}]},
        {"messages": [{"content": [{"type": "tool_result", "content": PROSE}]}]},
        {"input": [{"type": "function_call_output", "output": PROSE}]},
    ],
)
def test_where_text_is_found(body: Any) -> None:
    assert content(body).text_tokens == pytest.approx(content({"prompt": PROSE}).text_tokens)
    spaced = json.dumps(body, indent=2).encode()
    assert content(spaced).text_tokens == pytest.approx(content({"prompt": PROSE}).text_tokens)


def test_escapes_count_as_what_they_stand_for() -> None:
    text = 'Er sagte: "Schöne Grüße"\n你好，世界'
    plain, escaped = (json.dumps(chat(text), ensure_ascii=ascii_only).encode() for ascii_only in (False, True))
    assert content(escaped).text_tokens == pytest.approx(content(plain).text_tokens)
    assert content(rb'{"prompt":"cut off \u12').text_tokens > 0
    assert content(b'{"prompt":"cut off \\').text_tokens > 0


def test_messages_and_schemas_count() -> None:
    one, three = chat("Hi"), {"messages": [{"role": "user", "content": "Hi"}] * 3}
    assert content(three).messages == 3
    assert tokens(three) > tokens(one) + 6
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    found = content(chat("Hi", tools=[tool, tool]))
    assert (found.tools, found.types) == (2, 6)
    assert tokens(chat("Hi", tools=[tool])) > tokens(chat("Hi")) + 20


def test_gemini_does_not_bill_the_schema_of_an_answer() -> None:
    body = {"contents": [{"parts": [{"text": "Hi"}]}], "generationConfig": {"responseSchema": {"type": "OBJECT"}}}
    assert content(body).types == 1
    assert tokens(body, "gemini", "gemini-2.5-flash") < 5


@pytest.mark.parametrize("size", [LONG, LONG + 1, 3 * BLOCK + 17, 200_000])
@pytest.mark.parametrize("step", [1 << 20, 8192, 777])
def test_a_long_text_without_blanks_is_one_attachment(size: int, step: int) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + packed(size)}}
    body = orjson.dumps({"messages": [{"role": "user", "content": [{"type": "text", "text": PROSE}, image]}]})
    found = content(body, size=step)
    assert found.attachments == 1
    assert found.text_tokens == pytest.approx(content({"prompt": PROSE}).text_tokens, abs=1)
    assert found.tokens("gpt") < ATTACHED + 60


def test_several_attachments() -> None:
    parts = [{"data": packed(size)} for size in (2500, 9000, 40_000)]
    assert content({"messages": [{"content": parts}]}).attachments == 3


def test_shorter_ones_and_chinese_are_none() -> None:
    assert content(chat(packed(LONG // 2))).attachments == 0
    found = content(chat("今天天气很好我们去公园散步吧" * 400))
    assert found.attachments == 0
    assert found.text_tokens > 3000


@pytest.mark.parametrize("messages", [50, 400, 3000])
def test_a_large_body_is_known_by_some_of_its_blocks(messages: int) -> None:
    body = {"messages": [{"role": "user", "content": PROSE * (1 + number % 9)} for number in range(messages)]}
    exact = content({"prompt": PROSE}).text_tokens * sum(1 + number % 9 for number in range(messages))
    found = content(body)
    assert found.text_tokens == pytest.approx(exact, rel=0.1)
    assert found.messages == pytest.approx(messages, rel=0.15)


def test_texts_without_names_count() -> None:
    body = {"input": [PROSE] * 40}
    assert content(body).text_tokens == pytest.approx(40 * content({"prompt": PROSE}).text_tokens, rel=0.3)


bodies = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | st.text(max_size=30) | st.integers(1, 3000).map(packed),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["content", "text", "x"]), inner),
    max_leaves=30,
)


@given(bodies, st.integers(1, 50), st.integers(1, 9000))
def test_how_a_body_is_cut_makes_no_difference(value: Any, times: int, size: int) -> None:
    data = orjson.dumps({"messages": [value] * times})
    assert content(data, size=size) == content(data)


@given(st.binary(max_size=300), st.integers(1, 100), st.sampled_from(sorted(INPUT_FAMILIES)))
def test_nonsense_is_estimated_too(data: bytes, times: int, family: str) -> None:
    found = content(data * times)
    assert 1 <= found.tokens(family) <= 2000 + 4 * len(data) * times + found.attachments * ATTACHED


@pytest.mark.parametrize(
    ("format", "model", "family"),
    [
        ("openai-chat", "gpt-4.1-mini", "gpt"),
        ("openai-chat", "openai/o4-mini", "gpt"),
        ("openai-responses", "openai.gpt-oss-20b", "other"),
        ("openai-chat", "anthropic/claude-sonnet-4", "claude"),
        ("anthropic-messages", None, "claude"),
        ("bedrock-converse", "us.anthropic.claude-haiku-4-5", "claude"),
        ("bedrock-converse", "amazon.nova-lite-v1:0", "other"),
        ("openai-chat", "magistral-medium-latest", "mistral"),
        ("gemini", "gemini-2.5-flash", "gemini"),
        ("cohere", "command-a-03-2025", "cohere"),
        ("openai-responses", "grok-4.3", "grok"),
        ("openai-chat", None, "other"),
    ],
)
def test_families(format: str, model: str | None, family: str) -> None:
    assert input_family(format, model) == family
