"""Which provider is behind a host, and what is known of it."""

from __future__ import annotations

import pytest

from flowserver.dialects.quirks import GENERIC, QUIRKS, quirks_for


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
