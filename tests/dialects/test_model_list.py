"""What a tenant sees of a list of models."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from flowserver.dialects.model_list import EMPTY, listed_model, visible_models


@pytest.mark.parametrize(
    ("target", "listed"),
    [
        ("/v1/models", ""),
        ("/v1/models/", ""),
        ("/V1/Models?limit=5", ""),
        ("/v1beta/models;x=1", ""),
        ("/openai/v1/models", ""),
        ("/api/tags", ""),
        ("/v1/models/gpt-x", "gpt-x"),
        ("/v1/models/org%2Dx/small", "org-x/small"),
        ("/v1beta/models/gemini-x", "gemini-x"),
        ("/v1/files", None),
        ("/v1/models/a/b/c", None),
        ("/v1/chat/completions", None),
    ],
)
def test_which_requests_list_models(target: str, listed: str | None) -> None:
    assert listed_model(target) == listed


def visible(answer: Any, *allowed: str, aliases: dict[str, list[str]] | None = None) -> Any:
    body = answer if isinstance(answer, bytes) else orjson.dumps(answer)
    return orjson.loads(visible_models(body, lambda name: name in allowed, aliases or {}))


def named(*names: str, field: str = "id") -> list[dict[str, Any]]:
    return [{field: name, "more": [name]} for name in names]


def test_openai() -> None:
    answer = {"object": "list", "data": named("a", "b", "c")}
    assert visible(answer, "a", "c", "z") == {"object": "list", "data": named("a", "c")}
    assert visible(answer) == {"object": "list", "data": []}


def test_anthropic_s_edges_are_of_what_is_seen() -> None:
    answer = {"data": named("a", "b", "c"), "has_more": True, "first_id": "a", "last_id": "c"}
    assert visible(answer, "b") == {"data": named("b"), "has_more": True, "first_id": "b", "last_id": "b"}
    assert visible(answer) == {"data": [], "has_more": True, "first_id": None, "last_id": None}


def test_google() -> None:
    answer = {"models": named("models/a", "models/b", field="name"), "nextPageToken": "t"}
    assert visible(answer, "b") == {"models": named("models/b", field="name"), "nextPageToken": "t"}
    renamed = visible(answer, "small", aliases={"a": ["small"]})["models"]
    assert renamed == [{"name": "models/small", "more": ["models/a"]}]


def test_lists_of_two_kinds_in_one() -> None:
    """As llama.cpp has it."""
    answer = {"models": named("a", "b", field="name"), "data": named("a", "b")}
    assert visible(answer, "a") == {"models": named("a", field="name"), "data": named("a")}


def test_a_bare_list() -> None:
    assert visible(named("a", "b"), "b") == named("b")


def test_one_model() -> None:
    assert visible({"id": "a", "object": "model"}, "a") == {"id": "a", "object": "model"}
    assert visible({"id": "a", "object": "model"}, "b") == orjson.loads(EMPTY)
    assert visible({"id": "a", "object": "model"}, "b", aliases={"a": ["b"]}) == {"id": "b", "object": "model"}


def test_a_model_is_shown_under_the_names_by_which_it_is_asked_for() -> None:
    aliases = {"a": ["small", "a", "secret"], "b": ["big"]}
    shown = visible({"data": named("a", "b")}, "a", "small", "big", aliases=aliases)
    assert [model["id"] for model in shown["data"]] == ["a", "small", "big"]


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b'"a"', b"[", b'{"data":[{"id":"a"}]', b"\x1f\x8b\x08", b'\xef\xbb\xbf{"data":[]}', b"[" * 5000],
)
def test_what_can_t_be_read_is_not_shown(body: bytes) -> None:
    assert visible_models(body, lambda name: True, {}) == EMPTY


@pytest.mark.parametrize("model", ["a", 7, None, [], {}, {"id": 7}, {"object": "model"}, {"id": None}])
def test_what_has_no_name_is_not_shown(model: Any) -> None:
    assert visible({"data": [model, {"id": "a"}]}, "a", "7", "object") == {"data": [{"id": "a"}]}


@pytest.mark.parametrize(
    "model",
    [
        {"id": "a", "name": "b"},
        {"id": "a", "model": "b"},
        {"name": "a", "model": "b"},
    ],
)
def test_a_model_with_two_names_is_seen_by_the_first(model: dict[str, str]) -> None:
    assert visible({"data": [model]}, "a") == {"data": [model]}
    assert visible({"data": [model]}, "b") == {"data": []}


def test_a_list_that_is_nested_too_deep_to_be_written_again_shows_nothing() -> None:
    deep = b"[" * 500 + b"]" * 500
    assert visible_models(b'{"data":[{"id":"a","x":%b}]}' % deep, lambda name: True, {}) == EMPTY
