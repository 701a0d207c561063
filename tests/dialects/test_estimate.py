"""The live count of tokens: never falls, keeps to its room, learns from reports, believes no nonsense."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.dialects import FORMATS, recognise
from flowserver.dialects.base import Format, Meter, Quirks, RequestParams, Usage
from flowserver.dialects.estimate import FAMILIES, Content, Count, Family, Ratio, Ratios, family_of
from tests.support.corpus import Recording, each_recording

from .frames import metered as read_recording
from .frames import target_of

CHAT = FORMATS["openai-chat"]
OLLAMA = FORMATS["ollama-chat"]
PROSE = b"All that glitters is not gold, and not all those who wander are lost. "
PLAIN = Family(factor=1.0, end=0.0, call=0.0, first_call=0.0, citation=0.0)
PROSE_TOKENS = 17.0
"""Of `PROSE`, about, by any tokenizer."""


def say(meter: Meter, text: bytes, content_events: int = 1) -> None:
    meter.content.add(text)
    meter.count_template(content_events, len(text))


def metered(text: bytes = b"", content_events: int = 1, output: int | None = None, **more: Any) -> Meter:
    """A meter of a stream so far, or of a finished one where `finish` is among `more`."""
    meter = CHAT.meter(RequestParams(), Quirks("any"), cuttable=False)
    if text:
        say(meter, text, content_events)
    meter.usage = Usage(output=output, reasoning=more.pop("reasoning", None))
    for name, value in more.items():
        setattr(meter, name, value)
    return meter


def finished(repeats: int, content_events: int, output: int | None, **more: Any) -> Meter:
    """Of a stream that said `PROSE` so many times."""
    return metered(PROSE * repeats, content_events, output, finish="stop", **more)


def ratio(ratios: Ratios, format: Format = CHAT, *, upstream: str = "provider", model: str | None = "model") -> Ratio:
    return ratios.ratio(format, upstream=upstream, model=model)


def learn(ratios: Ratios, meter: Meter, *, upstream: str = "provider", model: str | None = "model") -> None:
    ratios.learn(CHAT, meter, upstream=upstream, model=model)


# --- families ---


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_text_of_a_usual_provider_is_counted_from_the_start(format: Format) -> None:
    count = Count(ratio(Ratios(), format))
    meter = metered(PROSE * 20, 20, finish="stop")
    assert count.tokens(meter) == pytest.approx(20 * PROSE_TOKENS, rel=0.25)


@pytest.mark.parametrize(
    ("format", "model", "family"),
    [
        ("anthropic-messages", None, "claude"),
        ("openai-chat", "anthropic/claude-sonnet-4", "claude"),
        ("bedrock-converse", "eu.anthropic.claude-haiku-4-5", "claude"),
        ("bedrock-converse", "amazon.nova-lite-v1:0", "other"),
        ("gemini", "gemini-2.5-flash", "gemini"),
        ("openai-chat", "gemini-2.5-flash", "gemini"),
        ("openai-chat", "gpt-4o", "other"),
        ("openai-chat", None, "other"),
    ],
)
def test_families(format: str, model: str | None, family: str) -> None:
    assert family_of(format, model) == family


def test_events_that_are_tokens_are_counted() -> None:
    shown = Ratio(PLAIN).shown
    assert shown(Content(400, 100, 110.0)) == 100
    assert shown(Content(400, 130, 100.0)) == 130
    assert shown(Content(400, 3, 100.0)) == 100
    assert 80 < shown(Content(400, 80, 100.0)) < 100


def test_markup_is_counted() -> None:
    family = Family(factor=1.0, end=3.0, call=10.0, first_call=20.0, citation=5.0)
    plain = Content(100, 5, 25.0)
    assert Ratio(family).markup(plain, ended=False) == 0
    assert Ratio(family).markup(plain, ended=True) == 3
    assert Ratio(family).markup(Content(100, 5, 25.0, calls=2, citations=1), ended=True) == 48
    assert Ratio(family).markup(Content(0, 0, 0.0), ended=True) == 0


def test_an_answer_that_was_cut_has_no_end() -> None:
    family = Family(factor=1.0, end=5.0, call=0.0, first_call=0.0, citation=0.0)
    tokens = {
        finish: Count(Ratio(family)).tokens(metered(PROSE, finish=finish))
        for finish in ("stop", "length", "MAX_TOKENS", "max_output_tokens")
    }
    assert tokens["stop"] == tokens["length"] + 5
    assert tokens["length"] == tokens["MAX_TOKENS"] == tokens["max_output_tokens"]


def test_nothing_is_no_token() -> None:
    assert Count(ratio(Ratios())).tokens(metered()) == 0


@pytest.mark.parametrize(("text_tokens", "tokens"), [(0.0, 100), (1e9, 1200)])
def test_a_token_is_one_to_twelve_bytes_whatever_is_known(text_tokens: float, tokens: int) -> None:
    assert Ratio(PLAIN).shown(Content(1200, 1, text_tokens)) == tokens


# --- one stream ---

texts = st.text(min_size=1, max_size=120).map(lambda text: text.encode(errors="replace"))
events = st.lists(st.tuples(texts, st.none() | st.integers(0, 10**18)), max_size=60)
"""Text, and the running report that comes with it, or none."""
ratios_of_any_kind = st.builds(
    Ratio, st.builds(Family, *[st.floats(0, 50)] * 5), correction=st.floats(0.25, 4)
) | st.sampled_from([Ratio(family) for family in FAMILIES.values()])


@given(ratios_of_any_kind, events)
def test_a_count_never_falls(known: Ratio, stream: list[tuple[bytes, int | None]]) -> None:
    count, meter, before = Count(known), metered(), 0
    for text, report in stream:
        say(meter, text)
        meter.running = report is not None
        meter.usage.output = report if report is not None else meter.usage.output
        now = count.tokens(meter)
        assert now >= before
        assert now >= (report or 0)
        assert count.tokens(meter) == now
        before = now


@given(ratios_of_any_kind, st.lists(texts, max_size=40), st.integers(0, 300), st.data())
def test_content_within_the_room_makes_no_more_tokens_than_it_was_for(
    known: Ratio, stream: list[bytes], tokens: int, data: st.DataObject
) -> None:
    """However it is cut into events, and however often is asked."""
    count, meter = Count(known), metered()
    for text in stream:
        say(meter, text)
        count.tokens(meter)
    before, room = count.tokens(meter), count.bytes_within(tokens)
    while room and (text := data.draw(st.binary(min_size=1, max_size=room) | st.just(b""))):
        say(meter, text, data.draw(st.integers(1, len(text))))
        room -= len(text)
        if data.draw(st.booleans()):
            assert count.tokens(meter) <= before + tokens
    assert count.tokens(meter) <= before + tokens


@given(st.lists(texts, max_size=60), st.integers(1, 4))
def test_a_count_does_hardly_depend_on_how_often_it_is_asked(stream: list[bytes], every: int) -> None:
    often, meter = Count(Ratio(FAMILIES["other"])), metered()
    for number, text in enumerate(stream):
        say(meter, text)
        if number % every == 0:
            often.tokens(meter)
    meter.finish = "length"
    once = Count(Ratio(FAMILIES["other"])).tokens(meter)
    assert once <= often.tokens(meter) <= once + 70 + once // 2


def test_prose_counts_the_same_however_often_is_asked() -> None:
    often, meter = Count(Ratio(FAMILIES["other"])), metered()
    for start in range(0, 60 * len(PROSE), 5):
        say(meter, (PROSE * 60)[start : start + 5])
        often.tokens(meter)
    meter.finish = "stop"
    once = Count(Ratio(FAMILIES["other"])).tokens(meter)
    assert once <= often.tokens(meter) <= once * 1.02


def test_a_running_report_replaces_the_estimate_and_what_comes_since_is_added() -> None:
    count, meter = Count(Ratio(PLAIN)), metered(b"word" * 10, 10)
    assert count.tokens(meter) == 10
    say(meter, b"word")
    meter.running, meter.usage.output = True, 30
    assert count.tokens(meter) == 30
    say(meter, b"word" * 5, 5)
    assert count.tokens(meter) == 35
    meter.running = False
    assert count.tokens(meter) == 35
    say(meter, b"word")
    meter.running, meter.usage.output = True, 37
    assert count.tokens(meter) == 37


def test_after_a_running_report_that_is_less_the_count_waits() -> None:
    count, meter = Count(Ratio(PLAIN)), metered(b"word" * 10, 10)
    assert count.tokens(meter) == 10
    say(meter, b"word")
    meter.running, meter.usage.output = True, 6
    assert count.tokens(meter) == 10
    say(meter, b"word" * 3, 3)
    assert count.tokens(meter) == 10
    say(meter, b"word" * 2, 2)
    assert count.tokens(meter) == 11


def test_a_report_that_is_not_running_says_nothing_of_now() -> None:
    """Anthropic begins with a report of a few tokens."""
    assert Count(Ratio(PLAIN)).tokens(metered(b"word" * 10, 10, 1)) == 10
    assert Count(Ratio(PLAIN)).tokens(metered(b"word" * 10, 10, 900)) == 10


# --- learning ---


def tokens_of(known: Ratio, repeats: int = 60) -> int:
    return Count(known).tokens(metered(PROSE * repeats, 1))


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.3, 2.0, 3.0])
def test_a_provider_that_keeps_its_ways_is_learned(factor: float) -> None:
    ratios = Ratios()
    before = tokens_of(ratio(ratios))
    for _ in range(200):
        learn(ratios, finished(20, 1, round(factor * before / 3)))
    assert tokens_of(ratio(ratios)) == pytest.approx(factor * before, rel=0.12)


def test_a_few_streams_change_little() -> None:
    ratios = Ratios()
    before = tokens_of(ratio(ratios))
    learn(ratios, finished(20, 1, 2 * before // 3))
    assert before * 1.05 < tokens_of(ratio(ratios)) < before * 1.25


def test_what_was_learned_long_ago_fades() -> None:
    ratios = Ratios()
    before = tokens_of(ratio(ratios))
    for _ in range(1000):
        learn(ratios, finished(20, 1, before))
    for _ in range(300):
        learn(ratios, finished(20, 1, before // 3))
    assert tokens_of(ratio(ratios)) == pytest.approx(before, rel=0.15)


def test_models_and_upstreams_are_apart() -> None:
    ratios = Ratios()
    before = tokens_of(ratio(ratios))
    for _ in range(200):
        learn(ratios, finished(20, 1, before), model="dear")
        learn(ratios, finished(20, 1, before // 6), model="cheap")
    assert tokens_of(ratio(ratios, model="dear")) > 2 * before
    assert tokens_of(ratio(ratios, model="cheap")) < before * 0.7
    for other in (ratio(ratios, model="new"), ratio(ratios, upstream="third", model="dear")):
        assert other == ratio(Ratios())
    assert ratio(ratios, OLLAMA, model="dear") == ratio(Ratios(), OLLAMA), "the same model in another format"


def test_a_stream_keeps_the_ratio_that_it_began_with() -> None:
    ratios = Ratios()
    count, meter = Count(ratio(ratios)), metered(PROSE * 60, 1)
    before = count.tokens(meter)
    for _ in range(100):
        learn(ratios, finished(20, 1, before))
    assert count.tokens(meter) == before < tokens_of(ratio(ratios))


def test_hidden_reasoning_is_left_out() -> None:
    hidden, plain = Ratios(), Ratios()
    learn(hidden, finished(20, 20, 1500, reasoning=1000))
    learn(plain, finished(20, 20, 500))
    assert ratio(hidden) == ratio(plain) != ratio(Ratios())


def test_reasoning_that_was_shown_counts_as_any_text() -> None:
    shown, plain = Ratios(), Ratios()
    learn(shown, finished(20, 20, 500, reasoning=60, reasoning_bytes=300))
    learn(plain, finished(20, 20, 500))
    assert ratio(shown) == ratio(plain) != ratio(Ratios())


@pytest.mark.parametrize(
    "meter",
    [
        metered(PROSE * 20, 100, 300),
        finished(20, 100, None),
        finished(20, 100, 300, failed="overloaded"),
        finished(3, 49, 49),
        finished(20, 10, 400, reasoning=100, reasoning_bytes=200),
        finished(20, 100, 350, reasoning=301),
        finished(0, 0, 100),
        finished(1, 60, 71),
        finished(20, 100, 116),
    ],
    ids=["cut", "no report", "failed", "short", "summary", "short apart from reasoning", "empty", "dense", "thin"],
)
def test_streams_that_teach_nothing(meter: Meter) -> None:
    ratios = Ratios()
    learn(ratios, meter)
    assert ratio(ratios) == ratio(Ratios())
    assert len(ratios) == 0


@given(st.lists(st.tuples(texts, st.integers(1, 400), st.integers(-(10**18), 10**18)), max_size=40), texts)
def test_whatever_was_learned_the_estimate_stays_in_bounds(reports: list[tuple[bytes, int, int]], text: bytes) -> None:
    ratios = Ratios()
    for said, content_events, output in reports:
        learn(ratios, metered(said * 20, content_events, output, finish="stop"))
    known = ratio(ratios)
    assert 1 / 8 <= known.correction <= 8
    meter = metered(text)
    assert len(text) // 12 <= Count(known).tokens(meter) <= len(text)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=80))
def test_the_models_used_last_are_remembered(uses: list[tuple[bool, int]]) -> None:
    """Against a plain list of names."""
    ratios, names = Ratios(3), list[str]()
    for teaches, number in uses:
        name = str(number)
        if teaches:
            learn(ratios, finished(20, 20, 500), model=name)
        else:
            ratio(ratios, model=name)
        if teaches or name in names:
            names = [*(other for other in names if other != name), name][-3:]
        assert len(ratios) == len(names)
    known = {str(number) for number in range(10) if ratio(ratios, model=str(number)) != ratio(ratios, model="new")}
    assert known == set(names)


# --- recordings ---


@each_recording()
def test_what_is_classified_of_a_recording_is_what_is_counted(recording: Recording) -> None:
    if recognise(target_of(recording)) is None or not isinstance(recording.about["request_body"], dict | None):
        pytest.skip("no API that is counted, or no JSON")
    meter = read_recording(recording)
    meter.content.settle()
    assert meter.content.size == meter.content_bytes
