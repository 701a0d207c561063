"""Requests of any size and spelling over real sockets: read, bounded and counted, or refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.h2_lab import h2_client
from tests.support.lab import Lab, Leftovers, RunningRelay, eventually
from tests.support.provider import Caller, Provider, answering
from tests.support.topology import tenant, toml
from tests.support.wire import LAST_CHUNK, Message, chunk, request, response

KEY = "flow-" + "k" * 43
AUTHORIZED = f"Authorization: Bearer {KEY}"
CHAT = "/v1/chat/completions"
JSON = "Content-Type: application/json"
QUOTA = 2000
MB = 1 << 20


def routes(path: str = "*", **settings: object) -> str:
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    return "\n".join(["[[routes]]", f"path = {json.dumps(path)}", *lines, ""])


# --- a provider that answers with as many tokens as it is asked for ---


def _first(value: Any) -> int:
    """How a careless provider reads a number."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0


def generous(message: Message) -> bytes:
    """As a lenient server: any encoding that Python's reader takes, `stream` in any form."""
    asked = json.loads(message.body)
    tokens = _first(asked.get("max_tokens")) or 3000
    if str(asked.get("stream")).lower() not in ("true", "1", "on", "yes"):
        usage = {"prompt_tokens": 4, "completion_tokens": tokens, "total_tokens": 4 + tokens}
        choice = {"index": 0, "message": {"content": "word " * tokens}, "finish_reason": "length"}
        if asked.get("logprobs"):
            choice["logprobs"] = [{"token": "word ", "bytes": [119] * 5, "top": ["x" * 900]}] * tokens
        return response(orjson.dumps({"choices": [choice], "usage": usage}), [JSON])
    event = b'data: {"choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
    report = b'data: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":%d,"total_tokens":%d}}\n\n'
    asks = (asked.get("stream_options") or {}).get("include_usage")
    body = event * tokens + (report % (tokens, 4 + tokens) if asks else b"") + b"data: [DONE]\n\n"
    return response(body, ["Content-Type: text/event-stream"])


def body_of(**more: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **more}).encode()


