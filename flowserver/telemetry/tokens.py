"""Token metrics of ended exchanges, by provider and model. `genai_metrics` has their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from ..config.parsers import GenAiNames
from ..dialects.base import Usage
from ..errors import EndReason
from ..relay.record import ExchangeRecord
from .costs import CostMetrics
from .exposition import Family, counters
from .genai_metrics import Figures, Key, common_families, new_families, old_families
from .labels import ModelLabels

_COMPLETE = EndReason.COMPLETE
"""Python 3.11 takes 75 ns to look up an enum member."""
_GOOD_ENDS = frozenset((_COMPLETE, EndReason.BUDGET, EndReason.QUOTA))
_SWITCHED = 101
"""The status of a WebSocket over HTTP/1.1."""
_OTHER_ERROR = "_OTHER"
"""The conventions' fallback value for errors."""


class TokenMetrics:
    """The totals of ended exchanges."""

    def __init__(self, names: GenAiNames) -> None:
        self._names = names
        self._is_new = names is not GenAiNames.OLD
        self._labels = ModelLabels()
        self._figures: dict[Key, Figures] = {}
        self._profiles: dict[str, str] = {}
        """Profiles of providers, by name."""
        self._uncounted: Counter[tuple[str, str]] = Counter()
        """By provider and reason."""
        self._disbelieved: Counter[str] = Counter()
        self._costs = CostMetrics()

    def name_models(self, models: Iterable[str]) -> None:
        """Set the models that the configuration names: each of them has series of its own."""
        for lost in self._labels.configure(models):
            self._forget(lost)

    def know_profiles(self, profiles: Mapping[str, str]) -> None:
        """Add the profiles of providers, by name. Those of earlier calls are kept, like their figures."""
        self._profiles.update(profiles)

    def exchange_ended(self, exchange: ExchangeRecord, tenant: str) -> None:
        """`tenant`: the label of its tenant."""
        account, tokens = exchange.account, exchange.tokens
        if tokens is None:
            if self._is_new and exchange.attempts and account.dialect is not None:
                self._count_failure(exchange, account.dialect)
            if account.cost is not None and exchange.upstream is not None:  # charged for what was asked, uncounted
                label = self._label(account.model or "", 0, answered=True)
                self._costs.exchange_ended(exchange, exchange.upstream, label, tenant)
            return
        for reason, number in tokens.uncounted.items():
            self._uncounted[tokens.provider, reason] += number
        if tokens.is_disbelieved:
            self._disbelieved[tokens.provider] += 1
        if tokens.is_repeated:
            return
        prompt, output = tokens.input, account.output
        answered = 200 <= exchange.status < 300 or exchange.status == _SWITCHED
        key = tokens.provider, account.model or "", account.dialect or ""
        label, figures = self._of(key, prompt + output, answered=answered)
        self._costs.exchange_ended(exchange, tokens.provider, label, tenant)
        _count(figures, tenant, tokens.usage, prompt, output)
        if exchange.first_token_at is not None and exchange.ended_at is not None:
            first = exchange.first_token_at
            figures.first_token.observe(first - exchange.started_at)
            if output > 1:
                figures.per_token.observe((exchange.ended_at - first) / (output - 1))
        if tokens.estimated_output is not None and output:
            figures.errors.observe(abs(tokens.estimated_output - output) / output)
        if self._is_new:
            is_good = exchange.end is _COMPLETE and tokens.failure is None and exchange.status < 400
            _count_times(figures, exchange, "" if is_good else _error(exchange))

    def first_tokens(self) -> dict[str, tuple[int, float]]:
        """By provider: the number of answers with a first token, and the total seconds until then."""
        found: dict[str, tuple[int, float]] = {}
        for (provider, *_), figures in self._figures.items():
            count, seconds = found.get(provider, (0, 0.0))
            found[provider] = count + figures.first_token.count, seconds + figures.first_token.sum
        return found

    def collect(self) -> Iterator[Family]:
        known = sorted(self._figures.items())
        names = self._names
        yield from common_families(known)
        if names is not GenAiNames.NEW:
            yield from old_families(known)
        if names is not GenAiNames.OLD:
            yield from new_families(known, self._profiles, replaces_old=names is GenAiNames.NEW)
        text = "Events and answers that could not be read and were counted by their bytes."
        uncounted = [
            ({"gen_ai_provider_name": upstream, "reason": reason}, number)
            for (upstream, reason), number in sorted(self._uncounted.items())
        ]
        yield counters("flow_uncounted", text, uncounted)
        text = "Impossible usage reports of providers, replaced by an estimate."
        disbelieved = [({"gen_ai_provider_name": name}, number) for name, number in sorted(self._disbelieved.items())]
        yield counters("flow_reports_disbelieved", text, disbelieved)
        yield from self._costs.collect()

    def _count_failure(self, exchange: ExchangeRecord, dialect: str) -> None:
        """Count a request that no provider answered with success."""
        key = exchange.upstream or "", exchange.account.model or "", dialect
        _, figures = self._of(key, 0, answered=False)
        _count_times(figures, exchange, _error(exchange))

    def _of(self, key: Key, tokens: int, *, answered: bool) -> tuple[str, Figures]:
        """The model's label, and its figures."""
        upstream, model, dialect = key
        label = self._label(model, tokens, answered=answered)
        if label is not model:
            key = upstream, label, dialect
        figures = self._figures.get(key)
        if figures is None:
            figures = self._figures[key] = Figures()
        return label, figures

    def _label(self, model: str, tokens: int, *, answered: bool) -> str:
        label, lost = self._labels.count(model, tokens, answered=answered)
        if lost is not None:
            self._forget(lost)
        return label

    def _forget(self, model: str) -> None:
        """End the series of a model. If they appear again they start at zero, which Prometheus treats as a restart; the
        counts are not added to another series, whose rate would show them a second time."""
        for key in [key for key in self._figures if key[1] == model]:
            del self._figures[key]
        self._costs.forget(model)


def _count(figures: Figures, tenant: str, usage: Usage, prompt: int, output: int) -> None:
    tokens = figures.tokens[tenant]
    for kind, number in (
        ("input", prompt),
        ("output", output),
        ("cached", usage.cached),
        ("cache_written", usage.cache_written),
        ("reasoning", usage.reasoning),
    ):
        if number:
            tokens[kind] = tokens.get(kind, 0) + number
    if prompt:
        figures.input.observe(prompt)
    if output:
        figures.output.observe(output)


def _count_times(figures: Figures, exchange: ExchangeRecord, error: str) -> None:
    if exchange.ended_at is not None:
        histogram = figures.failed(error) if error else figures.duration
        histogram.observe(exchange.ended_at - exchange.started_at)
    if exchange.account.is_stream and exchange.first_byte_at is not None and exchange.tokens is not None:
        figures.first_chunk.observe(exchange.first_byte_at - exchange.started_at)


def _error(exchange: ExchangeRecord) -> str:
    """The conventions' `error.type`: the end, or the status of a passed answer; "": no error."""
    end, tokens = exchange.end, exchange.tokens
    if end is not None and end not in _GOOD_ENDS:
        return end.value
    if exchange.status >= 400:
        return str(exchange.status)
    return "" if tokens is None or tokens.failure is None else _OTHER_ERROR
