"""Recorded streams that the relay ends at a budget: what passes is the provider's own, what follows ends it, and the
official client libraries take it for the provider's own limit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from anthropic import AsyncAnthropic
from google import genai
from google.genai.types import FinishReason, GenerateContentConfig, HttpOptions

from tests.dialects.frames import meter_for, split
from tests.support.corpus import Recording, recordings
from tests.support.h2_lab import Certificates, h2_client
from tests.support.lab import Lab, RunningRelay, eventually
from tests.support.peers import program, run
from tests.support.provider import answering
from tests.support.replay import RECORDING, Replay, body_of, is_served, path_of
from tests.support.wire import PATIENCE, Wire, request, response

BUDGET = "x-flow-max-tokens"
BUDGETS = (1, 2, 3, 5, 8, 13, 40, 100, 200)
"""Tokens after which streams are cut."""
CHAT_KINDS = ("openai-chat", "openai-compatible-other", "groq", "mistral")
CLIENT: Any = {"api_key": "none", "max_retries": 0, "timeout": PATIENCE}
TURN: Any = [{"role": "user", "content": "Go on."}]

needs_recordings = pytest.mark.skipif(not recordings(), reason="FLOW_CORPUS does not name a folder of recordings")

# The library's models know neither all tools of the compatible providers nor all of their items.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")


class Cutting:
    """A relay before a provider whose streams have no end: only a cut ends them."""

    def __init__(self, relay: RunningRelay, replay: Replay, played: list[Recording]) -> None:
        self.relay = relay
        self._replay = replay
        self._played = played
        self._asked: list[str] = []

    @classmethod
    async def of(cls, lab: Lab, played: list[Recording], **settings: object) -> Cutting:
        replay = Replay(played, ends=False)
        provider = await lab.provider(replay)
        return cls(await lab.relay(provider.url, **settings), replay, played)

    def each(self) -> Iterator[tuple[Recording, int, dict[str, str]]]:
        """Each recording with each budget that must end it, and the header fields that ask for both."""
        for recording in self._played:
            for budget in [budget for budget in BUDGETS if budget < _least_tokens(recording)]:
                # The n-th request's identity tells its budget.
                request_id = f"{budget}:{len(self._asked)}"
                self._asked.append(recording.name)
                yield recording, budget, {RECORDING: recording.name, BUDGET: str(budget), "x-request-id": request_id}

    @property
    def count(self) -> int:
        return len(self._asked)

    async def all_were_cut(self) -> None:
        """The relay says so of all that were asked for, and the provider was told."""
        lines = await self.relay.access(len(self._asked))
        for line in lines:
            assert (line["status"], line["end"], line["estimated"]) == (200, "budget", True), line
            assert line["output_tokens"] <= int(line["request_id"].partition(":")[0]), line
        await eventually(lambda: len(self._replay.cancelled) == len(self._asked), "the provider's work is cancelled")
        assert sorted(self._replay.cancelled) == sorted(self._asked)


def _least_tokens(recording: Recording) -> int:
    """What an estimate comes to at least: a token for each event with content. Gemini's events are large: there it is
    half of the tokens that the client sees."""
    if recording.kind != "gemini":
        return int(recording.about["content_events"])
    usage = recording.about["usage"]
    return int(usage["output_tokens"] - usage.get("reasoning_tokens", 0)) // 2


def _chats(*kinds: str) -> list[Recording]:
    found = [recording for recording in recordings(*kinds) if path_of(recording).endswith("/chat/completions")]
    return [recording for recording in found if is_served(recording)]


# --- the bytes ---


def _passed(recording: Recording, body: bytes) -> tuple[int, bytes]:
    """How many of the provider's own events `body` begins with, and what follows them."""
    count = size = 0
    for _, _, raw in split(recording.body, recording.path.suffix):
        if not body.startswith(raw, size):
            break
        count += 1
        size += len(raw)
    return count, body[size:]


def _check_ending(recording: Recording, count: int, ending: bytes) -> None:
    """It is whole events of the format, and has no content: nothing of the provider's is in it, changed or not."""
    extension = recording.path.suffix
    meter = meter_for(recording)
    for name, payload, _ in split(recording.body, extension)[:count]:
        meter.read(name, payload)
    content_bytes = meter.content_bytes
    events = split(ending, extension)
    assert b"".join(raw for _, _, raw in events) == ending
    for name, payload, _ in events:
        assert payload == b"[DONE]" or type(orjson.loads(payload)) is dict
        meter.read(name, payload)
    assert meter.content_bytes == content_bytes


async def _cut(client: Wire, recording: Recording, fields: dict[str, str], body: bytes | None = None) -> bytes:
    lines = [f"{name}: {value}" for name, value in fields.items()]
    await client.send(request("POST", path_of(recording), lines, body=body or body_of(recording)))
    return (await client.response()).body


