"""Streams are asked for a usage report; a provider that refuses the question is asked again without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests.support.lab import Lab, RunningRelay
from tests.support.provider import Provider, answering
from tests.support.wire import Message, Wire, request, response

CHAT = "/v1/chat/completions"
JSON = "Content-Type: application/json"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
REPORT = b'data: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":1,"total_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"
ASKED = b'"stream_options":{"include_usage":true}'


def refused(status: str = "400 Bad Request") -> bytes:
    message = b'{"error":{"message":"Unrecognized request argument supplied: stream_options"}}'
    return response(message, [JSON], status=status)


def served(message: Message) -> bytes:
    report = REPORT if ASKED in message.body else b""
    return response(EVENT + report + DONE, ["Content-Type: text/event-stream"])


def strict(*models: str, status: str = "400 Bad Request") -> Callable[[Message], bytes]:
    """Refuses the question for `models`, or for all."""

    def answer(message: Message) -> bytes:
        asked = orjson.loads(message.body)
        is_strict = not models or asked.get("model") in models
        return refused(status) if is_strict and "stream_options" in asked else served(message)

    return answer


async def ask(client: Wire, model: str = "m", *, pad: int = 0, **more: Any) -> Message:
    body = {"model": model, "stream": True, "messages": [{"content": "x" * pad}], **more}
    await client.send(request("POST", CHAT, [JSON], body=orjson.dumps(body)))
    return await client.response()


def questions(provider: Provider) -> list[bool]:
    """Of each request that came: whether it asked for a report."""
    return [ASKED in message.body for message in provider.requests]


async def _between(lab: Lab, answer: Any, **settings: object) -> tuple[Provider, RunningRelay, Wire]:
    return await lab.between(answering(answer), **settings)


@pytest.mark.parametrize("status", ["400 Bad Request", "422 Unprocessable Entity"])
async def test_a_refusal_is_remembered(lab: Lab, status: str) -> None:
    provider, _, client = await _between(lab, strict(status=status))
    for _ in range(3):
        answer = await ask(client)
        assert (answer.status, answer.body) == (200, EVENT + DONE)
    assert questions(provider) == [True, False, False, False]


async def test_a_refusal_is_remembered_for_its_model(lab: Lab) -> None:
    provider, relay, client = await _between(lab, strict("old"))
    for model in ("old", "new", "old", "new"):
        assert (await ask(client, model)).body == EVENT + DONE
    assert questions(provider) == [True, False, True, False, True]
    lines = await relay.access(4)
    assert [line["output_tokens"] for line in lines][1::2] == [1, 1]


async def test_a_client_s_own_question_is_its_own(lab: Lab) -> None:
    provider, _, client = await _between(lab, strict())
    answer = await ask(client, stream_options={"include_usage": True})
    assert answer.status == 400
    assert b"stream_options" in answer.body
    assert len(provider.requests) == 1


async def test_a_client_s_other_options_are_kept(lab: Lab) -> None:
    """They are why it was refused, so the answer is the provider's."""
    provider, _, client = await _between(lab, strict())
    assert (await ask(client, stream_options={"include_obfuscation": False})).status == 400
    bodies = [orjson.loads(message.body)["stream_options"] for message in provider.requests]
    assert bodies == [{"include_obfuscation": False, "include_usage": True}, {"include_obfuscation": False}]


async def test_a_request_that_is_wrong_for_another_reason_shows_the_provider_s_last_word(lab: Lab) -> None:
    """It tells nothing of the question, so that is asked next time."""
    answers = iter(
        [refused(), response(b'{"error":{"message":"no such tool"}}', [JSON], status="400 Bad Request"), None]
    )
    provider, relay, client = await _between(lab, lambda message: next(answers) or served(message))
    answer = await ask(client)
    assert (answer.status, b"no such tool" in answer.body) == (400, True)
    assert (await ask(client)).body == EVENT + DONE
    assert questions(provider) == [True, False, True]
    await relay.access(2)


async def test_where_the_question_was_taken_a_refusal_is_the_answer(lab: Lab) -> None:
    answers = iter([None, refused()])
    provider, _, client = await _between(lab, lambda message: next(answers) or served(message))
    assert (await ask(client)).status == 200
    assert (await ask(client)).status == 400
    assert len(provider.requests) == 2


async def test_a_request_that_can_t_be_repeated_does_not_ask_what_may_be_refused(lab: Lab) -> None:
    provider, _, client = await _between(lab, strict(), replay_body="64k")
    answer = await ask(client, pad=200_000)
    assert (answer.status, answer.body) == (200, EVENT + DONE)
    assert questions(provider) == [False]


async def test_a_request_that_can_t_be_repeated_asks_where_that_is_taken(lab: Lab) -> None:
    provider, relay, client = await _between(lab, served, replay_body="64k")
    for pad in (0, 200_000):
        assert (await ask(client, pad=pad)).body == EVENT + DONE
    assert questions(provider) == [True, True]
    assert [line["output_tokens"] for line in await relay.access(2)] == [1, 1]


async def test_nobody_is_asked_where_that_is_switched_off(lab: Lab) -> None:
    provider, _, client = await _between(lab, strict(), ask_usage="off")
    assert (await ask(client)).body == EVENT + DONE
    assert questions(provider) == [False]


@pytest.mark.parametrize("stream", [False, "true", 1, None])
async def test_only_streams_are_asked(lab: Lab, stream: object) -> None:
    provider, _, client = await _between(lab, strict())
    assert (await ask(client, stream=stream)).status == 200
    assert questions(provider) == [False]


async def test_what_rides_on_the_report_reaches_the_client(lab: Lab) -> None:
    more = REPORT.replace(b'"choices":[]', b'"choices":[],"timings":{"predicted_ms":31.5}')
    answer = response(EVENT + more + DONE, ["Content-Type: text/event-stream"])
    _, relay, client = await _between(lab, answer)
    body = (await ask(client)).body
    assert b'"timings"' in body
    assert b'"usage"' not in body
    assert body.endswith(DONE)
    [line] = await relay.access()
    assert line["output_tokens"] == 1


async def test_the_repetition_is_bounded_too(lab: Lab) -> None:
    provider, _, client = await _between(lab, strict(), max_tokens=5)
    assert (await ask(client, max_tokens=500)).status == 200
    assert [orjson.loads(message.body)["max_tokens"] for message in provider.requests] == [5, 5]
