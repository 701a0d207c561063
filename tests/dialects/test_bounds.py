"""What clients and providers send has no bound; what is kept of it has one."""

from __future__ import annotations

import json
import re
import tracemalloc
from base64 import b64encode
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import orjson
import pytest

from flowserver.dialects import FORMATS
from flowserver.dialects.anthropic import ANTHROPIC
from flowserver.dialects.base import Format, Meter, RequestParams
from flowserver.dialects.bedrock import BEDROCK_CONVERSE, BEDROCK_INVOKE
from flowserver.dialects.cohere import COHERE
from flowserver.dialects.common import MAX_ANNOUNCED, MAX_OPEN, MAX_REASON, MAX_TOLD
from flowserver.dialects.gemini import GEMINI
from flowserver.dialects.ollama import OLLAMA_CHAT
from flowserver.dialects.openai_chat import OPENAI_CHAT
from flowserver.dialects.openai_items import KEPT
from flowserver.dialects.openai_responses import OPENAI_RESPONSES
from flowserver.dialects.profiles import GENERIC
from flowserver.names import MODEL_BYTES, USER_BYTES
from tests.dialects.reading import sse_events
from tests.support.streams import STREAMS, Stream

Event = tuple[bytes, bytes]
"""Name and data."""

KB, MB = 1 << 10, 1 << 20
PAD = "x" * 900_000
LONG = "m" * MB
OWN = 3 * MB
"""What the test itself holds of an event."""
HUGE = 2**63
"""An index from here on still is an integer."""


def _meter(form: Format, *, choices: int = 1) -> Meter:
    return form.meter(RequestParams(model="m", stream=True, choices=choices), GENERIC, cuttable=True)


def _named(**event: Any) -> Event:
    return event["type"].encode(), orjson.dumps(event)


def _chunk(data: dict[str, Any]) -> Event:
    return b"chunk", orjson.dumps({"bytes": b64encode(orjson.dumps(data)).decode()})


# --- names ---


def _asked_for(form: Format, stream: Stream, model: str) -> RequestParams:
    target = re.sub(r"(/models?/)[^/:]+", rf"\g<1>{model}", stream.target)
    body = {"model": model, "user": model, "metadata": {"user_id": model}, "safety_identifier": model}
    return form.read_params(target, body)


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_a_request_s_names_are_bounded(stream: Stream) -> None:
    form = FORMATS[stream.name]
    params = _asked_for(form, stream, LONG)
    assert params.model is not None
    assert len(params.model) == MODEL_BYTES
    assert params.model != _asked_for(form, stream, LONG + "x").model
    assert params.user is None or len(params.user) <= USER_BYTES


ANSWERS: list[tuple[Format, Event]] = [
    (OPENAI_CHAT, (b"", orjson.dumps({"model": LONG, "choices": [{"index": 0, "finish_reason": LONG, "delta": {}}]}))),
    (OPENAI_CHAT, (b"", orjson.dumps({"model": LONG, "error": {"type": LONG, "message": LONG}}))),
    (OPENAI_RESPONSES, _named(type="response.created", response={"model": LONG, "id": LONG})),
    (OPENAI_RESPONSES, _named(type="response.failed", response={"model": LONG, "status": LONG, "error": LONG})),
    (ANTHROPIC, _named(type="message_start", message={"model": LONG, "id": LONG})),
    (ANTHROPIC, _named(type="message_delta", delta={"stop_reason": LONG})),
    (ANTHROPIC, _named(type="error", error={"type": LONG, "message": LONG})),
    (GEMINI, (b"", orjson.dumps({"modelVersion": LONG, "candidates": [{"finishReason": LONG}]}))),
    (GEMINI, (b"", orjson.dumps({"error": {"status": LONG}}))),
    (COHERE, _named(type="message-end", delta={"finish_reason": LONG})),
    (COHERE, _named(type="message-end", delta={"finish_reason": "ERROR", "error": LONG})),
    (OLLAMA_CHAT, (b"", orjson.dumps({"model": LONG, "created_at": LONG, "done": True, "done_reason": LONG}))),
    (BEDROCK_CONVERSE, (b"messageStop", orjson.dumps({"stopReason": LONG}))),
    (BEDROCK_CONVERSE, (b"!" + LONG.encode(), orjson.dumps({"message": LONG}))),
    (BEDROCK_INVOKE, _chunk({"generation": "", "stop_reason": LONG})),
    (BEDROCK_INVOKE, _chunk({"type": "message_start", "message": {"model": LONG}})),
]  # fmt: skip


