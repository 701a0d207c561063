"""Figures of tokens under the names of either of OpenTelemetry's conventions."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from flowserver.config.parsers import GenAiNames
from flowserver.dialects import FORMATS
from flowserver.dialects.profiles import quirks_for
from flowserver.dialects.realtime import NAME as REALTIME
from flowserver.errors import EndReason
from flowserver.telemetry.gen_ai import OPERATIONS, provider_name

from ..support.exposed import broken_rules
from ..support.streams import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from .test_tokens import Scene

OLD = 'gen_ai_provider_name="api",gen_ai_request_model="m-1"'
NEW = 'gen_ai_operation_name="chat",gen_ai_provider_name="anthropic",gen_ai_request_model="m-1"'
BEHIND = 'upstream="api"'
LISTED_OPERATIONS = {"chat", "embeddings", "generate_content", "text_completion"}
"""Of those in the conventions, the ones that are requests to models."""


@pytest.fixture(params=GenAiNames)
def scene(request: pytest.FixtureRequest) -> Scene:
    return _scene(request.param)


def _names(scene: Scene) -> set[str]:
    return {re.split(r"[{ ]", line)[0] for line in scene.metrics.text().decode().splitlines() if line[:1] != "#"}


@pytest.fixture
def both() -> Scene:
    return _scene(GenAiNames.BOTH)


def _scene(names: GenAiNames) -> Scene:
    made = Scene(names)
    made.metrics.know_profiles({"api": "anthropic"})
    return made


@pytest.mark.parametrize(
    ("names", "old", "new"),
    [(GenAiNames.OLD, True, False), (GenAiNames.NEW, False, True), (GenAiNames.BOTH, True, True)],
)
def test_the_setting_says_which_names_there_are(names: GenAiNames, old: bool, new: bool) -> None:
    scene = Scene(names)
    scene.serve(MESSAGES, ["a"] * 10, 30)
    found = _names(scene)
    assert ("gen_ai_client_token_usage_count" in found) is old
    assert ("gen_ai_client_inference_duration_seconds_count" in found) is new
    assert ("gen_ai_client_inference_usage_input_tokens_total" in found) is new
    assert {"gen_ai_server_time_to_first_token_seconds_count", "flow_tokens_total"} <= found, "they are in both"


def test_the_figures_do_not_depend_on_the_names(both: Scene) -> None:
    for output in (30, 12):
        both.serve(MESSAGES, ["a"] * 10, output)
    figures = both.figures()
    modality = 'gen_ai_token_modality="unknown"'
    of_input = f"gen_ai_client_inference_usage_input_tokens_total{{{NEW},{modality},{BEHIND}}}"
    assert figures[of_input] == figures[f'flow_tokens_total{{{OLD},tenant="",type="input"}}'] == 14
    old = figures[f'gen_ai_client_token_usage_sum{{{OLD},gen_ai_token_type="output"}}']
    assert figures[f"gen_ai_client_inference_operation_output_tokens_sum{{{NEW},{BEHIND}}}"] == old == 42


@pytest.mark.parametrize(("names", "labels"), [(GenAiNames.NEW, f"{NEW},{BEHIND}"), (GenAiNames.BOTH, OLD)])
def test_what_has_one_name_in_both_has_new_labels_with_new_names_only(names: GenAiNames, labels: str) -> None:
    scene = _scene(names)
    scene.serve(MESSAGES, ["a"] * 10, 30)
    found = [name for name in scene.figures() if name.startswith("gen_ai_server_time_to_first_token_seconds_count")]
    assert found == [f"gen_ai_server_time_to_first_token_seconds_count{{{labels}}}"]


def test_operations_are_told_apart_by_the_new_names_and_summed_by_the_old(both: Scene) -> None:
    both.serve(CHAT, ["a"], 3)
    both.serve(COMPLETIONS, ["a"], 5)
    figures = both.figures()
    sums = {name: value for name, value in figures.items() if "inference_operation_output_tokens_sum" in name}
    assert sorted(sums.values()) == [3, 5]
    assert figures[f'gen_ai_client_token_usage_sum{{{OLD},gen_ai_token_type="output"}}'] == 8
    assert figures[f'gen_ai_client_token_usage_count{{{OLD},gen_ai_token_type="output"}}'] == 2
    assert figures[f'flow_tokens_total{{{OLD},tenant="",type="output"}}'] == 8


def test_formats_of_one_operation_have_one_series(both: Scene) -> None:
    both.serve(CHAT, ["a"], 3)
    both.serve(RESPONSES, ["a"], 5)
    figures = both.figures()
    assert figures[f"gen_ai_client_inference_operation_output_tokens_sum{{{NEW},{BEHIND}}}"] == 8
    assert figures[f"gen_ai_client_inference_duration_seconds_count{{{NEW},{BEHIND}}}"] == 2


def test_a_stream_has_a_first_chunk_and_a_whole_answer_has_none(both: Scene) -> None:
    both.serve(MESSAGES, ["a"], 3)
    both.serve(replace(MESSAGES, body=MESSAGES.body | {"stream": False}), ["a"], 3)
    figures = both.figures()
    assert figures[f"gen_ai_client_inference_time_to_first_chunk_seconds_count{{{NEW},{BEHIND}}}"] == 1
    assert figures[f"gen_ai_client_inference_duration_seconds_count{{{NEW},{BEHIND}}}"] == 2


def test_the_duration_says_why_an_exchange_failed(both: Scene) -> None:
    gone = both.start(MESSAGES)
    both.hear(gone, *MESSAGES.opening)
    gone.on_downstream_reset(EndReason.CLIENT_GONE)
    both.serve(MESSAGES, ["a"], 3)
    figures = both.figures()
    count = "gen_ai_client_inference_duration_seconds_count"
    assert figures[f'{count}{{error_type="client_gone",{NEW},{BEHIND}}}'] == 1
    assert figures[f"{count}{{{NEW},{BEHIND}}}"] == 1


def test_a_budget_that_is_used_up_is_no_error(both: Scene) -> None:
    exchange = both.start(MESSAGES, budget=2)
    both.hear(exchange, *MESSAGES.events(["word " * 40] * 10, 500))
    both.end(exchange)
    found = [name for name in both.figures() if name.startswith("gen_ai_client_inference_duration_seconds_count")]
    assert [name for name in found if "error_type" in name] == []


def test_the_page_is_well_formed_whatever_the_names(scene: Scene) -> None:
    scene.serve(MESSAGES, ["a"], 3)
    scene.serve(COMPLETIONS, ["a"], 3)
    assert broken_rules(scene.metrics.text().decode()) == []


def test_every_format_has_an_operation_of_the_conventions() -> None:
    assert OPERATIONS.keys() == {*FORMATS, REALTIME}
    assert set(OPERATIONS.values()) <= LISTED_OPERATIONS


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("api.openai.com", "openai"),
        ("east.openai.azure.com", "azure.ai.openai"),
        ("api.anthropic.com", "anthropic"),
        ("generativelanguage.googleapis.com", "gcp.gemini"),
        ("aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("bedrock-runtime.eu-west-1.amazonaws.com", "aws.bedrock"),
        ("api.mistral.ai", "mistral_ai"),
        ("api.x.ai", "x_ai"),
        ("api.moonshot.ai", "moonshot_ai"),
        ("api.groq.com", "groq"),
        ("openrouter.ai", "openrouter"),
        ("10.0.0.1", "openai"),
    ],
)
def test_providers_have_the_names_of_the_conventions(host: str, name: str) -> None:
    assert provider_name(quirks_for(None, host).name, "openai-chat") == name
