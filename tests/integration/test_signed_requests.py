"""Amazon Bedrock: the relay signs requests, and says of those that their clients signed where they can't hold."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from flowserver.config.errors import ConfigError
from tests.support.h2_lab import h2_client
from tests.support.lab import Lab
from tests.support.provider import answering
from tests.support.sigv4 import checking, problem_of, shown, signed_lines
from tests.support.topology import toml
from tests.support.wire import Message, Wire, request, response

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TARGET = "/model/anthropic.claude-3-haiku-20240307-v1%3A0/converse"
BODY = b'{"messages": [{"role": "user", "content": [{"text": "Hi."}]}], "inferenceConfig": {"maxTokens": 9}}'
ANSWER = orjson.dumps(
    {
        "output": {"message": {"role": "assistant", "content": [{"text": "Hi."}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3},
    }
)


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """AWS credentials in the environment, and nothing of this machine's."""
    pytest.importorskip("botocore")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    return monkeypatch


async def _ask(client: Wire, target: str = TARGET, *lines: str, method: str = "POST", body: bytes = BODY) -> Message:
    await client.send(request(method, target, ["Content-Type: application/json", *lines], body=body))
    return await client.response()


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", TARGET, BODY),
        ("POST", "/model/a.b-v1:0/converse-stream", BODY),
        ("POST", "/model/m/invoke?a=b&A=%20c&d", b'{"prompt": "\xc3\xa4"}'),
        ("POST", "/model/m/count-tokens", b"{}"),
        ("POST", "/model/m/invoke", b'{"prompt": "' + b"x" * 700_000 + b'"}'),
        ("GET", "/async-invoke?b=2&a=1/2", b""),
        ("DELETE", "/guardrail/g", b""),
    ],
    ids=["converse", "colon", "query", "count", "large", "get", "delete"],
)
async def test_the_relay_signs(
    lab: Lab, credentials: pytest.MonkeyPatch, method: str, target: str, body: bytes
) -> None:
    provider, _, client = await lab.between(answering(checking(SECRET, ANSWER)), upstream_auth="aws-sigv4")
    answer = await _ask(client, target, "X-Amzn-Bedrock-Trace: ENABLED", method=method, body=body)
    assert (answer.status, answer.body) == (200, ANSWER)
    [seen] = provider.requests
    assert seen.start.split(" ")[1] == target
    said = shown(seen.get("authorization") or "")
    assert said is not None
    assert (said.access_key, said.region, said.service) == ("AKIDEXAMPLE", "eu-central-1", "bedrock")
    assert seen.get("x-amzn-bedrock-trace") == "ENABLED"


async def test_a_session_token_goes_along(lab: Lab, credentials: pytest.MonkeyPatch) -> None:
    credentials.setenv("AWS_SESSION_TOKEN", "session/token+==")
    provider, _, client = await lab.between(answering(checking(SECRET, ANSWER)), upstream_auth="aws-sigv4")
    assert (await _ask(client)).status == 200
    assert provider.requests[0].get("x-amz-security-token") == "session/token+=="