@pytest.mark.parametrize(("form", "event"), ANSWERS, ids=lambda value: getattr(value, "name", ""))
def test_an_answer_s_names_and_reasons_are_bounded(form: Format, event: Event) -> None:
    meter = _meter(form)
    meter.read(*event)
    assert len(meter.model or "") <= MODEL_BYTES
    assert len(meter.finish or "") <= MAX_REASON
    assert len(meter.failed or "") <= MAX_TOLD
    assert meter.model or meter.finish or meter.failed
    assert len(meter.ending(7, 1)) < 16 * KB


# --- what a stream leaves behind ---


def _choices() -> Iterator[Event]:
    for start in range(0, 20 * 60_000, 60_000):
        yield b"", b'{"choices":[%b]}' % b",".join(b'{"index":%d}' % index for index in range(start, start + 60_000))


def _closed_choices() -> Iterator[Event]:
    for start in range(0, 300_000, 1000):
        choices = [{"index": HUGE + index, "delta": {"content": "a"}, "finish_reason": "stop"} for index in range(1000)]
        yield b"", orjson.dumps({"choices": choices, "start": start})


def _large_chunks() -> Iterator[Event]:
    for number in range(50):
        choices = [{"index": 0, "delta": {"content": f"{number}"}}]
        yield b"", orjson.dumps({"id": f"{number}", "choices": choices, "x": PAD})


def _parts() -> Iterator[Event]:
    for index in range(120):
        part = {"type": "output_text", "text": PAD}
        yield _named(type="response.content_part.added", output_index=index, content_index=0, part=part)


def _bushy_parts() -> Iterator[Event]:
    for index in range(10):
        data = b'{"type":"response.content_part.added","output_index":%d,"part":{"x":[%b]}}'
        yield b"response.content_part.added", data % (index, b",".join([b"[]"] * 20_000))


def _deltas() -> Iterator[Event]:
    for index in range(120):
        yield _named(type="response.output_text.delta", output_index=index, delta="a", x=PAD)


def _small_deltas() -> Iterator[Event]:
    for index in range(50_000):
        yield _named(type="response.output_text.delta", output_index=HUGE + index, content_index=-index, delta="a")


def _identified_deltas() -> Iterator[Event]:
    for index in range(120):
        yield _named(type="response.output_text.delta", output_index=index, delta="a", item_id=f"{index}{PAD}")


def _items() -> Iterator[Event]:
    for index in range(120):
        item = {"type": "message", "id": f"{index}", "x": PAD}
        yield _named(type="response.output_item.added", output_index=index, item=item)


def _finished_items() -> Iterator[Event]:
    for index in range(50_000):
        yield _named(type="response.output_item.done", output_index=index, item={"type": "message"})


def _created() -> Iterator[Event]:
    for number in range(20):
        yield _named(type="response.created", response={"id": f"{number}", "instructions": PAD, "model": "m"})


def _blocks() -> Iterator[Event]:
    for index in range(100_000):
        yield _named(type="content_block_start", index=HUGE + index, content_block={"type": "text"})


def _converse_blocks() -> Iterator[Event]:
    for index in range(100_000):
        yield b"contentBlockDelta", b'{"contentBlockIndex":%d,"delta":{"text":"a"}}' % index


