"""Which provider is behind a host, and what is known of it."""

from __future__ import annotations

import pytest

from flowserver.dialects.base import Auth
from flowserver.dialects.profiles import GENERIC, QUIRKS, quirks_for


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("api.openai.com", "openai"),
        ("eu.api.openai.com", "openai"),
        ("API.OpenAI.com", "openai"),
        ("api.openai.com.", "openai"),
        ("mine.openai.azure.com", "azure"),
        ("mine.services.ai.azure.com", "azure"),
        ("api.mistral.ai", "mistral"),
        ("api.groq.com", "groq"),
        ("us-east-1.api.x.ai", "xai"),
        ("openrouter.ai", "openrouter"),
        ("api.anthropic.com", "anthropic"),
        ("generativelanguage.googleapis.com", "google"),
        ("aiplatform.googleapis.com", "vertex"),
        ("europe-west4-aiplatform.googleapis.com", "vertex"),
        ("bedrock-runtime.us-east-1.amazonaws.com", "bedrock"),
        ("bedrock-runtime-fips.us-gov-west-1.amazonaws.com", "bedrock"),
        ("bedrock-runtime.cn-north-1.amazonaws.com.cn", "bedrock"),
        ("vpce-0a1b-c2d.bedrock-runtime.us-east-1.vpce.amazonaws.com", "bedrock"),
        ("bedrock-runtime.us-east-1.amazonaws.com.evil.example", "openai-compatible"),
        ("localhost", "openai-compatible"),
        ("api.openai.com.example.org", "openai-compatible"),
        ("", "openai-compatible"),
    ],
)
def test_a_host_tells_the_provider(host: str, name: str) -> None:
    assert quirks_for(None, host).name == name


def test_a_name_goes_before_the_host() -> None:
    assert quirks_for("xai", "api.openai.com") is QUIRKS["xai"]
    assert quirks_for("openai-compatible", "api.openai.com") is GENERIC


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        quirks_for("nobody", "api.openai.com")


def test_no_host_has_two_entries() -> None:
    hosts = [host for quirks in QUIRKS.values() for host in quirks.hosts]
    assert len(hosts) == len(set(hosts))
    for quirks in QUIRKS.values():
        for host in quirks.hosts:
            assert quirks_for(None, host.replace("*", "some")) is quirks


def test_what_would_break_requests_is_known() -> None:
    assert QUIRKS["openai"].max_tokens == "max_completion_tokens"
    assert QUIRKS["mistral"].max_tokens == "max_tokens"
    assert not QUIRKS["mistral"].usage_option
    assert QUIRKS["xai"].reasoning_apart


def test_how_keys_are_taken_is_known_of_hosts() -> None:
    taken = {name: quirks.auth for name, quirks in QUIRKS.items()}
    assert taken["anthropic"] is Auth.X_API_KEY
    assert taken["azure"] is Auth.API_KEY
    assert taken["google"] is Auth.X_GOOG_API_KEY
    assert taken["vertex"] is Auth.BEARER
    assert taken["bedrock"] is Auth.AWS_SIGV4
    assert taken["vllm"] is Auth.BEARER
    assert taken["openai-compatible"] is taken["cloudflare"] is None
