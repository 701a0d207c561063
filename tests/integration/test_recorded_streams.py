"""Recorded streams of real providers through the relay: every byte passes, and every token is counted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.dialects.reading import sse_events
from tests.support.corpus import Recording, recordings
from tests.support.lab import Lab, Line, RunningRelay
from tests.support.replay import RECORDING, Replay, body_of, is_chat, is_served, path_of
from tests.support.topology import toml
from tests.support.wire import Wire, request

AT_ONCE = 8
DIALECTS = {"xai": "grok-*", "mistral": "mistral-*", "perplexity": "sonar*"}
"""Providers with ways of their own in a format that they share, and whose models these are."""

ALL = recordings()
pytestmark = pytest.mark.skipif(not ALL, reason="FLOW_CORPUS does not name a folder of recordings")


async def _relay(lab: Lab, folder: Path, played: list[Recording], **settings: object) -> RunningRelay:
    """One relay before one provider, that goes by a name for each dialect."""
    provider = await lab.provider(Replay(played))
    upstreams = {name: {"url": provider.url, "dialect": name} for name in DIALECTS}
    routes = [f'[[routes]]\nmodels = ["{models}"]\nupstreams = ["{name}"]\n' for name, models in DIALECTS.items()]
    rest = '[[routes]]\nupstreams = ["any"]\n'
    config = toml(folder, {**upstreams, "any": provider.url}, "\n".join([*routes, rest]))
    return await lab.relay(None, config=config, **settings)


async def _play(lab: Lab, relay: RunningRelay, played: list[Recording], *, asks: bool = True) -> dict[str, bytes]:
    """What clients get of each."""
    waiting = list(played)
    answers: dict[str, bytes] = {}

    async def ask(client: Wire) -> None:
        while waiting:
            recording = waiting.pop()
            headers = [f"{RECORDING}: {recording.name}", f"X-Request-Id: {played.index(recording)}"]
            await client.send(request("POST", path_of(recording), headers, body=body_of(recording, asks=asks)))
            answers[recording.name] = (await client.response()).body

    await asyncio.gather(*[ask(await lab.client(relay.port)) for _ in range(AT_ONCE)])
    return answers


async def _lines(relay: RunningRelay, played: list[Recording]) -> dict[str, Line]:
    """The access line of each."""
    lines = await relay.access(len(played))
    return {played[int(line["request_id"])].name: line for line in lines}


def _counted(line: Line, expected: dict[str, Any]) -> dict[str, Any]:
    """The tokens in an access line, in the words of the sidecars and as far as these tell them."""
    counted = {
        "input_tokens": line["input_tokens"],
        "output_tokens": line["output_tokens"],
        "cached_input_tokens": line["cached_tokens"],
        "cache_read_input_tokens": line["cached_tokens"],
        "cache_creation_input_tokens": line["cache_written_tokens"],
        "reasoning_tokens": line["reasoning_tokens"],
    }
    return {name: tokens for name, tokens in counted.items() if expected.get(name) is not None}


def _expected(recording: Recording) -> dict[str, Any]:
    usage = recording.billed
    # Of what is not told, the line has an estimate.
    return {name: tokens for name, tokens in usage.items() if tokens is not None}


def _without_reports(body: bytes) -> bytes:
    """A chat stream without the usage reports behind the end of its choices."""
    passed = []
    ended = False
    for _, data, raw in sse_events(body):
        event = {} if data == b"[DONE]" else orjson.loads(data)
        choices = event.get("choices") or []
        if not (event.get("usage") and (ended or not choices)) or "error" in event:
            passed.append(raw)
        ended = ended or any(choice.get("finish_reason") for choice in choices)
    return b"".join(passed)


async def test_bytes_pass_and_tokens_are_counted(lab: Lab, tmp_path: Path) -> None:
    played = [recording for recording in ALL if is_served(recording) and recording.about["usage"]]
    relay = await _relay(lab, tmp_path, played)
    answers = await _play(lab, relay, played)
    assert [recording.name for recording in played if answers[recording.name] != recording.body] == []
    lines = await _lines(relay, played)
    expected = {recording.name: _expected(recording) for recording in played}
    assert {name: _counted(lines[name], usage) for name, usage in expected.items()} == expected
    assert {line["end"] for line in lines.values()} == {"complete"}
    untold = {name for name, usage in expected.items() if "input_tokens" not in usage}
    assert {name for name, line in lines.items() if line["estimated"]} == untold


async def test_bytes_that_were_withheld_until_the_first_content_pass_and_are_counted(lab: Lab, tmp_path: Path) -> None:
    relay = await _relay(lab, tmp_path, ALL, first_token_timeout="1m")
    answers = await _play(lab, relay, ALL)
    assert [recording.name for recording in ALL if answers[recording.name] != recording.body] == []
    lines = await _lines(relay, ALL)
    served = [recording for recording in ALL if is_served(recording) and recording.about["usage"]]
    expected = {recording.name: _expected(recording) for recording in served}
    assert {name: _counted(lines[name], usage) for name, usage in expected.items()} == expected
    assert {line["end"] for line in lines.values()} == {"complete"}


async def test_streams_without_a_usage_report_pass_and_are_estimated(lab: Lab, tmp_path: Path) -> None:
    played = [recording for recording in ALL if is_served(recording) and not recording.about["usage"]]
    relay = await _relay(lab, tmp_path, played)
    answers = await _play(lab, relay, played)
    assert [recording.name for recording in played if answers[recording.name] != recording.body] == []
    for name, line in (await _lines(relay, played)).items():
        assert line["end"] == "complete", name
        assert line["estimated"] is True, name


async def test_a_report_that_a_client_did_not_ask_for_is_withheld_and_counted(lab: Lab, tmp_path: Path) -> None:
    chats = [recording for recording in ALL if is_served(recording) and is_chat(recording)]
    played = [recording for recording in chats if recording.about["usage"]]
    relay = await _relay(lab, tmp_path, played)
    answers = await _play(lab, relay, played, asks=False)
    # Two providers report unasked; there the relay asks for nothing, and leaves nothing out.
    own = [*recordings("mistral"), *(one for one in chats if one.about["provider_host"] == "api.perplexity.ai")]
    passed = {one.name: one.body if one in own else _without_reports(one.body) for one in played}
    assert [name for name, body in passed.items() if answers[name] != body] == []
    assert sum(len(passed[one.name]) < len(one.body) for one in played) > 10
    lines = await _lines(relay, played)
    expected = {recording.name: _expected(recording) for recording in played}
    assert {name: _counted(lines[name], usage) for name, usage in expected.items()} == expected


async def test_other_apis_pass_uncounted(lab: Lab, tmp_path: Path) -> None:
    """Anthropic's Text Completions, Cohere's first version, OpenAI's threads and transcriptions, Gemini's interactions
    and whatever else is none of the formats."""
    played = [recording for recording in ALL if not is_served(recording)]
    relay = await _relay(lab, tmp_path, played)
    answers = await _play(lab, relay, played)
    assert [recording.name for recording in played if answers[recording.name] != recording.body] == []
    for name, line in (await _lines(relay, played)).items():
        assert line["end"] == "complete", name
        assert line.keys().isdisjoint({"dialect", "input_tokens", "output_tokens"}), name
