"""Values that the relay chooses by itself: how they are written, and what is told of wrong ones."""

from __future__ import annotations

import pytest

from flowserver.config.environment import load
from flowserver.config.errors import ConfigError
from flowserver.config.parsers import AUTO, or_auto, or_off, parse_count, parse_size, pinned
from flowserver.config.settings import SETTINGS
from flowserver.flow.bounded_buffer import Watermarks

KB = 1024
OR_AUTO = {
    "FLOW_HIGH_WATER": "high_water",
    "FLOW_LOW_WATER": "low_water",
    "FLOW_PREFETCH_CHUNKS": "prefetch_chunks",
    "FLOW_NOTSENT_LOWAT": "notsent_lowat",
    "FLOW_UPSTREAM_RCVBUF": "upstream_rcvbuf",
    "FLOW_UPSTREAM_H2_STREAM_WINDOW": "upstream_h2_stream_window",
    "FLOW_H2_STREAM_WINDOW": "h2_stream_window",
    "FLOW_H2_CONNECTION_WINDOW": "h2_connection_window",
}
OR_OFF = ("FLOW_NOTSENT_LOWAT", "FLOW_UPSTREAM_RCVBUF")


def problems(**values: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load({f"FLOW_{name.upper()}": value for name, value in values.items()})
    return caught.value.problems


@pytest.mark.parametrize("text", ["auto", "AUTO", "Auto", " auto ", "\tauto\n", " aUtO"])
@pytest.mark.parametrize("name", OR_AUTO)
def test_auto_in_any_spelling(name: str, text: str) -> None:
    assert getattr(load({name: text}), OR_AUTO[name]) is AUTO


@pytest.mark.parametrize("name", OR_AUTO)
def test_auto_is_the_default(name: str) -> None:
    assert getattr(load({}), OR_AUTO[name]) is AUTO


def test_the_settings_with_auto_are_these() -> None:
    found = [entry for entry in SETTINGS if "`auto`" in entry.kind.name]
    assert {entry.env for entry in found} == {*OR_AUTO, "FLOW_LOG_FORMAT", "FLOW_WORKERS", "FLOW_MEMORY"}
    assert all("auto: " in entry.doc for entry in found)


@pytest.mark.parametrize("name", OR_AUTO)
def test_a_number_is_a_number(name: str) -> None:
    text, value = ("20", 20) if name == "FLOW_PREFETCH_CHUNKS" else ("128k", 128 * KB)
    assert getattr(load({"FLOW_HIGH_WATER": "256k", name: text}), OR_AUTO[name]) == value


@pytest.mark.parametrize("text", ["off", "OFF", " none ", "0", "no", "False"])
def test_off_is_another_thing_than_auto(text: str) -> None:
    config = load(dict.fromkeys(OR_OFF, text))
    assert (config.notsent_lowat, config.upstream_rcvbuf) == (None, None)


@pytest.mark.parametrize("name", [name for name in OR_AUTO if name not in OR_OFF])
@pytest.mark.parametrize("text", ["off", "0", "none"])
def test_what_can_t_be_switched_off(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({name: text})
    [problem] = caught.value.problems
    assert problem.startswith(f"{name}: invalid value {text!r}: expected ")
    assert problem.endswith(", or auto")


@pytest.mark.parametrize("text", ["automatic", "aut", "auto 8k", "auto,", "au to", "-1"])
@pytest.mark.parametrize("name", OR_AUTO)
def test_a_wrong_value_is_told_with_name_value_and_what_else_is_expected(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({name: text})
    [problem] = caught.value.problems
    assert problem.startswith(f"{name}: invalid value {text!r}: expected a ")
    assert problem.endswith(", or auto, or off" if name in OR_OFF else ", or auto")


def test_messages_in_full() -> None:
    assert problems(high_water="x", prefetch_chunks="0", upstream_rcvbuf="y", h2_stream_window="1k") == [
        "FLOW_HIGH_WATER: invalid value 'x': expected a size such as 65536, 64k or 1m, or auto",
        "FLOW_PREFETCH_CHUNKS: invalid value '0': expected a whole number from 1 to 1000000000, or auto",
        "FLOW_UPSTREAM_RCVBUF: invalid value 'y': expected a size such as 65536, 64k or 1m, or auto, or off",
        "FLOW_H2_STREAM_WINDOW: invalid value '1k': expected a size from 65535 to 2147483647, or auto",
    ]


def test_parsers_can_be_nested() -> None:
    parse = or_off(or_auto(parse_size))
    assert [parse(text) for text in ("auto", "off", "8k")] == [AUTO, None, 8 * KB]
    assert [pinned(or_auto(parse_count)(text)) for text in ("Auto", "7")] == [None, 7]
    assert pinned(None) is None


# Marks


@pytest.mark.parametrize(("low", "high"), [("8k", "8k"), ("9k", "8k")])
def test_given_marks_have_an_order(low: str, high: str) -> None:
    assert problems(low_water=low, high_water=high) == [
        "FLOW_LOW_WATER: must be below FLOW_HIGH_WATER; set only one of them, and the other follows"
    ]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"FLOW_LOW_WATER": "1"},
        {"FLOW_LOW_WATER": "8k"},
        {"FLOW_LOW_WATER": "1g"},
        {"FLOW_HIGH_WATER": "2"},
        {"FLOW_HIGH_WATER": "1k"},
        {"FLOW_HIGH_WATER": "1g"},
        {"FLOW_LOW_WATER": "1", "FLOW_HIGH_WATER": "2"},
        {"FLOW_HIGH_WATER": "auto", "FLOW_LOW_WATER": "1m"},
    ],
)
def test_what_is_taken_makes_marks(values: dict[str, str]) -> None:
    config = load(values)
    marks = Watermarks(pinned(config.high_water), pinned(config.low_water), pinned(config.prefetch_chunks))
    assert 0 < marks.low < marks.high


def test_a_high_mark_that_leaves_no_room_below_is_told() -> None:
    """It would be no pair of marks, with whatever low one."""
    [problem] = problems(high_water="1")
    assert problem.startswith("FLOW_HIGH_WATER: ")


# The target


@pytest.mark.parametrize(("text", "seconds"), [("250ms", 0.25), ("1s", 1), ("2", 2)])
def test_a_drain_target_is_a_time(text: str, seconds: float) -> None:
    assert load({"FLOW_DRAIN_TARGET": text}).drain_target == seconds


def test_the_drain_target_is_a_quarter_of_a_second() -> None:
    assert load({}).drain_target == 0.25


@pytest.mark.parametrize("text", ["0", "0s", "off", "auto", "-1s"])
def test_there_is_always_a_drain_target(text: str) -> None:
    [problem] = problems(drain_target=text)
    assert problem.startswith(f"FLOW_DRAIN_TARGET: invalid value {text!r}: expected a time ")
