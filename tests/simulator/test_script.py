"""The header x-simulate."""

from __future__ import annotations

import pytest

from flowserver.simulator.script import UNASKED, Script, ScriptError, parse


def test_no_header_has_the_pace_of_a_model() -> None:
    assert parse(None) == UNASKED
    assert UNASKED.rate == 50


def test_a_header_without_a_rate_is_as_fast_as_can_be() -> None:
    assert parse("") == Script()
    assert parse("events=3") == Script(events=3)


@pytest.mark.parametrize(
    "text", ["events=3 rate=2.5 id=a-b", "events=3,rate=2.5 id=a-b", " events=3 , rate=2.5 id=a-b"]
)
def test_spaces_and_commas_separate(text: str) -> None:
    assert parse(text) == Script(events=3, rate=2.5, id="a-b")


def test_every_key_is_taken() -> None:
    text = (
        "events=9 reasoning=4 rate=1 size=300 delay=0.5 first=1.5 silence_after=1 abort_after=2 fin_after=3 status=503 "
        "retry_after=2 whole=7 id=x length=1 close=0 split=5 interim=2 read_rate=10 read_after=.5"
    )
    assert parse(text) == Script(
        events=9,
        reasoning=4,
        rate=1.0,
        size=300,
        delay=0.5,
        first=1.5,
        silence_after=1,
        abort_after=2,
        fin_after=3,
        status=503,
        retry_after=2.0,
        whole=7,
        id="x",
        length=True,
        close=False,
        split=5,
        interim=2,
        read_rate=10.0,
        read_after=0.5,
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("event=3", "event"),
        ("events", "events"),
        ("events=", "events"),
        ("events=-1", "events"),
        ("events=1.5", "events"),
        ("events=²", "events"),
        ("rate=fast", "rate"),
        ("rate=nan", "rate"),
        ("delay=inf", "delay"),
        ("delay=-0.1", "delay"),
        ("status=200", "status"),
        ("length=2", "length"),
        ("split=0", "split"),
        ("id=" + "x" * 201, "id"),
        ("events=3 events=4", "events"),
        ("length=1 close=1", "length"),
        ("length=1 events=0", "events"),
    ],
)
def test_what_is_wrong_is_named(text: str, key: str) -> None:
    with pytest.raises(ScriptError) as caught:
        parse(text)
    assert caught.value.key == key
    assert key in str(caught.value)
    assert caught.value.allowed in str(caught.value)
