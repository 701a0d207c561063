"""OpenAI's Responses API: what is counted, how a stream ends early, what is asked of the provider."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.dialects.base import RequestParams
from flowserver.dialects.openai_items import KEPT
from flowserver.dialects.openai_responses import OPENAI_RESPONSES, ResponsesMeter
from flowserver.dialects.profiles import GENERIC
from flowserver.errors import DRAINED
from tests.dialects.reading import events, sse_events
from tests.support.corpus import Recording, each_recording

RESPONSE = {"id": "resp_1", "object": "response", "status": "in_progress", "model": "m-1", "output": [], "tools": []}
MESSAGE = {"type": "message", "id": "msg_1", "status": "in_progress", "role": "assistant", "content": []}
TEXT = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "add",
    "arguments": "",
    "status": "in_progress",
}

Event = tuple[str, dict[str, Any]]

CREATED: Event = ("response.created", {"response": RESPONSE})
OPENED: list[Event] = [
    CREATED,
    ("response.output_item.added", {"output_index": 0, "item": MESSAGE}),
    ("response.content_part.added", {**TEXT, "part": {"type": "output_text", "text": "", "annotations": []}}),
]


def say(text: str) -> Event:
    return "response.output_text.delta", {**TEXT, "delta": text, "logprobs": []}


def meter(*stream: Event, cuttable: bool = True, named: bool = True) -> ResponsesMeter:
    answer = OPENAI_RESPONSES.meter(RequestParams(model="m-0"), GENERIC, cuttable=cuttable)
    for number, (name, fields) in enumerate(stream):
        data = json.dumps({"type": name, **fields, "sequence_number": number}, ensure_ascii=False).encode()
        assert answer.read(name.encode() if named else b"", data)
    return answer


def counted(answer: ResponsesMeter) -> tuple[int, int, int]:
    return answer.content_bytes, answer.reasoning_bytes, answer.content_events


def sent(ending: bytes) -> list[Any]:
    """The ending's events; each is named by its type."""
    found = sse_events(ending)
    assert b"".join(raw for _, _, raw in found) == ending
    bodies = [json.loads(data) for _, data, _ in found]
    assert [event["type"].encode() for event in bodies] == [name for name, _, _ in found]
    return bodies


# --- counting ---


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("cuttable", [True, False])
@pytest.mark.parametrize(
    ("kind", "reasoning"),
    [
        ("output_text", 0),
        ("refusal", 0),
        ("reasoning_text", 5),
        ("reasoning_summary_text", 5),
        ("function_call_arguments", 0),
        ("mcp_call_arguments", 0),
        ("custom_tool_call_input", 0),
        ("code_interpreter_call_code", 0),
    ],
)
def test_deltas_are_content(kind: str, reasoning: int, *, cuttable: bool, named: bool) -> None:
    delta = (f"response.{kind}.delta", {"item_id": "x", "output_index": 0, "delta": "füur", "obfuscation": "pad"})
    assert counted(meter(delta, cuttable=cuttable, named=named)) == (5, reasoning, 1)


def test_nothing_else_is_content() -> None:
    done = ("response.output_text.done", {**TEXT, "text": "four"})
    part = ("response.content_part.done", {**TEXT, "part": {"type": "output_text", "text": "four"}})
    item = ("response.output_item.done", {"output_index": 0, "item": {**MESSAGE, "content": [{"text": "four"}]}})
    image = ("response.image_generation_call.partial_image", {"partial_image_b64": "AAAA"})
    assert counted(meter(*OPENED, say("four"), done, part, item, image)) == (4, 0, 1)


def test_a_tools_name_counts_with_its_first_arguments() -> None:
    opened = ("response.output_item.added", {"output_index": 0, "item": CALL})
    argument = ("response.function_call_arguments.delta", {"item_id": "fc_1", "output_index": 0, "delta": "{}"})
    assert counted(meter(opened)) == (0, 0, 0)
    assert counted(meter(opened, argument, argument)) == (7, 0, 2)