@needs_recordings
@pytest.mark.parametrize(
    "kinds",
    [
        CHAT_KINDS,
        ("openai-responses",),
        ("anthropic-messages",),
        ("gemini",),
        ("cohere",),
        ("ollama-ndjson",),
        ("bedrock",),
    ],
    ids=lambda kinds: kinds[0],
)
async def test_what_passes_is_the_providers_own_and_then_ends(lab: Lab, kinds: tuple[str, ...]) -> None:
    played = [one for one in recordings(*kinds) if is_served(one) and one.path.suffix != ".jsonarray"]
    cutting = await Cutting.of(lab, played)
    client = await lab.client(cutting.relay.port)
    after = set()
    for recording, budget, fields in cutting.each():
        count, ending = _passed(recording, await _cut(client, recording, fields))
        assert ending, (recording.name, budget)
        _check_ending(recording, count, ending)
        after.add(count)
    assert len(after) >= 3
    await cutting.all_were_cut()


@needs_recordings
async def test_a_cut_over_http2_is_the_one_over_http1(lab: Lab) -> None:
    cutting = await Cutting.of(lab, recordings("anthropic-messages", "ollama-ndjson")[-7:])
    old, new = await lab.client(cutting.relay.port), await h2_client(lab, cutting.relay.port)
    body = b'{"model": "m", "stream": true}'
    for recording, budget, fields in cutting.each():
        stream = new.peer.request("POST", path_of(recording), fields.items(), body=body)
        answer = await new.answer(stream)
        assert answer.whole
        assert answer.body == await _cut(old, recording, fields, body), (recording.name, budget)
    assert {line["protocol"] for line in await cutting.relay.access(2 * cutting.count)} == {"h1", "h2"}


# --- the official libraries ---


@needs_recordings
async def test_openai_reads_a_cut_chat_to_its_end(lab: Lab) -> None:
    cutting = await Cutting.of(lab, _chats(*CHAT_KINDS))
    async with openai.AsyncOpenAI(base_url=f"{cutting.relay.url}/v1", **CLIENT) as client:
        for recording, budget, fields in cutting.each():
            chunks = [chunk async for chunk in await _chat(client, recording, fields)]
            finishes = _finishes(chunks)
            assert set(finishes.values()) == {"length"}, (recording.name, budget)
            assert sorted(finishes) == list(range(_choices(recording)))
            assert chunks[-1].usage.completion_tokens <= budget
    await cutting.all_were_cut()


