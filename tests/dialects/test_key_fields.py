"""In which field a provider's key goes."""

from __future__ import annotations

import pytest

from flowserver.dialects.base import Auth
from flowserver.dialects.key_fields import auth_for, auth_of, key_field
from flowserver.dialects.profiles import GENERIC, QUIRKS


@pytest.mark.parametrize(
    ("target", "auth"),
    [
        ("/v1/messages", Auth.X_API_KEY),
        ("/v1/messages/", Auth.X_API_KEY),
        ("/V1/Messages;v=1/count_tokens", Auth.X_API_KEY),
        ("/v1/messages/batches/b1/results?limit=1", Auth.X_API_KEY),
        ("/anthropic/v1/messages", Auth.X_API_KEY),
        ("/v1/messagesx", None),
        ("/v1beta/models", Auth.X_GOOG_API_KEY),
        ("/v1beta/cachedContents?pageSize=1", Auth.X_GOOG_API_KEY),
        ("/upload/v1beta/files", Auth.X_GOOG_API_KEY),
        ("/v1/models/g%3AcountTokens", Auth.X_GOOG_API_KEY),
        ("/v1/models/g:streamGenerateContent?alt=sse", Auth.X_GOOG_API_KEY),
        ("/v1/publishers/google/models/g:generateContent", Auth.X_GOOG_API_KEY),
        ("/v1/projects/p/locations/l/publishers/google/models/g:generateContent", Auth.BEARER),
        ("/v1beta1/projects/p/locations/l/endpoints/openapi/chat/completions", Auth.BEARER),
        ("/v1beta/openai/models", Auth.BEARER),
        ("/openai/v1/models", Auth.BEARER),
        ("/openai/deployments/d/embeddings", Auth.API_KEY),
        ("/openai/models?api-version=2024-10-21", Auth.API_KEY),
        ("/models/chat/completions?x=1&api-version=1", Auth.API_KEY),
        ("/v1/chat/completions", Auth.BEARER),
        ("/v1/responses/resp_1/input_items", Auth.BEARER),
        ("/v1/audio/transcriptions", Auth.BEARER),
        ("/v2/chat", Auth.BEARER),
        ("/api/chat", Auth.BEARER),
        ("/model/m/converse-stream", Auth.BEARER),
        ("/v1/models", None),
        ("/v1/models/ft:gpt-4o:acme::abc", None),
        ("/v1/files", None),
        ("/", None),
        ("/v1/" + "x" * 5000 + "/v1/messages", Auth.X_API_KEY),
    ],
)
def test_paths_of_one_api_alone_tell(target: str, auth: Auth | None) -> None:
    assert auth_of(target.encode()) is auth


@pytest.mark.parametrize(
    ("name", "target", "auth"),
    [
        ("anthropic", "/v1/models", Auth.X_API_KEY),
        ("anthropic", "/v1/files", Auth.X_API_KEY),
        ("anthropic", "/v1/chat/completions", Auth.BEARER),
        ("google", "/v1/models", Auth.X_GOOG_API_KEY),
        ("google", "/v1beta/openai/chat/completions", Auth.BEARER),
        ("azure", "/openai/v1/chat/completions", Auth.API_KEY),
        ("azure", "/anthropic/v1/messages", Auth.API_KEY),
        ("openai", "/v1/models", Auth.BEARER),
        ("vllm", "/v1/messages", Auth.BEARER),
        ("openrouter", "/api/v1/messages", Auth.BEARER),
        ("openai-compatible", "/v1/messages", Auth.X_API_KEY),
        ("cloudflare", "/v1/a/g/anthropic/v1/messages", Auth.X_API_KEY),
    ],
)
def test_a_known_provider_goes_before_the_path_unless_it_has_several_apis(name: str, target: str, auth: Auth) -> None:
    fields = {b"authorization": b"Bearer x", b"x-api-key": b"x", b"api-key": b"x"}
    assert auth_for(None, QUIRKS[name], target.encode(), fields) is auth


@pytest.mark.parametrize("own", list(Auth))
def test_what_is_configured_goes_before_all(own: Auth) -> None:
    for quirks in QUIRKS.values():
        assert auth_for(own, quirks, b"/v1/messages", {b"x-api-key": b"x"}) is own


@pytest.mark.parametrize(
    ("target", "fields", "auth"),
    [
        ("/v1/models", [b"x-api-key"], Auth.X_API_KEY),
        ("/v1/models", [b"anthropic-version", b"authorization"], Auth.X_API_KEY),
        ("/v1/models", [b"authorization", b"x-api-key"], Auth.BEARER),
        ("/v1/models", [b"api-key"], Auth.API_KEY),
        ("/v1/models", [b"x-goog-api-key"], Auth.X_GOOG_API_KEY),
        ("/v1/models?pageSize=3&key=x", [], Auth.X_GOOG_API_KEY),
        ("/v1/models?monkey=x", [], Auth.BEARER),
        ("/v1/models", [], Auth.BEARER),
    ],
)
def test_else_it_goes_where_the_client_shows_its_own(target: str, fields: list[bytes], auth: Auth) -> None:
    assert auth_for(None, GENERIC, target.encode(), dict.fromkeys(fields, b"x")) is auth


def test_a_key_in_its_field() -> None:
    assert key_field(Auth.BEARER, b"k") == (b"authorization", b"Bearer k")
    assert key_field(Auth.X_GOOG_API_KEY, b"k") == (b"x-goog-api-key", b"k")