@pytest.mark.parametrize(
    ("name", "status", "details", "finish"),
    [
        ("response.completed", "completed", None, "completed"),
        ("response.incomplete", "incomplete", {"reason": "content_filter"}, "content_filter"),
        ("response.failed", "failed", None, "failed"),
    ],
)
def test_the_end_of_a_stream(name: str, status: str, details: object, finish: str) -> None:
    usage = {"input_tokens": 9, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 8}}
    usage |= {"output_tokens_details": {"reasoning_tokens": 4}}
    response = {**RESPONSE, "status": status, "incomplete_details": details, "usage": usage}
    answer = meter(CREATED, (name, {"response": response}))
    read = answer.usage
    assert (read.input, read.output, read.cached, read.reasoning) == (9, 5, 8, 4)
    assert (answer.finish, answer.finished, answer.model, answer.failed) == (finish, True, "m-1", None)
    assert answer.ending(7, 1) == b""


@pytest.mark.parametrize(
    "event",
    [
        ("error", {"code": "overloaded", "message": "no more", "param": None}),
        ("error", {"error": {"type": "overloaded", "message": "no more"}}),
        ("response.failed", {"response": {**RESPONSE, "status": "failed", "error": {"message": "no more"}}}),
    ],
)
def test_an_error_inside_a_stream(event: Event) -> None:
    failed = meter(event).failed
    assert failed is not None
    assert "no more" in failed


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_fields = ("item", "part", "delta", "output_index", "content_index", "response", "usage", "sequence_number", "content")
_names = st.sampled_from(
    [
        b"",
        b"response.created",
        b"response.output_item.added",
        b"response.output_item.done",
        b"response.content_part.added",
        b"response.output_text.delta",
        b"response.output_text.done",
        b"error",
        b"\xff.done",
    ]
)
_events = st.dictionaries(
    st.sampled_from(_fields), _json | st.dictionaries(st.sampled_from(_fields), _json), max_size=5
)


@given(st.lists(st.tuples(_names, _events.map(lambda event: json.dumps(event).encode()) | st.binary(max_size=30))))
def test_nonsense_raises_nothing(stream: list[tuple[bytes, bytes]]) -> None:
    answer, whole = meter(), meter()
    for name, data in stream:
        answer.read(name, data)
        whole.read_whole(data)
    assert sent(answer.ending(7, 1))[-1]["type"] == "response.incomplete"


# --- endings ---


def test_an_ending_closes_what_is_open() -> None:
    *closing, last = sent(meter(*OPENED, say("fo"), say("ür")).ending(7, 3))
    part = {"type": "output_text", "text": "foür", "annotations": []}
    item = {**MESSAGE, "status": "incomplete", "content": [part]}
    assert closing == [
        {"type": "response.output_text.done", **TEXT, "text": "foür", "logprobs": [], "sequence_number": 5},
        {"type": "response.content_part.done", **TEXT, "part": part, "sequence_number": 6},
        {"type": "response.output_item.done", "output_index": 0, "item": item, "sequence_number": 7},
    ]
    assert (last["type"], last["sequence_number"]) == ("response.incomplete", 8)
    response = last["response"]
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (response["id"], response["status"], response["output"]) == ("resp_1", "incomplete", [item])
    assert (response["usage"]["output_tokens"], response["usage"]["total_tokens"]) == (3, 10)


def test_what_is_closed_is_not_closed_again() -> None:
    done = ("response.output_text.done", {**TEXT, "text": "four"})
    part = {"type": "output_text", "text": "four", "annotations": []}
    part_done = ("response.content_part.done", {**TEXT, "part": part})
    item = {**MESSAGE, "status": "completed", "content": [part]}
    item_done = ("response.output_item.done", {"output_index": 0, "item": item})
    stream = [*OPENED, say("four"), done, part_done, item_done]
    ends = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
    for closed in range(4):
        *closing, last = sent(meter(*stream[: 4 + closed]).ending(7, 1))
        assert [event["type"] for event in closing] == ends[closed:]
        assert last["response"]["output"] == [{**item, "status": "completed" if closed == 3 else "incomplete"}]


