"""The events of OpenAI's Realtime API."""

from __future__ import annotations

import orjson
import pytest

from flowserver.dialects.realtime import RealtimeUsage, is_realtime, models_in_query, with_model_in_query

REPORT = {
    "total_tokens": 253,
    "input_tokens": 132,
    "output_tokens": 121,
    "input_token_details": {"text_tokens": 119, "audio_tokens": 13, "cached_tokens": 64},
    "output_token_details": {"text_tokens": 30, "audio_tokens": 91},
}


def _read(usage: RealtimeUsage, event: object) -> None:
    text = orjson.dumps(event)
    usage.read(text, len(text))


@pytest.mark.parametrize(
    ("target", "known"),
    [
        ("/v1/realtime?model=x", True),
        ("/openai/realtime?deployment=x", True),
        ("/v1/Realtime/", True),
        ("/v1/realtime/sessions", False),
        ("/v1/surrealtime", False),
    ],
)
def test_which_paths_speak_it(target: str, known: bool) -> None:
    assert is_realtime(target) is known


def test_models_in_the_query() -> None:
    assert models_in_query("/v1/realtime") == []
    assert models_in_query("/v1/realtime?model=gpt%2Fa&x") == ["gpt/a"]
    assert models_in_query("/v1/realtime?m%6fdel=a&Deployment=b") == ["a", "b"]
    assert with_model_in_query("/v1/realtime?a=1&model=b&c", "d/e f") == "/v1/realtime?a=1&model=d%2Fe%20f&c"


def test_reports_add_up() -> None:
    usage = RealtimeUsage()
    for _ in range(2):
        _read(usage, {"type": "response.done", "response": {"usage": REPORT}})
    transcript = {"type": "tokens", "total_tokens": 20, "input_tokens": 15, "output_tokens": 5}
    _read(usage, {"type": "conversation.item.input_audio_transcription.completed", "usage": transcript})
    assert (usage.input, usage.output, usage.total) == (279, 247, 526)
    assert usage.usage.cached == 128
    assert not usage.is_estimate


def test_each_report_is_told_by_itself() -> None:
    usage = RealtimeUsage()
    event = orjson.dumps({"type": "response.done", "response": {"usage": REPORT}})
    for _ in range(2):
        report = usage.read(event, len(event))
        assert report is not None
        assert (report.input, report.output, report.cached) == (132, 121, 64)
    assert usage.read(b'{"type": "response.created", "response": {"usage": null}}', 50) is None


def test_an_answer_under_way_is_estimated_until_it_is_reported() -> None:
    usage = RealtimeUsage()
    _read(usage, {"type": "response.done", "response": {"usage": REPORT}})
    _read(usage, {"type": "response.output_audio.delta", "event_id": "e1", "delta": "A" * 32_000})
    _read(usage, {"type": "response.output_text.delta", "event_id": "e2", "delta": "x" * 400})
    assert usage.is_estimate
    assert usage.input == 2 * 132
    assert 121 + 60 <= usage.output <= 121 + 140
    _read(usage, {"type": "response.done", "response": {"usage": REPORT}})
    assert (usage.input, usage.output, usage.is_estimate) == (264, 242, False)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no json",
        b'{"type": "response.done", "response": {"usage": null}}',
        b'{"type": "response.done", "response": {"usage": [1]}}',
        b'{"type": "response.done", "response": {"usage": {"input_tokens": "many", "output_tokens": -5}}}',
        b'{"type": "response.created", "response": {"usage": {"input_tokens": 5}}}',
        b'{"type": ["response.done"], "usage": {"input_tokens": 5}}',
        b'[{"type": "response.done", "usage": {"input_tokens": 5}}]',
    ],
)
def test_malformed_events_are_ignored(text: bytes) -> None:
    usage = RealtimeUsage()
    usage.read(text, len(text))
    assert usage.total == 0


def test_what_the_client_names_hides_no_report() -> None:
    usage = RealtimeUsage()
    _read(usage, {"response": {"metadata": {"type": "x.delta"}, "usage": REPORT}, "type": "response.done"})
    assert (usage.input, usage.output, usage.is_estimate) == (132, 121, False)


def test_the_report_of_a_transcript_forgets_no_answer_that_runs() -> None:
    usage = RealtimeUsage()
    _read(usage, {"type": "response.output_text.delta", "delta": "x" * 4000})
    _read(usage, {"type": "conversation.item.input_audio_transcription.delta", "delta": "x" * 4000})
    both = usage.output
    report = {"type": "tokens", "input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    _read(usage, {"type": "conversation.item.input_audio_transcription.completed", "usage": report})
    assert 5 < usage.output < both
    assert usage.is_estimate
    _read(usage, {"type": "response.done", "response": {"usage": REPORT}})
    assert (usage.output, usage.is_estimate) == (126, False)
