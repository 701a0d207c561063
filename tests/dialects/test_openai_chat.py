"""OpenAI's chat format: what is counted, how a stream ends early, what is asked of the provider."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.dialects.base import RequestParams
from flowserver.dialects.openai_chat import OPENAI_CHAT, OPENAI_COMPLETIONS, OPENAI_EMBEDDINGS, ChatMeter
from flowserver.dialects.profiles import GENERIC, QUIRKS, quirks_for
from flowserver.errors import DRAINED
from tests.dialects.chat_events import HEAD, UNASKED, choice, chunk, counted, meter, report, say, sent
from tests.dialects.reading import events, sse_events
from tests.support.corpus import Recording, each_recording

# --- counting ---


@pytest.mark.parametrize(
    ("delta", "content_bytes", "reasoning"),
    [
        ({"content": "four"}, 4, 0),
        ({"content": "füñf"}, 6, 0),
        ({"content": 'a"\\\n'}, 4, 0),
        ({"content": ""}, 0, 0),
        ({"content": None, "reasoning_content": "hmm"}, 3, 3),
        ({"content": "", "reasoning": "hmm", "reasoning_details": [{"type": "reasoning.text", "text": "hmm"}]}, 3, 3),
        ({"reasoning": "hmm", "reasoning_content": "hmm"}, 3, 3),
        ({"reasoning_details": [{"summary": "hm"}, {"text": "m"}, {"data": "secret"}]}, 3, 3),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hmm"}]}]}, 3, 3),
        ({"content": [{"type": "text", "text": "four"}]}, 4, 0),
        ({"role": "assistant", "refusal": "never"}, 5, 0),
        ({"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "add", "arguments": "{}"}}]}, 5, 0),
        ({"tool_calls": [{"function": {"arguments": "{"}}, {"custom": {"name": "sh", "input": "ls"}}]}, 5, 0),
        ({"function_call": {"name": "add", "arguments": "{}"}}, 5, 0),
        ({"provider_metadata": {"content": "none"}}, 0, 0),
    ],
)
def test_content_is_counted_in_bytes_of_its_text(delta: dict[str, Any], content_bytes: int, reasoning: int) -> None:
    answer = meter()
    assert answer.read(b"", chunk(choice(delta), obfuscation="xxxxxxx"))
    assert counted(answer) == (content_bytes, reasoning, 1 if content_bytes else 0)


def test_all_choices_are_counted_and_the_model_is_told() -> None:
    answer = meter(RequestParams(choices=2))
    answer.read(b"", chunk(choice({"content": "a"}), choice({"content": "bc"}, index=1, finish="stop")))
    assert counted(answer) == (3, 0, 1)
    assert (answer.model, answer.finish) == ("m-1", "stop")


def test_a_message_so_far_beside_the_delta_is_not_counted_again() -> None:
    answer = meter()
    answer.read(b"", chunk({**choice({"content": "c"}), "message": {"content": "abc"}}))
    assert answer.content_bytes == 1


def test_an_error_inside_a_stream() -> None:
    answer = meter()
    assert answer.read(b"", b'{"error":{"message":"no more","type":"overloaded","code":529}}')
    assert answer.failed is not None
    assert "no more" in answer.failed
    assert not answer.finished


def test_the_end_of_a_stream() -> None:
    answer = meter()
    finished = [(answer.read(b"", data), answer.finished) for data in (say("x"), b"[DONE]")]
    assert finished == [(True, False), (True, True)]
    assert answer.ending(7, 1) == b""


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_names = ("choices", "delta", "content", "tool_calls", "function", "index", "usage", "error", "x_groq", "finish_reason")
_shaped = st.recursive(
    _json,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_names), inner, max_size=5),
    max_leaves=12,
)


@given(st.lists(_shaped.map(lambda event: json.dumps(event).encode()) | st.binary(max_size=30)))
def test_nonsense_raises_nothing(stream: list[bytes]) -> None:
    answer, whole = meter(), meter()
    for data in stream:
        answer.read(b"", data)
        whole.read_whole(data)
    sent(answer.ending(7, 1)) if not answer.finished else None


# --- usage ---


def test_a_usage_report_that_only_the_relay_asked_for_is_withheld() -> None:
    last = chunk(usage=report(5, 2, prompt_tokens_details={"cached_tokens": 4, "cache_write_tokens": 1}))
    unasked, params = meter(UNASKED), meter()
    assert not unasked.read(b"", last)
    assert params.read(b"", last)
    for answer in (unasked, params):
        usage = answer.usage
        assert (usage.input, usage.output, usage.cached, usage.cache_written) == (5, 2, 4, 1)
    assert meter(UNASKED, QUIRKS["perplexity"]).read(b"", last)  # which was not asked


@pytest.mark.parametrize(
    "passes",
    [
        chunk(prompt_filter_results=[{"prompt_index": 0}]),
        chunk(usage=None),
        chunk(choice(finish="stop"), usage=report(5, 2)),
        say("x", usage=report(5, 2)),
        chunk(usage=report(5, 2), error={"message": "too late"}),
    ],
)
def test_everything_else_passes(passes: bytes) -> None:
    assert meter(UNASKED).read(b"", passes)


def test_a_running_count_holds_until_content_comes_without_one() -> None:
    answer = meter()
    stream = [
        chunk(choice({"role": "assistant", "content": ""}), usage=report(5, 0)),
        say("x", usage=report(5, 1)),
        say("x", usage=report(5, 2)),
        say("x"),
    ]
    seen = [(answer.read(b"", data), answer.running, answer.usage.output) for data in stream]
    assert seen == [(True, False, 0), (True, True, 1), (True, True, 2), (True, False, 2)]


def test_reports_of_several_choices_are_added_up_when_all_have_ended() -> None:
    answer = meter(RequestParams(choices=2))
    stream = [
        say("x", usage=report(5, 1)),
        chunk(choice(finish="stop"), usage=report(5, 1)),
        chunk(choice({"content": "y"}, index=1, finish="stop"), usage=report(5, 2)),
    ]
    seen = [(answer.read(b"", data), answer.running, answer.usage.output) for data in stream]
    assert seen == [(True, False, None), (True, False, None), (True, False, 3)]
    assert answer.is_final
    assert answer.usage.input == 5
    assert sent(answer.ending(7, 2))[-1]["usage"] == report(7, 2)


def test_a_report_on_all_choices_replaces_those_on_each() -> None:
    answer = meter(RequestParams(choices=2))
    answer.read(b"", chunk(choice(finish="stop"), usage=report(5, 1)))
    answer.read(b"", chunk(choice(index=1, finish="stop"), usage=report(5, 2)))
    answer.read(b"", chunk(usage=report(5, 4)))
    assert (answer.usage.output, answer.is_final) == (4, True)


def test_groq_reports_in_its_own_place() -> None:
    answer = meter()
    answer.read(b"", chunk(choice(finish="stop"), x_groq={"id": "req_1", "usage": report(5, 2)}))
    assert (answer.usage.input, answer.usage.output) == (5, 2)


def test_deepseek_names_its_cache_hits() -> None:
    answer = meter()
    answer.read(b"", chunk(choice(finish="stop"), usage=report(5, 2, prompt_cache_hit_tokens=3)))
    assert answer.usage.cached == 3


@pytest.mark.parametrize(("total", "output"), [(17, 12), (7, 2)])
def test_reasoning_that_is_left_out_of_the_sum_is_added(total: int, output: int) -> None:
    usage = report(5, 2, completion_tokens_details={"reasoning_tokens": 10}) | {"total_tokens": total}
    answer = meter(quirks=QUIRKS["xai"])
    answer.read(b"", chunk(usage=usage))
    assert answer.usage.output == output
    plain = meter()
    plain.read(b"", chunk(usage=usage))
    assert plain.usage.output == output


# --- endings ---


def test_an_ending_looks_like_the_streams_own() -> None:
    answer = meter()
    answer.read(b"", say("x", system_fingerprint="fp", service_tier="default", obfuscation="pad"))
    finish, usage = sent(answer.ending(7, 3))
    common = {**HEAD, "system_fingerprint": "fp", "service_tier": "default"}
    assert finish == {
        **common,
        "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}],
    }
    assert usage == {**common, "choices": [], "usage": report(7, 3)}


def test_only_open_choices_are_ended_and_all_that_were_asked_for() -> None:
    answer = meter(RequestParams(stream=True, choices=3, usage=False))
    answer.read(b"", chunk(choice({"content": "x"}, index=1)))
    answer.read(b"", chunk(choice(index=1, finish="stop")))
    answer.read(b"", chunk(choice({"content": "x"}, index=4)))
    assert [end["choices"][0]["index"] for end in sent(answer.ending(7, 3))] == [0, 2, 4]


def test_a_choice_that_ends_with_content_is_ended_again_while_the_event_may_be_withheld() -> None:
    answer = meter(UNASKED)
    answer.read(b"", chunk(choice({"content": "x"}, finish="stop")))
    assert len(sent(answer.ending(7, 1))) == 1
    answer.read(b"", chunk(prompt_filter_results=[]))
    assert sent(answer.ending(7, 1)) == []


def test_an_ending_before_the_first_event() -> None:
    (finish,) = sent(meter(RequestParams(model="m-2", stream=True, usage=False)).ending(7, 0))
    assert (finish["model"], finish["object"]) == ("m-2", "chat.completion.chunk")
    assert finish["choices"][0]["finish_reason"] == "length"


def test_a_report_that_came_is_not_given_again() -> None:
    answer = meter()
    answer.read(b"", chunk(choice(finish="stop")))
    answer.read(b"", chunk(usage=report(5, 2)))
    assert sent(answer.ending(7, 9)) == []


def test_a_provider_that_reports_unasked_is_ended_with_its_report() -> None:
    answer = meter(UNASKED, QUIRKS["mistral"])
    answer.read(b"", say("x", usage=report(5, 1)))
    (finish,) = sent(answer.ending(7, 2))
    assert finish["usage"] == report(7, 2)
    assert finish["choices"]


def test_a_failure_is_an_error_event_and_no_end() -> None:
    ((name, data, _),) = sse_events(meter().failure(DRAINED))
    assert name == b""
    assert json.loads(data)["error"]["code"] == "draining"


# --- whole answers and requests ---


def test_a_whole_answer() -> None:
    answer = meter()
    message = {"role": "assistant", "content": "four", "reasoning_content": "hmm", "tool_calls": None}
    body = {**HEAD, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": report(5, 2)}
    answer.read_whole(json.dumps(body).encode())
    assert counted(answer) == (7, 3, 1)
    assert (answer.usage.input, answer.usage.output, answer.finish, answer.finished) == (5, 2, "stop", True)


@pytest.mark.parametrize(
    ("target", "served"),
    [
        ("/v1/chat/completions", OPENAI_CHAT),
        ("/openai/deployments/mine/chat/completions?api-version=2024-10-21", OPENAI_CHAT),
        ("/v1/completions?x=/chat/completions", OPENAI_COMPLETIONS),
        ("/v1/embeddings", OPENAI_EMBEDDINGS),
        ("/v1/chat/completions/chatcmpl-1", None),
        ("/v1/models?x=/chat/completions", None),
    ],
)
def test_a_target_tells_the_format(target: str, served: object) -> None:
    formats = (OPENAI_CHAT, OPENAI_COMPLETIONS, OPENAI_EMBEDDINGS)
    assert [known for known in formats if known.serves(target)] == ([served] if served else [])


def test_what_a_request_asks_for() -> None:
    body = {"model": "m", "stream": True, "n": 2, "max_tokens": 7, "user": "u"}
    assert OPENAI_CHAT.read_params("/", body) == RequestParams(
        "m", True, 7, choices=2, answers=2, user="u", usage=False
    )
    assert OPENAI_CHAT.read_params("/", {**body, "stream_options": {"include_usage": True}}).usage
    assert OPENAI_CHAT.read_params("/", {"max_completion_tokens": 8, "max_tokens": 7}) == RequestParams(max_tokens=8)
    assert OPENAI_CHAT.read_params("/", {"model": 1, "n": "x", "stream_options": []}) == RequestParams()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"max_completion_tokens": 100}),
        ({"max_tokens": None}, {"max_tokens": None, "max_completion_tokens": 100}),
        ({"max_tokens": 500}, {"max_tokens": 100}),
        ({"max_tokens": 500, "max_completion_tokens": 600}, {"max_tokens": 100, "max_completion_tokens": 100}),
        ({"max_tokens": 50}, {"max_tokens": 50}),
        ({"n": 3}, {"n": 3, "max_completion_tokens": 33}),
        ({"n": 300, "max_tokens": 5}, {"n": 300, "max_tokens": 1}),
    ],
)
def test_the_bound_is_only_lowered(before: dict[str, Any], after: dict[str, Any]) -> None:
    body = dict(before)
    assert OPENAI_CHAT.limit(body, 100, QUIRKS["openai"]) == (before != after)
    assert body == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"stream": False}, {"stream": False}),
        (
            {"stream": True, "stream_options": {"include_obfuscation": False, "include_usage": False}},
            {"stream": True, "stream_options": {"include_obfuscation": False, "include_usage": True}},
        ),
        ({"stream": True, "stream_options": {"include_usage": True}},) * 2,
        ({"stream": True, "stream_options": "odd"},) * 2,
    ],
)
def test_a_report_is_asked_for(before: dict[str, Any], after: dict[str, Any]) -> None:
    body = dict(before)
    assert OPENAI_CHAT.ask_usage(body, GENERIC) == (before != after)
    assert body == after
    unasked = dict(before)
    assert not OPENAI_CHAT.ask_usage(unasked, QUIRKS["mistral"])
    assert unasked == before


# --- legacy completions, embeddings ---


def test_a_legacy_stream() -> None:
    answer = OPENAI_COMPLETIONS.meter(RequestParams(usage=False), GENERIC, cuttable=True)
    head = {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "m"}
    answer.read(b"", json.dumps({**head, "choices": [{"text": "four", "index": 0, "finish_reason": None}]}).encode())
    assert counted(answer) == (4, 0, 1)
    end = {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}
    assert sent(answer.ending(7, 1)) == [{**head, "choices": [end]}]


def test_a_legacy_request_keeps_its_short_default() -> None:
    body: dict[str, Any] = {"prompt": "x"}
    assert not OPENAI_COMPLETIONS.limit(body, 100, QUIRKS["openai"])
    assert body == {"prompt": "x"}
    body["max_tokens"] = 500
    assert OPENAI_COMPLETIONS.limit(body, 100, QUIRKS["openai"])
    assert body["max_tokens"] == 100


@pytest.mark.parametrize("usage_last", [True, False])
def test_embeddings(usage_last: bool) -> None:
    usage = {"usage": {"prompt_tokens": 8, "total_tokens": 8}}
    data = {"object": "list", "data": [{"embedding": [0.1, 0.2], "text": '"usage"'}]}
    answer = OPENAI_EMBEDDINGS.meter(RequestParams(), GENERIC, cuttable=False)
    answer.read_whole(json.dumps(data | usage if usage_last else usage | data).encode())
    assert (answer.usage.input, answer.usage.output, answer.content_bytes, answer.finished) == (8, 0, 0, True)
    forged = OPENAI_EMBEDDINGS.meter(RequestParams(), GENERIC, cuttable=False)
    forged.read_whole(json.dumps({"data": [usage], "text": json.dumps(usage)}).encode())
    assert (forged.usage.input, forged.finished) == (None, True)
    body: dict[str, Any] = {"input": "x", "stream": True}
    assert not OPENAI_EMBEDDINGS.limit(body, 1, GENERIC)
    assert not OPENAI_EMBEDDINGS.ask_usage(body, GENERIC)
    assert OPENAI_EMBEDDINGS.error(DRAINED) == DRAINED.body()


# --- recordings ---


def in_format(recording: Recording) -> bool:
    """The Assistants' threads lie among the others."""
    return "/threads/" not in recording.about["request_path"]


