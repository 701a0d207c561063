"""Clients that others wrote: curl, httpx, and the openai package."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import openai
import orjson
import pytest

from tests.support.lab import Lab, RunningRelay, eventually, numbers, simulate
from tests.support.peers import curl, program, run

BODY = orjson.dumps({"model": "simulated", "stream": True, "messages": []}).decode()


async def _relay(lab: Lab) -> RunningRelay:
    simulator = await lab.simulator()
    return await lab.relay(simulator.url)


# --- curl ---


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
async def test_curl_streams(lab: Lab, version: str) -> None:
    relay = await _relay(lab)
    url = f"{relay.url}/v1/chat/completions"
    out = await curl(version, "-N", "-H", simulate(events=100, rate=500), "-d", BODY, url)
    assert numbers(out) == list(range(100))
    assert out.endswith(b"data: [DONE]\n\n")


async def test_curl_asks_before_a_big_upload(lab: Lab, tmp_path: Path) -> None:
    """Above 1 MB curl says Expect: 100-continue and waits a second where nobody answers."""
    relay = await _relay(lab)
    payload = random.Random(1).randbytes(9_000_000)
    (tmp_path / "payload").write_bytes(payload)
    out = await curl(
        "-v", "--stderr", str(tmp_path / "said"), "-T", str(tmp_path / "payload"), "-X", "POST", f"{relay.url}/v1/sink"
    )
    assert orjson.loads(out) == {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    said = (tmp_path / "said").read_text()
    assert "> Expect: 100-continue" in said
    assert "< HTTP/1.1 100 Continue" in said


async def test_curl_uploads_in_chunks(lab: Lab) -> None:
    relay = await _relay(lab)
    payload = random.Random(2).randbytes(5_000_000)
    arguments = ("-X", "POST", "-H", "Transfer-Encoding: chunked", "--data-binary", "@-")
    out = await curl(*arguments, f"{relay.url}/v1/sink", given=payload)
    assert orjson.loads(out) == {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}


async def test_curl_reuses_its_connection(lab: Lab) -> None:
    relay = await _relay(lab)
    url = f"{relay.url}/v1/models"
    out = await curl("-w", " %{num_connects} ", url, url, url)
    assert [part for part in out.split() if part in (b"0", b"1")] == [b"1", b"0", b"0"]


async def test_curl_head(lab: Lab) -> None:
    relay = await _relay(lab)
    out = await curl("-I", f"{relay.url}/v1/models")
    assert out.startswith(b"HTTP/1.1 200 ")


async def test_curl_complains_of_a_stream_that_breaks_off(lab: Lab) -> None:
    relay = await _relay(lab)
    url = f"{relay.url}/v1/chat/completions"
    for version, status in (("--http1.1", 18), ("--http1.0", 56)):  # partial file; failure in receiving
        arguments = ("-sN", version, "-H", simulate(events=100, rate=500, fin_after=5), "-d", BODY, url)
        assert (await run(program("curl"), *arguments))[0] == status


# --- httpx ---


async def test_httpx_streams(lab: Lab) -> None:
    relay = await _relay(lab)
    async with httpx.AsyncClient(base_url=relay.url, trust_env=False) as client:
        headers = dict([simulate(events=50, rate=500).split(": ")])
        for _ in range(2):
            async with client.stream("POST", "/v1/chat/completions", content=BODY, headers=headers) as answer:
                lines = [line async for line in answer.aiter_lines() if line]
            assert numbers("\n".join(lines).encode()) == list(range(50))
            assert lines[-1] == "data: [DONE]"


async def test_httpx_uploads_what_it_makes_on_the_way(lab: Lab) -> None:
    relay = await _relay(lab)

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(200):
            yield b"%d," % number * 1000

    async with httpx.AsyncClient(base_url=relay.url, trust_env=False) as client:
        answer = await client.post("/v1/echo", content=pieces())
    assert answer.content == b"".join(b"%d," % number * 1000 for number in range(200))


async def test_httpx_sees_a_stream_that_breaks_off(lab: Lab) -> None:
    relay = await _relay(lab)
    async with httpx.AsyncClient(base_url=relay.url, trust_env=False) as client:
        headers = dict([simulate(events=50, rate=500, fin_after=5).split(": ")])
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/v1/chat/completions", content=BODY, headers=headers)


async def test_httpx_may_leave_in_mid_stream(lab: Lab) -> None:
    simulator = await lab.simulator()
    relay = await lab.relay(simulator.url)
    async with httpx.AsyncClient(base_url=relay.url, trust_env=False) as client:
        headers = dict([simulate(events=0, rate=100).split(": ")])
        async with client.stream("POST", "/v1/chat/completions", content=BODY, headers=headers) as answer:
            async for line in answer.aiter_lines():
                if "tok000005" in line:
                    break
        await eventually(lambda: simulator.streams[0]["state"] == "cancelled")


# --- openai ---


def _openai(relay: RunningRelay, **options: object) -> openai.AsyncOpenAI:
    headers = dict([simulate(**options).split(": ")]) if options else None
    return openai.AsyncOpenAI(base_url=f"{relay.url}/v1", api_key="sk-client", max_retries=0, default_headers=headers)


async def test_openai_streams(lab: Lab) -> None:
    simulator = await lab.simulator()
    relay = await lab.relay(simulator.url)
    async with _openai(relay, events=40, rate=400) as client:
        stream = await client.chat.completions.create(
            model="simulated",
            messages=[{"role": "user", "content": "Go on."}],
            stream=True,
            stream_options={"include_usage": True},
        )
        text, finishes, usage = "", [], None
        async for event in stream:
            for choice in event.choices:
                text += choice.delta.content or ""
                finishes += [choice.finish_reason] if choice.finish_reason else []
            usage = event.usage or usage
    assert numbers(text.encode()) == list(range(40))
    assert finishes == ["stop"]
    assert usage is not None
    assert usage.completion_tokens == 40
    assert simulator.requests[0][2]["authorization"] == "Bearer sk-client"


async def test_openai_gets_whole_answers(lab: Lab) -> None:
    relay = await _relay(lab)
    async with _openai(relay) as client:
        answer = await client.chat.completions.create(
            model="simulated", messages=[{"role": "user", "content": "Go on."}]
        )
        assert answer.choices[0].message.content
        assert answer.usage is not None
        assert "simulated" in [model.id async for model in await client.models.list()]


async def test_openai_understands_the_relays_own_errors(lab: Lab) -> None:
    relay = await lab.relay("http://nobody.invalid", max_body=500)
    async with _openai(relay) as client:
        with pytest.raises(openai.InternalServerError) as failure:
            await client.models.list()
        assert failure.value.status_code == 502
        assert failure.value.code == "connect_failed"
        with pytest.raises(openai.APIStatusError, match="FLOW_MAX_BODY") as refusal:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x" * 1000}])
        assert refusal.value.status_code == 413


async def test_openai_sees_the_providers_errors_and_their_hints(lab: Lab) -> None:
    relay = await _relay(lab)
    async with _openai(relay, status=429, retry_after=7) as client:
        with pytest.raises(openai.RateLimitError) as failure:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        assert failure.value.response.headers["retry-after"] == "7"


async def test_openai_never_takes_a_broken_stream_for_a_whole_one(lab: Lab) -> None:
    relay = await _relay(lab)
    async with _openai(relay, events=50, rate=500, abort_after=5) as client:
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x"}], stream=True
        )
        with pytest.raises(openai.APIError, match="broke off"):
            async for _ in stream:
                pass
