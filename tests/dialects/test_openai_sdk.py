"""What OpenAI's own client library makes of streams that were ended early: recordings, cut after some events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import httpx
import openai
import orjson
import pytest

from flowserver.dialects.base import Format, RequestParams
from flowserver.dialects.openai_chat import OPENAI_CHAT, OPENAI_COMPLETIONS
from flowserver.dialects.openai_items import KEPT
from flowserver.dialects.openai_responses import OPENAI_RESPONSES
from flowserver.dialects.profiles import GENERIC, quirks_for
from flowserver.errors import DRAINED
from tests.dialects.reading import events, sse_events
from tests.support.corpus import Recording, each_recording

RESPONSE = {"id": "resp_1", "object": "response", "status": "in_progress", "model": "m-1", "output": [], "tools": []}
MESSAGE = {"type": "message", "id": "msg_1", "status": "in_progress", "role": "assistant", "content": []}
TEXT = {"item_id": "msg_1", "output_index": 0, "content_index": 0}

CHAT_KINDS = ("openai-chat", "openai-compatible-other", "groq", "mistral")
Cut = tuple[int, bytes]

# The library's models know neither all tools of the compatible providers nor all of their items.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")


def client(answer: bytes) -> openai.OpenAI:
    """A client that gets `answer` whatever it asks."""
    headers = {"content-type": "text/event-stream"}
    transport = httpx.MockTransport(lambda request: httpx.Response(200, headers=headers, content=answer))
    http = httpx.Client(transport=transport)
    return openai.OpenAI(api_key="none", base_url="http://provider", max_retries=0, http_client=cast(Any, http))


def cuts(recording: Recording, form: Format, params: RequestParams) -> Iterator[Cut]:
    """Streams that end early, with the event before the cut and without it if it has content. The cut comes before a
    finish reason or an error does."""
    stream = events(recording)
    for last in sorted({*range(1, 8), len(stream) // 2, len(stream) - 4, len(stream) - 3}):
        if not 0 < last < len(stream):
            continue
        meter = form.meter(params, quirks_for(None, recording.about["provider_host"]), cuttable=True)
        passed: list[bytes] = []
        pieces = 0
        for name, data, raw in stream[:last]:
            pieces = meter.content_events
            if meter.read(name, data):
                passed.append(raw)
        if meter.finish or meter.failed:
            return
        yield last, b"".join(passed) + meter.ending(7, 5)
        if meter.content_events > pieces:
            yield last, b"".join(passed[:-1]) + meter.ending(7, 5)


def chat_cuts(recording: Recording) -> list[Cut]:
    about = recording.about
    if "/threads/" in about["request_path"] or about["request_path"].endswith("v1/completions"):
        pytest.skip("another format")
    return list(
        cuts(recording, OPENAI_CHAT, OPENAI_CHAT.read_params("/", {"stream": True, **(about["request_body"] or {})}))
    )


@each_recording(*CHAT_KINDS)
def test_a_cut_chat_is_read_to_its_end(recording: Recording) -> None:
    for last, answer in chat_cuts(recording):
        finishes: dict[int, str] = {}
        with client(answer).chat.completions.create(model="m", messages=[], stream=True) as stream:
            for chunk in stream:
                finishes |= {end.index: end.finish_reason for end in chunk.choices or () if end.finish_reason}
        assert finishes, last
        assert set(finishes.values()) == {"length"}, last


def helped(answer: bytes) -> list[str]:
    """The finish reasons that the library's stream helper comes to."""
    with client(answer).chat.completions.stream(model="m", messages=[]) as stream:
        stream.until_done()  # `get_final_completion` raises LengthFinishReasonError, as it should
        return [choice.finish_reason for choice in stream.current_completion_snapshot.choices]


def skip_what_the_helper_cannot_read(help_with: Callable[[bytes], object], recording: Recording) -> None:
    """Some of the compatible providers leave out what the helper takes for granted."""
    try:
        help_with(recording.body)
    except (openai.APIError, AssertionError, AttributeError, IndexError, TypeError) as error:
        pytest.skip(f"the helper does not take the uncut recording either: {error!r}")