BODIES: dict[str, bytes] = {
    "plain": body_of(),
    "a prompt of 0.9 MB": body_of(messages=[{"role": "user", "content": "x " * 450_000}]),
    "a prompt of 5 MB": body_of(messages=[{"role": "user", "content": "x\\n" * 1_200_000}]),
    "1 MB of blanks behind it": body_of() + b" " * MB,
    "1 MB of blanks in it": body_of().replace(b"{", b"{" + b"\n\t " * (MB // 3), 1),
    "pretty-printed": json.dumps(json.loads(body_of(tools=[{"a": [[]]}] * 500)), indent=8).encode(),
    "escaped names": body_of().replace(b'"model"', b'"\\u006dodel"').replace(b'"messages"', b'"\\u006dessages"'),
    "NaN": body_of()[:-1] + b',"x":NaN}',
    "UTF-16": body_of().decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + body_of(),
    "UTF-32": body_of().decode().encode("utf-32"),
    "no bound": body_of(max_tokens=None),
    "a bound as text": body_of(max_tokens="3000"),
    "a bound below zero": body_of(max_tokens=-1),
    "a bound of zero": body_of(max_tokens=0),
    "two bounds": body_of(max_completion_tokens=1, max_tokens=3000),
    "a list of 100 KB": body_of(logit_bias=[[1, 2, 3]] * 10_000),
}
STREAMS: dict[str, Callable[[bytes], bytes]] = {
    "whole": lambda body: body,
    "stream": lambda body: _with(body, b'"stream":true'),
    "stream as text": lambda body: _with(body, b'"stream":"true"'),
    "stream as a number": lambda body: _with(body, b'"stream":1'),
}


def _with(body: bytes, member: bytes) -> bytes:
    """The member at the end, behind all that is large; also where the text is not UTF-8."""
    for encoding in ("utf-16", "utf-32"):
        if body[:2] == b"\xff\xfe" and (b"\0\0\0" in body) == (encoding == "utf-32"):
            text = body.decode(encoding).rstrip()
            return f"{text[:-1]},{member.decode()}}}".encode(encoding)
    end = body.rindex(b"}")
    return body[:end] + b"," + member + body[end:]


def words(body: bytes) -> int:
    return body.count(b"word ")


async def _quota(lab: Lab, folder: Path, *lines: str, script: Any = None) -> tuple[Provider, RunningRelay]:
    provider = await lab.provider(script or answering(generous))
    config = toml(folder, {"p": provider.url}, tenant(KEY, *lines))
    return provider, await lab.relay(None, config=config)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("name", BODIES)
async def test_a_quota_is_kept_however_a_request_is_written(lab: Lab, tmp_path: Path, name: str, stream: str) -> None:
    """A whole answer without a bound may overdraw it once; what came is in the charge."""
    _, relay = await _quota(lab, tmp_path, f"tokens_per_day = {QUOTA}")
    body = STREAMS[stream](BODIES[name])
    had = 0
    for _ in range(3):
        client = await lab.client(relay.port)
        await client.send(request("POST", CHAT, [AUTHORIZED, JSON], body=body))
        answer = await client.response()
        assert answer.status in (200, 400, 429)
        had += words(answer.body)
    assert had <= (3000 if stream == "whole" else QUOTA + 200)
    lines = await relay.access(3)
    assert sum(line.get("output_tokens") or 0 for line in lines) >= had * 0.9
    assert had == 0 or lines[-1]["status"] == 429 or had < QUOTA


async def test_a_large_answer_with_much_beside_its_text_is_charged(lab: Lab, tmp_path: Path) -> None:
    _, relay = await _quota(lab, tmp_path, f"tokens_per_day = {QUOTA}")
    client = await lab.client(relay.port)
    statuses = []
    for _ in range(3):
        body = body_of(logprobs=True, max_tokens=1500)
        await client.send(request("POST", CHAT, [AUTHORIZED, JSON], body=body))
        statuses.append((await client.response()).status)
    assert statuses == [200, 200, 429]
    assert sum(line.get("output_tokens") or 0 for line in await relay.access(3)) <= QUOTA + 100


# --- bounds ---

BOUNDED = ["route", "header", "setting", "tenant"]


async def _bounded(lab: Lab, folder: Path, by: str, most: int) -> tuple[Provider, RunningRelay, list[str]]:
    provider = await lab.provider(answering(generous))
    route = routes(upstreams=["p"], max_tokens=most if by == "route" else 10**9)
    own = tenant(KEY, f"tokens_per_stream = {most}") if by == "tenant" else ""
    config = toml(folder, {"p": {"url": provider.url, "models": {"m": "m-prod"}}}, route + own)
    relay = await lab.relay(None, config=config, **({"max_tokens": most} if by == "setting" else {}))
    headers = [f"x-flow-max-tokens: {most}"] if by == "header" else []
    return provider, relay, [JSON, *headers, *([AUTHORIZED] if by == "tenant" else [])]


@pytest.mark.parametrize("stream", ["whole", "stream"])
@pytest.mark.parametrize("by", BOUNDED)
async def test_a_bound_is_kept_however_a_request_is_written(lab: Lab, tmp_path: Path, by: str, stream: str) -> None:
    provider, relay, headers = await _bounded(lab, tmp_path, by, 10)
    for name, body in BODIES.items():
        client = await lab.client(relay.port)
        await client.send(request("POST", CHAT, headers, body=STREAMS[stream](body)))
        answer = await client.response()
        assert answer.status in (200, 400), name
        assert words(answer.body) <= 10, name
        if answer.status == 200:
            sent = json.loads(provider.requests[-1].body)
            assert sent["model"] == "m-prod"
            assert 0 <= sent["max_tokens"] <= 10
            client.close()
    await eventually(lambda: len(relay.lines("access")) == len(BODIES))


@pytest.mark.parametrize("by", BOUNDED)
async def test_prompts_and_choices_share_a_bound(lab: Lab, tmp_path: Path, by: str) -> None:
    provider, relay, headers = await _bounded(lab, tmp_path, by, 120)
    client = await lab.client(relay.port)
    for more, each in (
        ({"prompt": ["a", "b", "c"], "max_tokens": 500}, 40),
        ({"prompt": ["a", "b", "c"], "n": 4, "max_tokens": 500}, 10),
        ({"prompt": [[1, 2], [3]], "best_of": 6, "n": 2, "max_tokens": 500}, 10),
        ({"prompt": [1, 2, 3], "max_tokens": 500}, 120),
        ({"prompt": ["a"] * 60}, 2),
        ({"prompt": "a" * 100_000, "max_tokens": 500}, 120),
    ):
        body = orjson.dumps({"model": "m", **more})
        await client.send(request("POST", "/v1/completions", headers, body=body))
        assert (await client.response()).status == 200
        assert json.loads(provider.requests[-1].body)["max_tokens"] == each


# --- what reaches the provider ---

NUMBERS = [
    b"18446744073709551615",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"123456789012345678901234",
    b"12345678901234567.25",
    b"1e22",
    b"1.0",
    b"-0",
]


async def _pass(lab: Lab, folder: Path, body: bytes, *, sends: Callable[[bytes], list[bytes]] | None = None) -> bytes:
    """What a provider with another name for the model gets of `body`."""
    provider = await lab.provider(answering(response(b"{}", [JSON])))
    route = routes(upstreams=["p"], models=["m*"])
    relay = await lab.relay(None, config=toml(folder, {"p": {"url": provider.url, "models": {"m1": "one"}}}, route))
    client = await lab.client(relay.port)
    if sends is None:
        await client.send(request("POST", CHAT, [JSON], body=body))
    else:
        await client.send(request("POST", CHAT, [JSON, "Transfer-Encoding: chunked"]))
        for piece in sends(body):
            await client.send(piece)
        await client.send(LAST_CHUNK)
    assert (await client.response()).status == 200
    [came] = provider.requests
    return came.body


@pytest.mark.parametrize("value", NUMBERS)
async def test_numbers_reach_the_provider_as_they_are(lab: Lab, tmp_path: Path, value: bytes) -> None:
    body = b'{"model":"m1","stream":true,"seed":%b,"metadata":{"n":%b}}' % (value, value)
    sent = await _pass(lab, tmp_path, body)
    assert sent == body.replace(b"m1", b"one")[:-1] + b',"stream_options":{"include_usage":true}}'
    read = json.loads(sent, parse_float=Decimal, parse_int=Decimal)
    assert read["seed"] == read["metadata"]["n"] == Decimal(value.decode())


ODD = b'{ "messages" : [{"content":"\\ud83d \\/ \xc3\xbc \xf0\x9f\x98\x80"}],\n\t"x" : 1E+2 , "model":"m1" , "y":{} }'


def _chunks(smallest: int, largest: int) -> Callable[[bytes], list[bytes]]:
    def cut(body: bytes) -> list[bytes]:
        sizes = random.Random(7)
        cut, position = [], 0
        while position < len(body):
            size = sizes.randint(smallest, largest)
            cut.append(chunk(body[position : position + size]))
            position += size
        return cut

    return cut


@pytest.mark.parametrize("framing", [None, _chunks(1, 1), _chunks(1, 30), _chunks(1, 100_000)])
@pytest.mark.parametrize("size", [0, 2 * MB])
async def test_nothing_else_is_changed(
    lab: Lab, tmp_path: Path, framing: Callable[[bytes], list[bytes]] | None, size: int
) -> None:
    if size and framing is not None and len(framing(b"x" * 1000)) > 20:
        size = 20_000
    body = ODD.replace(b"\\/", b"word " * (size // 5))
    assert await _pass(lab, tmp_path, body, sends=framing) == body.replace(b'"m1"', b'"one"')


async def test_requests_are_routed_by_a_model_behind_a_huge_prompt(lab: Lab, tmp_path: Path) -> None:
    providers = {name: await lab.provider(answering(response(name.encode()))) for name in ("a", "b")}
    each = routes(models=["a-*"], upstreams=["a"]) + routes(models=["b-*"], upstreams=["b"])
    config = toml(tmp_path, {name: provider.url for name, provider in providers.items()}, each)
    relay = await lab.relay(None, config=config)
    client = await lab.client(relay.port)
    for model, answered in (("a-1", b"a"), ("b-1", b"b"), ("c-1", None)):
        body = orjson.dumps({"messages": [{"content": "x" * 3 * MB}], "model": model})
        await client.send(request("POST", CHAT, [JSON], body=body))
        answer = await client.response()
        assert answer.body == answered if answered else answer.status == 404
    for name, provider in providers.items():
        assert [json.loads(each.body)["model"] for each in provider.requests] == [f"{name}-1"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"\xef\xbb\xbf" + body_of(), [JSON], 400),
        (body_of().decode().encode("utf-16"), [JSON], 400),
        (body_of() + b"//", [JSON], 400),
        (b"\x1f\x8b\x08", [JSON, "Content-Encoding: gzip"], 415),
        (body_of(), ["Content-Type: application/json; charset=utf-7"], 415),
        (body_of(), ["Content-Type: multipart/form-data; boundary=B"], 415),
        (body_of(), [JSON, "Content-Type: multipart/form-data; boundary=B"], 400),
    ],
)
async def test_what_can_t_be_read_passes_only_where_nothing_depends_on_it(
    lab: Lab, tmp_path: Path, body: bytes, headers: list[str], status: int
) -> None:
    provider = await lab.provider(answering(response(b"ok")))
    upstreams = {"p": provider.url}
    sent = request("POST", CHAT, [*headers, AUTHORIZED], body=body)

    async def status_with(config: str) -> int:
        relay = await lab.relay(None, config=toml(tmp_path, upstreams, config))
        client = await lab.client(relay.port)
        await client.send(sent)
        return (await client.response()).status

    assert await status_with("") == 200
    assert await status_with(routes(upstreams=["p"])) == 200
    assert await status_with(tenant(KEY)) == 200
    assert len(provider.requests) == 3
    for config in (
        routes(upstreams=["p"], models=["m*"]),
        routes(upstreams=["p"], max_tokens=10),
        tenant(KEY, "tokens_per_day = 1000"),
        tenant(KEY, 'models = ["m"]'),
    ):
        assert await status_with(config) == status
    assert len(provider.requests) == 3


# --- rules for models ---

PAIRS = [
    b'{"model":"small","MODEL":"big"}',
    b'{"Model":"big","model":"small"}',
    b'{"model":"big","model":"small"}',
    b'{"model":"small","model":"big"}',
    b'{"model":"small","m\\u006fdel":"big"}',
    b'{"model":"small","Model":"small","mODEL":"big"}',
    b'{"model":"small","m\\odel":"big"}',
    b'{"model":"small","mo\xffdel":"big"}',
    b'{"model":"small"}{"model":"big"}',
    b'{"model":"small"/*,"x":"*/,"model":"big"}',
    b'{"model":"small","x":[\'"],"model":"big","y":["\']}',
]
PATHS = [
    "/openai/deployments/big/chat/completions?api-version=2024-06-01",
    "/openai/deployments/big/completions",
    "/v1beta/models/big:generateContent",
    "/model/big/converse",
    "/openai/deployments/big/chat/%63ompletions",
]


async def test_no_spelling_leads_to_another_model(lab: Lab, tmp_path: Path) -> None:
    provider, relay = await _quota(lab, tmp_path, 'models = ["small*"]', script=answering(response(b"{}", [JSON])))
    client = await lab.client(relay.port)

    async def ask(path: str, body: bytes, *headers: str) -> int:
        await client.send(request("POST", path, [AUTHORIZED, *(headers or (JSON,))], body=body))
        return (await client.response()).status

    assert await ask(CHAT, b'{"model":"small"}') == 200
    assert await ask("/openai/deployments/small/chat/completions", b"{}") == 200
    assert len(provider.requests) == 2
    assert await ask(CHAT, b'{"model":"big"}') == 404
    for body in PAIRS:
        assert await ask(CHAT, body) == 400, body
    for path in PATHS:
        assert await ask(path, b'{"model":"small"}') == 400, path
        assert await ask(path, b"{}") == 404, path
    for body in (b"", b"{}", b"[]", b'{"model":["small"]}', b'{"model":{"a":"small"}}'):
        assert await ask(CHAT, body) in (400, 404), body
    assert len(provider.requests) == 2


MULTIPART = "Content-Type: multipart/form-data; boundary=B"


def field(name: str, value: bytes) -> bytes:
    return f"--B\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode() + value + b"\r\n"


async def test_a_form_s_model_is_found_behind_its_file(lab: Lab, tmp_path: Path) -> None:
    provider = await lab.provider(answering(response(b'{"text":"hi"}', [JSON])))
    own = tenant(KEY, 'models = ["small*"]') + routes(models=["small*"], upstreams=["p"])
    config = toml(tmp_path, {"p": {"url": provider.url, "models": {"small": "small-prod"}}}, own)
    relay = await lab.relay(None, config=config)
    file = field('name="file"; filename="a.wav"', b"RIFF\r\n-" * 700_000)
    client = await lab.client(relay.port)
    for body in (
        file + field('name="model"', b"small") + b"--B--\r\n",
        field('name="model"', b"small") + file + b"--B--\r\n",
    ):
        await client.send(request("POST", "/v1/audio/transcriptions", [AUTHORIZED, MULTIPART], body=body))
        assert (await client.response()).status == 200
        assert provider.requests[-1].body == body.replace(b"small", b"small-prod")


@pytest.mark.parametrize(
    "second",
    [
        field('name="model"', b"big"),
        field('name="Model"', b"big"),
        field('x="\\"; name=n; z="; name="model"', b"big"),
        field("name*=utf-8''model", b"big"),
        b"x\n" + field('name="model"', b"big"),
    ],
)
@pytest.mark.parametrize("later", [False, True])
async def test_a_form_with_another_model_is_refused(lab: Lab, tmp_path: Path, second: bytes, later: bool) -> None:
    """Also where the provider has had a part of it: it never gets it whole."""
    ends: list[bool] = []

    async def script(caller: Caller) -> None:
        try:
            await caller.request()
        except (EOFError, ConnectionResetError):
            ends.append(False)
        else:
            ends.append(True)

    provider, relay = await _quota(lab, tmp_path, 'models = ["small"]', script=script)
    body = field('name="model"', b"small") + field('name="file"; filename="a"', b"R" * 100)
    behind = second + b"--B--\r\n"
    client = await lab.client(relay.port)
    head = [AUTHORIZED, MULTIPART, f"Content-Length: {len(body + behind)}"]
    await client.send(request("POST", "/v1/audio/transcriptions", head) + body + (b"" if later else behind))
    if later:
        await eventually(lambda: provider.requests)
        await client.send(behind)
    answer = await client.response()
    assert answer.status == 400
    assert orjson.loads(answer.body)["error"]["code"] in ("ambiguous_body", "unreadable_body")
    if later:
        await eventually(lambda: ends)
    assert not any(ends)


# --- uploads that are collected ---


async def test_a_client_that_leaves_while_its_request_is_collected_leaves_nothing(lab: Lab) -> None:
    provider, relay, client = await lab.between(answering(response(b"ok")))
    leftovers = Leftovers()
    await client.send(request("POST", CHAT, [JSON, f"Content-Length: {4 * MB}"]) + b'{"messages":["' + b"x" * 2 * MB)
    await eventually(lambda: any(each.bytes_up > MB for each in relay.exchanges))
    client.reset()
    assert await relay.ended() == "client_gone"
    assert provider.requests == []
    await leftovers.none(relay)


async def test_a_request_that_grows_too_large_while_it_is_collected(lab: Lab) -> None:
    provider, relay, client = await lab.between(answering(response(b"ok")), max_body="1m")
    await client.send(request("POST", CHAT, [JSON, "Transfer-Encoding: chunked"]))
    await client.send(chunk(b'{"messages":["'))
    for _ in range(20):
        await client.send(chunk(b"x" * 60_000))
    answer = await client.response()
    assert answer.status == 413
    assert b"FLOW_MAX_BODY" in answer.body
    assert provider.requests == []
    await relay.access()


async def test_a_request_that_dribbles_while_it_is_collected_gets_a_timeout(lab: Lab) -> None:
    provider, relay, client = await lab.between(answering(response(b"ok")), body_timeout="200ms")
    await client.send(request("POST", CHAT, [JSON, f"Content-Length: {MB}"]) + b'{"messages":["xxx')
    answer = await client.response()
    assert answer.status == 408
    assert provider.requests == []
    assert await relay.ended() == "body_timeout"


@pytest.mark.parametrize("replay", ["0", "64k", "8m"])
async def test_a_provider_that_answers_a_large_request_early(lab: Lab, replay: str) -> None:
    async def script(caller: Caller) -> None:
        await caller.head()
        await caller.send(response(b'{"error":{}}', [JSON], status="413 Content Too Large"))
        await caller.rest()

    _, relay, client = await lab.between(script, replay_body=replay)
    body = orjson.dumps({"model": "m", "messages": ["x" * 5 * MB]})
    await client.send(request("POST", CHAT, [JSON], body=body))
    assert (await client.response()).status == 413
    await relay.access()


async def test_a_provider_that_breaks_in_the_middle_of_a_large_request(lab: Lab) -> None:
    async def script(caller: Caller) -> None:
        await caller.head()
        caller.reset()

    _, relay, client = await lab.between(script)
    await client.send(request("POST", CHAT, [JSON], body=orjson.dumps({"messages": ["x" * 5 * MB]})))
    assert (await client.response()).status == 502
    await relay.access()


@pytest.mark.parametrize("size", [100, 900_000, 5 * MB])
async def test_an_upload_over_http2_is_collected_beyond_its_windows(lab: Lab, tmp_path: Path, size: int) -> None:
    provider, relay = await _quota(lab, tmp_path, f"tokens_per_day = {10 * MB}")
    client = await h2_client(lab, relay.port)
    body = body_of(messages=[{"content": "x" * size}], stream=True, max_tokens=5)
    headers = [("content-type", "application/json"), ("authorization", f"Bearer {KEY}")]
    stream = client.peer.request("POST", CHAT, headers, end=False)
    sent = 0
    while sent < len(body):
        await client.until(lambda: client.peer.room(stream) > 0)
        piece = body[sent : sent + min(client.peer.room(stream), 50_000)]
        sent += len(piece)
        client.peer.upload(stream, piece, end=sent == len(body))
    answer = await client.answer(stream)
    assert (answer.status, answer.whole, words(answer.body)) == (200, True, 5)
    asks = size <= MB  # a larger one can't be repeated, should that be refused
    assert provider.requests[0].body == (_with(body, b'"stream_options":{"include_usage":true}') if asks else body)
    [line] = await relay.access()
    if asks:
        assert (line["input_tokens"], line["output_tokens"]) == (4, 5)
    assert line["output_tokens"] >= 5


async def test_a_request_over_http2_that_can_t_be_read_is_refused(lab: Lab, tmp_path: Path) -> None:
    provider, relay = await _quota(lab, tmp_path, 'models = ["small"]')
    client = await h2_client(lab, relay.port)
    for body in PAIRS:
        stream = client.peer.request("POST", CHAT, [("authorization", f"Bearer {KEY}")], body=body)
        assert (await client.answer(stream)).status == 400, body
    assert provider.requests == []


# --- signed requests ---

SIGNATURE = "Authorization: AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/bedrock/aws4_request, Signature=f"


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/model/m/converse", [SIGNATURE]), ("/model/m/converse?X-Amz-Signature=f", []), (CHAT, [SIGNATURE])],
)
async def test_a_signed_request_is_never_changed(lab: Lab, path: str, headers: list[str]) -> None:
    provider, _, client = await lab.between(answering(response(b"{}", [JSON])), max_tokens=10)
    body = body_of(stream=True, max_tokens=500, inferenceConfig={"maxTokens": 500})
    signed_for = provider.url.removeprefix("http://").encode()
    asked = request("POST", path, [JSON, *headers], body=body).replace(b"relay.test", signed_for)
    await client.send(asked)
    assert (await client.response()).status == 200
    assert provider.requests[0].body == body


async def test_a_signature_that_the_provider_does_not_get_changes_nothing(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = await lab.provider(answering(generous))
    monkeypatch.setenv("OWN_KEY", "sk-own")
    upstreams = {"p": {"url": provider.url, "api_key": "env:OWN_KEY"}}
    relay = await lab.relay(None, config=toml(tmp_path, upstreams, routes(upstreams=["p"], max_tokens=10)))
    client = await lab.client(relay.port)
    for path, headers in ((CHAT, [SIGNATURE]), (f"{CHAT}?X-Amz-Signature=f", [])):
        await client.send(request("POST", path, [JSON, *headers], body=body_of()))
        assert words((await client.response()).body) == 10


# --- long names ---


@pytest.mark.parametrize("name", ["model", "user"])
async def test_a_name_of_a_megabyte_is_kept_nowhere(lab: Lab, tmp_path: Path, name: str) -> None:
    _, relay = await _quota(lab, tmp_path, "[tenants.user]", "requests_per_minute = 1000")
    client = await lab.client(relay.port)
    for number in range(5):
        body = orjson.dumps({"model": "m", "messages": [], name: f"{number}\U0001f600" + "m" * MB})
        await client.send(request("POST", CHAT, [AUTHORIZED, JSON], body=body))
        assert (await client.response()).status == 400
    for number in range(5):
        body = orjson.dumps({"model": "m", "messages": [], "max_tokens": 1, name: f"{number}" + "m" * 7000})
        await client.send(request("POST", CHAT, [AUTHORIZED, JSON], body=body))
        assert (await client.response()).status == 200
    await relay.access(10)
    assert len(relay.output) < 20_000
    assert b"m" * 300 not in (await relay.page("/metrics")).body


async def test_lists_of_models_show_a_tenant_its_own(lab: Lab, tmp_path: Path) -> None:
    listed = {"object": "list", "data": [{"id": "small-1"}, {"id": "big"}, {"id": "small-2"}]}
    provider, relay = await _quota(
        lab, tmp_path, 'models = ["small*"]', script=answering(response(orjson.dumps(listed), [JSON]))
    )
    client = await lab.client(relay.port)
    await client.send(request("GET", "/v1/models", [AUTHORIZED, "Accept-Encoding: gzip"]))
    answer = await client.response()
    assert answer.status == 200
    assert [model["id"] for model in orjson.loads(answer.body)["data"]] == ["small-1", "small-2"]
    for target, status in (("/v1/models/small-1", 200), ("/v1/models/big", 404)):
        await client.send(request("GET", target, [AUTHORIZED]))
        assert (await client.response()).status == status
    await client.send(request("HEAD", "/v1/models", [AUTHORIZED]))
    assert (await client.response("HEAD")).status == 200
    assert len(provider.requests) == 3
    assert await client.is_quiet()
