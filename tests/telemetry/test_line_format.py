"""The two forms of a line: the same fields in both, and no way for a value to forge a line."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.telemetry.line_format import json_line, text_line

NOON = 1_790_000_000.123456
COLOUR = re.compile(r"\x1b\[[0-9]+m")

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8")),
)


def plain(line: bytes) -> str:
    return COLOUR.sub("", line.decode())


def test_json_has_the_time_first_as_rfc_3339_has_it() -> None:
    line = json_line({"time": NOON, "level": "info", "event": "access", "status": 200})
    assert line.startswith(b'{"time":"2026-09-21T')
    assert orjson.loads(line)["time"].endswith("Z")
    assert {**orjson.loads(line), "time": None} == {"time": None, "level": "info", "event": "access", "status": 200}


def test_text_begins_with_what_a_reader_looks_for() -> None:
    fields = {
        "pauses": 0,
        "status": 200,
        "method": "POST",
        "path": "/v1/messages",
        "duration_ms": 12.5,
        "tenant": "acme",
    }
    line = plain(text_line({"time": NOON, "level": "info", "event": "access", **fields}))
    assert line.split(" ", 1)[1] == "INFO  access POST /v1/messages 200 12.5ms tenant=acme\n"


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_each_level_is_told(level: str) -> None:
    assert level[:4].upper() in plain(
        text_line(
            {
                "time": NOON,
                "level": level,
                "event": "x",
            }
        )
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("two words", '"two words"'),
        ("a\nb", '"a\\nb"'),
        ('"', '"\\""'),
        ("", '""'),
        ("\x1b[2J", '"\\u001b[2J"'),
        ("\x7f", "'\\x7f'"),
        ("\u202e", "'\\u202e'"),
        (["a", 1], '["a",1]'),
    ],
)
def test_values_are_quoted_where_they_are_not_plain(value: Any, shown: str) -> None:
    assert plain(text_line({"time": NOON, "level": "info", "event": "x", "name": value})).endswith(f" name={shown}\n")


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,12}", fullmatch=True), values, max_size=6))
def test_a_line_is_one_line_that_steers_no_terminal(fields: dict[str, Any]) -> None:
    line = plain(text_line({"time": NOON, "level": "warning", "event": "event", **fields}))
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert json_line({"time": NOON, "level": "warning", "event": "event", **fields}).count(b"\n") == 1
