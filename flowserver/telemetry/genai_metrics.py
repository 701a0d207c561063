"""Token metrics with the names of OpenTelemetry's conventions for generative AI, in Prometheus' spelling: the old names
of semantic-conventions 1.36, and those of semantic-conventions-genai 0.1.0, both with their buckets.

The old names use the relay's own name of a provider. The new ones use the convention's, with the relay's in `upstream`,
and add the operation. `gen_ai.client.inference.time_per_output_chunk` is left out: it would cost CPU for each chunk.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from ..relay.histogram import Histogram, joined
from .exposition import Family, Labels, counters, histograms
from .gen_ai import OPERATIONS, provider_name

USAGE_BUCKETS = tuple(4.0**power for power in range(14))
FIRST_TOKEN_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
PER_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
ERROR_BUCKETS = (0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0)
DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)

Key = tuple[str, str, str]
"""Provider, model and dialect."""
Known = Sequence[tuple[Key, "Figures"]]
"""Sorted by their keys."""
Groups = Sequence[tuple[Labels, list["Figures"]]]
"""Grouped by labels that several keys share."""
Times = tuple[str, str, tuple[float, ...], Callable[["Figures"], Histogram]]
"""Name, help text and bounds of a histogram, and its value in the figures."""


class Figures:
    """The figures of one provider, model and dialect."""

    __slots__ = (
        "_failed",
        "duration",
        "errors",
        "first_chunk",
        "first_token",
        "input",
        "output",
        "per_token",
        "tokens",
    )

    def __init__(self) -> None:
        self.tokens: defaultdict[str, dict[str, int]] = defaultdict(dict)
        """By tenant, then by kind."""
        self.input = Histogram(USAGE_BUCKETS)
        self.output = Histogram(USAGE_BUCKETS)
        self.first_token = Histogram(FIRST_TOKEN_BUCKETS)
        self.per_token = Histogram(PER_TOKEN_BUCKETS)
        self.errors = Histogram(ERROR_BUCKETS)
        self.first_chunk = Histogram(DURATION_BUCKETS)
        """Only of streams."""
        self.duration = Histogram(DURATION_BUCKETS)
        """Only of exchanges without an error."""
        self._failed: dict[str, Histogram] = {}

    def failed(self, error: str) -> Histogram:
        """The durations of exchanges with this error."""
        found = self._failed.get(error)
        if found is None:
            found = self._failed[error] = Histogram(DURATION_BUCKETS)
        return found

    def durations(self) -> list[tuple[str, Histogram]]:
        """Durations by error; "": none."""
        good = [("", self.duration)] if self.duration.count else []
        return good + sorted(self._failed.items())


_SERVER: tuple[Times, ...] = (
    (
        "gen_ai_server_time_to_first_token_seconds",
        "Time from the request to the first content.",
        FIRST_TOKEN_BUCKETS,
        lambda figures: figures.first_token,
    ),
    (
        "gen_ai_server_time_per_output_token_seconds",
        "Time between tokens after the first.",
        PER_TOKEN_BUCKETS,
        lambda figures: figures.per_token,
    ),
)
_ESTIMATE: Times = (
    "flow_estimate_error_ratio",
    "Estimated tokens relative to the provider's report.",
    ERROR_BUCKETS,
    lambda figures: figures.errors,
)
_SIZES: tuple[Times, ...] = (
    (
        "gen_ai_client_inference_operation_input_tokens",
        "Input tokens of one exchange.",
        USAGE_BUCKETS,
        lambda figures: figures.input,
    ),
    (
        "gen_ai_client_inference_operation_output_tokens",
        "Output tokens of one exchange.",
        USAGE_BUCKETS,
        lambda figures: figures.output,
    ),
)
_FIRST_CHUNK: Times = (
    "gen_ai_client_inference_time_to_first_chunk_seconds",
    "Time from the request to the first bytes of a stream.",
    DURATION_BUCKETS,
    lambda figures: figures.first_chunk,
)
_EMBEDDED: Times = (
    "gen_ai_client_embeddings_operation_input_tokens",
    "Input tokens of one request for embeddings.",
    USAGE_BUCKETS,
    lambda figures: figures.input,
)
_EMBEDDINGS = OPERATIONS["openai-embeddings"]
_USAGE = (
    ("input_tokens", "input", "Input tokens, including cached ones."),
    ("output_tokens", "output", "Output tokens, including reasoning."),
    ("cache_read_input_tokens", "cached", "Input tokens read from the provider's cache."),
    ("cache_write_input_tokens", "cache_written", "Input tokens written to the provider's cache."),
    ("reasoning_output_tokens", "reasoning", "Output tokens of reasoning."),
)


def common_families(known: Known) -> Iterator[Family]:
    """Metrics with the same names in both conventions."""
    groups = _by_old_labels(known)
    yield counters("flow_tokens", "Tokens of ended exchanges.", _token_counts(groups))
    yield _told(groups, _ESTIMATE)


def old_families(known: Known) -> Iterator[Family]:
    groups = _by_old_labels(known)
    usage: list[tuple[Labels, Histogram]] = []
    for labels, group in groups:
        for kind, histogram in (
            ("input", joined([figures.input for figures in group], USAGE_BUCKETS)),
            ("output", joined([figures.output for figures in group], USAGE_BUCKETS)),
        ):
            if histogram.count:
                usage.append(({**labels, "gen_ai_token_type": kind}, histogram))
    yield histograms("gen_ai_client_token_usage", "Tokens of one exchange.", USAGE_BUCKETS, usage)
    for times in _SERVER:
        yield _told(groups, times)


def new_families(known: Known, profiles: Mapping[str, str], *, replaces_old: bool) -> Iterator[Family]:
    """`profiles`: of providers, by name. `replaces_old`: includes the metrics that keep their old names, with the new
    labels."""
    groups = _by_new_labels(known, profiles)
    of_inference = [each for each in groups if each[0]["gen_ai_operation_name"] != _EMBEDDINGS]
    of_embeddings = [each for each in groups if each[0]["gen_ai_operation_name"] == _EMBEDDINGS]
    for kind, found in (("inference", of_inference), ("embeddings", of_embeddings)):
        text = "Time from the request to the end of the exchange. error_type: its end or status, if it failed."
        yield histograms(f"gen_ai_client_{kind}_duration_seconds", text, DURATION_BUCKETS, list(_durations(found)))
    for times in (_FIRST_CHUNK, *_SIZES):
        yield _told(of_inference, times)
    yield _told(of_embeddings, _EMBEDDED)
    for name, kind, text in _USAGE:
        yield counters(f"gen_ai_client_inference_usage_{name}", text, list(_totals(of_inference, kind)))
    if replaces_old:
        for times in _SERVER:
            yield _told(of_inference, times)


def _told(groups: Groups, times: Times) -> Family:
    name, text, bounds, pick = times
    found = ((labels, joined([pick(figures) for figures in group], bounds)) for labels, group in groups)
    return histograms(name, text, bounds, [(labels, histogram) for labels, histogram in found if histogram.count])


def _durations(groups: Groups) -> Iterator[tuple[Labels, Histogram]]:
    for labels, group in groups:
        by_error: defaultdict[str, list[Histogram]] = defaultdict(list)
        for figures in group:
            for error, histogram in figures.durations():
                by_error[error].append(histogram)
        for error, found in sorted(by_error.items()):
            yield ({**labels, "error_type": error} if error else labels), joined(found, DURATION_BUCKETS)


def _totals(groups: Groups, kind: str) -> Iterator[tuple[Labels, float]]:
    for labels, group in groups:
        if total := sum(kinds.get(kind, 0) for figures in group for kinds in figures.tokens.values()):
            yield {**labels, "gen_ai_token_modality": "unknown"}, total


def _token_counts(groups: Groups) -> Iterator[tuple[Labels, float]]:
    for labels, group in groups:
        tenants: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for figures in group:
            for tenant, kinds in figures.tokens.items():
                tenants[tenant].update(kinds)
        for tenant, kinds in sorted(tenants.items()):
            for kind, number in sorted(kinds.items()):
                yield {**labels, "tenant": tenant, "type": kind}, number


def _by_old_labels(known: Known) -> Groups:
    groups: dict[tuple[str, str], list[Figures]] = {}
    for (upstream, model, _), figures in known:
        groups.setdefault((upstream, model), []).append(figures)
    return [
        ({"gen_ai_provider_name": upstream, "gen_ai_request_model": model}, group)
        for (upstream, model), group in groups.items()
    ]


def _by_new_labels(known: Known, profiles: Mapping[str, str]) -> Groups:
    groups: dict[tuple[str, str, str, str], list[Figures]] = {}
    for (upstream, model, dialect), figures in known:
        provider = provider_name(profiles.get(upstream, upstream), dialect)
        groups.setdefault((OPERATIONS[dialect], provider, model, upstream), []).append(figures)
    names = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "upstream")
    return [(dict(zip(names, key, strict=True)), group) for key, group in groups.items()]