def _invoke_blocks() -> Iterator[Event]:
    for index in range(30_000):
        yield _chunk({"type": "content_block_start", "index": index, "content_block": {"type": "text"}})


def _cohere_parts() -> Iterator[Event]:
    for index in range(100_000):
        yield _named(type="content-start", index=index)


def _candidates() -> Iterator[Event]:
    for start in range(0, 100_000, 1000):
        candidates = [{"index": start + index, "content": {"parts": [{"text": "a"}]}} for index in range(1000)]
        yield b"", orjson.dumps({"candidates": candidates})


def _lines() -> Iterator[Event]:
    for number in range(50):
        yield b"", orjson.dumps({"model": f"{number}{PAD}", "created_at": PAD, "message": {"content": "a", "x": PAD}})


def _opened(make: Callable[[int, str], Event], name: str = PAD) -> Callable[[], Iterator[Event]]:
    """Calls of tools of which nothing but the name comes."""
    return lambda: (make(index, name) for index in range(10))


def _tool_use(index: int, name: str) -> Event:
    return _named(type="content_block_start", index=index, content_block={"type": "tool_use", "name": name})


def _function_call(index: int, name: str) -> Event:
    item = {"type": "function_call", "call_id": "c", "name": name}
    return _named(type="response.output_item.added", output_index=index, item=item)


def _converse_tool_use(index: int, name: str) -> Event:
    start = {"toolUse": {"name": name}}
    return b"contentBlockStart", orjson.dumps({"contentBlockIndex": index, "start": start})


def _nova_tool_use(index: int, name: str) -> Event:
    return _chunk({"contentBlockStart": {"contentBlockIndex": index, "start": {"toolUse": {"name": name}}}})


def _cohere_call(index: int, name: str) -> Event:
    calls = {"function": {"name": name}}
    return _named(type="tool-call-start", index=index, delta={"message": {"tool_calls": calls}})


CALLS: list[tuple[Format, Callable[[int, str], Event]]] = [
    (ANTHROPIC, _tool_use),
    (OPENAI_RESPONSES, _function_call),
    (BEDROCK_CONVERSE, _converse_tool_use),
    (BEDROCK_INVOKE, _nova_tool_use),
    (COHERE, _cohere_call),
]


@pytest.mark.parametrize(("form", "make"), CALLS, ids=[form.name for form, _ in CALLS])
def test_what_is_kept_of_tools_names_is_bounded_and_the_rest_is_told(
    form: Format, make: Callable[[int, str], Event]
) -> None:
    """The names wait for the arguments, which do not come: all is told as bytes that make no sense, or counted."""
    meter = _meter(form)
    for event in _opened(make)():
        meter.read(*event)
    assert (meter.calls, meter.content_bytes) == (10, 0)
    assert 10 * len(PAD) - MAX_ANNOUNCED <= meter.unread < 10 * len(PAD)


def _paddings(make: Callable[[str, str], Event]) -> Iterator[Event]:
    """Text in the middle of ever new bytes: each eighth event is learned from."""
    for number in range(400):
        yield make(f"text {number}", f"{number}" + "y" * 100_000)


def _padded_chunk(text: str, padding: str) -> Event:
    return b"", orjson.dumps({"choices": [{"index": 0, "delta": {"content": text}}], "x": padding})


def _padded_delta(text: str, padding: str) -> Event:
    return _named(type="content_block_delta", index=0, delta={"type": "text_delta", "text": text}, x=padding)