@each_recording(*CHAT_KINDS)
def test_the_stream_helper_sees_the_length_ending(recording: Recording) -> None:
    answers = chat_cuts(recording)
    skip_what_the_helper_cannot_read(helped, recording)
    for last, answer in answers:
        assert set(helped(answer)) == {"length"}, last


@each_recording("openai-chat")
def test_a_cut_legacy_completion_is_read_to_its_end(recording: Recording) -> None:
    if not recording.about["request_path"].endswith("v1/completions"):
        pytest.skip("another format")
    for last, answer in cuts(recording, OPENAI_COMPLETIONS, RequestParams(stream=True)):
        with client(answer).completions.create(model="m", prompt="p", stream=True) as stream:
            *_, finish, usage = stream
        assert [choice.finish_reason for choice in finish.choices] == ["length"], last
        assert usage.usage is not None
        assert usage.usage.completion_tokens == 5


@each_recording("openai-responses")
def test_a_cut_response_is_read_to_its_end(recording: Recording) -> None:
    for last, answer in cuts(recording, OPENAI_RESPONSES, RequestParams(stream=True)):
        with client(answer).responses.create(model="m", input="i", stream=True) as stream:
            *_, end = stream
        assert end.type == "response.incomplete", last
        assert end.response.status == "incomplete"
        assert end.response.usage is not None
        assert end.response.usage.output_tokens == 5


def helped_response(answer: bytes) -> tuple[str, list[object], list[object]]:
    """The type of the last event that the library's stream helper gives, its items, and all items that were done."""
    done: dict[int, object] = {}
    with client(answer).responses.stream(model="m", input="i") as stream:
        for event in stream:
            if event.type == "response.output_item.done":
                done[event.output_index] = event.item.to_dict()
        output = [item.to_dict() for item in event.response.output] if hasattr(event, "response") else []
    return event.type, output, [done[index] for index in sorted(done)]


@each_recording("openai-responses")
def test_the_responses_helper_sees_the_same_items_as_the_ending(recording: Recording) -> None:
    skip_what_the_helper_cannot_read(helped_response, recording)
    for last, answer in cuts(recording, OPENAI_RESPONSES, RequestParams(stream=True)):
        kind, output, done = helped_response(answer)
        assert kind == "response.incomplete", last
        assert output == done, last


def test_a_response_that_is_too_long_to_be_kept_ends_without_its_items() -> None:
    piece = "x" * 50_000
    events: list[dict[str, object]] = [
        {"type": "response.created", "response": RESPONSE},
        {"type": "response.output_item.added", "output_index": 0, "item": MESSAGE},
        {"type": "response.content_part.added", **TEXT, "part": {"type": "output_text", "text": "", "annotations": []}},
        *[{"type": "response.output_text.delta", **TEXT, "delta": piece, "logprobs": []}] * (KEPT // len(piece) + 1),
    ]
    meter = OPENAI_RESPONSES.meter(RequestParams(stream=True), GENERIC, cuttable=True)
    answer = b""
    for event in events:
        meter.read(str(event["type"]).encode(), orjson.dumps(event))
        answer += b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), orjson.dumps(event))
    kind, output, done = helped_response(answer + meter.ending(7, 5))
    assert (kind, output, done) == ("response.incomplete", [], [])


@pytest.mark.parametrize("form", [OPENAI_CHAT, OPENAI_RESPONSES], ids=lambda form: form.name)
def test_a_failure_and_a_heartbeat(form: Format) -> None:
    failure = form.meter(RequestParams(), quirks_for(None, ""), cuttable=True).failure(DRAINED)
    assert form.heartbeat
    answer = form.heartbeat + failure
    ((_, _, raw),) = sse_events(answer)
    assert raw == answer
    if form is OPENAI_CHAT:
        with pytest.raises(openai.APIError, match="shut down"):
            list(client(answer).chat.completions.create(model="m", messages=[], stream=True))
    else:
        (event,) = client(answer).responses.create(model="m", input="i", stream=True)
        assert event.type == "error"
        assert event.code == "draining"
