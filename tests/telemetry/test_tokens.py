"""Figures of tokens: of ended streams, by provider and model."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from flowserver.config.parsers import GenAiNames
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.relay.exchange import Exchange
from flowserver.telemetry.labels import ANSWERS, AT_ONCE, MAX_MODELS, OTHER
from flowserver.telemetry.log import Log
from flowserver.telemetry.metrics import Metrics

from ..support.accounts import count_of
from ..support.clock import FakeClock
from ..support.lab import samples
from ..support.recording import (
    RecordingDownstream,
    RecordingUpstream,
    account,
    ask,
    exchange_context,
    read_request,
    target,
)
from ..support.streams import CHAT, MESSAGES, OLLAMA_CHAT, Stream

_MODEL = re.compile(r'gen_ai_request_model="([^"]*)"')
MODEL = 'gen_ai_provider_name="api",gen_ai_request_model="m-1"'


class Scene:
    def __init__(self, names: GenAiNames = GenAiNames.OLD) -> None:
        self.clock = FakeClock()
        self.log = Log("error", io.BytesIO())
        self.metrics = Metrics(self.log, genai=names)
        self.context = exchange_context(
            clock=self.clock, observer=self.metrics, pauses=self.metrics.pauses, max_body=100
        )

    def start(
        self, stream: Stream, *, budget: int | None = None, name: str = "api", status: int = 200, **body: Any
    ) -> Exchange:
        """An exchange whose answer begins."""
        made = account(stream.target)
        asked = orjson.dumps(stream.body | body)
        read_request(made, asked)
        made.bound(budget)
        ask(made, target(name=name), asked)
        request = RequestHead(b"POST", stream.target.encode(), [])
        exchange = Exchange(request, RecordingDownstream(), self.context, request_id=b"i", account=made)
        exchange.start(RecordingUpstream())
        exchange.on_downstream_end()
        exchange.on_upstream_head(ResponseHead(status, stream.head.headers))
        return exchange

    def hear(self, exchange: Exchange, *events: bytes) -> None:
        for event in events:
            if not exchange.is_over:
                exchange.on_upstream_data(event)

    def end(self, exchange: Exchange) -> None:
        if not exchange.is_over:
            exchange.on_upstream_end()
        exchange.on_downstream_finished()

    def serve(self, stream: Stream, texts: list[str], output: int, **options: Any) -> None:
        """A whole answer."""
        exchange = self.start(stream, **options)
        self.hear(exchange, *stream.events(texts, output))
        self.end(exchange)

    def figures(self) -> dict[str, float]:
        return samples(self.metrics.text().decode())


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.log.close()


def test_tokens_are_summed_by_provider_model_and_type(scene: Scene) -> None:
    for output in (30, 12):
        scene.serve(MESSAGES, ["a"] * 10, output)
    figures = scene.figures()
    assert figures[f'flow_tokens_total{{{MODEL},tenant="",type="input"}}'] == 14
    assert figures[f'flow_tokens_total{{{MODEL},tenant="",type="output"}}'] == 42
    assert not [name for name in figures if name.startswith("flow_tokens") and "reasoning" in name]


def test_all_kinds_of_tokens_are_told_apart(scene: Scene) -> None:
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    exchange = scene.start(CHAT)
    report = b"data: %b\n\n" % orjson.dumps({"model": "m-1", "choices": [], "usage": usage})
    scene.hear(exchange, *CHAT.opening, CHAT.content("a"), CHAT.closing[0], report, CHAT.closing[1])
    scene.end(exchange)
    figures = scene.figures()
    kinds = {"input": 20, "output": 9, "cached": 6, "cache_written": 5, "reasoning": 4}
    for kind, number in kinds.items():
        assert figures[f'flow_tokens_total{{{MODEL},tenant="",type="{kind}"}}'] == number


def test_the_tokens_of_each_exchange_fall_into_their_buckets(scene: Scene) -> None:
    for output in (3, 30):
        scene.serve(MESSAGES, ["a"] * 10, output)
    figures = scene.figures()
    of_output = 'gen_ai_provider_name="api",gen_ai_request_model="m-1",gen_ai_token_type="output"'
    assert figures[f"gen_ai_client_token_usage_count{{{of_output}}}"] == 2
    assert figures[f"gen_ai_client_token_usage_sum{{{of_output}}}"] == 33
    of_bucket = 'gen_ai_client_token_usage_bucket{{gen_ai_provider_name="api",gen_ai_request_model="m-1",{0}}}'
    assert figures[of_bucket.format('gen_ai_token_type="output",le="4.0"')] == 1
    assert figures[of_bucket.format('gen_ai_token_type="output",le="64.0"')] == 2
    assert figures[of_bucket.format('gen_ai_token_type="input",le="16.0"')] == 2


def test_the_first_token_and_the_pace_of_the_others_are_timed(scene: Scene) -> None:
    exchange = scene.start(MESSAGES)
    scene.clock.advance(0.3)
    scene.hear(exchange, *MESSAGES.opening)
    scene.clock.advance(0.3)
    scene.hear(exchange, MESSAGES.content("a"))
    scene.clock.advance(2.0)
    scene.hear(exchange, *MESSAGES.report(11))
    scene.end(exchange)
    figures = scene.figures()
    assert figures[f"gen_ai_server_time_to_first_token_seconds_count{{{MODEL}}}"] == 1
    assert figures[f"gen_ai_server_time_to_first_token_seconds_sum{{{MODEL}}}"] == pytest.approx(0.6)
    assert figures[f'gen_ai_server_time_to_first_token_seconds_bucket{{{MODEL},le="0.5"}}'] == 0
    assert figures[f'gen_ai_server_time_to_first_token_seconds_bucket{{{MODEL},le="0.75"}}'] == 1
    assert figures[f"gen_ai_server_time_per_output_token_seconds_sum{{{MODEL}}}"] == pytest.approx(0.2)


def test_one_token_alone_has_no_pace(scene: Scene) -> None:
    scene.serve(MESSAGES, ["a"], 1)
    figures = scene.figures()
    assert figures[f"gen_ai_server_time_to_first_token_seconds_count{{{MODEL}}}"] == 1
    assert f"gen_ai_server_time_per_output_token_seconds_count{{{MODEL}}}" not in figures


def test_estimates_are_held_against_reports(scene: Scene) -> None:
    exchange = scene.start(MESSAGES)
    scene.hear(exchange, *MESSAGES.opening, *[MESSAGES.content("word ")] * 60)
    before = exchange.account.output
    scene.hear(exchange, *MESSAGES.report(100))
    scene.end(exchange)
    estimated = count_of(exchange.account).estimated
    assert estimated is not None
    assert before <= estimated <= before * 1.2
    figures = scene.figures()
    assert figures[f"flow_estimate_error_ratio_count{{{MODEL}}}"] == 1
    assert figures[f"flow_estimate_error_ratio_sum{{{MODEL}}}"] == pytest.approx(abs(estimated - 100) / 100)


def test_a_stream_that_was_cut_counts_what_passed_and_proves_no_estimate(scene: Scene) -> None:
    exchange = scene.start(MESSAGES, budget=5)
    scene.hear(exchange, *MESSAGES.opening, *[MESSAGES.content("and more")] * 60)
    scene.end(exchange)
    figures = scene.figures()
    assert figures['flow_exchanges_total{end="budget"}'] == 1
    assert figures[f'flow_tokens_total{{{MODEL},tenant="",type="output"}}'] == 5
    assert f"flow_estimate_error_ratio_count{{{MODEL}}}" not in figures


def test_open_streams_show_the_tokens_they_have_emitted_so_far(scene: Scene) -> None:
    exchange = scene.start(CHAT)
    assert scene.figures()["flow_live_tokens"] == 0
    scene.hear(exchange, *CHAT.opening, *[CHAT.content("word ")] * 20)
    assert scene.figures()["flow_live_tokens"] == exchange.account.output >= 20
    scene.hear(exchange, *CHAT.report(20))
    scene.end(exchange)
    assert scene.figures()["flow_live_tokens"] == 0


def test_signs_of_life_are_counted_also_while_a_stream_runs(scene: Scene) -> None:
    exchange = scene.start(MESSAGES)
    exchange.heartbeats = 3
    assert scene.figures()["flow_heartbeats_total"] == 3
    scene.end(exchange)
    assert scene.figures()["flow_heartbeats_total"] == 3


def test_a_model_that_no_answer_names_goes_by_its_request(scene: Scene) -> None:
    exchange = scene.start(OLLAMA_CHAT, model="asked")
    scene.hear(exchange, b'{"message": {"role": "assistant", "content": "a"}, "done": false}\n')
    exchange.on_upstream_end()
    exchange.on_downstream_finished()
    assert (
        'flow_tokens_total{gen_ai_provider_name="api",gen_ai_request_model="asked",tenant="",type="output"}'
        in scene.figures()
    )


def labels(scene: Scene) -> set[str]:
    """The models that have figures."""
    names = (_MODEL.search(name) for name in scene.figures() if name.startswith("flow_tokens_total"))
    return {match[1] for match in names if match}


def output(scene: Scene, model: str) -> float:
    name = f'flow_tokens_total{{gen_ai_provider_name="api",gen_ai_request_model="{model}",tenant="",type="output"}}'
    return scene.figures()[name]


def answer(scene: Scene, model: str, tokens: int = 1, *, status: int = 200) -> None:
    """An answer by `model`, of so many events with content."""
    exchange = scene.start(CHAT)
    exchange.status = status
    event = {"model": model, "choices": [{"index": 0, "delta": {"content": "a"}}]}
    scene.hear(exchange, *[b"data: %b\n\n" % orjson.dumps(event)] * tokens)
    scene.end(exchange)


def test_clients_cannot_make_any_number_of_models(scene: Scene) -> None:
    for _ in range(ANSWERS):
        for number in range(MAX_MODELS + 50):
            answer(scene, f"made-up-{number}")
    assert len(labels(scene)) == MAX_MODELS + 1
    assert output(scene, OTHER) == ANSWERS * (MAX_MODELS + 50) - AT_ONCE * ANSWERS - (MAX_MODELS - AT_ONCE)
    answer(scene, "made-up-7")
    assert output(scene, "made-up-7") == ANSWERS + 1


def test_names_that_are_used_once_keep_no_model_out(scene: Scene) -> None:
    for number in range(MAX_MODELS + 50):
        answer(scene, f"made-up-{number}")
    assert len(labels(scene)) == AT_ONCE + 1
    for _ in range(ANSWERS + 1):
        answer(scene, "real")
    assert output(scene, "real") == 2
    assert output(scene, OTHER) == MAX_MODELS + 50 - AT_ONCE + ANSWERS - 1


def test_a_busy_model_takes_over_from_an_idle_one(scene: Scene) -> None:
    """Their requests have some tokens too."""
    for _ in range(ANSWERS):
        for number in range(MAX_MODELS):
            answer(scene, f"made-up-{number}", 20 if number == 5 else 40)
    before = labels(scene)
    for _ in range(ANSWERS):
        answer(scene, "real", 60)
    assert labels(scene) == before - {"made-up-5"} | {"real", OTHER}
    assert not [name for name in scene.figures() if '"made-up-5"' in name]


def test_models_that_the_configuration_names_always_have_figures(scene: Scene) -> None:
    for _ in range(ANSWERS):
        for number in range(MAX_MODELS):
            answer(scene, f"made-up-{number}")
    scene.metrics.name_models({"mine", "made-up-3"})
    assert len(labels(scene) - {OTHER}) == MAX_MODELS - 1
    answer(scene, "mine")
    assert output(scene, "mine") == 1
    assert output(scene, "made-up-3") == ANSWERS
    assert len(labels(scene) - {OTHER}) == MAX_MODELS


def test_a_model_that_is_refused_gets_no_figures_of_its_own(scene: Scene) -> None:
    answer(scene, "refused", status=404)
    assert labels(scene) == {OTHER}


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "a\r\nb", "\0\x01\x7f", "a\u2028b", "{}=,", "\N{SNOWMAN}"])
def test_any_name_is_a_label(scene: Scene, name: str) -> None:
    answer(scene, name)
    found = [
        sample.labels["gen_ai_request_model"]
        for family in text_string_to_metric_families(scene.metrics.text().decode())
        for sample in family.samples
        if sample.name == "flow_tokens_total" and sample.labels["type"] == "output"
    ]
    assert found == [name]


def test_events_that_could_not_be_looked_into_are_counted(scene: Scene) -> None:
    exchange = scene.start(MESSAGES)
    scene.hear(exchange, b"data: " + b"x" * (1 << 20) + b"\n\n")
    scene.end(exchange)
    assert scene.figures()['flow_uncounted_total{gen_ai_provider_name="api",reason="large_event"}'] == 1


def test_answers_that_could_not_be_read_are_counted(scene: Scene) -> None:
    exchange = scene.start(MESSAGES)
    scene.hear(exchange, b"\x89PNG" + bytes(1000))
    scene.end(exchange)
    assert scene.figures()['flow_uncounted_total{gen_ai_provider_name="api",reason="unreadable"}'] == 1


def test_reports_that_make_no_sense_are_counted(scene: Scene) -> None:
    scene.serve(MESSAGES, ["a"], 1_000_000)
    figures = scene.figures()
    assert figures['flow_reports_disbelieved_total{gen_ai_provider_name="api"}'] == 1
    assert figures[f'flow_tokens_total{{{MODEL},tenant="",type="output"}}'] < 10


def test_a_request_without_a_report_counts_as_estimated(scene: Scene) -> None:
    exchange = scene.start(CHAT, messages=[{"role": "user", "content": "word " * 100}])
    scene.end(exchange)
    figures = scene.figures()
    name = 'flow_tokens_total{gen_ai_provider_name="api",gen_ai_request_model="m",tenant="",type="input"}'
    assert figures[name] == exchange.account.input
    assert exchange.account.input >= 100


def test_answers_that_are_not_counted_leave_no_figures(scene: Scene) -> None:
    failed = scene.start(MESSAGES, status=500)
    scene.end(failed)
    assert not [name for name in scene.figures() if name.startswith(("flow_tokens_total", "gen_ai_client_token"))]


def test_rate_limits_become_gauges(scene: Scene) -> None:
    limited = target()
    scene.metrics.upstreams = [limited]
    name = 'flow_upstream_ratelimit_remaining{{kind="{0}",upstream="api"}}'
    assert not [each for each in scene.figures() if each.startswith("flow_upstream_ratelimit")]
    limited.note_limits([(b"x-ratelimit-remaining-requests", b"59"), (b"x-ratelimit-remaining-tokens", b"149984")])
    figures = scene.figures()
    assert figures[name.format("requests")] == 59
    assert figures[name.format("tokens")] == 149984
    limited.note_limits(
        [
            (b"anthropic-ratelimit-tokens-remaining", b"10"),
            (b"anthropic-ratelimit-input-tokens-remaining", b"20"),
            (b"anthropic-ratelimit-output-tokens-remaining", b"30"),
            (b"anthropic-ratelimit-requests-remaining", b"40"),
            (b"anthropic-ratelimit-requests-limit", b"50"),
            (b"x-ratelimit-remaining-cents", b"60"),
        ]
    )
    kinds = {"tokens": 10, "input-tokens": 20, "output-tokens": 30, "requests": 40}
    figures = scene.figures()
    assert {name.format(kind): number for kind, number in kinds.items()} == {
        each: number for each, number in figures.items() if each.startswith("flow_upstream_ratelimit")
    }


@pytest.mark.parametrize("value", [b"", b"-1", b"1.5", b"many", b"9" * 16, b"\xb2"])
def test_rate_limits_that_make_no_sense_are_left_out(value: bytes) -> None:
    limited = target()
    limited.note_limits([(b"x-ratelimit-remaining-tokens", value)])
    assert limited.remaining == {}