FLOODS: dict[str, tuple[Format, Callable[[], Iterator[Event]]]] = {
    "choices": (OPENAI_CHAT, _choices),
    "choices that end": (OPENAI_CHAT, _closed_choices),
    "large chunks": (OPENAI_CHAT, _large_chunks),
    "padded chunks": (OPENAI_CHAT, lambda: _paddings(_padded_chunk)),
    "parts": (OPENAI_RESPONSES, _parts),
    "parts with many values": (OPENAI_RESPONSES, _bushy_parts),
    "large deltas": (OPENAI_RESPONSES, _deltas),
    "small deltas": (OPENAI_RESPONSES, _small_deltas),
    "deltas with long ids": (OPENAI_RESPONSES, _identified_deltas),
    "items": (OPENAI_RESPONSES, _items),
    "finished items": (OPENAI_RESPONSES, _finished_items),
    "large responses": (OPENAI_RESPONSES, _created),
    "content blocks": (ANTHROPIC, _blocks),
    "names of tools": (ANTHROPIC, _opened(_tool_use)),
    "names of functions": (OPENAI_RESPONSES, _opened(_function_call)),
    "padded deltas": (ANTHROPIC, lambda: _paddings(_padded_delta)),
    "blocks of Converse": (BEDROCK_CONVERSE, _converse_blocks),
    "blocks of InvokeModel": (BEDROCK_INVOKE, _invoke_blocks),
    "parts of Cohere": (COHERE, _cohere_parts),
    "candidates": (GEMINI, _candidates),
    "lines of Ollama": (OLLAMA_CHAT, _lines),
}


@pytest.mark.parametrize(("form", "make"), FLOODS.values(), ids=[name.replace(" ", "-") for name in FLOODS])
def test_a_meter_keeps_at_most_a_megabyte(form: Format, make: Callable[[], Iterator[Event]]) -> None:
    meter = _meter(form)
    tracemalloc.start()
    try:
        kept = 0
        for event in make():
            meter.read(*event)
            del event
            kept = max(kept, tracemalloc.get_traced_memory()[0])
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < MB + OWN
    assert left < MB
    ending = meter.ending(7, 5)
    assert ending or form is BEDROCK_INVOKE
    assert len(ending) < 2 * MB


# --- endings ---


@pytest.mark.parametrize("form", [OPENAI_CHAT, GEMINI], ids=lambda form: form.name)
def test_the_ending_is_short_whatever_number_of_answers_was_asked_for(form: Format) -> None:
    assert len(_meter(form, choices=2**53 - 1).ending(7, 5)) < 64 * KB


def test_a_chat_s_ending_ends_as_many_choices_as_the_api_takes() -> None:
    meter = OPENAI_CHAT.meter(RequestParams(choices=10**12, stream=True, usage=False), GENERIC, cuttable=True)
    *chunks, (_, last, _) = sse_events(meter.ending(7, 0))
    assert (len(chunks), last) == (128, b"[DONE]")


def _closed(ending: bytes, kind: str) -> list[int]:
    events = [orjson.loads(data) for _, data, _ in sse_events(ending) if data != b"[DONE]"]
    return [event["index"] for event in events if event["type"] == kind]


def test_the_blocks_that_are_known_to_be_open_are_closed() -> None:
    for form, kind, events in (
        (ANTHROPIC, "content_block_stop", islice(_blocks(), 300)),
        (COHERE, "content-end", islice(_cohere_parts(), 300)),
    ):
        meter = _meter(form)
        opened = []
        for name, data in events:
            meter.read(name, data)
            opened.append(orjson.loads(data)["index"])
        closed = _closed(meter.ending(7, 5), kind)
        assert len(closed) == MAX_OPEN
        assert closed == opened[:MAX_OPEN]


def test_choices_that_have_begun_are_ended_beside_those_that_were_asked_for() -> None:
    meter = _meter(OPENAI_CHAT, choices=2)
    for index in (7, HUGE, 200):
        meter.read(b"", orjson.dumps({"choices": [{"index": index, "delta": {"content": "a"}}]}))
    meter.read(b"", orjson.dumps({"choices": [{"index": 7, "delta": {}, "finish_reason": "stop"}]}))
    chunks = [orjson.loads(data) for _, data, _ in sse_events(meter.ending(7, 5)) if data != b"[DONE]"]
    assert [choice["index"] for chunk in chunks for choice in chunk["choices"]] == [0, 1, 200, HUGE]


