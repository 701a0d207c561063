"""Chat completions as bytes, and numbered events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flowserver.simulator.chat import ChatReply, read
from flowserver.simulator.dialect import BadRequest
from flowserver.simulator.events import NumberedEvents, chunk
from flowserver.simulator.script import ENDLESS, Script

MESSAGES = [{"role": "user", "content": "one two  three"}]


def reply(script: Script | None = None, **fields: Any) -> ChatReply:
    body = {"model": "m", "messages": MESSAGES, "stream": True, **fields}
    return read(json.dumps(body).encode(), script or Script())


def payload(event: bytes) -> Any:
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    return json.loads(event[6:])


@pytest.mark.parametrize("size", [200, 250, 1000])
def test_an_event_has_the_size_that_was_asked_for(size: int) -> None:
    events = NumberedEvents(reply().content(), size=size, chunked=False)
    event = events.one(12)
    assert len(event) == events.size == size
    assert payload(event)["choices"][0]["delta"] == {"content": "tok000012 "}


def test_an_event_has_its_least_size_when_less_is_asked_for() -> None:
    events = NumberedEvents(reply().content(), size=1, chunked=False)
    assert len(events.one(0)) == events.size
    assert payload(events.one(0))["obfuscation"] == ""


def test_a_chunked_event_is_a_chunk() -> None:
    plain = NumberedEvents(reply().content(), size=250, chunked=False)
    chunked = NumberedEvents(reply().content(), size=250, chunked=True)
    assert chunked.one(5) == chunk(plain.one(5)) == b"fa\r\n" + plain.one(5) + b"\r\n"
    assert chunked.size == 250


@pytest.mark.parametrize("start", [0, 64, 999_990, 1_000_000, 9_999_999])
def test_a_run_is_its_events_one_by_one(start: int) -> None:
    batch, single = (NumberedEvents(reply(model="50%d %s").content(), size=300, chunked=True) for _ in range(2))
    for position in (start, start + 20):
        data, size = batch.run(position, 20)
        assert data == b"".join([single.one(number) for number in range(position, position + 20)])
        assert size == 20 * 300


def test_numbers_outgrow_their_digits_and_the_size_stays() -> None:
    events = NumberedEvents(reply().content(), size=250, chunked=False)
    assert [len(events.one(number)) for number in (999_999, 1_000_000, 12_345_678)] == [250] * 3
    assert payload(events.one(12_345_679))["choices"][0]["delta"]["content"] == "tok12345679 "


def test_opening_and_closing() -> None:
    plain = reply()
    assert [payload(event)["choices"][0]["delta"]["role"] for event in plain.opening()] == ["assistant"]
    finish, done = plain.closing(20)
    assert payload(finish)["choices"][0]["finish_reason"] == "stop"
    assert done == b"data: [DONE]\n\n"


def test_usage_comes_when_it_is_asked_for() -> None:
    _, usage, _ = reply(stream_options={"include_usage": True}).closing(20)
    assert payload(usage)["choices"] == []
    assert payload(usage)["usage"] == {"prompt_tokens": 3, "completion_tokens": 20, "total_tokens": 23}


@pytest.mark.parametrize(
    ("events", "fields", "tokens", "reason"),
    [
        (20, {}, 20, "stop"),
        (20, {"max_tokens": 20}, 20, "stop"),
        (20, {"max_tokens": 19}, 19, "length"),
        (20, {"max_completion_tokens": 5, "max_tokens": 9}, 5, "length"),
        (0, {"max_tokens": 3}, 3, "length"),
        (0, {}, ENDLESS, "stop"),
    ],
)
def test_max_tokens_caps(events: int, fields: dict[str, int], tokens: int, reason: str) -> None:
    made = reply(Script(events=events), **fields)
    assert made.plan.tokens == tokens
    assert payload(made.closing(tokens)[0])["choices"][0]["finish_reason"] == reason


def test_a_whole_answer() -> None:
    body, offset = reply(Script(events=2), stream=False).whole()
    answer = json.loads(body)
    assert answer["choices"][0]["message"]["content"] == "tok000000 tok000001 "
    assert answer["usage"]["completion_tokens"] == 2
    assert body[offset:].startswith(b"tok000000 ")


@pytest.mark.parametrize("size", [0, 1, 10, 12345])
def test_a_whole_answer_has_the_size_that_was_asked_for(size: int) -> None:
    body, _ = reply(Script(whole=size), stream=False).whole()
    assert len(json.loads(body)["choices"][0]["message"]["content"]) == size


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"[]", None),
        (b'{"model":"a\\u0000b"}', "model"),
        (b'{"model":1}', "model"),
        (b'{"model":"m","messages":{}}', "messages"),
        (b'{"model":"m","messages":[1],"stream":"yes"}', "stream"),
        (b'{"model":"m","messages":[1],"max_tokens":0}', "max_tokens"),
        (b'{"model":"m","messages":[1],"max_tokens":true}', "max_tokens"),
    ],
)
def test_a_request_that_will_not_do(body: bytes, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        read(body, Script())
    assert caught.value.param == param


def test_an_endless_answer_must_be_streamed() -> None:
    with pytest.raises(BadRequest):
        reply(Script(events=0), stream=False)
