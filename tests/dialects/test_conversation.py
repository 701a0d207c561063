"""By what requests of one conversation are recognised, in all APIs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from flowserver.dialects.conversation import TEXT_BYTES, WINDOW
from flowserver.names import USER_BYTES
from tests.support.conversations import conversation

USER = "Why is the sky blue?"
Body = dict[str, Any]


def texts(body: Mapping[str, object] | bytes) -> list[bytes]:
    written = body if isinstance(body, bytes) else orjson.dumps(body)
    return conversation(written).texts()


def name(**body: object) -> str | None:
    return conversation(orjson.dumps(body)).name


def message(role: str, content: object) -> Body:
    return {"role": role, "content": content}


def part(text: str, **more: object) -> Body:
    return {"type": "text", "text": text, **more}


MARK = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
CHATS: dict[str, tuple[Body, Body]] = {
    "openai-chat": (
        {"messages": [message("system", "S"), message("user", USER)]},
        {"messages": [message("system", "S"), message("user", USER), message("assistant", "R"), message("user", "?")]},
    ),
    "openai-chat, parts": (
        {"messages": [message("developer", [part("S")]), message("user", [part(USER)])]},
        {"messages": [message("developer", "S"), message("user", USER), message("assistant", "R")]},
    ),
    "openai-responses": (
        {"instructions": "S", "input": [message("user", USER)]},
        {"input": [message("user", USER), {"type": "message", "id": "msg_1", **message("assistant", [part("R")])}]}
        | {"instructions": "S"},
    ),
    "openai-responses, text": (
        {"instructions": "S", "input": USER},
        {"instructions": "S", "input": [message("user", USER)]},
    ),
    "anthropic": (
        {"system": [part("S", **MARK)], "messages": [message("user", [part(USER, **MARK)])]},
        {
            "system": "S",
            "messages": [message("user", USER), message("assistant", "R"), message("user", [part("?", **MARK)])],
        },
    ),
    "gemini": (
        {"systemInstruction": {"parts": [{"text": "S"}]}, "contents": [{"parts": [{"text": USER}]}]},
        {
            "system_instruction": {"parts": [{"text": "S"}]},
            "contents": [{"role": "user", "parts": [{"text": USER}]}, {"role": "model", "parts": [{"text": "R"}]}],
        },
    ),
    "bedrock-converse": (
        {
            "system": [{"text": "S"}, {"cachePoint": {"type": "default"}}],
            "messages": [message("user", [{"text": USER}])],
        },
        {
            "system": [{"text": "S"}],
            "messages": [message("user", [{"text": USER}]), message("assistant", [{"text": "R"}])],
        },
    ),
    "cohere": (
        {"messages": [message("system", "S"), message("user", USER)]},
        {"messages": [message("system", "S"), message("user", USER), message("assistant", "R"), message("user", "?")]},
    ),
    "ollama, generate": ({"system": "S", "prompt": USER}, {"prompt": USER, "stream": False, "system": "S"}),
}


@pytest.mark.parametrize(("first", "later"), CHATS.values(), ids=CHATS)
def test_a_later_turn_begins_as_the_first(first: Body, later: Body) -> None:
    assert texts(first) == texts(later) == [b"S", USER.encode()]


def test_two_conversations_with_the_same_instructions_begin_differently() -> None:
    long = "You are helpful. " * 1000
    one, other = ({"messages": [message("system", long), message("user", text)]} for text in ("a", "b"))
    assert texts(one) == [long[:TEXT_BYTES].encode(), b"a"]
    assert texts(other) == [long[:TEXT_BYTES].encode(), b"b"]


def test_a_long_text_counts_with_its_beginning() -> None:
    prompt = "x" * TEXT_BYTES
    assert texts({"prompt": prompt + "a" * WINDOW}) == texts({"prompt": prompt + "b"}) == [prompt.encode()]
    messages = {"messages": [message("user", "y" * 2 * WINDOW), message("user", "z")]}
    assert texts(messages) == [b"y" * TEXT_BYTES]


def test_the_first_message_counts_behind_long_instructions() -> None:
    messages = [message("system", "s" * (WINDOW - 200)), message("user", USER)]
    assert texts({"messages": messages})[1:] == [USER.encode()]


def test_a_text_that_the_window_cuts_counts() -> None:
    for cut in range(-3, 4):  # also between a backslash and what it escapes
        text = "\n" * ((WINDOW + cut - 100) // 2)
        body = orjson.dumps({"messages": [message("user", [part("a" * cut if cut > 0 else ""), part(text)])]})
        assert texts(body)[-1] == rb"\n" * (TEXT_BYTES // 2)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"prompt": ["a", "b"]}, [b"a"]),
        ({"input": ["a", "b"], "model": "e"}, [b"a"]),
        ({"prompt": [1, 2, 3]}, [b"[1,2,3]"]),
        ({"prompt": [[1, 2], [3]]}, [b"[[1,2],[3]]"]),
        ({"inputs": "a", "parameters": {}}, [b"a"]),
        ({"text": "a", "sampling_params": {}}, [b"a"]),
        ({"messages": []}, [b"[]"]),
        ({"messages": [{"role": "user"}]}, [b'[{"role":"user"}]']),
        ({"messages": None}, [b"null"]),
        ({"other": "a"}, [b'{"other":"a"}']),
        ({"messages": [message("user", "a")], "input": "b"}, [b"a"]),
        ({"messages": [message("system", "a")]}, [b"a"]),
        ({"messages": [message("user", 'say "hi" \\ [')]}, [rb"say \"hi\" \\ ["]),
        (
            {"messages": [message("tool", [{"id": "x", "json": {"b": ["c", {"d": "e"}]}}]), message("user", "f")]},
            [b"c", b"e"],
        ),
        (b'{"messages":[{"content":"a","role":"system"},{"content":"b"},{"content":"c"}]}', [b"a", b"b"]),
        (b"no JSON", [b"no JSON"]),
        (b"", []),
    ],
)
def test_what_counts(body: Body | bytes, found: list[bytes]) -> None:
    assert texts(body) == found


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":["a"',
        b'{"prompt":"a"} {"prompt":"b"}',
        b'[{"messages":"a"}]',
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_can_not_be_read_counts_with_its_beginning(body: bytes) -> None:
    assert texts(body) == [body[:TEXT_BYTES]]
    assert conversation(body).name is None


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"messages":["a"],"messages":["b"]}', [b"b"]),
        (b'{"messages":["a"],"Messages":["b"]}', [b"a"]),
        (b'{"systemInstruction":"a","systemInstruction":"b"}', [b"b"]),
        (b'{"prompt":"a","prompt_cache_key":"%b"}' % (b"k" * 10_000), [b"a"]),
        (b'{"prompt":"a","prompt_cache_key":"\\q"}', [b"a"]),
    ],
)
def test_of_two_members_with_one_name_the_last_counts_and_odd_names_do_not(body: bytes, found: list[bytes]) -> None:
    """No request fails because of its conversation."""
    assert texts(body) == found
    assert conversation(body).name is None


def test_the_name_of_a_conversation() -> None:
    assert name(prompt_cache_key="k", conversation="c", user="u") == "k"
    assert name(conversation="c") == name(conversation={"id": "c"}) == "c"
    long = name(prompt_cache_key="k" * 8000)
    assert long is not None
    assert len(long) <= USER_BYTES
    assert name(prompt_cache_key="k" * 8001) is not None


@pytest.mark.parametrize("value", [None, "", 7, 1.5, True, [], ["k"], {}, {"id": 7}, {"id": {"id": "k"}}])
def test_what_is_no_name(value: object) -> None:
    assert name(prompt_cache_key=value, conversation=value) is None
    assert name(metadata={"prompt_cache_key": "nested"}, previous_response_id="resp_1", conversation=value) is None