async def test_credentials_come_from_a_profile_too(lab: Lab, credentials: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        credentials.delenv(name)
    (tmp_path / "config").write_text("[profile relay]\nregion = ap-south-1\n")
    (tmp_path / "credentials").write_text(f"[relay]\naws_access_key_id = AKID2\naws_secret_access_key = {SECRET}\n")
    credentials.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    credentials.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    credentials.setenv("AWS_PROFILE", "relay")
    provider, _, client = await lab.between(answering(checking(SECRET, ANSWER)), upstream_auth="aws-sigv4")
    assert (await _ask(client)).status == 200
    said = shown(provider.requests[0].get("authorization") or "")
    assert said is not None
    assert (said.access_key, said.region) == ("AKID2", "ap-south-1")


async def test_a_client_s_own_signature_makes_room_for_the_relay_s(lab: Lab, credentials: pytest.MonkeyPatch) -> None:
    """AWS's SDKs sign always: with made-up credentials they work behind a relay that signs."""
    provider, relay, client = await lab.between(answering(checking(SECRET, ANSWER)), upstream_auth="aws-sigv4")
    lines = signed_lines("POST", TARGET, f"127.0.0.1:{relay.port}", BODY, secret="made up")
    assert (await _ask(client, TARGET, *lines, "X-Amz-Security-Token: theirs")).status == 200
    presigned = f"{TARGET}?X-Amz-Algorithm=AWS4-HMAC-SHA256&x=1&X-Amz-Credential=a&X-Amz-Signature=00"
    assert (await _ask(client, presigned)).status == 200
    assert [seen.start.split(" ")[1] for seen in provider.requests] == [TARGET, f"{TARGET}?x=1"]
    assert not any(seen.get("x-amz-security-token") for seen in provider.requests)


async def test_a_body_that_comes_bit_by_bit_is_signed_when_it_is_whole(
    lab: Lab, credentials: pytest.MonkeyPatch
) -> None:
    provider, _, client = await lab.between(answering(checking(SECRET, ANSWER)), upstream_auth="aws-sigv4")
    await client.send(request("POST", "/model/m/count-tokens", ["Transfer-Encoding: chunked"]) + b"3\r\nabc\r\n")
    await asyncio.sleep(0.05)
    assert provider.requests == []
    await client.send(b"2\r\nde\r\n0\r\n\r\n")
    assert (await client.response()).status == 200
    assert (provider.requests[0].body, provider.requests[0].get("content-length")) == (b"abcde", "5")


async def test_a_request_over_http2_is_signed(lab: Lab, credentials: pytest.MonkeyPatch) -> None:
    _, relay, _ = await lab.between(answering(checking(SECRET, ANSWER)), upstream_auth="aws-sigv4")
    client = await h2_client(lab, relay.port)
    stream = client.peer.request("POST", TARGET, [("content-type", "application/json")], body=BODY)
    assert (await client.answer(stream)).status == 200


async def test_what_the_relay_changes_is_changed_before_it_is_signed(
    lab: Lab, credentials: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provider = await lab.provider(answering(checking(SECRET, ANSWER)))
    table = {"url": provider.url, "auth": "aws-sigv4", "models": {"haiku": "anthropic.claude-v1:0"}}
    routes = '[[routes]]\nmax_tokens = 5\nupstreams = ["bedrock"]\n'
    relay = await lab.relay(None, config=toml(tmp_path, {"bedrock": table}, routes))
    client = await lab.client(relay.port)
    assert (await _ask(client, "/model/haiku/converse")).status == 200
    [seen] = provider.requests
    assert seen.start.split(" ")[1] == "/model/anthropic.claude-v1:0/converse"
    assert orjson.loads(seen.body)["inferenceConfig"] == {"maxTokens": 5}


async def test_a_provider_that_takes_a_key_stands_in_for_one_that_is_signed_for(
    lab: Lab, credentials: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(message: Message) -> bytes:
        assert problem_of(message, SECRET) is None
        return response(b"{}", status="503 Service Unavailable")

    first, second = await lab.provider(answering(fails)), await lab.provider(answering(response(ANSWER)))
    key = tmp_path / "key"
    key.write_text("bedrock-api-key")
    upstreams = {
        "signed": {"url": first.url, "auth": "aws-sigv4"},
        "keyed": {"url": second.url, "auth": "bearer", "api_key": f"file:{key}"},
    }
    relay = await lab.relay(None, config=toml(tmp_path, upstreams))
    client = await lab.client(relay.port)
    assert (await _ask(client)).status == 200
    [seen] = second.requests
    assert seen.all("authorization") == ["Bearer bedrock-api-key"]
    assert not [name for name in seen.names if name.startswith("x-amz-")]


async def test_a_relay_without_credentials_says_so(lab: Lab, credentials: pytest.MonkeyPatch) -> None:
    credentials.delenv("AWS_ACCESS_KEY_ID")
    credentials.delenv("AWS_SECRET_ACCESS_KEY")
    provider, _, client = await lab.between(answering(response(ANSWER)), upstream_auth="aws-sigv4")
    answer = await _ask(client)
    assert answer.status == 502
    assert b"AWS_ACCESS_KEY_ID" in answer.body
    assert provider.requests == []


async def test_without_a_region_it_does_not_start(lab: Lab, credentials: pytest.MonkeyPatch) -> None:
    credentials.delenv("AWS_REGION")
    with pytest.raises(ConfigError, match="AWS_REGION"):
        await lab.relay("http://127.0.0.1:1", upstream_auth="aws-sigv4")


# What clients signed themselves


async def test_a_signature_for_the_provider_itself_holds(lab: Lab) -> None:
    provider, relay, client = await lab.between(answering(checking("secret", ANSWER)))
    host = f"127.0.0.1:{provider.port}"
    lines = signed_lines("POST", TARGET, host, BODY, secret="secret", extra={"accept": "*/*"})
    await client.send(request("POST", TARGET, lines, body=BODY).replace(b"Host: relay.test", b"Host: " + host.encode()))
    assert (await client.response()).status == 200
    peer = await h2_client(lab, relay.port)
    fields = [(name, value) for name, value in (line.split(": ", 1) for line in lines)]
    stream = peer.peer.request("POST", TARGET, fields, body=BODY, authority=host)
    assert (await peer.answer(stream)).status == 200


@pytest.mark.parametrize("extra", [{"x-forwarded-for": "1.2.3.4"}, {"cookie": "a=b"}, {"accept-encoding": "gzip"}])
async def test_a_signature_over_what_does_not_pass_is_refused(lab: Lab, extra: dict[str, str]) -> None:
    provider, _, client = await lab.between(answering(checking("secret", ANSWER)))
    host = f"127.0.0.1:{provider.port}"
    lines = signed_lines("POST", TARGET, host, BODY, secret="secret", extra=extra)
    await client.send(request("POST", TARGET, lines, body=BODY).replace(b"Host: relay.test", b"Host: " + host.encode()))
    answer = await client.response()
    assert (answer.status, provider.requests) == (400, [])
    assert b"sign" in answer.body.lower()


@pytest.mark.parametrize("presigned", [False, True])
async def test_a_signature_for_the_relay_is_answered_with_what_to_do(lab: Lab, presigned: bool) -> None:
    provider, relay, client = await lab.between(answering(checking("secret", ANSWER)))
    lines = signed_lines("POST", TARGET, f"127.0.0.1:{relay.port}", BODY, secret="secret")
    if presigned:
        answer = await _ask(client, f"{TARGET}?X-Amz-SignedHeaders=host&X-Amz-Signature=00")
    else:
        answer = await _ask(client, TARGET, *lines)
    assert (answer.status, provider.requests) == (400, [])
    assert b"AWS_BEARER_TOKEN_BEDROCK" in answer.body


async def test_a_provider_where_the_signature_holds_is_asked_and_no_other(lab: Lab, tmp_path: Path) -> None:
    first, second = [await lab.provider(answering(checking("secret", ANSWER))) for _ in range(2)]
    relay = await lab.relay(None, config=toml(tmp_path, {"first": first.url, "second": second.url}))
    host = f"127.0.0.1:{second.port}"
    lines = signed_lines("POST", TARGET, host, BODY, secret="secret")
    client = await lab.client(relay.port)
    await client.send(request("POST", TARGET, lines, body=BODY).replace(b"Host: relay.test", b"Host: " + host.encode()))
    assert (await client.response()).status == 200
    assert (len(first.requests), len(second.requests)) == (0, 1)
