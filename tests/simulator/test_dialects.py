"""What holds for every dialect: the official types take its answers, and its reports are what was emitted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flowserver.simulator.dialect import BadRequest, Dialect, Reply
from flowserver.simulator.events import NumberedEvents
from flowserver.simulator.paths import dialect_of
from flowserver.simulator.script import Script

from .speakers import CHAT, GEMINI, MESSAGES, RESPONSES, SPEAKERS, Speaker, payloads

every_dialect = pytest.mark.parametrize("speaker", SPEAKERS, ids=lambda speaker: speaker.name)


def dialect(target: str) -> Dialect:
    path, _, query = target.partition("?")
    found = dialect_of(path, query)
    assert found is not None
    return found


def reply(speaker: Speaker, script: Script | None = None, *, stream: bool = True, limit: int | None = None) -> Reply:
    target, body = speaker.request(stream=stream, limit=limit)
    return dialect(target).read(body, script or Script())


def stream(made: Reply) -> list[dict[str, Any]]:
    """All the events of a reply."""
    events = NumberedEvents(made.content(), size=300, chunked=False)
    content = [events.one(number) for number in range(made.plan.tokens)]
    return payloads(b"".join([*made.opening(), *content, *made.closing(made.plan.tokens)]))


def asked(target: str, body: dict[str, Any], script: Script | None = None) -> Reply:
    return dialect(target).read(json.dumps(body).encode(), script or Script())


# (events, reasoning, limit) -> (content events, reasoning, whether the limit ends it)
CASES: dict[tuple[int, int, int | None], tuple[int, int, bool]] = {
    (12, 0, None): (12, 0, False),
    (12, 0, 12): (12, 0, False),
    (12, 0, 11): (11, 0, True),
    (0, 0, 3): (3, 0, True),
    (12, 30, None): (12, 30, False),
    (12, 30, 42): (12, 30, False),
    (12, 30, 41): (11, 30, True),
    (12, 30, 20): (0, 20, True),
}


@every_dialect
@pytest.mark.parametrize("case", CASES)
def test_a_stream_reports_what_it_emits(speaker: Speaker, case: tuple[int, int, int | None]) -> None:
    events, reasoning, limit = case
    tokens, hidden, limited = CASES[case]
    told = stream(reply(speaker, Script(events=events, reasoning=reasoning), limit=limit))
    texts = [text for text in map(speaker.text, told) if text]
    assert texts == [f"tok{number:06d} " for number in range(tokens)]
    assert speaker.report(told) == (3, hidden + tokens, hidden)
    assert speaker.finish(told) == (speaker.limited if limited else speaker.stopped)
    for event in told:
        if event != {"type": "ping"}:  # which Anthropic's client drops before it looks at types
            speaker.event_type.validate_python(event)


@every_dialect
@pytest.mark.parametrize("case", CASES)
def test_a_whole_answer_reports_what_it_holds(speaker: Speaker, case: tuple[int, int, int | None]) -> None:
    events, reasoning, limit = case
    tokens, hidden, limited = CASES[case]
    body, offset = reply(speaker, Script(events=events, reasoning=reasoning), stream=False, limit=limit).whole()
    answer = json.loads(body)
    text = "".join(f"tok{number:06d} " for number in range(tokens))
    assert speaker.whole_text(answer) == text
    assert body[offset:].startswith(text.encode() + b'"')
    assert speaker.report([answer]) == (3, hidden + tokens, hidden)
    assert speaker.finish([answer]) == (speaker.limited if limited else speaker.stopped)
    speaker.whole_type.validate_python(answer)


@every_dialect
def test_a_whole_answer_has_the_size_that_was_asked_for(speaker: Speaker) -> None:
    body, _ = reply(speaker, Script(whole=12345), stream=False).whole()
    assert len(speaker.whole_text(json.loads(body))) == 12345


@every_dialect
@pytest.mark.parametrize("size", [1, 700])
def test_events_have_the_size_that_was_asked_for(speaker: Speaker, size: int) -> None:
    events = NumberedEvents(reply(speaker).content(), size=size, chunked=False)
    data = events.one(123)
    assert len(data) == events.size
    assert events.size == size or size == 1
    (payload,) = payloads(data)
    assert speaker.text(payload) == "tok000123 "


@every_dialect
def test_the_length_is_known_beforehand(speaker: Speaker) -> None:
    events = NumberedEvents(reply(speaker).content(), size=1, chunked=False)
    assert events.total(120) == sum(len(events.one(number)) for number in range(120))


@every_dialect
@pytest.mark.parametrize("body", [b"", b"[]", b"{"])
def test_what_is_no_request_is_refused(speaker: Speaker, body: bytes) -> None:
    with pytest.raises(BadRequest):
        dialect(speaker.path).read(body, Script())


@every_dialect
def test_an_endless_answer_must_be_streamed(speaker: Speaker) -> None:
    with pytest.raises(BadRequest):
        reply(speaker, Script(events=0), stream=False)


@pytest.mark.parametrize(
    ("target", "body", "param"),
    [
        (CHAT.path, {"stream_options": 1}, "stream_options"),
        (CHAT.path, {"model": "a\\u0000"}, "model"),
        (RESPONSES.path, {"stream": 1}, "stream"),
        (RESPONSES.path, {"max_output_tokens": 0}, "max_output_tokens"),
        (MESSAGES.path, {}, "max_tokens"),
        (MESSAGES.path, {"max_tokens": "9"}, "max_tokens"),
        (MESSAGES.path, {"max_tokens": 9, "messages": ""}, "messages"),
        (GEMINI.path, {"contents": {}}, "contents"),
        (GEMINI.path, {"generationConfig": [1]}, "generationConfig"),
        (GEMINI.path, {"generationConfig": {"maxOutputTokens": 1.5}}, "maxOutputTokens"),
        ("/v1beta/models/m:streamGenerateContent", {}, "alt"),
        ("/v1beta/models/%00:generateContent", {}, "model"),
    ],
)
def test_a_request_that_will_not_do(target: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        asked(target, body)
    assert caught.value.param == param
    assert param in str(caught.value)


@pytest.mark.parametrize(
    ("target", "body"),
    [
        (CHAT.path, {"messages": [{"content": "a b"}, {"content": [{"type": "text", "text": "c"}]}, 1]}),
        (RESPONSES.path, {"instructions": "a", "input": [{"content": "b"}, {"content": [{"text": "c"}]}]}),
        (MESSAGES.path, {"system": [{"text": "a"}], "messages": [{"content": "b c"}], "max_tokens": 1}),
        (GEMINI.path, {"systemInstruction": {"parts": [{"text": "a"}]}, "contents": [{"parts": [{"text": "b c"}]}]}),
    ],
)
def test_the_prompt_is_counted_in_words(target: str, body: dict[str, Any]) -> None:
    assert asked(target, body).plan.prompt_tokens == 3


def test_chat_reports_only_when_asked() -> None:
    assert all("usage" not in event for event in stream(asked(CHAT.path, {"stream": True})))
    told = stream(asked(CHAT.path, {"stream": True, "stream_options": {"include_usage": True}}))
    assert [event["usage"] for event in told[:-1]] == [None] * (len(told) - 1)
    assert told[-1]["choices"] == []


def test_chat_counts_on_every_event_when_asked() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"stream": True, "messages": [{"content": "a b c"}], "stream_options": options}
    told = stream(asked(CHAT.path, body, Script(events=12, reasoning=5)))
    counts = [0, *range(1, 13), 12, 12]
    assert [CHAT.report([event]) for event in told] == [(3, 5 + count, 5) for count in counts]


def test_chat_has_no_running_count_without_a_report() -> None:
    options = {"include_usage": False, "continuous_usage_stats": True}
    assert all("usage" not in event for event in stream(asked(CHAT.path, {"stream_options": options})))


def test_responses_number_their_events() -> None:
    told = stream(reply(RESPONSES, Script(events=12)))
    assert [event["sequence_number"] for event in told] == list(range(20))
    done = [event for event in told if event["type"].endswith(".done")]
    text = "".join(map(RESPONSES.text, told))
    assert done[0]["text"] == done[1]["part"]["text"] == done[2]["item"]["content"][0]["text"] == text


def test_responses_have_the_official_sequence() -> None:
    kinds = [event["type"].removeprefix("response.") for event in stream(reply(RESPONSES, Script(events=1)))]
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        "output_text.delta",
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]


def test_messages_have_the_official_sequence() -> None:
    told = stream(reply(MESSAGES, Script(events=1)))
    assert [event["type"].removeprefix("content_block_") for event in told] == [
        *("message_start", "start", "ping", "delta", "stop", "message_delta", "message_stop")
    ]


def test_gemini_counts_on_every_event() -> None:
    told = stream(reply(GEMINI, Script(events=12, reasoning=5)))
    assert [GEMINI.report([event]) for event in told] == [(3, 5 + tokens, 5) for tokens in [*range(1, 13), 12]]


def test_gemini_ends_its_lines_with_crlf() -> None:
    made = reply(GEMINI)
    event = NumberedEvents(made.content(), size=300, chunked=False).one(0)
    assert all(data.endswith(b"}\r\n\r\n") for data in [event, *made.closing(1)])


def test_gemini_takes_the_model_from_the_path() -> None:
    assert asked("/v1beta/models/a%20b:generateContent", {}).plan.model == "a b"


@pytest.mark.parametrize(
    "path", ["/", "/v1beta/models/m", "/v1beta/models/m:countTokens", "/v1beta/models/a/b:generateContent"]
)
def test_other_paths_have_no_dialect(path: str) -> None:
    assert dialect_of(path, "") is None


@pytest.mark.parametrize(
    ("speaker", "status", "word"),
    [
        (CHAT, 400, "invalid_request_error"),
        (CHAT, 429, "rate_limit_error"),
        (RESPONSES, 503, "server_error"),
        (MESSAGES, 400, "invalid_request_error"),
        (MESSAGES, 500, "api_error"),
        (MESSAGES, 529, "overloaded_error"),
        (GEMINI, 429, "RESOURCE_EXHAUSTED"),
        (GEMINI, 418, "UNKNOWN"),
    ],
)
def test_errors_in_the_dialects_words(speaker: Speaker, status: int, word: str) -> None:
    problem = json.loads(dialect(speaker.path).error(status, "why"))["error"]
    assert problem["message"] == "why"
    assert word in (problem.get("type"), problem.get("status"))
