"""Streams of Anthropic that were cut, as the official client library reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic, APIStatusError

from flowserver.dialects.anthropic import ANTHROPIC
from flowserver.errors import TOO_MANY_CONNECTIONS

from ..support.corpus import Recording, each_recording
from .frames import QUIRKS, meter_for
from .reading import sse_events

CUTS = (0, 1, 2, 3, 5, 8, 13, 40, 100, 150)
REQUEST: dict[str, Any] = {"model": "claude-x", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


def client(body: bytes) -> Anthropic:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    return Anthropic(api_key="none", http_client=httpx2.Client(transport=httpx2.MockTransport(answer)), max_retries=0)


def cuts(recording: Recording) -> Iterator[bytes]:
    """The stream cut after so many events; where the last of these has content, also with that one withheld."""
    if recording.about["request_path"] == "/v1/complete":
        pytest.skip("Text Completions, the API before Messages, is not served")
    events = sse_events(recording.body)
    # What comes behind the content (the reason, the stop) is no place for a cut.
    for after in [after for after in CUTS if after <= len(events) - 3]:
        meter = meter_for(recording)
        before = 0
        for name, payload, _ in events[:after]:
            before = meter.content_bytes
            meter.read(name, payload)
        passed = [raw for _, _, raw in events[:after]]
        yield b"".join(passed) + meter.ending(7, 77)
        if meter.content_bytes > before:
            yield b"".join(passed[:-1]) + meter.ending(7, 77)


@each_recording("anthropic-messages")
def test_a_cut_ends_the_events(recording: Recording) -> None:
    for body in cuts(recording):
        with client(body).messages.create(**REQUEST, stream=True) as stream:
            events = list(stream)
        reason = events[-2]
        assert reason.type == "message_delta"
        assert reason.delta.stop_reason == "max_tokens"
        assert reason.usage.output_tokens == 77
        assert events[-1].type == "message_stop"
        starts = [event.index for event in events if event.type == "content_block_start"]
        assert starts == [event.index for event in events if event.type == "content_block_stop"]


@pytest.mark.parametrize("beta", [False, True])
@each_recording("anthropic-messages")
def test_a_cut_ends_the_message(recording: Recording, beta: bool) -> None:
    for body in cuts(recording):
        api = client(body)
        messages: Any = api.beta.messages if beta else api.messages
        with messages.stream(**REQUEST) as stream:
            message = stream.get_final_message()
        assert message.stop_reason == "max_tokens"
        assert message.usage.output_tokens == 77


def test_a_failure_is_raised() -> None:
    meter = ANTHROPIC.meter(ANTHROPIC.read_params("/v1/messages", REQUEST), QUIRKS, cuttable=True)
    stream = client(meter.failure(TOO_MANY_CONNECTIONS)).messages.create(**REQUEST, stream=True)
    with stream, pytest.raises(APIStatusError, match="limit of connections"):
        list(stream)


def test_heartbeats_are_not_seen() -> None:
    meter = ANTHROPIC.meter(ANTHROPIC.read_params("/v1/messages", REQUEST), QUIRKS, cuttable=True)
    assert ANTHROPIC.heartbeat is not None
    body = ANTHROPIC.heartbeat + meter.ending(7, 3).replace(b"\n\n", b"\n\n" + ANTHROPIC.heartbeat)
    with client(body).messages.stream(**REQUEST) as stream:
        assert stream.get_final_message().usage.output_tokens == 3
