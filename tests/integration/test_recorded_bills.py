"""Recorded streams of real providers, asked for by a tenant: what is charged is what the provider reported."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from anthropic import AsyncAnthropic
from google import genai
from google.genai.types import GenerateContentConfig, HttpOptions

from tests.support.bills import KEY, PLAY, Answer, Bill, Till, answer, told
from tests.support.corpus import Recording, recordings
from tests.support.lab import Lab
from tests.support.replay import body_of, content_type, is_chat, is_served, path_of, pieces
from tests.support.wire import PATIENCE

ALL = [recording for recording in recordings() if is_served(recording)]
KINDS = sorted({recording.kind for recording in ALL})
TURN: Any = [{"role": "user", "content": "Go on."}]
CLIENT: Any = {"api_key": KEY, "max_retries": 0, "timeout": PATIENCE}

pytestmark = [
    pytest.mark.skipif(not ALL, reason="FLOW_CORPUS does not name a folder of recordings"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
]
kinds = pytest.mark.parametrize("kind", KINDS or [""])
DIALECTS = {"api.x.ai": "xai", "api.mistral.ai": "mistral", "api.perplexity.ai": "perplexity"}
"""Hosts with ways of their own in a format that they share."""


def _dialect(recording: Recording) -> str:
    return DIALECTS.get(recording.about["provider_host"], "mistral" if recording.kind == "mistral" else "")


def _of(kind: str) -> dict[str, list[Recording]]:
    """The recordings of a kind, by dialect."""
    found: dict[str, list[Recording]] = {}
    for recording in ALL:
        if recording.kind == kind:
            found.setdefault(_dialect(recording), []).append(recording)
    return found


def _played(recording: Recording, seed: str) -> Answer:
    return answer(*pieces(recording.body, recording.name + seed), kind=content_type(recording))


async def _till(lab: Lab, folder: Path, dialect: str) -> Till:
    return await Till.of(lab, folder, upstream={"dialect": dialect} if dialect else None)


def _is_paid(recording: Recording, bill: Bill) -> bool:
    """Whether it costs what was reported, or (where nothing was) about what came."""
    if not recording.about["usage"]:
        return bill.sums_up and bill.line["estimated"]
    usage = recording.billed
    told_input = usage["input_tokens"] is not None
    counted = bill.output == usage["output_tokens"] and (not told_input or bill.input == usage["input_tokens"])
    return counted and bill.sums_up and bill.line["estimated"] is not told_input


@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
@kinds
async def test_the_charge_is_the_report(lab: Lab, tmp_path: Path, kind: str, http2: bool) -> None:
    """In two random chunkings each, asked for with the usage report and without."""
    for dialect, played in _of(kind).items():
        till = await _till(lab, tmp_path, dialect)
        for recording in played:
            for seed, asks in (("1", True), ("2", False)):
                body = body_of(recording, asks=asks)
                if http2 and len(body) > 60_000:
                    continue  # more than a window
                bill = await till.play(path_of(recording), body, _played(recording, seed), http2=http2)
                assert _is_paid(recording, bill), (recording.name, recording.billed, bill.line)
                assert bill.line.get("uncounted") is None, (recording.name, bill.line)
                if asks or not is_chat(recording):
                    assert bill.body == recording.body, recording.name


@kinds
async def test_a_cut_at_half_tells_what_is_charged(lab: Lab, tmp_path: Path, kind: str) -> None:
    cuts = 0
    for dialect, played in _of(kind).items():
        till = await _till(lab, tmp_path, dialect)
        for recording in played:
            tokens = int((recording.about["usage"] or {}).get("output_tokens") or recording.about["content_events"])
            given = _played(recording, "3")
            bill = await till.play(path_of(recording), body_of(recording), given, budget=max(1, tokens // 2))
            assert bill.sums_up, (recording.name, bill.line)
            if bill.line["end"] == "budget":
                cuts += 1
                assert told(bill.body) == (bill.input, bill.output), (recording.name, bill.line, bill.body[-400:])
    assert cuts or kind == "other-sse"


# --- the official libraries ---

Read = Callable[[Recording, dict[str, str]], Awaitable[tuple[str, int, int]]]
"""Asks for a recording with these header fields; how it ended, and the tokens that the library tells."""


async def _cut_at_half(till: Till, played: list[Recording], read: Read, ending: str) -> None:
    """Each of `played` ends early by its own "length", with the usage that is charged."""
    assert played
    for recording in played:
        budget = max(1, int(recording.about["content_events"]) // 2)
        fields = await till.prepare(replace(_played(recording, "4"), holds=True), budget=budget)
        finish, prompt, output = await read(recording, fields)
        charge, line = await till.settled(fields[PLAY])
        assert (finish, line["end"]) == (ending, "budget"), (recording.name, line)
        assert (prompt, output) == (line["input_tokens"], line["output_tokens"]), (recording.name, line)
        assert prompt + output == charge, (recording.name, line)


def _long(*wanted: str) -> list[Recording]:
    """Recordings that end where half of them has passed."""
    return [one for one in ALL if one.kind in wanted and one.path.suffix == ".sse" and one.about["content_events"] > 5]


async def test_openai_reads_what_a_cut_chat_costs(lab: Lab, tmp_path: Path) -> None:
    till = await Till.of(lab, tmp_path)
    async with openai.AsyncOpenAI(base_url=f"{till.relay.url}/v1", **CLIENT) as client:

        async def read(recording: Recording, fields: dict[str, str]) -> tuple[str, int, int]:
            choices = int((recording.about["request_body"] or {}).get("n") or 1)
            options: Any = {"n": choices, "stream": True, "stream_options": {"include_usage": True}}
            stream: Any = await client.chat.completions.create(
                model="m", messages=TURN, **options, extra_headers=fields
            )
            chunks = [chunk async for chunk in stream]
            ends = {each.finish_reason for chunk in chunks for each in chunk.choices if each.finish_reason}
            usage = chunks[-1].usage
            assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
            return ",".join(ends), usage.prompt_tokens, usage.completion_tokens

        played = [one for one in _long("openai-chat", "groq") if path_of(one).endswith("/chat/completions")]
        await _cut_at_half(till, played, read, "length")


async def test_openai_reads_what_a_cut_response_costs(lab: Lab, tmp_path: Path) -> None:
    till = await Till.of(lab, tmp_path)
    async with openai.AsyncOpenAI(base_url=f"{till.relay.url}/v1", **CLIENT) as client:

        async def read(recording: Recording, fields: dict[str, str]) -> tuple[str, int, int]:
            stream: Any = await client.responses.create(model="m", input="i", stream=True, extra_headers=fields)
            *_, last = [event async for event in stream]
            usage = last.response.usage
            return last.response.incomplete_details.reason, usage.input_tokens, usage.output_tokens

        await _cut_at_half(till, _long("openai-responses"), read, "max_output_tokens")


async def test_anthropic_reads_what_a_cut_message_costs(lab: Lab, tmp_path: Path) -> None:
    till = await Till.of(lab, tmp_path)
    async with AsyncAnthropic(base_url=till.relay.url, **CLIENT) as client:

        async def read(recording: Recording, fields: dict[str, str]) -> tuple[str, int, int]:
            async with client.messages.stream(
                model="m", max_tokens=100_000, messages=TURN, extra_headers=fields
            ) as stream:
                message = await stream.get_final_message()
            usage = message.usage
            cache = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
            return message.stop_reason or "", usage.input_tokens + cache, usage.output_tokens

        await _cut_at_half(till, _long("anthropic-messages"), read, "max_tokens")


async def test_google_genai_reads_what_a_cut_answer_costs(lab: Lab, tmp_path: Path) -> None:
    till = await Till.of(lab, tmp_path)
    options = HttpOptions(base_url=till.relay.url, timeout=int(PATIENCE * 1000))
    async with genai.Client(api_key=KEY, http_options=options).aio as client:

        async def read(recording: Recording, fields: dict[str, str]) -> tuple[str, int, int]:
            config = GenerateContentConfig(http_options=HttpOptions(headers=fields))
            stream = await client.models.generate_content_stream(model="gemini-x", contents="Go on.", config=config)
            *_, last = [chunk async for chunk in stream]
            assert last.candidates
            assert last.usage_metadata
            usage = last.usage_metadata
            output = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
            return str(getattr(last.candidates[0].finish_reason, "value", "")), usage.prompt_token_count or 0, output

        played = [one for one in ALL if one.kind == "gemini" and one.path.suffix == ".sse"]
        await _cut_at_half(till, [one for one in played if one.about["content_events"] > 1], read, "MAX_TOKENS")
