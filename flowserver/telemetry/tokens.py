"""Metrics of tokens. Names and buckets are those of OpenTelemetry's GenAI conventions where it has some
(opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics), in Prometheus' spelling."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter

from ..dialects.base import Usage
from ..relay.record import ExchangeRecord
from .costs import CostMetrics
from .exposition import Family, counters, histograms
from .histogram import Histogram
from .labels import ModelLabels

USAGE_BUCKETS = tuple(4.0**power for power in range(14))
FIRST_TOKEN_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
PER_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
ERROR_BUCKETS = (0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0)

_Key = tuple[str, str]
"""Provider and model."""
_LABELS = ["gen_ai_provider_name", "gen_ai_request_model"]


class _Figures:
    """Of one provider and model."""

    __slots__ = ("errors", "first_token", "input", "output", "per_token", "tokens")

    def __init__(self) -> None:
        self.tokens: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """By tenant, then by kind."""
        self.input = Histogram(USAGE_BUCKETS)
        self.output = Histogram(USAGE_BUCKETS)
        self.first_token = Histogram(FIRST_TOKEN_BUCKETS)
        self.per_token = Histogram(PER_TOKEN_BUCKETS)
        self.errors = Histogram(ERROR_BUCKETS)


class TokenMetrics:
    """What the exchanges that have ended add up to."""

    def __init__(self) -> None:
        self._labels = ModelLabels()
        self._figures: dict[_Key, _Figures] = {}
        self._uncounted: Counter[tuple[str, str]] = Counter()
        """By provider and reason."""
        self._disbelieved: Counter[str] = Counter()
        self._costs = CostMetrics()

    def name_models(self, models: Iterable[str]) -> None:
        """The models that the configuration names: each of them has figures of its own."""
        for lost in self._labels.configure(models):
            self._forget(lost)

    def exchange_ended(self, exchange: ExchangeRecord) -> None:
        account, tokens = exchange.account, exchange.tokens
        if tokens is None:
            return
        for reason, number in tokens.uncounted.items():
            self._uncounted[tokens.provider, reason] += number
        if tokens.is_disbelieved:
            self._disbelieved[tokens.provider] += 1
        if tokens.is_repeated:
            return
        prompt, output = tokens.input, account.output
        answered = 200 <= exchange.status < 300
        label, figures = self._of(tokens.provider, account.model or "", prompt + output, answered=answered)
        self._costs.exchange_ended(exchange, tokens.provider, label)
        _count(figures, account.tenant or "", tokens.usage, prompt, output)
        if exchange.first_token_at is not None and exchange.ended_at is not None:
            first = exchange.first_token_at
            figures.first_token.observe(first - exchange.started_at)
            if output > 1:
                figures.per_token.observe((exchange.ended_at - first) / (output - 1))
        if tokens.estimated_output is not None and output:
            figures.errors.observe(abs(tokens.estimated_output - output) / output)

    def first_tokens(self) -> dict[str, tuple[int, float]]:
        """By provider, how many answers had a first token, and the seconds to it of all of them together."""
        found: dict[str, tuple[int, float]] = {}
        for (provider, _), figures in self._figures.items():
            count, seconds = found.get(provider, (0, 0.0))
            found[provider] = count + figures.first_token.count, seconds + figures.first_token.sum
        return found

    def collect(self) -> Iterator[Family]:
        known = sorted(self._figures.items())
        yield counters("flow_tokens", "Tokens of ended exchanges.", _token_counts(known))
        usage = (
            ({**_labels(key), "gen_ai_token_type": kind}, histogram)
            for key, figures in known
            for kind, histogram in (("input", figures.input), ("output", figures.output))
            if histogram.count
        )
        yield histograms("gen_ai_client_token_usage", "Tokens of one exchange.", USAGE_BUCKETS, usage)
        for name, text, bounds, pick in _HISTOGRAMS:
            picked = ((_labels(key), pick(figures)) for key, figures in known)
            found = [(labels, histogram) for labels, histogram in picked if histogram.count]
            yield histograms(name, text, bounds, found)
        text = "Events and answers that could not be read, so that they are counted by their bytes."
        uncounted = [
            ({"gen_ai_provider_name": upstream, "reason": reason}, number)
            for (upstream, reason), number in sorted(self._uncounted.items())
        ]
        yield counters("flow_uncounted", text, uncounted)
        text = "Providers' last reports that make no sense, so that an estimate took their place."
        disbelieved = [({"gen_ai_provider_name": name}, number) for name, number in sorted(self._disbelieved.items())]
        yield counters("flow_reports_disbelieved", text, disbelieved)
        yield from self._costs.collect()

    def _of(self, upstream: str, model: str, tokens: int, *, answered: bool) -> tuple[str, _Figures]:
        """The model's label, and the figures under it."""
        label, lost = self._labels.count(model, tokens, answered=answered)
        if lost is not None:
            self._forget(lost)
        figures = self._figures.get((upstream, label))
        if figures is None:
            figures = self._figures[upstream, label] = _Figures()
        return label, figures

    def _forget(self, model: str) -> None:
        """Its series end. Where they begin again they begin at zero, which Prometheus takes for a restart; what was
        counted is not added to another series, whose rate would show it a second time."""
        for key in [key for key in self._figures if key[1] == model]:
            del self._figures[key]
        self._costs.forget(model)


_HISTOGRAMS: tuple[tuple[str, str, tuple[float, ...], Callable[[_Figures], Histogram]], ...] = (
    (
        "gen_ai_server_time_to_first_token_seconds",
        "From request to first content.",
        FIRST_TOKEN_BUCKETS,
        attrgetter("first_token"),
    ),
    (
        "gen_ai_server_time_per_output_token_seconds",
        "Between tokens behind the first.",
        PER_TOKEN_BUCKETS,
        attrgetter("per_token"),
    ),
    (
        "flow_estimate_error_ratio",
        "Estimated tokens against the provider's report.",
        ERROR_BUCKETS,
        attrgetter("errors"),
    ),
)


def _count(figures: _Figures, tenant: str, usage: Usage, prompt: int, output: int) -> None:
    tokens = figures.tokens[tenant]
    for kind, number in (
        ("input", prompt),
        ("output", output),
        ("cached", usage.cached),
        ("cache_written", usage.cache_written),
        ("reasoning", usage.reasoning),
    ):
        if number:
            tokens[kind] += number
    if prompt:
        figures.input.observe(prompt)
    if output:
        figures.output.observe(output)


def _labels(key: _Key) -> dict[str, str]:
    return dict(zip(_LABELS, key, strict=True))


def _token_counts(known: Sequence[tuple[_Key, _Figures]]) -> Iterator[tuple[dict[str, str], float]]:
    for key, figures in known:
        labels = _labels(key)
        for tenant, kinds in sorted(figures.tokens.items()):
            for kind, number in sorted(kinds.items()):
                yield {**labels, "tenant": tenant, "type": kind}, number
