"""Which key reaches which side, and in which field; what of a client never reaches a provider, and the reverse."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from tests.support.h2_lab import h2_client
from tests.support.lab import Lab, RunningRelay, free_port
from tests.support.provider import Provider, answering, ok, silent
from tests.support.topology import tenant, toml
from tests.support.wire import Message, Wire, request, response

KEY = "flow-" + "k" * 43
PROVIDERS_KEY = "sk-provider"
CHAT = "/v1/chat/completions"
DEPLOYMENT = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-06-01"
ANTHROPIC = ("x-api-key: client", "anthropic-version: 2023-06-01")
GOOGLE = ("x-goog-api-key: client",)
BEARER = ("authorization: Bearer client",)

ASKED = [
    ("POST", "/v1/messages", ANTHROPIC, "x-api-key"),
    ("POST", "/v1/messages/count_tokens?beta=true", ANTHROPIC, "x-api-key"),
    ("POST", "/v1/messages/batches", BEARER, "x-api-key"),
    ("GET", "/v1/messages/batches/b1/results", ANTHROPIC, "x-api-key"),
    ("GET", "/v1/models", ANTHROPIC, "x-api-key"),
    ("GET", "/v1/models", ("anthropic-version: 2023-06-01",), "x-api-key"),
    ("POST", "/v1beta/models/g:generateContent", GOOGLE, "x-goog-api-key"),
    ("POST", "/v1beta/models/g:generateContent?key=client", (), "x-goog-api-key"),
    ("POST", "/v1beta/models/g%3AcountTokens", GOOGLE, "x-goog-api-key"),
    ("POST", "/v1beta/models/e:embedContent", BEARER, "x-goog-api-key"),
    ("GET", "/v1beta/models", GOOGLE, "x-goog-api-key"),
    ("GET", "/v1/models?key=client", (), "x-goog-api-key"),
    ("POST", "/v1beta/openai/chat/completions", BEARER, "authorization"),
    ("POST", DEPLOYMENT, ("api-key: client",), "api-key"),
    ("POST", "/openai/deployments/tts/audio/speech?api-version=1", BEARER, "api-key"),
    ("POST", CHAT, BEARER, "authorization"),
    ("GET", "/v1/models", BEARER, "authorization"),
    ("GET", "/v1/models", (), "authorization"),
    ("GET", "/v1/models", ("api-key: client",), "api-key"),
    ("POST", "/model/m/converse", (), "authorization"),
    ("POST", "/v1/projects/p/locations/l/publishers/google/models/g:generateContent", BEARER, "authorization"),
]


def _shown(message: Message, key: str = PROVIDERS_KEY) -> list[str]:
    return [name for name, value in message.headers if key in value]


def _told(message: Message) -> str:
    return " ".join([message.start, *(f"{name}: {value}" for name, value in message.headers)])


async def _with_tenants(
    lab: Lab, folder: Path, answer: bytes = b"", *lines: str
) -> tuple[Provider, RunningRelay, Wire]:
    provider = await lab.provider(answering(answer or response(b"{}")))
    (folder / "key").write_text(PROVIDERS_KEY)
    upstreams = {"only": {"url": provider.url, "api_key": f"file:{folder}/key"}}
    relay = await lab.relay(None, config=toml(folder, upstreams, tenant(KEY, 'paths = ["*"]', *lines)))
    return provider, relay, await lab.client(relay.port)


# The field of the provider's key


@pytest.mark.parametrize(("method", "target", "lines", "field"), ASKED)
async def test_the_providers_key_is_where_its_api_takes_it(
    lab: Lab, method: str, target: str, lines: tuple[str, ...], field: str
) -> None:
    provider, relay, client = await lab.between(ok, upstream_api_key=PROVIDERS_KEY)
    body = b"{}" if method == "POST" else None
    await client.send(request(method, target, lines, body=body))
    assert (await client.response()).status == 200
    peer = await h2_client(lab, relay.port)
    fields = [(name, value) for name, value in (line.split(": ", 1) for line in lines)]
    assert (await peer.answer(peer.peer.request(method, target, fields, body=body))).status == 200
    for seen in provider.requests:
        assert _shown(seen) == [field]
        assert "client" not in _told(seen)


@pytest.mark.parametrize(
    ("auth", "field", "value"),
    [
        ("bearer", "authorization", "Bearer sk-provider"),
        ("x-api-key", "x-api-key", PROVIDERS_KEY),
        ("api-key", "api-key", PROVIDERS_KEY),
        ("x-goog-api-key", "x-goog-api-key", PROVIDERS_KEY),
    ],
)
async def test_a_provider_may_say_how_it_takes_its_key(lab: Lab, auth: str, field: str, value: str) -> None:
    provider, _, client = await lab.between(ok, upstream_api_key=PROVIDERS_KEY, upstream_auth=auth)
    for method, target in (("POST", "/v1/messages"), ("POST", CHAT), ("GET", "/v1beta/models"), ("POST", DEPLOYMENT)):
        await client.send(request(method, target, ANTHROPIC, body=b"{}"))
        assert (await client.response()).status == 200
    assert [(_shown(seen), seen.get(field)) for seen in provider.requests] == [([field], value)] * 4


async def test_each_provider_of_a_route_gets_its_own_key_in_its_own_field(lab: Lab, tmp_path: Path) -> None:
    first = await lab.provider(answering(response(b"{}", status="503 Service Unavailable")))
    second, third = await lab.provider(answering(response(b"{}", status="529 Overloaded"))), await lab.provider(ok)
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"key-{name}")
    upstreams: dict[str, dict[str, object] | str] = {
        "first": {"url": first.url, "auth": "bearer", "api_key": "file:one"},
        "second": {"url": second.url, "auth": "api-key", "api_key": "file:two", "models": {"m": "renamed"}},
        "third": third.url,
    }
    relay = await lab.relay(None, config=toml(tmp_path, upstreams))
    client = await lab.client(relay.port)
    await client.send(request("POST", "/v1/messages", ["x-api-key: client"], body=b'{"model": "m"}'))
    assert (await client.response()).status == 200
    assert first.requests[0].get("authorization") == "Bearer key-one"
    assert (second.requests[0].get("api-key"), orjson.loads(second.requests[0].body)["model"]) == ("key-two", "renamed")
    assert third.requests[0].get("x-api-key") == "client"
    for provider, own in ((first, "key-one"), (second, "key-two"), (third, "client")):
        assert [key for key in ("key-one", "key-two", "client") if key in _told(provider.requests[0])] == [own]


# What is the client's own business


PRIVATE = (
    "Cookie: session=abc",
    "Referer: https://app.example/chat/42",
    "X-Forwarded-For: 10.1.2.3",
    "X-Forwarded-Host: inner.example",
    "X-Forwarded-Access-Token: secret",
    "Forwarded: for=10.1.2.3",
    "X-Real-IP: 10.1.2.3",
    "CF-Connecting-IP: 10.1.2.3",
)


@pytest.mark.parametrize("settings", [{}, {"upstream_api_key": PROVIDERS_KEY}])
async def test_users_and_their_network_are_not_shown_to_providers(lab: Lab, settings: dict[str, object]) -> None:
    provider, relay, client = await lab.between(ok, **settings)
    await client.send(request("POST", CHAT, [*PRIVATE, "HTTP-Referer: https://app.example"], body=b"{}"))
    assert (await client.response()).status == 200
    peer = await h2_client(lab, relay.port)
    fields = [(name.lower(), value) for name, value in (line.split(": ", 1) for line in PRIVATE)]
    stream = peer.peer.request("POST", CHAT, [*fields, ("cookie", "more=1")], body=b"{}")
    assert (await peer.answer(stream)).status == 200
    names = {line.partition(":")[0].lower() for line in PRIVATE}
    for seen in provider.requests:
        assert not names & set(seen.names)
    assert provider.requests[0].get("http-referer") == "https://app.example"  # OpenRouter's name for a site


async def test_the_query_of_a_client_with_a_key_of_its_own_passes_whole(lab: Lab) -> None:
    provider, _, client = await lab.between(ok)
    target = "/v1beta/models/g:generateContent?key=client&alt=sse"
    await client.send(request("POST", target, body=b"{}"))
    assert (await client.response()).status == 200
    assert provider.requests[0].start.split(" ")[1] == target


@pytest.mark.parametrize(
    ("query", "left"),
    [
        (f"?key={KEY}&alt=json", "?alt=json"),
        (f"?alt=json&key={KEY}", "?alt=json"),
        (f"?a=%7e+b&&key={KEY}&c", "?a=%7e+b&&c"),
        (f"?k%65y={KEY}", ""),
        (f"?key={KEY}&api_key=x&access_token=y&$key=z", ""),
        (f"?key={KEY}&other={KEY}", ""),
        (f"?key={KEY}&monkey=1", "?monkey=1"),
    ],
)
async def test_a_key_in_the_query_lets_in_and_does_not_go_on(lab: Lab, tmp_path: Path, query: str, left: str) -> None:
    provider, _, client = await _with_tenants(lab, tmp_path)
    path = "/v1beta/models/g:generateContent"
    await client.send(request("POST", path + query, body=b"{}"))
    assert (await client.response()).status == 200
    [seen] = provider.requests
    assert seen.start.split(" ")[1] == path + left
    assert KEY not in _told(seen)
    assert seen.get("x-goog-api-key") == PROVIDERS_KEY


async def test_a_wrong_key_in_the_query_lets_nobody_in(lab: Lab, tmp_path: Path) -> None:
    provider, _, client = await _with_tenants(lab, tmp_path)
    for target in ("/v1beta/models?key=flow-wrong", "/v1beta/models?key=", "/v1beta/models?xkey=" + KEY):
        await client.send(request("GET", target))
        assert (await client.response()).status == 401
    assert provider.requests == []


async def test_the_relays_key_reaches_providers_in_no_field(lab: Lab, tmp_path: Path) -> None:
    provider, relay, client = await _with_tenants(lab, tmp_path)
    lines = [f"X-Api-Key: {KEY}", f"X-Custom: Bearer {KEY}", f"X-Litellm-Key: {KEY}", "X-Kept: 1"]
    await client.send(request("POST", f"{CHAT}?q={KEY}&r=1", [f"Authorization: Bearer {KEY}", *lines], body=b"{}"))
    assert (await client.response()).status == 200
    [seen] = provider.requests
    assert KEY not in _told(seen)
    assert (seen.get("x-kept"), seen.start.split(" ")[1]) == ("1", f"{CHAT}?r=1")
    assert KEY.encode() not in relay.output


async def test_tenants_do_not_choose_who_pays(lab: Lab, tmp_path: Path) -> None:
    provider, _, client = await _with_tenants(lab, tmp_path)
    names = ("openai-organization", "openai-project", "x-goog-user-project", "anthropic-workspace-id")
    lines = [f"Authorization: Bearer {KEY}", *(f"{name}: another" for name in names)]
    await client.send(request("POST", CHAT, lines, body=b"{}"))
    assert (await client.response()).status == 200
    assert not set(names) & set(provider.requests[0].names)


# What is the key's holder's business

OF_HOLDER = (
    "Set-Cookie: __cf_bm=abc; path=/",
    "OpenAI-Organization: org-1",
    "OpenAI-Project: proj-1",
    "Anthropic-Organization-Id: 0b1c",
    "X-RateLimit-Limit-Requests: 9",
)


async def test_a_provider_tells_tenants_nothing_of_its_account(lab: Lab, tmp_path: Path) -> None:
    _, relay, client = await _with_tenants(lab, tmp_path, response(b"{}", [*OF_HOLDER, "X-Kept: 1"]))
    await client.send(request("POST", CHAT, [f"Authorization: Bearer {KEY}"], body=b"{}"))
    answer = await client.response()
    assert answer.get("x-kept") == "1"
    assert not {line.partition(":")[0].lower() for line in OF_HOLDER} & set(answer.names)
    peer = await h2_client(lab, relay.port)
    stream = peer.peer.request("POST", CHAT, [("authorization", f"Bearer {KEY}")], body=b"{}")
    assert "set-cookie" not in (await peer.answer(stream)).headers


async def test_cookies_pass_to_who_has_the_key(lab: Lab) -> None:
    """Shared among all clients of a key they would be one client's at the provider."""
    raw = response(b"{}", OF_HOLDER)
    for settings, passes in (({}, True), ({"upstream_api_key": PROVIDERS_KEY}, False)):
        _, _, client = await lab.between(answering(raw), **settings)
        await client.send(request("POST", CHAT, body=b"{}"))
        answer = await client.response()
        assert ("set-cookie" in answer.names) is passes
        assert answer.get("openai-organization") == "org-1"