@needs_recordings
async def test_openai_reads_a_cut_chat_over_http2(lab: Lab, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    cutting = await Cutting.of(lab, _chats("openai-chat"), **certificates.settings)
    async with openai.AsyncOpenAI(
        base_url=f"https://localhost:{cutting.relay.port}/v1",
        **CLIENT,
        http_client=openai.DefaultAsyncHttpxClient(http2=True, verify=certificates.client()),
    ) as client:
        for recording, budget, fields in cutting.each():
            chunks = [chunk async for chunk in await _chat(client, recording, fields)]
            assert set(_finishes(chunks).values()) == {"length"}, (recording.name, budget)
    assert {line["protocol"] for line in cutting.relay.lines("access")} == {"h2"}
    await cutting.all_were_cut()


@needs_recordings
async def test_openai_reads_a_cut_tool_call_to_its_end(lab: Lab) -> None:
    """Some are cut in the middle of the arguments: what came of them is what the provider sent."""
    tools = [one for one in _chats("openai-chat", "groq") if one.about["content_kinds"]["tool"]]
    cutting = await Cutting.of(lab, tools)
    arguments = []
    async with openai.AsyncOpenAI(base_url=f"{cutting.relay.url}/v1", **CLIENT) as client:
        for recording, budget, fields in cutting.each():
            async with client.chat.completions.stream(model="m", messages=TURN, extra_headers=fields) as stream:
                await stream.until_done()
                [choice] = stream.current_completion_snapshot.choices
            assert choice.finish_reason == "length", (recording.name, budget)
            arguments += [call.function.arguments for call in choice.message.tool_calls or ()]
    assert any(map(_is_part_of_json, arguments))
    await cutting.all_were_cut()


@needs_recordings
async def test_openai_reads_a_cut_legacy_completion_to_its_end(lab: Lab) -> None:
    played = [one for one in recordings("openai-chat") if path_of(one).endswith("/v1/completions")]
    cutting = await Cutting.of(lab, played)
    async with openai.AsyncOpenAI(base_url=f"{cutting.relay.url}/v1", **CLIENT) as client:
        for recording, budget, fields in cutting.each():
            stream = await client.completions.create(model="m", prompt="p", stream=True, extra_headers=fields)
            chunks = [chunk async for chunk in stream]
            assert set(_finishes(chunks).values()) == {"length"}, (recording.name, budget)
    await cutting.all_were_cut()


@needs_recordings
async def test_openai_reads_a_cut_response_to_its_end(lab: Lab) -> None:
    cutting = await Cutting.of(lab, recordings("openai-responses"))
    async with openai.AsyncOpenAI(base_url=f"{cutting.relay.url}/v1", **CLIENT) as client:
        for recording, budget, fields in cutting.each():
            stream = await client.responses.create(model="m", input="i", stream=True, extra_headers=fields)
            events = [event async for event in stream]
            end = events[-1]
            assert end.type == "response.incomplete", (recording.name, budget)
            assert end.response.incomplete_details is not None
            assert end.response.incomplete_details.reason == "max_output_tokens"
            assert end.response.usage is not None
            assert end.response.usage.output_tokens <= budget
    await cutting.all_were_cut()


@needs_recordings
async def test_anthropic_reads_a_cut_message_to_its_end(lab: Lab) -> None:
    """Also one whose tool call was open."""
    cutting = await Cutting.of(lab, [one for one in recordings("anthropic-messages") if is_served(one)])
    last = set()
    async with AsyncAnthropic(base_url=cutting.relay.url, **CLIENT) as client:
        for recording, budget, fields in cutting.each():
            async with client.messages.stream(
                model="m", max_tokens=1000, messages=TURN, extra_headers=fields
            ) as stream:
                message = await stream.get_final_message()
            assert message.stop_reason == "max_tokens", (recording.name, budget)
            assert message.usage.output_tokens <= budget
            last.add(message.content[-1].type if message.content else "")
    assert last >= {"text", "tool_use"}
    await cutting.all_were_cut()


@needs_recordings
async def test_google_genai_reads_a_cut_answer_to_its_end(lab: Lab) -> None:
    played = [one for one in recordings("gemini") if is_served(one) and one.path.suffix == ".sse"]
    cutting = await Cutting.of(lab, played)
    options = HttpOptions(base_url=cutting.relay.url, timeout=int(PATIENCE * 1000))
    async with genai.Client(api_key="none", http_options=options).aio as client:
        for recording, budget, fields in cutting.each():
            config = GenerateContentConfig(http_options=HttpOptions(headers=fields))
            stream = await client.models.generate_content_stream(model="gemini-x", contents="Go on.", config=config)
            chunks = [chunk async for chunk in stream]
            last = chunks[-1]
            assert last.candidates
            assert last.candidates[0].finish_reason is FinishReason.MAX_TOKENS, (recording.name, budget)
            assert last.usage_metadata
            assert (last.usage_metadata.candidates_token_count or 0) <= budget
    await cutting.all_were_cut()


NODE = """
const { OpenAI } = require('openai');
const [, baseURL, cases] = process.argv;
const client = new OpenAI({ baseURL, apiKey: 'none', maxRetries: 0, timeout: 15000 });
const messages = [{ role: 'user', content: 'Go on.' }];
async function chat(headers, n) {
  const told = new Set();
  const asked = { model: 'm', messages, n, stream: true, stream_options: { include_usage: true } };
  let tokens = null;
  for await (const chunk of await client.chat.completions.create(asked, { headers })) {
    for (const choice of chunk.choices ?? []) if (choice.finish_reason) told.add(choice.finish_reason);
    tokens = chunk.usage?.completion_tokens ?? tokens;
  }
  return [[...told].join(), tokens];
}
async function respond(headers) {
  let last = null;
  for await (const event of await client.responses.create({ model: 'm', input: 'i', stream: true }, { headers })) {
    last = event;
  }
  return [last.response.incomplete_details.reason, last.response.usage.output_tokens];
}
(async () => {
  const answers = [];
  for (const [kind, headers, n] of JSON.parse(cases)) {
    answers.push(kind === 'chat' ? await chat(headers, n) : await respond(headers));
  }
  console.log(JSON.stringify(answers));
})();
"""


@needs_recordings
@pytest.mark.parametrize("kind", ["chat", "responses"])
async def test_openai_for_node_reads_a_cut_stream_to_its_end(lab: Lab, kind: str) -> None:
    node = await _node_with("openai")
    played = _chats("openai-chat", "groq") if kind == "chat" else recordings("openai-responses")
    cutting = await Cutting.of(lab, played)
    asked = list(cutting.each())
    cases = json.dumps([(kind, fields, _choices(recording)) for recording, _, fields in asked])
    status, out, err = await run(node, "-e", NODE, f"{cutting.relay.url}/v1", cases)
    assert status == 0, err.decode()
    answers = orjson.loads(out)
    assert {reason for reason, _ in answers} == {"length" if kind == "chat" else "max_output_tokens"}
    assert [tokens for (_, tokens), (_, budget, _) in zip(answers, asked, strict=True) if tokens > budget] == []
    await cutting.all_were_cut()


async def _node_with(package: str) -> str:
    """Node's path, where it finds `package` in a folder that NODE_PATH names."""
    node = program("node")
    if not os.environ.get("NODE_PATH"):
        pytest.skip(f"NODE_PATH does not name a node_modules folder with the package {package}")
    status, _, _ = await run(node, "-e", f"require.resolve('{package}')")
    if status:
        pytest.skip(f"NODE_PATH names no folder with the package {package}")
    return node


async def _chat(client: openai.AsyncOpenAI, recording: Recording, fields: dict[str, str]) -> Any:
    return await client.chat.completions.create(
        model="m",
        messages=TURN,
        n=_choices(recording),
        stream=True,
        stream_options={"include_usage": True},
        extra_headers=fields,
    )


def _choices(recording: Recording) -> int:
    return int((recording.about["request_body"] or {}).get("n") or 1)


def _finishes(chunks: list[Any]) -> dict[int, str]:
    """The finish reason of each choice."""
    choices = [choice for chunk in chunks for choice in chunk.choices or ()]
    return {choice.index: choice.finish_reason for choice in choices if choice.finish_reason}


def _is_part_of_json(arguments: str | None) -> bool:
    try:
        orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return True
    return False


# --- what the provider is asked for ---


def _at(*names: str) -> Any:
    """Reads or writes a field within a field."""

    def reach(body: dict[str, Any], value: int | None = None) -> int | None:
        for name in names[:-1]:
            body = body.setdefault(name, {})
        if value is not None:
            body[names[-1]] = value
        found: int | None = body.get(names[-1])
        return found

    return reach


CLAMPED = pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/chat/completions", _at("max_tokens")),
        ("/v1/chat/completions", _at("max_completion_tokens")),
        ("/v1/completions", _at("max_tokens")),
        ("/v1/responses", _at("max_output_tokens")),
        ("/v1/messages", _at("max_tokens")),
        ("/v1beta/models/gemini-x:streamGenerateContent?alt=sse", _at("generationConfig", "maxOutputTokens")),
        ("/v2/chat", _at("max_tokens")),
        ("/api/chat", _at("options", "num_predict")),
        ("/api/generate", _at("options", "num_predict")),
    ],
    ids=["chat", "chat-new", "completions", "responses", "messages", "gemini", "cohere", "ollama-chat", "ollama"],
)