def test_a_chat_s_ending_has_no_more_of_a_chunk_s_head_than_a_head_is() -> None:
    meter = _meter(OPENAI_CHAT)
    deep = json.loads("[" * 900 + "]" * 900)
    choices = [{"index": 0, "delta": {"content": "a"}}]
    event = {"id": "i" * 10_000, "object": {"a": 1}, "created": 1, "system_fingerprint": deep, "choices": choices}
    meter.read(b"", json.dumps(event).encode())
    first = orjson.loads(sse_events(meter.ending(7, 5))[0][1])
    assert (first["id"], first["object"], first["created"]) == ("i" * 256, None, 1)
    assert first["system_fingerprint"] is None


@pytest.mark.parametrize("where", ["item", "part", "response"])
def test_a_response_with_deep_values_ends_without_them(where: str) -> None:
    deep = json.loads("[" * 600 + "]" * 600)
    item: dict[str, Any] = {"type": "message", "id": "i", "content": [], "x": deep if where == "item" else 1}
    part = {"type": "output_text", "text": "", "x": deep if where == "part" else 1}
    response: dict[str, Any] = {"id": "r", "model": "m-1", "output": [], "x": deep if where == "response" else 1}
    meter = _meter(OPENAI_RESPONSES)
    for event in (
        {"type": "response.created", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", "output_index": 0, "content_index": 0, "part": part},
    ):
        meter.read(event["type"].encode(), json.dumps(event).encode())  # type: ignore[attr-defined]
    [(name, data, _)] = sse_events(meter.ending(7, 5))
    ended = orjson.loads(data)["response"]
    assert (name, ended["id"], ended["model"], ended["status"]) == (b"response.incomplete", "r", "m-1", "incomplete")
    assert ended["output"] == []


def test_of_a_response_that_begins_with_much_the_ending_has_what_matters() -> None:
    meter = _meter(OPENAI_RESPONSES)
    response = {"id": "r", "model": "m-1", "created_at": 7, "instructions": PAD}
    meter.read(*_named(type="response.created", response=response))
    [(name, data, _)] = sse_events(meter.ending(7, 5))
    ended = orjson.loads(data)["response"]
    assert (name, ended["id"], ended["model"], ended["created_at"]) == (b"response.incomplete", "r", "m-1", 7)


def test_what_a_response_has_finished_makes_room_for_more() -> None:
    """A text counts once, while it is written or when it is whole."""
    meter = _meter(OPENAI_RESPONSES)
    meter.read(*_named(type="response.created", response={"id": "r"}))
    text = "x" * (KEPT // 5)
    for index in range(4):
        place = {"output_index": index, "content_index": 0}
        item = {"type": "message", "id": f"{index}", "content": []}
        meter.read(*_named(type="response.output_item.added", output_index=index, item=item))
        part = {"type": "output_text", "text": ""}
        meter.read(*_named(type="response.content_part.added", **place, part=part))
        meter.read(*_named(type="response.output_text.delta", **place, delta=text))
        whole = {**item, "content": [{**part, "text": text}]}
        meter.read(*_named(type="response.output_item.done", output_index=index, item=whole))
    ended = orjson.loads(sse_events(meter.ending(7, 5))[-1][1])["response"]
    assert [item["content"][0]["text"] == text for item in ended["output"]] == [True] * 4


def test_frames_of_a_flood_are_whole() -> None:
    meter = _meter(BEDROCK_CONVERSE)
    for event in islice(_converse_blocks(), 1000):
        meter.read(*event)
    ending = meter.ending(7, 5)
    count = 0
    while ending:
        size = int.from_bytes(ending[:4], "big")
        ending, count = ending[size:], count + 1
    assert count == 1 + MAX_OPEN + 2