def test_an_open_call_keeps_the_arguments_so_far() -> None:
    opened = ("response.output_item.added", {"output_index": 1, "item": CALL})
    argument = ("response.function_call_arguments.delta", {"item_id": "fc_1", "output_index": 1, "delta": '{"a'})
    *closing, last = sent(meter(CREATED, opened, argument).ending(7, 1))
    assert [event["type"] for event in closing] == [
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    assert closing[0]["arguments"] == '{"a'
    assert last["response"]["output"] == [{**CALL, "arguments": '{"a', "status": "incomplete"}]


def test_open_reasoning_is_closed_in_its_own_words() -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": []}
    place = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
    stream: list[Event] = [
        CREATED,
        ("response.output_item.added", {"output_index": 0, "item": item}),
        ("response.reasoning_summary_part.added", {**place, "part": {"type": "summary_text", "text": ""}}),
        ("response.reasoning_summary_text.delta", {**place, "delta": "hmm"}),
    ]
    *closing, last = sent(meter(*stream).ending(7, 1))
    assert [event["type"] for event in closing] == [
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
    ]
    assert last["response"]["output"][0]["summary"] == [{"type": "summary_text", "text": "hmm"}]


def test_an_ending_before_the_first_event() -> None:
    created, last = sent(meter().ending(7, 0))
    assert (created["type"], last["type"]) == ("response.created", "response.incomplete")
    assert created["response"]["model"] == "m-0"
    assert [created["sequence_number"], last["sequence_number"]] == [0, 1]


def test_a_very_long_answer_is_not_kept() -> None:
    answer = meter(*OPENED, say("x" * KEPT), say("more"))
    (last,) = sent(answer.ending(7, 1))
    assert last["response"]["output"] == []
    assert answer.content_bytes == KEPT + 4


def test_a_failure_is_an_error_event() -> None:
    (event,) = sent(meter(CREATED).failure(DRAINED))
    assert (event["type"], event["code"], event["param"], event["sequence_number"]) == ("error", "draining", None, 1)


# --- whole answers and requests ---


def test_a_whole_answer() -> None:
    output = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "content": [{"text": "m"}]},
        {**MESSAGE, "content": [{"type": "output_text", "text": "four"}, {"type": "refusal", "refusal": "no"}]},
        {**CALL, "arguments": "{}"},
        {"type": "web_search_call", "name": "unseen"},
    ]
    usage = {"input_tokens": 5, "output_tokens": 2}
    answer = meter()
    answer.read_whole(json.dumps({**RESPONSE, "status": "completed", "output": output, "usage": usage}).encode())
    assert counted(answer) == (14, 3, 1)
    assert (answer.usage.input, answer.usage.output, answer.finish, answer.finished) == (5, 2, "completed", True)


def test_a_target_tells_the_format() -> None:
    assert OPENAI_RESPONSES.serves("/v1/responses?api-version=1")
    assert not OPENAI_RESPONSES.serves("/v1/responses/resp_1")
    assert not OPENAI_RESPONSES.serves("/v1/models?x=/responses")


def test_what_a_request_asks_for() -> None:
    body = {"model": "m", "stream": True, "max_output_tokens": 7, "safety_identifier": "u"}
    assert OPENAI_RESPONSES.read_params("/", body) == RequestParams("m", True, 7, user="u")


@pytest.mark.parametrize(
    ("params", "most", "sent"), [(None, 100, 100), (500, 100, 100), (50, 100, None), (500, 3, 16), (9, 3, None)]
)
def test_the_bound_is_only_lowered_and_not_below_what_is_taken(params: int | None, most: int, sent: int | None) -> None:
    body: dict[str, Any] = {} if params is None else {"max_output_tokens": params}
    assert OPENAI_RESPONSES.limit(body, most, GENERIC) == (sent is not None)
    assert body["max_output_tokens"] == (sent or params)
    assert not OPENAI_RESPONSES.ask_usage(body, GENERIC)


# --- recordings ---


@each_recording("openai-responses")
@pytest.mark.parametrize("cuttable", [True, False])
def test_a_recording_is_read_as_its_sidecar_tells(recording: Recording, *, cuttable: bool) -> None:
    about = recording.about
    answer = meter(cuttable=cuttable)
    stream = events(recording)
    for name, data, _ in stream:
        answer.read(name, data)
    expected = about["usage"] or {}
    usage = answer.usage
    assert len(stream) == about["events"]
    assert (usage.input, usage.output) == (expected.get("input_tokens"), expected.get("output_tokens"))
    assert usage.reasoning == expected.get("reasoning_tokens", usage.reasoning)
    assert usage.cached == expected.get("cached_input_tokens", usage.cached)
    assert answer.content_events == about["content_events"]
    assert [answer.finish] == about["finish_reasons"]
    assert (answer.failed is not None) == bool(about["errors_in_stream"])
    assert answer.finished
    assert answer.model == about["models"][-1]
