"""Streams of Gemini that were cut, as the official client library reads them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from google import genai
from google.genai.errors import APIError
from google.genai.types import FinishReason, HttpOptions

from flowserver.dialects.base import RequestParams
from flowserver.dialects.gemini import GEMINI
from flowserver.errors import TOO_MANY_CONNECTIONS

from ..support.corpus import Recording, each_recording
from .frames import QUIRKS, meter_for
from .reading import sse_events


def client(body: bytes) -> genai.Client:
    def answer(request: httpx.Request) -> httpx.Response:
        assert GEMINI.serves(request.url.raw_path.decode())
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    http_client = httpx.Client(transport=httpx.MockTransport(answer))
    return genai.Client(api_key="none", http_options=HttpOptions(httpx_client=http_client))


def cuts(recording: Recording) -> Iterator[tuple[int, bytes]]:
    """The stream cut after each number of events, with the next one read and withheld, and without."""
    if recording.about["request_path"].endswith("/interactions"):
        pytest.skip("the Interactions API is another format, which is not served")
    if recording.path.suffix != ".sse":
        pytest.skip("a JSON array can't be cut")
    events = sse_events(recording.body)
    for after in range(len(events)):
        meter = meter_for(recording)
        passed = b"".join(raw for _, _, raw in events[:after])
        for name, payload, _ in events[:after]:
            meter.read(name, payload)
        yield after, passed + meter.ending(7, 77)
        meter.read(*events[after][:2])
        yield after, passed + meter.ending(7, 77)


@each_recording("gemini")
def test_a_cut_ends_the_stream(recording: Recording) -> None:
    for after, body in cuts(recording):
        chunks = list(client(body).models.generate_content_stream(model="gemini-x", contents="hi"))
        assert len(chunks) == after + 1
        last = chunks[-1]
        assert last.candidates
        assert last.candidates[0].finish_reason is FinishReason.MAX_TOKENS
        assert last.usage_metadata
        thoughts = last.usage_metadata.thoughts_token_count or 0
        assert (last.usage_metadata.candidates_token_count or 0) + thoughts == 77


@each_recording("gemini")
def test_a_cut_turn_stays_in_a_chat(recording: Recording) -> None:
    for _, body in cuts(recording):
        chat = client(body).chats.create(model="gemini-x")
        list(chat.send_message_stream("hi"))
        assert len(chat.get_history(curated=True)) == len(chat.get_history()) > 1


def test_a_failure_is_raised() -> None:
    meter = GEMINI.meter(RequestParams(), QUIRKS, cuttable=True)
    stream = client(meter.failure(TOO_MANY_CONNECTIONS)).models.generate_content_stream(model="x", contents="hi")
    with pytest.raises(APIError, match="limit of connections") as raised:
        list(stream)
    assert raised.value.code == TOO_MANY_CONNECTIONS.status