def read_recording(recording: Recording, params: RequestParams) -> tuple[ChatMeter, list[bool | bytes]]:
    answer = meter(params, quirks_for(None, recording.about["provider_host"]))
    return answer, [answer.read(name, data) for name, data, _ in events(recording)]


@each_recording("openai-chat", "openai-compatible-other", "groq", "mistral")
def test_a_recording_is_read_as_its_sidecar_tells(recording: Recording) -> None:
    if not in_format(recording):
        pytest.skip("another format")
    about = recording.about
    answer, passed = read_recording(recording, OPENAI_CHAT.read_params("/", about["request_body"] or {}))
    assert all(passed)
    assert len(passed) == about["events"]
    expected = about["usage"] or {}
    usage = answer.usage
    # The sidecars tell what xAI writes; here the reasoning is always part of the output.
    apart = expected["reasoning_tokens"] if about["provider_host"] == "api.x.ai" else 0
    output = expected.get("output_tokens")
    assert usage.input == expected.get("input_tokens")
    assert usage.output == (output + apart if output is not None else None)
    assert usage.reasoning == expected.get("reasoning_tokens", usage.reasoning)
    assert usage.cached == expected.get("cached_input_tokens", usage.cached)
    # A part without thoughts in it is one of the sidecars' content events.
    empty = sum(b'"thinking":[]' in data for _, data, _ in events(recording))
    assert answer.content_events == about["content_events"] - empty
    assert (answer.finish or "") == (about["finish_reasons"] or [""])[-1]
    assert (answer.failed is not None) == bool(about["errors_in_stream"])
    assert answer.finished == about["done_marker"]
