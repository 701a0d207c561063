"""Numbers and texts out of foreign JSON."""

from __future__ import annotations

from typing import Any

import pytest

from flowserver.dialects.common import MAX_TOLD, count, error_text, lower, section


@pytest.mark.parametrize(
    ("value", "counted"),
    [
        (0, 0),
        (7, 7),
        (7.0, 7),
        ("7", 7),
        (2**53 - 1, 2**53 - 1),
        (2**53, None),
        (-1, None),
        (7.5, None),
        (True, None),
        (None, None),
        ("", None),
        ("7.0", 7),
        (" +7 ", 7),
        ("1_0", 10),
        ("7.5", None),
        ("inf", None),
        ("x", None),
        ("9" * 16, None),
        ("9" * 5000, None),  # int() refuses it
        ([7], None),
    ],
)
def test_count(value: Any, counted: int | None) -> None:
    assert count(value) == counted
    assert count(value, 3) == (3 if counted is None else counted)


@pytest.mark.parametrize(
    ("fields", "limited"),
    [
        ({}, 5),
        ({"most": None}, 5),
        ({"most": 9}, 5),
        ({"most": -1}, 5),
        ({"most": "x"}, 5),
        ({"most": 5}, 5),
        ({"most": 2}, 2),
    ],
)
def test_lower(fields: dict[str, Any], limited: int) -> None:
    before = fields.get("most")
    assert lower(fields, "most", 5) is (before != limited)
    assert fields == {"most": limited}


def test_a_section_is_found_or_made() -> None:
    body: dict[str, Any] = {"null": None, "there": {"a": 1}, "text": "x"}
    assert section(body, "there") is body["there"]
    assert section(body, "null") is body["null"] == {}
    assert section(body, "missing") is body["missing"] == {}
    assert section(body, "text") is None
    assert body["text"] == "x"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, "overloaded_error: Overloaded"),
        ({"code": 503, "status": "UNAVAILABLE", "message": "Try later"}, "UNAVAILABLE: Try later"),
        ("broken", "broken"),
        ({"message": ["x"]}, "error"),
        ({}, "error"),
        (None, "error"),
        ("x" * 1000, "x" * MAX_TOLD),
    ],
)
def test_told(error: Any, words: str) -> None:
    assert error_text(error) == words
