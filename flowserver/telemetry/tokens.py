"""Metrics of tokens. Names and buckets are those of OpenTelemetry's GenAI conventions where it has some
(opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics), in Prometheus' spelling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from ..relay.account import Account
from ..relay.exchange import Exchange
from .histogram import Histogram

USAGE_BUCKETS = tuple(4.0**power for power in range(14))
FIRST_TOKEN_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
PER_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
ERROR_BUCKETS = (0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0)
MAX_MODELS = 200
"""Models with figures of their own; clients name them, so further ones share one."""
OTHER = "other"

_K = TypeVar("_K", bound=tuple[str, ...])
_Key = tuple[str, str]
"""Provider and model."""
_LABELS = ["gen_ai_provider_name", "gen_ai_request_model"]


class TokenMetrics:
    """What the accounts of ended exchanges come to."""

    def __init__(self) -> None:
        self._models: set[str] = set()
        self._tokens: Counter[tuple[str, str, str, str]] = Counter()
        self._usage: dict[tuple[str, str, str], Histogram] = {}
        self._first_token: dict[_Key, Histogram] = {}
        self._per_token: dict[_Key, Histogram] = {}
        self._errors: dict[_Key, Histogram] = {}
        self._uncounted: Counter[str] = Counter()

    def exchange_ended(self, exchange: Exchange) -> None:
        account = exchange.account
        if account.upstream is None:
            return
        if account.uncounted:
            self._uncounted[account.upstream.name] += account.uncounted
        if account.meter is None:
            return
        key = (account.upstream.name, self._label(account.model or ""))
        self._count(account, key)
        output = account.output
        if exchange.first_token_at is not None and exchange.ended_at is not None:
            first = exchange.first_token_at
            _observe(self._first_token, FIRST_TOKEN_BUCKETS, key, first - exchange.started_at)
            if output > 1:
                _observe(self._per_token, PER_TOKEN_BUCKETS, key, (exchange.ended_at - first) / (output - 1))
        if account.estimated is not None and output:
            _observe(self._errors, ERROR_BUCKETS, key, abs(account.estimated - output) / output)

    def collect(self) -> Iterator[Metric]:
        tokens = CounterMetricFamily("flow_tokens", "Tokens of ended exchanges.", labels=[*_LABELS, "tenant", "type"])
        for labels, number in sorted(self._tokens.items()):
            tokens.add_metric(list(labels), number)
        yield tokens
        yield _family(
            "gen_ai_client_token_usage", "Tokens of one exchange.", [*_LABELS, "gen_ai_token_type"], self._usage
        )
        yield _family(
            "gen_ai_server_time_to_first_token_seconds", "From request to first content.", _LABELS, self._first_token
        )
        yield _family(
            "gen_ai_server_time_per_output_token_seconds", "Between tokens behind the first.", _LABELS, self._per_token
        )
        yield _family(
            "flow_estimate_error_ratio", "Estimated tokens against the provider's report.", _LABELS, self._errors
        )
        text = "Events and answers that could not be looked into, so that their tokens are not counted."
        uncounted = CounterMetricFamily("flow_uncounted", text, labels=["gen_ai_provider_name"])
        for upstream, number in sorted(self._uncounted.items()):
            uncounted.add_metric([upstream], number)
        yield uncounted

    def _count(self, account: Account, key: _Key) -> None:
        usage, output = account.usage, account.output
        tenant = account.tenant.name if account.tenant is not None else ""
        kinds = {
            "input": usage.input,
            "output": output,
            "cached": usage.cached,
            "cache_written": usage.cache_written,
            "reasoning": usage.reasoning,
        }
        for kind, number in kinds.items():
            if number:
                self._tokens[*key, tenant, kind] += number
        for kind in ("input", "output"):
            if kinds[kind]:
                _observe(self._usage, USAGE_BUCKETS, (*key, kind), kinds[kind] or 0)

    def _label(self, model: str) -> str:
        if model not in self._models:
            if len(self._models) >= MAX_MODELS:
                return OTHER
            self._models.add(model)
        return model


def _observe(histograms: dict[_K, Histogram], bounds: tuple[float, ...], key: _K, value: float) -> None:
    histogram = histograms.get(key)
    if histogram is None:
        histogram = histograms[key] = Histogram(bounds)
    histogram.observe(value)


def _family(name: str, text: str, labels: list[str], histograms: dict[_K, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, histogram in sorted(histograms.items()):
        family.add_metric(list(key), histogram.buckets(), histogram.sum)
    return family
