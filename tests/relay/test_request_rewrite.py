"""What a provider gets of a request."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from flowserver.dialects.profiles import QUIRKS
from flowserver.http.messages import RequestHead
from flowserver.relay.event_filter import EventFilter

from ..support.recording import account, ask, open_answer, read_request, target
from ..support.streams import (
    CHAT,
    COMPLETIONS,
    CONVERSE,
    GEMINI,
    INVOKE,
    STREAMS,
    Stream,
)


def sent(path: str, body: dict[str, Any] | bytes, *, budget: int | None = None, **settings: Any) -> Any:
    """What a provider gets of `body`; None: just that."""
    made = account(path)
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    read_request(made, raw)
    made.bound(budget)
    changed = ask(made, target(**settings), raw)
    return None if changed is None else orjson.loads(changed)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_usage_is_asked_for_where_it_comes_on_demand(path: str) -> None:
    body = {"model": "m", "stream": True, "stream_options": {"other": 1}}
    assert sent(path, body) == body | {"stream_options": {"other": 1, "include_usage": True}}
    assert sent(path, {"stream": True})["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("body", "settings"),
    [
        ({"stream": True, "stream_options": {"include_usage": True}}, {}),
        ({"stream": False}, {}),
        ({}, {}),
        ({"stream": True}, {"asks_usage": False}),
        ({"stream": True}, {"quirks": QUIRKS["mistral"]}),
        ({"stream": True, "stream_options": "odd"}, {}),
    ],
)
def test_usage_is_not_asked_for_in_vain(body: dict[str, Any], settings: dict[str, Any]) -> None:
    assert sent("/v1/chat/completions", body, **settings) is None


@pytest.mark.parametrize(
    "stream", [stream for stream in STREAMS if stream not in (CHAT, COMPLETIONS)], ids=lambda stream: stream.name
)
def test_where_usage_comes_anyway_a_request_stays_as_it_came(stream: Stream) -> None:
    assert sent(stream.target, stream.body) is None


CLAMPED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("/v1/chat/completions", {}, {"max_tokens": 50}),
    ("/v1/chat/completions", {"max_completion_tokens": 90}, {"max_completion_tokens": 50}),
    ("/v1/chat/completions", {"n": 5, "max_tokens": 90}, {"n": 5, "max_tokens": 10}),
    ("/v1/completions", {"max_tokens": 90}, {"max_tokens": 50}),
    ("/v1/responses", {}, {"max_output_tokens": 50}),
    ("/v1/messages", {"max_tokens": 90}, {"max_tokens": 50}),
    ("/v1beta/models/m:generateContent", {}, {"generationConfig": {"maxOutputTokens": 50}}),
    (
        "/v1beta/models/m:generateContent",
        {"generation_config": {"max_output_tokens": 90, "seed": 1}},
        {"generation_config": {"max_output_tokens": 50, "seed": 1}},
    ),
    ("/v2/chat", {"max_tokens": 90}, {"max_tokens": 50}),
    ("/api/chat", {"options": {"num_predict": -1, "seed": 1}}, {"options": {"num_predict": 50, "seed": 1}}),
    ("/api/generate", {}, {"options": {"num_predict": 50}}),
    (CONVERSE.target, {}, {"inferenceConfig": {"maxTokens": 50}}),
    (CONVERSE.target, {"inferenceConfig": {"maxTokens": 90}}, {"inferenceConfig": {"maxTokens": 50}}),
    (INVOKE.target, {"max_tokens": 90}, {"max_tokens": 50}),
]


@pytest.mark.parametrize(("path", "body", "expected"), CLAMPED)
def test_a_request_is_bounded_to_its_budget(path: str, body: dict[str, Any], expected: dict[str, Any]) -> None:
    model = {} if path.startswith("/model/") else {"model": "m"}
    assert sent(path, model | body, budget=50) == model | expected
    assert sent(path, model | expected, budget=50) is None
    assert sent(path, model | expected, budget=50_000) is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (INVOKE.target, {"prompt": "x"}),
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/other", {"max_tokens": 90}),
    ],
)
def test_what_cannot_be_bounded_stays_as_it_came(path: str, body: dict[str, Any]) -> None:
    assert sent(path, body, budget=50) is None


SIGNED = [
    (b"authorization", b"AWS4-HMAC-SHA256 Credential=x, SignedHeaders=host, Signature=y"),
    (b"authorization", b"AWS4-ECDSA-P256-SHA256 Credential=x, SignedHeaders=host, Signature=y"),
]


@pytest.mark.parametrize("field", SIGNED, ids=["v4", "v4a"])
@pytest.mark.parametrize("stream", [CONVERSE, INVOKE], ids=lambda stream: stream.name)
def test_a_signed_request_is_never_changed(stream: Stream, field: tuple[bytes, bytes]) -> None:
    made = account(request=RequestHead(b"POST", stream.target.encode(), [field], has_body=True))
    body = b'{"max_tokens": 90, "inferenceConfig": {"maxTokens": 90}}'
    read_request(made, body)
    made.bound(50)
    assert ask(made, target(), body) is None


def test_the_smaller_of_two_bounds_holds() -> None:
    made = account("/v1/messages")
    for most in (None, 70, 50, None, 60):
        made.bound(most)
    assert made.budget == 50


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions", "/v1/other"])
def test_a_model_gets_the_provider_s_name(path: str) -> None:
    body = {"model": "small", "max_tokens": 5}
    assert sent(path, body, models={"small": "tiny-2"}) == body | {"model": "tiny-2"}
    assert sent(path, body, models={"other": "tiny-2"}) is None


@pytest.mark.parametrize("stream", [GEMINI, CONVERSE], ids=lambda stream: stream.name)
def test_a_model_that_is_not_in_the_body_leaves_it_alone(stream: Stream) -> None:
    """A signature over the body would not hold for another spelling of the same."""
    assert sent(stream.target, b'{ "messages": [] }', models={"m": "tiny-2"}) is None


def test_each_provider_is_asked_in_its_own_way() -> None:
    made = account(CHAT.target)
    body = orjson.dumps(CHAT.body | {"model": "small"})
    read_request(made, body)
    first = orjson.loads(ask(made, target(models={"small": "tiny-2"}), body) or b"")
    assert (first["model"], first["stream_options"]) == ("tiny-2", {"include_usage": True})
    second = ask(made, target(name="other", asks_usage=False), body)
    assert second is None
    event_filter = open_answer(made, CHAT.head)
    assert isinstance(event_filter, EventFilter)
    assert not event_filter.edits
    assert made.upstream is not None
    assert made.upstream.name == "other"


NONSENSE = pytest.mark.parametrize("body", [b"", b"nonsense", b'{"model": "m"', b"[]", b'"text"', b"1", b"\xff"])


@NONSENSE
def test_a_request_that_makes_no_sense_is_the_provider_s_to_refuse(body: bytes) -> None:
    made = account(CHAT.target)
    assert read_request(made, body) is None
    made.bound(50)
    assert ask(made, target(models={"m": "tiny-2"}), body) is None
    event_filter = open_answer(made, CHAT.head)
    assert isinstance(event_filter, EventFilter)


DEEP = b'{"model": "m", "stream": true, "messages": ' + b"[" * 500 + b"]" * 500 + b"}"


def test_a_request_of_any_depth_is_changed_like_any_other() -> None:
    made = account(CHAT.target)
    assert read_request(made, DEEP) is None
    made.bound(50)
    changed = ask(made, target(models={"m": "tiny-2"}), DEEP)
    more = b',"stream_options":{"include_usage":true},"max_tokens":50}'
    assert changed == DEEP.replace(b'"m"', b'"tiny-2"')[:-1] + more


def test_nothing_else_of_a_request_is_touched() -> None:
    body = b' {"x": 1.10, "model" : "m",\t"max_tokens": 9e1, "y": "\\ud800", "big": 123456789012345678901234567890}\n'
    made = account(CHAT.target)
    assert read_request(made, *(body[at : at + 7] for at in range(0, len(body), 7))) is None
    made.bound(50)
    changed = ask(made, target(models={"m": "tiny-2"}), body)
    assert changed == body.replace(b'"m"', b'"tiny-2"').replace(b"9e1", b"50")


@pytest.mark.parametrize("model", [1, None, ["m"], {}])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/other"])
def test_a_model_that_is_no_text_is_none(path: str, model: object) -> None:
    made = account(path)
    body = orjson.dumps({"model": model})
    read_request(made, body)
    assert made.params.model is None
    assert ask(made, target(models={"m": "tiny-2"}), body) is None


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/messages", (b"x-api-key", b"key")),
        (GEMINI.target, (b"x-goog-api-key", b"key")),
        ("/v1/chat/completions", (b"authorization", b"Bearer key")),
        ("/v2/chat", (b"authorization", b"Bearer key")),
        (CONVERSE.target, (b"authorization", b"Bearer key")),
        ("/v1/models", (b"authorization", b"Bearer key")),
    ],
)
def test_a_key_goes_where_its_api_takes_it(path: str, field: tuple[bytes, bytes]) -> None:
    assert account(path).credential(target(api_key=b"key")) == field
    assert account(path).credential(target()) is None