@CLAMPED
@pytest.mark.parametrize(("asked", "seen"), [(5000, 50), (20, 20)], ids=["more", "less"])
async def test_the_provider_sees_the_smaller_bound(lab: Lab, path: str, field: Any, asked: int, seen: int) -> None:
    provider, relay, client = await lab.between(answering(response(b"{}", ["Content-Type: application/json"])))
    model = "gemini-x" if "gemini-x" in path else "m"  # which the path names
    body: dict[str, Any] = {"model": model, "prompt": "p", "input": "i", "messages": TURN, "stream": True}
    field(body, asked)
    await client.send(request("POST", path, [f"{BUDGET}: 50"], body=orjson.dumps(body)))
    assert (await client.response()).status == 200
    [came] = provider.requests
    told = orjson.loads(came.body)
    assert field(told) == seen
    assert came.get(BUDGET) is None
    field(body, seen)
    assert {name: told[name] for name in body} == body
    await relay.access()


async def test_choices_share_the_bound(lab: Lab) -> None:
    provider, relay, client = await lab.between(answering(response(b"{}", ["Content-Type: application/json"])))
    body = orjson.dumps({"model": "m", "n": 2, "max_tokens": 100, "messages": TURN})
    await client.send(request("POST", "/v1/chat/completions", [f"{BUDGET}: 50"], body=body))
    assert (await client.response()).status == 200
    assert orjson.loads(provider.requests[0].body)["max_tokens"] == 25
    await relay.access()


async def test_a_client_cannot_raise_the_relays_bound(lab: Lab) -> None:
    script = answering(response(b"{}", ["Content-Type: application/json"]))
    provider, relay, client = await lab.between(script, max_tokens=30)
    body = orjson.dumps({"model": "m", "max_tokens": 100, "messages": TURN})
    await client.send(request("POST", "/v1/messages", [f"{BUDGET}: 50"], body=body))
    assert (await client.response()).status == 200
    assert orjson.loads(provider.requests[0].body)["max_tokens"] == 30
    await relay.access()