# Names


async def test_a_users_name_in_utf8_is_the_same_in_head_and_body(lab: Lab, tmp_path: Path) -> None:
    _, relay, client = await _with_tenants(lab, tmp_path)
    raw = request("POST", CHAT, [f"Authorization: Bearer {KEY}"], body=b'{"user": "J\xc3\xbcrgen"}')
    await client.send(raw)
    await client.response()
    raw = request("POST", CHAT, [f"Authorization: Bearer {KEY}", "X-Flow-User: J\xc3\xbcrgen"], body=b'{"user": "x"}')
    await client.send(raw)
    await client.response()
    raw = request("POST", CHAT, [f"Authorization: Bearer {KEY}", "X-Flow-User: J\xfcrgen"], body=b"{}")
    await client.send(raw)
    await client.response()
    assert [line["user"] for line in await relay.access(3)] == ["J\u00fcrgen"] * 3


@pytest.mark.parametrize("field", ["X-Request-Id", "Request-Id", "X-Amzn-RequestId", "Apim-Request-Id"])
async def test_the_providers_request_id_is_passed_and_logged(lab: Lab, field: str) -> None:
    _, relay, client = await lab.between(answering(response(b"{}", [f"{field}: req_abc123", "CF-Ray: 1"])))
    await client.send(request("POST", CHAT, ["X-Request-Id: mine"], body=b"{}"))
    answer = await client.response()
    assert (answer.get("x-request-id"), answer.get("x-upstream-request-id")) == ("mine", "req_abc123")
    [line] = await relay.access()
    assert (line["request_id"], line["upstream_request_id"]) == ("mine", "req_abc123")


