"""The live count of tokens: never falls, learns from reports, believes no nonsense, and is right on recordings."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flowserver.dialects import FORMATS, recognise
from flowserver.dialects.base import Asked, Format, Meter, Quirks, Usage
from flowserver.dialects.estimate import Count, Ratio, Ratios
from flowserver.dialects.quirks import quirks_for
from tests.support.corpus import Recording, recordings

from .frames import split, target_of

CHAT = FORMATS["openai-chat"]
OLLAMA = FORMATS["ollama-chat"]
EXACT = Ratio(per_piece=1.0, per_unit=0.0, least=0.0)
"""One token for a piece."""


def metered(units: int, pieces: int, output: int | None = None, **more: Any) -> Meter:
    """A meter of a stream so far, or of a finished one where `finish` is among `more`."""
    meter = CHAT.meter(Asked(), Quirks("any"), cuttable=False)
    meter.units, meter.pieces, meter.usage = units, pieces, Usage(output=output, reasoning=more.pop("reasoning", None))
    for name, value in more.items():
        setattr(meter, name, value)
    return meter


def finished(units: int, pieces: int, output: int | None, **more: Any) -> Meter:
    return metered(units, pieces, output, finish="stop", **more)


def ratio(ratios: Ratios, format: Format = CHAT, *, upstream: str = "provider", model: str | None = "model") -> Ratio:
    return ratios.ratio(format, upstream=upstream, model=model)


def learn(ratios: Ratios, meter: Meter, *, upstream: str = "provider", model: str | None = "model") -> None:
    ratios.learn(CHAT, meter, upstream=upstream, model=model)


# --- before anything was learned ---


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_text_of_a_usual_provider_is_counted_from_the_start(format: Format) -> None:
    fresh = ratio(Ratios(), format)
    assert fresh.tokens(100, round(100 * format.bytes_per_token)) == pytest.approx(100, rel=0.01)


def test_an_event_is_a_token_at_least_however_short() -> None:
    assert ratio(Ratios()).tokens(100, 150) == 100


def test_of_events_with_many_tokens_the_bytes_tell() -> None:
    assert 600 < ratio(Ratios()).tokens(10, 4000) < 1100


def test_nothing_is_no_token() -> None:
    assert Count(ratio(Ratios())).tokens(metered(0, 0)) == 0


@pytest.mark.parametrize(("known", "tokens"), [(Ratio(0.0, 0.0, 0.0), 100), (Ratio(9.0, 9.0, 1.0), 1200)])
def test_a_token_is_one_to_twelve_bytes_whatever_is_known(known: Ratio, tokens: int) -> None:
    assert known.tokens(600, 1200) == tokens


# --- one stream ---

events = st.lists(st.tuples(st.integers(1, 400), st.none() | st.integers(0, 10**18)), max_size=60)
"""Units, and the running report that comes with them, or none."""
ratios_of_any_kind = st.builds(
    Ratio, per_piece=st.floats(0, 9), per_unit=st.floats(0, 2), least=st.floats(0, 1, exclude_min=True)
)


@given(ratios_of_any_kind, events)
def test_a_count_never_falls(known: Ratio, stream: list[tuple[int, int | None]]) -> None:
    count, meter, before = Count(known), metered(0, 0), 0
    for units, report in stream:
        meter.units += units
        meter.pieces += 1
        meter.running = report is not None
        meter.usage.output = report if report is not None else meter.usage.output
        now = count.tokens(meter)
        assert now >= before
        assert now >= (report or 0)
        assert count.tokens(meter) == now
        before = now


@given(ratios_of_any_kind, st.lists(st.integers(1, 400), max_size=60))
def test_a_count_without_reports_does_not_depend_on_how_often_it_is_asked(known: Ratio, sizes: list[int]) -> None:
    often, meter = Count(known), metered(0, 0)
    for units in sizes:
        meter.units += units
        meter.pieces += 1
        often.tokens(meter)
    assert often.tokens(meter) == Count(known).tokens(meter)


def test_a_running_report_replaces_the_estimate_and_what_comes_since_is_added() -> None:
    count = Count(EXACT)
    assert count.tokens(metered(40, 10)) == 10
    assert count.tokens(metered(44, 11, 30, running=True)) == 30
    assert count.tokens(metered(64, 16, 30, running=True)) == 35
    assert count.tokens(metered(64, 16, 30, running=False)) == 35
    assert count.tokens(metered(68, 17, 37, running=True)) == 37


def test_after_a_running_report_that_is_less_the_count_waits() -> None:
    count = Count(EXACT)
    assert count.tokens(metered(40, 10)) == 10
    assert count.tokens(metered(44, 11, 6, running=True)) == 10
    assert count.tokens(metered(56, 14, 6, running=True)) == 10
    assert count.tokens(metered(64, 16, 6, running=True)) == 11


def test_a_report_that_is_not_running_says_nothing_of_now() -> None:
    """Anthropic begins with a report of a few tokens."""
    assert Count(EXACT).tokens(metered(40, 10, 1)) == 10
    assert Count(EXACT).tokens(metered(40, 10, 900)) == 10


# --- learning ---


@given(st.floats(2.5, 9), st.floats(0.02, 2.4))
def test_a_provider_that_keeps_its_ways_is_learned(bytes_per_token: float, pieces_per_token: float) -> None:
    ratios = Ratios()
    for tokens in range(100, 300):
        learn(ratios, finished(round(tokens * bytes_per_token), round(tokens * pieces_per_token) or 1, tokens))
    estimate = ratio(ratios).tokens(round(10_000 * pieces_per_token), round(10_000 * bytes_per_token))
    assert estimate == pytest.approx(10_000, rel=0.05)


def test_a_few_streams_change_little() -> None:
    ratios = Ratios()
    before = ratio(ratios).tokens(50, 420)
    learn(ratios, finished(800, 50, 100))
    after = ratio(ratios).tokens(50, 420)
    assert before * 0.7 < after < before * 0.95


def test_what_was_learned_long_ago_fades() -> None:
    ratios = Ratios()
    for _ in range(1000):
        learn(ratios, finished(300, 10, 100))
    for _ in range(300):
        learn(ratios, finished(800, 10, 100))
    assert ratio(ratios).tokens(100, 8000) == pytest.approx(1000, rel=0.1)


def test_a_new_model_begins_with_what_is_known_of_its_format() -> None:
    ratios = Ratios()
    for _ in range(100):
        learn(ratios, finished(800, 10, 100))
    assert ratio(ratios, upstream="other", model="new").tokens(100, 8000) == pytest.approx(1000, rel=0.1)
    assert ratio(ratios, OLLAMA) == ratio(Ratios(), OLLAMA), "the same model in another format"


def test_models_and_upstreams_are_apart() -> None:
    ratios = Ratios()
    for _ in range(100):
        learn(ratios, finished(800, 10, 100), model="dear")
        learn(ratios, finished(300, 10, 100), model="cheap")
        learn(ratios, finished(500, 10, 100), upstream="third", model="cheap")
    assert ratio(ratios, model="dear").tokens(100, 8000) == pytest.approx(1000, rel=0.1)
    assert ratio(ratios, model="cheap").tokens(100, 3000) == pytest.approx(1000, rel=0.1)
    assert ratio(ratios, upstream="third", model="cheap").tokens(100, 5000) == pytest.approx(1000, rel=0.1)


def test_a_stream_keeps_the_ratio_that_it_began_with() -> None:
    ratios = Ratios()
    count = Count(ratio(ratios))
    before = count.tokens(metered(800, 10))
    for _ in range(100):
        learn(ratios, finished(1100, 10, 100))
    assert count.tokens(metered(800, 10)) == before
    assert Count(ratio(ratios)).tokens(metered(800, 10)) < before


def test_hidden_reasoning_is_left_out() -> None:
    hidden, plain = Ratios(), Ratios()
    learn(hidden, finished(600, 100, 1100, reasoning=1000))
    learn(plain, finished(600, 100, 100))
    assert ratio(hidden) == ratio(plain) != ratio(Ratios())


def test_reasoning_that_was_shown_counts_as_any_text() -> None:
    shown, plain = Ratios(), Ratios()
    learn(shown, finished(600, 100, 100, reasoning=60, reasoning_units=300))
    learn(plain, finished(600, 100, 100))
    assert ratio(shown) == ratio(plain) != ratio(Ratios())


@pytest.mark.parametrize(
    "meter",
    [
        metered(600, 100, 100),
        finished(600, 100, None),
        finished(600, 100, 100, failed="overloaded"),
        finished(196, 49, 49),
        finished(600, 10, 200, reasoning=100, reasoning_units=200),
        finished(600, 100, 150, reasoning=101),
        finished(0, 0, 100),
        finished(99, 60, 100),
        finished(1201, 100, 100),
    ],
    ids=["cut", "no report", "failed", "short", "summary", "short apart from reasoning", "empty", "dense", "thin"],
)
def test_streams_that_teach_nothing(meter: Meter) -> None:
    ratios = Ratios()
    learn(ratios, meter)
    assert ratio(ratios) == ratio(Ratios())
    assert len(ratios) == 0


# --- nonsense ---


@given(
    st.integers(1, 10**6),
    st.sampled_from([0, -1, -(10**18), 10**18, 10**400]) | st.integers(),
    st.none() | st.integers(),
    st.integers(0, 10**6),
)
def test_nonsense_leaves_no_trace(units: int, output: int, reasoning: int | None, shown: int) -> None:
    told = output - (reasoning or 0)
    assume(not any(tokens >= 50 and tokens <= units <= 12 * tokens for tokens in (told, output)))
    ratios = Ratios()
    learn(ratios, finished(units, 1, output, reasoning=reasoning, reasoning_units=min(shown, units)))
    assert ratio(ratios) == ratio(Ratios())


streams = st.integers(50, 10**5).flatmap(
    lambda tokens: st.integers(tokens, 12 * tokens).flatmap(
        lambda units: st.tuples(st.just(units), st.integers(1, units), st.just(tokens))
    )
)
"""Any that are believed: units, pieces, tokens."""


def test_nothing_is_ever_subtracted() -> None:
    """These are explained best by negative ones."""
    many_pieces, many_units = Ratios(), Ratios()
    for _ in range(50):
        learn(many_pieces, finished(400, 100, 100))
        learn(many_pieces, finished(1200, 200, 100))
        learn(many_units, finished(200, 10, 100))
        learn(many_units, finished(300, 200, 100))
    assert ratio(many_pieces).per_unit == 0 < ratio(many_pieces).per_piece
    assert ratio(many_units).per_piece == 0 < ratio(many_units).per_unit


@given(st.lists(streams, max_size=40), st.integers(1, 10**6), st.data())
def test_whatever_was_learned_the_estimate_stays_in_bounds(
    told: list[tuple[int, int, int]], units: int, data: st.DataObject
) -> None:
    ratios = Ratios()
    for stream in told:
        learn(ratios, finished(*stream))
    known = ratio(ratios)
    pieces = data.draw(st.integers(1, units))
    assert known.per_piece >= 0
    assert known.per_unit >= 0
    assert 0 < known.least <= 1
    assert units / 12 <= known.tokens(pieces, units) <= units


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=80))
def test_the_models_used_last_are_remembered(uses: list[tuple[bool, int]]) -> None:
    """Against a plain list of names."""
    ratios, names = Ratios(3), list[str]()
    for teaches, number in uses:
        name = str(number)
        if teaches:
            learn(ratios, finished(600, 100, 100), model=name)
        else:
            ratio(ratios, model=name)
        if teaches or name in names:
            names = [*(other for other in names if other != name), name][-3:]
        assert len(ratios) == len(names)
    known = {str(number) for number in range(10) if ratio(ratios, model=str(number)) != ratio(ratios, model="new")}
    assert known == set(names)


# --- recordings ---


@dataclass(frozen=True)
class Recorded:
    recording: Recording
    format: Format
    host: str
    asked: Asked
    meter: Meter
    """It has read all."""

    @property
    def output(self) -> int:
        return self.meter.usage.output or 0

    def error(self, ratios: Ratios) -> float:
        """Of the final count, relative."""
        return abs(self.count(ratios).tokens(self.meter) - self.output) / self.output

    def count(self, ratios: Ratios) -> Count:
        return Count(ratios.ratio(self.format, upstream=self.host, model=self.asked.model))

    def teach(self, ratios: Ratios) -> None:
        ratios.learn(self.format, self.meter, upstream=self.host, model=self.asked.model)


def begin(recording: Recording) -> Recorded | None:
    format = recognise(target_of(recording))
    if format is None or recording.path.suffix == ".jsonarray":
        return None
    host = recording.about["provider_host"] or ""
    asked = format.asked(target_of(recording), recording.about["request_body"] or {})
    return Recorded(recording, format, host, asked, format.meter(asked, quirks_for(None, host), cuttable=False))


@pytest.fixture(scope="module")
def recorded() -> list[Recorded]:
    """All, read to their ends; each count was asked after each event."""
    found = [begun for recording in recordings() if (begun := begin(recording))]
    if not found:
        pytest.skip("FLOW_CORPUS does not name a folder of recordings")
    for each in found:
        before, count = 0, each.count(Ratios())
        for name, data, _ in split(each.recording.body, each.recording.path.suffix):
            each.meter.read(name, data)
            assert before <= count.tokens(each.meter), each.recording.name
            before = count.tokens(each.meter)
    return found


def texts(recorded: list[Recorded]) -> list[Recorded]:
    """Without tool calls and without reasoning that is hidden or shown as a summary (less than 3 bytes for a token)."""
    chosen = [
        each
        for each in recorded
        if each.output >= 50
        and not each.recording.about["content_kinds"]["tool"]
        and each.meter.reasoning_units >= 3 * (each.meter.usage.reasoning or 0)
    ]
    assert len(chosen) >= 30
    return chosen


def test_recorded_texts_are_counted_before_anything_was_learned(recorded: list[Recorded]) -> None:
    errors = [each.error(Ratios()) for each in texts(recorded)]
    assert statistics.median(errors) < 0.25


def test_recorded_texts_are_counted_well_after_learning_from_the_others(recorded: list[Recorded]) -> None:
    errors = []
    for each in texts(recorded):
        ratios = Ratios()
        for other in recorded:
            if other is not each:
                other.teach(ratios)
        errors.append(each.error(ratios))
    errors.sort()
    assert statistics.median(errors) < 0.10
    assert errors[math.ceil(0.9 * len(errors)) - 1] < 0.25
