"""Pages of other origins: preflights, and which answers they may read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.h2_lab import h2_client
from tests.support.lab import Lab
from tests.support.provider import answering
from tests.support.topology import tenant, toml
from tests.support.wire import Message, Wire, request, response

KEY = "flow-" + "k" * 43
APP = "https://app.example"
CHAT = "/v1/chat/completions"
PREFLIGHT = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization,content-type")
THEIRS = (
    "Access-Control-Allow-Origin: https://theirs.example",
    "Access-Control-Allow-Headers: authorization",
    "Access-Control-Expose-Headers: x-theirs",
    "Access-Control-Allow-Credentials: true",
    "Vary: Accept-Encoding",
)


def _cors(message: Message) -> dict[str, str]:
    return {name: value for name, value in message.headers if name.startswith("access-control-")}


def _config(folder: Path, url: str) -> str:
    return toml(folder, {"only": url}, tenant(KEY))


async def _preflight(client: Wire, origin: str = APP, *lines: str) -> Message:
    await client.send(request("OPTIONS", CHAT, [f"Origin: {origin}", *PREFLIGHT, *lines]))
    return await client.response()


@pytest.mark.parametrize("tenants", [False, True])
@pytest.mark.parametrize("origins", [APP, f"http://localhost:3000, {APP}:443", "*"])
async def test_a_preflight_is_answered_before_any_key_is_asked_for(
    lab: Lab, tmp_path: Path, tenants: bool, origins: str
) -> None:
    provider = await lab.provider(answering(response(b"{}", THEIRS)))
    if tenants:
        relay = await lab.relay(None, config=_config(tmp_path, provider.url), cors_origins=origins)
    else:
        relay = await lab.relay(provider.url, cors_origins=origins)
    client = await lab.client(relay.port)
    answer = await _preflight(client)
    assert (answer.status, answer.body, provider.requests) == (204, b"", [])
    cors = _cors(answer)
    assert cors.pop("access-control-allow-origin") == APP
    assert cors.pop("access-control-allow-headers") == "authorization,content-type"
    assert "POST" in cors.pop("access-control-allow-methods")
    assert int(cors.pop("access-control-max-age")) > 0
    assert cors == {}
    assert "Origin" in str(answer.get("vary"))
    await client.send(request("POST", CHAT, [f"Origin: {APP}", f"Authorization: Bearer {KEY}"], body=b"{}"))
    answer = await client.response()
    assert answer.status == 200
    [line] = [line for line in await relay.access(2) if line["method"] == "OPTIONS"]
    assert (line["status"], line["end"]) == (204, "complete")


async def test_an_answer_has_the_relays_own_fields(lab: Lab) -> None:
    provider, relay, client = await lab.between(answering(response(b"{}", THEIRS)), cors_origins=APP)
    await client.send(request("POST", CHAT, [f"Origin: {APP}"], body=b"{}"))
    answer = await client.response()
    assert set(_cors(answer)) == {"access-control-allow-origin", "access-control-expose-headers"}
    assert answer.get("access-control-allow-origin") == APP
    exposed = str(answer.get("access-control-expose-headers")).split(", ")
    assert {"x-request-id", "x-upstream-request-id", "retry-after", "x-ratelimit-remaining-tokens"} <= set(exposed)
    assert "anthropic-ratelimit-tokens-remaining" in exposed
    assert answer.all("vary") == ["Accept-Encoding", "Origin"]
    assert "origin" not in provider.requests[0].names  # some providers refuse what comes from a page
    peer = await h2_client(lab, relay.port)
    stream = peer.peer.request("POST", CHAT, [("origin", APP)], body=b"{}")
    assert (await peer.answer(stream)).headers["access-control-allow-origin"] == APP


@pytest.mark.parametrize("origin", ["https://other.example", "http://app.example", f"{APP}.evil.example", "null"])
async def test_pages_of_other_origins_get_nothing(lab: Lab, origin: str) -> None:
    provider, _, client = await lab.between(answering(response(b"{}", THEIRS)), cors_origins=APP)
    answer = await _preflight(client, origin)
    assert (answer.status, _cors(answer), provider.requests) == (403, {}, [])
    await client.send(request("POST", CHAT, [f"Origin: {origin}"], body=b"{}"))
    answer = await client.response()
    assert (answer.status, _cors(answer), answer.get("access-control-allow-origin")) == (200, {}, None)


async def test_who_is_no_page_gets_nothing_either(lab: Lab) -> None:
    _, _, client = await lab.between(answering(response(b"{}", THEIRS)), cors_origins="*")
    await client.send(request("POST", CHAT, body=b"{}"))
    answer = await client.response()
    assert (_cors(answer), answer.all("vary")) == ({}, ["Accept-Encoding", "Origin"])


async def test_errors_of_the_relays_own_can_be_read_by_pages(lab: Lab, tmp_path: Path) -> None:
    provider = await lab.provider(answering(response(b"{}")))
    config = _config(tmp_path, provider.url)
    relay = await lab.relay(None, config=config, cors_origins=APP, max_body=10)
    key = f"Authorization: Bearer {KEY}"
    asked = [
        (401, request("POST", CHAT, [f"Origin: {APP}"], body=b"{}")),
        (403, request("POST", "/v1/files", [f"Origin: {APP}", key], body=b"{}")),
        (413, request("POST", CHAT, [f"Origin: {APP}", key], body=b"x" * 11)),
    ]
    for status, raw in asked:
        client = await lab.client(relay.port)
        await client.send(raw)
        answer = await client.response()
        assert (answer.status, answer.get("access-control-allow-origin")) == (status, APP)


async def test_fields_that_are_none_are_not_echoed(lab: Lab) -> None:
    _, _, client = await lab.between(answering(response(b"{}")), cors_origins="*")
    lines = [f"Origin: {APP}", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: a b, <c>"]
    await client.send(request("OPTIONS", CHAT, lines))
    answer = await client.response()
    assert (answer.status, answer.get("access-control-allow-headers")) == (204, None)


async def test_a_preflight_over_http2(lab: Lab) -> None:
    provider, relay, _ = await lab.between(answering(response(b"{}")), cors_origins=APP)
    client = await h2_client(lab, relay.port)
    stream = client.peer.request("OPTIONS", CHAT, [("origin", APP), ("access-control-request-method", "POST")])
    answer = await client.answer(stream)
    assert (answer.status, answer.headers["access-control-allow-origin"], answer.whole) == (204, APP, True)
    assert provider.requests == []


# Without the setting it is the provider's to say


@pytest.mark.parametrize("tenants", [False, True])
async def test_a_preflight_is_answered_by_the_provider(lab: Lab, tmp_path: Path, tenants: bool) -> None:
    (tmp_path / "key").write_text("sk-provider")
    provider = await lab.provider(answering(response(b"", THEIRS)))
    if tenants:
        relay = await lab.relay(None, config=_config(tmp_path, provider.url))
    else:
        relay = await lab.relay(provider.url, upstream_api_key="sk-provider")
    client = await lab.client(relay.port)
    answer = await _preflight(client)
    assert (answer.status, answer.get("access-control-allow-origin")) == (200, "https://theirs.example")
    [seen] = provider.requests
    assert (seen.get("origin"), seen.get("access-control-request-method")) == (APP, "POST")
    assert "authorization" not in seen.names


async def test_only_a_preflight_gets_past_tenants(lab: Lab, tmp_path: Path) -> None:
    provider = await lab.provider(answering(response(b"{}")))
    relay = await lab.relay(None, config=_config(tmp_path, provider.url))
    client = await lab.client(relay.port)
    asked = [
        request("OPTIONS", CHAT),
        request("OPTIONS", CHAT, [f"Origin: {APP}"]),
        request("OPTIONS", CHAT, PREFLIGHT),
        request("GET", CHAT, [f"Origin: {APP}", *PREFLIGHT]),
        request("OPTIONS", CHAT, [f"Origin: {APP}", *PREFLIGHT], body=b"{}"),
    ]
    for raw in asked:
        await client.send(raw)
        assert (await client.response()).status == 401
    assert provider.requests == []