async def test_the_id_of_the_last_provider_passes_through_two_relays(lab: Lab) -> None:
    provider = await lab.provider(answering(response(b"{}", ["X-Request-Id: req_1"])))
    inner = await lab.relay(provider.url)
    outer = await lab.relay(inner.url, upstream_keepalive=0)
    client = await lab.client(outer.port)
    await client.send(request("POST", CHAT, body=b"{}"))
    assert (await client.response()).get("x-upstream-request-id") == "req_1"


async def test_an_id_of_no_sane_size_is_neither_passed_nor_logged(lab: Lab) -> None:
    _, relay, client = await lab.between(answering(response(b"{}", ["X-Request-Id: " + "x" * 4000])))
    await client.send(request("POST", CHAT, body=b"{}"))
    assert (await client.response()).get("x-upstream-request-id") is None
    assert "upstream_request_id" not in (await relay.access())[0]


async def test_errors_name_the_provider_as_it_is_configured(lab: Lab, tmp_path: Path) -> None:
    port = free_port()
    relay = await lab.relay(None, config=toml(tmp_path, {"main-provider": f"http://127.0.0.1:{port}"}))
    client = await lab.client(relay.port)
    await client.send(request("POST", CHAT, body=b"{}"))
    message = orjson.loads((await client.response()).body)["error"]["message"]
    assert message.startswith("The provider main-provider can't be reached")
    assert str(port) not in message
    [line] = await relay.access()
    assert line["error"] == message


async def test_a_single_provider_is_named_by_its_host(lab: Lab) -> None:
    relay = await lab.relay(f"http://localhost:{free_port()}")
    client = await lab.client(relay.port)
    await client.send(request())
    assert b"The provider localhost can't be reached" in (await client.response()).body


async def test_a_provider_that_stays_silent_is_named(lab: Lab, tmp_path: Path) -> None:
    provider = await lab.provider(silent)
    config = toml(tmp_path, {"slow": {"url": provider.url, "first_byte_timeout": 0.1}})
    relay = await lab.relay(None, config=config)
    client = await lab.client(relay.port)
    await client.send(request())
    assert b"The provider slow sent nothing for 0.1 s" in (await client.response()).body
