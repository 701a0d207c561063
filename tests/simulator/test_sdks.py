"""The official client libraries take each dialect, and the records agree with what they were told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anthropic
import httpx
import openai
import pytest
from google import genai
from google.genai import errors as genai_errors
from google.genai import types as genai_types

from flowserver.simulator import Simulator

from .speakers import PROMPT, SPEAKERS, Speaker, payloads

PATIENCE = 20.0
"""Seconds until a condition that does not come true fails the test."""

every_dialect = pytest.mark.parametrize("speaker", SPEAKERS, ids=lambda speaker: speaker.name)


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    simulator = Simulator()
    await simulator.start()
    yield simulator
    await simulator.close()


@pytest.fixture
async def http(sim: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=sim.url, timeout=PATIENCE, trust_env=False) as client:
        yield client


@pytest.fixture
async def openai_client(sim: Simulator) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{sim.url}/v1", api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture
async def anthropic_client(sim: Simulator) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=sim.url, api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture(params=["v1", "v1beta"])
async def gemini_client(sim: Simulator, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as transport:
        options = genai_types.HttpOptions(base_url=sim.url, api_version=request.param, httpx_async_client=transport)
        client = genai.Client(api_key="k", http_options=options)
        yield client.aio
        await client.aio.aclose()
        client.close()


def simulate(script: str) -> dict[str, str]:
    return {"x-simulate": script}


def config(script: str, limit: int | None = None) -> genai_types.GenerateContentConfig:
    options = genai_types.HttpOptions(headers=simulate(script))
    return genai_types.GenerateContentConfig(max_output_tokens=limit, http_options=options)


def text(tokens: int) -> str:
    return "".join(f"tok{number:06d} " for number in range(tokens))


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.005)


async def test_openai_streams_a_response(sim: Simulator, openai_client: openai.AsyncOpenAI) -> None:
    kinds = []
    async with openai_client.responses.stream(
        model="m", input=PROMPT, extra_headers=simulate("events=7 reasoning=4")
    ) as stream:
        async for event in stream:
            kinds.append(event.type)
        response = await stream.get_final_response()
    assert kinds.count("response.output_text.delta") == 7
    assert (response.status, response.output_text) == ("completed", text(7))
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (3, 11)
    assert response.usage.output_tokens_details.reasoning_tokens == 4
    assert sim.streams[0]["tokens"] == 11


async def test_openai_streams_a_response_to_its_limit(openai_client: openai.AsyncOpenAI) -> None:
    stream = await openai_client.responses.create(
        model="m", input=PROMPT, stream=True, max_output_tokens=5, extra_headers=simulate("events=0")
    )
    last = [event async for event in stream][-1]
    assert isinstance(last, openai.types.responses.ResponseIncompleteEvent)
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.output_text == text(5)


async def test_openai_reads_a_whole_response(openai_client: openai.AsyncOpenAI) -> None:
    response = await openai_client.responses.create(model="m", input=PROMPT, extra_headers=simulate("events=2"))
    assert response.output_text == text(2)
    assert response.usage is not None
    assert response.usage.total_tokens == 5


async def test_openai_takes_running_counts(openai_client: openai.AsyncOpenAI) -> None:
    stream = await openai_client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": PROMPT}],
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        extra_headers=simulate("events=3 reasoning=2"),
    )
    usages = [chunk.usage async for chunk in stream]
    assert [usage and usage.completion_tokens for usage in usages] == [2, 3, 4, 5, 5, 5]


async def test_anthropic_streams_a_message(sim: Simulator, anthropic_client: anthropic.AsyncAnthropic) -> None:
    async with anthropic_client.messages.stream(
        model="m",
        max_tokens=100,
        messages=[{"role": "user", "content": PROMPT}],
        extra_headers=simulate("events=7 reasoning=4"),
    ) as stream:
        texts = [piece async for piece in stream.text_stream]
        message = await stream.get_final_message()
    assert "".join(texts) == text(7)
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (3, 11)
    assert sim.streams[0]["tokens"] == 11


async def test_anthropic_streams_a_message_to_its_limit(anthropic_client: anthropic.AsyncAnthropic) -> None:
    stream = await anthropic_client.messages.create(
        model="m",
        max_tokens=5,
        messages=[{"role": "user", "content": PROMPT}],
        stream=True,
        extra_headers=simulate("events=0"),
    )
    events = [event async for event in stream]
    ending = events[-2]
    assert isinstance(ending, anthropic.types.RawMessageDeltaEvent)
    assert (ending.delta.stop_reason, ending.usage.output_tokens) == ("max_tokens", 5)


async def test_anthropic_reads_a_whole_message(anthropic_client: anthropic.AsyncAnthropic) -> None:
    message = await anthropic_client.messages.create(
        model="m", max_tokens=2, messages=[{"role": "user", "content": PROMPT}], extra_headers=simulate("")
    )
    (block,) = message.content
    assert isinstance(block, anthropic.types.TextBlock)
    assert (block.text, message.stop_reason, message.usage.output_tokens) == (text(2), "max_tokens", 2)


async def test_gemini_streams(sim: Simulator, gemini_client: Any) -> None:
    stream = await gemini_client.models.generate_content_stream(
        model="m", contents=PROMPT, config=config("events=7 reasoning=4")
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.text or "" for chunk in chunks) == text(7)
    assert chunks[-1].candidates[0].finish_reason == genai_types.FinishReason.STOP
    usage = chunks[-1].usage_metadata
    assert (usage.prompt_token_count, usage.candidates_token_count, usage.thoughts_token_count) == (3, 7, 4)
    assert sim.streams[0]["tokens"] == 11


async def test_gemini_answers_whole_to_its_limit(gemini_client: Any) -> None:
    answer = await gemini_client.models.generate_content(model="m", contents=PROMPT, config=config("events=9", 5))
    assert answer.text == text(5)
    assert answer.candidates[0].finish_reason == genai_types.FinishReason.MAX_TOKENS
    assert answer.usage_metadata.total_token_count == 8


async def test_each_library_tells_its_errors_apart(
    openai_client: openai.AsyncOpenAI, anthropic_client: anthropic.AsyncAnthropic, gemini_client: Any
) -> None:
    limited = simulate("status=429 retry_after=2")
    with pytest.raises(openai.RateLimitError) as by_openai:
        await openai_client.responses.create(model="m", input=PROMPT, stream=True, extra_headers=limited)
    assert by_openai.value.type == "rate_limit_error"
    with pytest.raises(anthropic.RateLimitError) as by_anthropic:
        await anthropic_client.messages.create(
            model="m", max_tokens=1, messages=[{"role": "user", "content": PROMPT}], extra_headers=limited
        )
    assert by_anthropic.value.type == "rate_limit_error"
    assert by_anthropic.value.response.headers["retry-after"] == "2"
    with pytest.raises(genai_errors.ClientError) as by_gemini:
        await gemini_client.models.generate_content(model="m", contents=PROMPT, config=config("status=429"))
    assert (by_gemini.value.code, by_gemini.value.status) == (429, "RESOURCE_EXHAUSTED")


@every_dialect
@pytest.mark.parametrize(
    "script", ["events=300", "events=30 rate=1000", "events=300 length=1 size=1", "events=9 split=7"]
)
async def test_the_record_has_what_was_sent(
    sim: Simulator, http: httpx.AsyncClient, speaker: Speaker, script: str
) -> None:
    target, body = speaker.request()
    response = await http.post(target, content=body, headers=simulate(f"{script} reasoning=5"))
    assert response.status_code == 200
    told = payloads(response.content)
    tokens = int(script.split()[0].partition("=")[2])
    assert "".join(map(speaker.text, told)) == text(tokens)
    await until(lambda: sim.streams[0]["state"] == "done")
    (record,) = sim.streams
    assert (record["events"], record["reasoning"], record["tokens"]) == (tokens, 5, tokens + 5)
    assert speaker.report(told)[1] == record["tokens"]
    assert record["bytes_written"] == len(response.content)
    assert sim.totals["tokens"] == tokens + 5


@every_dialect
async def test_the_record_of_a_whole_answer(sim: Simulator, http: httpx.AsyncClient, speaker: Speaker) -> None:
    target, body = speaker.request(stream=False, limit=7)
    answer = (await http.post(target, content=body, headers=simulate("reasoning=5"))).json()
    assert speaker.whole_text(answer) == text(2)
    await until(lambda: sim.streams[0]["state"] == "done")
    assert speaker.report([answer])[1] == sim.streams[0]["tokens"] == 7


@every_dialect
async def test_a_cancelled_stream_has_what_was_emitted(
    sim: Simulator, http: httpx.AsyncClient, speaker: Speaker
) -> None:
    target, body = speaker.request()
    received = b""
    async with http.stream("POST", target, content=body, headers=simulate("events=0 rate=500 reasoning=5")) as response:
        pieces = response.aiter_raw()
        while received.count(b'"tok0') < 10:
            received += await anext(pieces)
    await until(lambda: sim.streams[0]["state"] == "cancelled")
    record = sim.streams[0]
    assert received.count(b'"tok0') <= record["events"] == record["tokens"] - 5


@every_dialect
async def test_a_stream_can_break_off(sim: Simulator, http: httpx.AsyncClient, speaker: Speaker) -> None:
    target, body = speaker.request()
    with pytest.raises(httpx.RemoteProtocolError):
        await http.post(target, content=body, headers=simulate("events=9 fin_after=3 reasoning=5"))
    assert (sim.streams[0]["state"], sim.streams[0]["tokens"]) == ("aborted", 8)


@every_dialect
async def test_refusals_are_in_the_dialect(http: httpx.AsyncClient, speaker: Speaker) -> None:
    target, body = speaker.request()
    answers = [
        await http.post(target, content=body, headers=simulate("rate=fast")),
        await http.get(target),
        await http.post(target, content=b"{"),
    ]
    assert [answer.status_code for answer in answers] == [400, 405, 400]
    assert answers[1].headers["allow"] == "POST"
    own_field = {"messages": "request_id", "gemini": "status"}.get(speaker.name, "param")
    assert all(own_field in {**answer.json(), **answer.json()["error"]} for answer in answers)
    assert "rate" in answers[0].json()["error"]["message"]
