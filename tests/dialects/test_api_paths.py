"""Paths of APIs, as providers read them."""

from __future__ import annotations

import pytest

from flowserver.dialects import FORMATS, path_model, recognise
from flowserver.dialects.api_paths import api_path, is_model_list, without_parameters
from flowserver.names import MAX_KEPT

from .test_formats import TARGETS


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/v1/Chat?x=/y;z", "/v1/Chat"),
        ("/v1/chat///", "/v1/chat"),
        ("/v1;a=1/chat;b/", "/v1/chat"),
        ("/v1/%63hat%3Bx/%2541", "/v1/chat/%41"),
        ("/models/x:generateContent;y/", "/models/x:generateContent"),
        ("/models/x:generateContent;y:z", "/models/x:generateContent"),
        ("/", ""),
    ],
)
def test_a_path_is_read_as_by_the_most_lenient_provider(target: str, path: str) -> None:
    assert api_path(target) == path


SPELLINGS = ["{}", "{}/", "{};", "{};x=1", "{};x/", "{}%3Bx", "{}?q=1", "{}/?a=/v2/chat", "/deep/er{}", "/v0;x{};y"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_spelling_is_recognised(name: str, spelling: str) -> None:
    path = TARGETS[name].partition("?")[0]
    for spelt in (path, path.upper(), path.title(), f"/%{ord(path[1]):x}{path[2:]}"):
        found = recognise(spelling.format(spelt))
        assert found is not None, spelt
        assert found.name == name


def test_long_paths_are_recognised_and_not_kept() -> None:
    for size in (MAX_KEPT, 8000):
        assert recognise("/" + "x" * size + "/v1/messages?x") is FORMATS["anthropic-messages"]
        assert recognise("/v1/messages?" + "x" * size) is FORMATS["anthropic-messages"]


@pytest.mark.parametrize(
    ("target", "model"),
    [
        ("/openai/deployments/My-GPT/chat/completions?api-version=1", "My-GPT"),
        ("/OpenAI/Deployments/My-GPT/Chat/Completions/", "My-GPT"),
        ("/openai/deployments/m%20x/completions", "m x"),
        ("/openai/deployments/azure/gpt-4/embeddings", "azure/gpt-4"),
        ("/openai/deployments/m/responses", "m"),
        ("/openai/deployments/m/extensions/chat/completions", "m"),
        ("/openai/deployments/m/audio/transcriptions", "m"),
        ("/openai/deployments/m/images/generations", "m"),
        ("/openai/deployments/m;x/chat;y/completions", "m"),
        ("/openai/deployments/a/deployments/b/chat/completions", "b"),
        ("/v1/engines/davinci/completions", "davinci"),
        ("/v1beta/models/Gemini-X%3AgenerateContent", "Gemini-X"),
        ("/v1/models/gemini:streamGenerateContent/", "gemini"),
        ("/V1/MODELS/GEMINI:STREAMGENERATECONTENT", "GEMINI"),
        ("/v1beta/models/x;y:generateContent", "x;y"),
        ("/v1beta/models/x:generateContent;y:streamGenerateContent", "x"),
        ("/v1beta/models/openai/gpt-4:generateContent", "openai/gpt-4"),
        ("/v1beta/tunedModels/mine:generateContent", "mine"),
        ("/v1/projects/p/locations/l/publishers/google/models/g@1:generateContent", "g@1"),
        ("/v1/projects/p/locations/l/publishers/anthropic/models/claude-x@2025:rawPredict", "claude-x@2025"),
        ("/model/us.anthropic.claude-x-v1%3A0/converse", "us.anthropic.claude-x-v1:0"),
        ("/model/model/invoke-with-response-stream", "model"),
        ("/MODEL/Claude/CONVERSE-Stream/", "Claude"),
        ("/v1/chat/completions?x=/deployments/m/chat/completions", None),
        ("/v1/messages", None),
        ("/v1/responses", None),
        ("/v2/chat", None),
        ("/api/chat", None),
        ("/v1beta/models/:generateContent", None),
        ("/v1/models/x", None),
    ],
)
def test_models_in_paths(target: str, model: str | None) -> None:
    assert path_model(target) == model
    known = recognise(target)
    if known is not None:
        assert known.path_model(target) == model
        params = known.read_params(target, {} if model else {"model": "m"})
        assert params.model == model or (model is None and params.model in ("m", None))


def test_a_stream_is_asked_for_in_any_case() -> None:
    for target in ("/v1/models/g:STREAMGENERATECONTENT/?alt=sse", "/model/m/Converse-STREAM"):
        known = recognise(target)
        assert known is not None
        assert known.read_params(target, {}).stream


@pytest.mark.parametrize("name", ["openai-chat", "openai-completions", "openai-embeddings", "openai-responses"])
def test_a_deployment_comes_before_the_body(name: str) -> None:
    target = "/openai/deployments/big/" + name.removeprefix("openai-").replace("chat", "chat/completions")
    assert FORMATS[name].read_params(target, {"model": "small"}).model == "big"


@pytest.mark.parametrize(
    ("path", "listed"),
    [
        ("/v1/models", True),
        ("/models/", True),
        ("/v1/models/gpt-4o", True),
        ("/openai/models", True),
        ("/openai/v1/models", True),
        ("/v1beta/models", True),
        ("/v1beta/models/gemini-x", True),
        ("/api/tags", True),
        ("/v1/models/a/b", False),
        ("/v1/files", False),
        ("/openai/deployments", False),
        ("/x/v1/models", False),
        ("/v1/models\n", False),
        ("/v1/fine_tuning/models", False),
    ],
)
def test_the_list_of_models(path: str, listed: bool) -> None:
    assert is_model_list(path) is listed


def test_parameters_are_dropped() -> None:
    assert without_parameters("/a;b/c;d=e") == "/a/c"
    assert without_parameters("/a/") == "/a/"
