"""Gemini: what is counted, and how a stream is ended."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from flowserver.dialects.base import Meter, RequestParams, Usage
from flowserver.dialects.gemini import GEMINI
from flowserver.errors import TOO_MANY_CONNECTIONS, bad_request

from ..support.corpus import Recording, each_recording
from .frames import QUIRKS, metered, reported, split
from .reading import sse_events

TARGET = "/v1beta/models/gemini-x:streamGenerateContent"


def event(*parts: dict[str, Any], finish: str | int | None = None, **usage: int) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-x"}


def read(*events: dict[str, Any], choices: int = 1) -> Meter:
    meter = GEMINI.meter(RequestParams(choices=choices), QUIRKS, cuttable=True)
    for one in events:
        assert meter.read(b"", orjson.dumps(one))
    return meter


def ending(meter: Meter, output: int = 9) -> dict[str, Any]:
    [(name, payload, _)] = sse_events(meter.ending(7, output))
    assert name == b""
    loaded: dict[str, Any] = orjson.loads(payload)
    return loaded


# --- recordings ---


def served(recording: Recording) -> None:
    if recording.about["request_path"].endswith("/interactions"):
        pytest.skip("the Interactions API is another format, which is not served")


@each_recording("gemini")
def test_usage_of_a_recording_is_what_is_billed(recording: Recording) -> None:
    served(recording)
    found = reported(metered(recording))
    assert {name: tokens for name, tokens in found.items() if tokens is not None} == recording.billed


@each_recording("gemini")
def test_content_of_a_recording_is_what_its_sidecar_says(recording: Recording) -> None:
    served(recording)
    meter = metered(recording)
    if recording.path.suffix == ".sse":
        payloads = [payload for _, payload, _ in split(recording.body, ".sse")]
        # The provider ran code: what came of it is not generated.
        results = sum(b'"codeExecutionResult"' in payload for payload in payloads)
        assert meter.content_events == recording.about["content_events"] - results
    assert meter.content_bytes > 0
    assert (meter.reasoning_bytes > 0) == (recording.about["content_kinds"]["reasoning"] > 0)
    assert [meter.finish] == [str(reason) for reason in recording.about["finish_reasons"]]
    assert [meter.model] == recording.about["models"]
    assert meter.finished


# --- counting ---


def test_parts() -> None:
    meter = read(
        event({"text": "grüße"}, {"text": "hm", "thought": True}),
        event({"functionCall": {"name": "lookup", "args": {"a": 1}}, "thoughtSignature": "c2ln"}),
        event({"executableCode": {"language": "PYTHON", "code": "1+1"}}),
    )
    assert meter.content_bytes == 7 + 2 + 6 + 7 + 3
    assert meter.reasoning_bytes == 2
    assert meter.content_events == 3


@pytest.mark.parametrize(
    "part",
    [
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "2"}},
        {"text": "", "thoughtSignature": "c2ln"},
        {"inlineData": {"mimeType": "image/png", "data": "aGk="}},
    ],
)
def test_parts_that_are_no_content(part: dict[str, Any]) -> None:
    meter = read(event(part))
    assert meter.content_bytes == meter.content_events == 0


def test_usage_is_replaced() -> None:
    stream = [
        event(promptTokenCount=46, candidatesTokenCount=51, thoughtsTokenCount=101, cachedContentTokenCount=12),
        event(promptTokenCount=47, candidatesTokenCount=22),
        event(promptTokenCount=47),  # no count of output: the one before stays
    ]
    assert read(*stream).usage == Usage(input=47, output=22, cached=12)
    none = event(promptTokenCount=47, totalTokenCount=47)
    assert read(*stream, none).usage == Usage(input=47, output=0, cached=12)


def test_what_the_provider_s_tools_read_is_input() -> None:
    usage = {"promptTokenCount": 10, "toolUsePromptTokenCount": 90, "candidatesTokenCount": 5, "totalTokenCount": 105}
    assert read(event(**usage)).usage == Usage(input=100, output=5)


def test_the_last_report_comes_with_the_end() -> None:
    assert not read(event({"text": "a"}, promptTokenCount=3, candidatesTokenCount=1)).is_final
    assert read(event({"text": "a"}, finish="STOP", promptTokenCount=3, candidatesTokenCount=1)).is_final
    assert not read(event({"text": "a"}, finish="STOP", candidatesTokenCount=1)).is_final


def test_thoughts_are_output() -> None:
    assert read(event(candidatesTokenCount=5, thoughtsTokenCount=7)).usage == Usage(output=12, reasoning=7)
    assert read(event(thoughtsTokenCount=7)).usage == Usage(output=7, reasoning=7)


def test_counts_within_the_stream_are_not_taken_for_running_ones() -> None:
    """In recordings they start again with each step of an answer, or stand still while text comes."""
    assert not read(event({"text": "a"}, candidatesTokenCount=1)).running


@pytest.mark.parametrize(("reason", "shown"), [("STOP", "STOP"), (1, "1")])
def test_finish(reason: str | int, shown: str) -> None:
    meter = read(event({"text": "a"}, finish=reason))
    assert (meter.finish, meter.finished) == (shown, True)


def test_a_refused_prompt() -> None:
    meter = read({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}})
    assert (meter.finish, meter.finished, meter.usage.input) == ("SAFETY", True, 3)


def test_an_error_in_the_stream() -> None:
    meter = read({"error": {"code": 503, "message": "Try later", "status": "UNAVAILABLE"}})
    assert meter.failed == "UNAVAILABLE: Try later"


def test_whole_answers() -> None:
    one = event({"text": "hi"}, finish="STOP", promptTokenCount=3, candidatesTokenCount=1)
    for body in (one, [event({"text": ""}), one]):
        meter = GEMINI.meter(RequestParams(), QUIRKS, cuttable=False)
        meter.read_whole(orjson.dumps(body))
        assert meter.usage == Usage(input=3, output=1)
        assert (meter.content_bytes, meter.finish) == (2, "STOP")


# --- ending ---


def test_a_cut() -> None:
    found = ending(read(event({"text": "hi"}, promptTokenCount=3, candidatesTokenCount=1, thoughtsTokenCount=4)))
    assert found == {
        "candidates": [
            {"content": {"parts": [{"text": ""}], "role": "model"}, "finishReason": "MAX_TOKENS", "index": 0}
        ],
        "usageMetadata": {
            "promptTokenCount": 7,
            "candidatesTokenCount": 5,
            "thoughtsTokenCount": 4,
            "totalTokenCount": 16,
        },
        "modelVersion": "gemini-x",
    }


def test_a_cut_ends_every_candidate() -> None:
    found = ending(read(choices=2))
    assert [candidate["index"] for candidate in found["candidates"]] == [0, 1]
    assert found["usageMetadata"] == {"promptTokenCount": 7, "candidatesTokenCount": 9, "totalTokenCount": 16}


def test_a_cut_that_withholds_the_last_event_still_ends() -> None:
    assert ending(read(event({"text": "hi"}, finish="STOP")))["candidates"][0]["finishReason"] == "MAX_TOKENS"


def test_a_failure_is_the_bare_error() -> None:
    assert read().failure(TOO_MANY_CONNECTIONS) == GEMINI.error(TOO_MANY_CONNECTIONS) + b"\n\n"


# --- requests ---


@pytest.mark.parametrize(
    ("target", "model", "stream"),
    [
        (f"{TARGET}?alt=sse", "gemini-x", True),
        (f"{TARGET}?key=k&$alt=sse", "gemini-x", True),
        (TARGET, "gemini-x", False),
        (f"{TARGET}?$alt=json%3Benum-encoding%3Dint", "gemini-x", False),
        ("/v1beta/models/gemini-x%3AstreamGenerateContent?alt=sse", "gemini-x", True),
        ("/v1/models/gemini-x:generateContent", "gemini-x", False),
        ("/v1/projects/p/locations/l/publishers/google/models/g:streamGenerateContent?alt=sse", "g", True),
        ("/v1beta/tunedModels/mine:generateContent", "mine", False),
    ],
)
def test_targets(target: str, model: str, stream: bool) -> None:
    assert GEMINI.serves(target)
    assert GEMINI.read_params(target, {}) == RequestParams(model=model, stream=stream)


@pytest.mark.parametrize(
    "target", ["/v1beta/models/gemini-x:countTokens", "/v1beta/models/gemini-x", "/v1beta/interactions", "/"]
)
def test_other_targets(target: str) -> None:
    assert not GEMINI.serves(target)


@pytest.mark.parametrize(
    "config",
    [
        {"generationConfig": {"maxOutputTokens": 100, "candidateCount": 2}},
        {"generation_config": {"max_output_tokens": "100", "candidate_count": 2}},
    ],
)
def test_both_spellings(config: dict[str, Any]) -> None:
    assert GEMINI.read_params(TARGET, config) == RequestParams(model="gemini-x", max_tokens=100, choices=2, answers=2)
    assert not GEMINI.limit(config, 200, QUIRKS)
    assert GEMINI.limit(config, 100, QUIRKS)
    assert GEMINI.read_params(TARGET, config) == RequestParams(model="gemini-x", max_tokens=50, choices=2, answers=2)


@pytest.mark.parametrize(
    ("body", "limited"),
    [
        ({}, {"generationConfig": {"maxOutputTokens": 7}}),
        ({"generationConfig": None}, {"generationConfig": {"maxOutputTokens": 7}}),
        ({"generation_config": {"top_k": 1}}, {"generation_config": {"top_k": 1, "maxOutputTokens": 7}}),
        (
            {"generationConfig": {"candidateCount": 8}},
            {"generationConfig": {"candidateCount": 8, "maxOutputTokens": 1}},
        ),
        (
            {"generationConfig": {"maxOutputTokens": 5, "max_output_tokens": 50}},
            {"generationConfig": {"maxOutputTokens": 5, "max_output_tokens": 7}},
        ),
    ],
)
def test_limits(body: dict[str, Any], limited: dict[str, Any]) -> None:
    assert GEMINI.limit(body, 7, QUIRKS)
    assert body == limited


def test_a_config_that_is_none_is_left_to_the_provider() -> None:
    body: dict[str, Any] = {"generationConfig": [1]}
    assert not GEMINI.limit(body, 7, QUIRKS)
    assert body == {"generationConfig": [1]}


@pytest.mark.parametrize(
    ("status", "word"),
    [(400, "INVALID_ARGUMENT"), (413, "INVALID_ARGUMENT"), (429, "RESOURCE_EXHAUSTED"), (502, "INTERNAL")],
)
def test_errors(status: int, word: str) -> None:
    found = orjson.loads(GEMINI.error(bad_request("what to do", status=status)))
    assert found == {"error": {"code": status, "message": "what to do", "status": word}}
