"""What a reducer keeps and counts of a JSON text is what a parser finds in it, however the text is cut."""

from __future__ import annotations

import json
import re
from itertools import cycle
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from flowserver.json_text.reducer import JsonReducer, reduce_json
from tests.support.scanning import pieces

REPORTS = ("usage", "usageMetadata", "usage_metadata")
CONTAINERS = ("delta", "message", "metadata", "response", "x_groq")
KEPT = (
    *REPORTS,
    "amazon-bedrock-invocationMetrics",
    *("done", "done_reason", "error", "eval_count", "event_id", "finishReason", "finish_reason", "id"),
    *("incomplete_details", "metrics", "model", "modelVersion", "object", "output_index", "prompt_eval_count"),
    *("responseId", "response_id", "sequence_number", "status", "stopReason", "stop_reason", "type"),
)

NAMES = st.one_of(
    st.sampled_from([*KEPT, *CONTAINERS, "usag", "usages", "content", "token", 'a"b', "\\", "é", ""]),
    st.text(max_size=4),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from(['"usage": {"a": 1}', '\\"', "\\", "x " * 600, "y" * 2001, "\\" * 2500, '"' * 3000, "{[" * 2000]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)
SHAPES = st.sampled_from([None, 1])
SIZES = st.lists(st.integers(1, 3000), min_size=1, max_size=6)


def wanted(value: dict[str, Any], level: int = 1) -> dict[str, Any]:
    """What is to be kept of an object that is looked into."""
    found = {}
    for name, inner in value.items():
        if name in CONTAINERS and isinstance(inner, dict) and level < 3:
            found[name] = wanted(inner, level + 1)
        elif name in KEPT:
            found[name] = inner
    return found


def text_in(value: object, ascii_only: bool, name: str = "", level: int = 0) -> tuple[int, int]:
    """Bytes of text and attachments in a value that is passed over; at level 1 and below it is looked into."""
    if isinstance(value, str):
        raw = json.dumps(value, ensure_ascii=ascii_only).encode(errors="replace")[1:-1]
        if len(raw) > 2000 and b" " not in raw[:2000]:
            return 0, 1
        escapes = re.findall(rb"\\(.)", raw)
        return (0 if name == "token" and len(raw) <= 2000 else len(raw) - 3 * escapes.count(b"u")), 0
    found = []
    if isinstance(value, list):
        found = [text_in(each, ascii_only) for each in value]
    elif isinstance(value, dict):
        for key, inner in value.items():
            looked_into = 0 < level < 3 and key in CONTAINERS and isinstance(inner, dict)
            if not (level and key in KEPT):
                found.append(text_in(inner, ascii_only, key, level + 1 if looked_into else 0))
    return sum(text for text, _ in found), sum(attachments for _, attachments in found)


def run(text: bytes, sizes: list[int]) -> tuple[bytes, int, int, bool, bool, int]:
    reducer = JsonReducer()
    consumed = sum(reducer.feed(piece) for piece in pieces(text, cycle(sizes)))
    reduced = reducer.finish()
    return reduced, reducer.text_bytes, reducer.attachments, reducer.broken, reducer.ended, consumed


def written(value: object, indent: int | None, ascii_only: bool) -> bytes:
    return json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode(errors="replace")


@given(st.dictionaries(NAMES, VALUES, max_size=8), SHAPES, st.booleans(), SIZES)
def test_what_matters_is_kept_however_it_is_cut(
    value: dict[str, Any], indent: int | None, ascii_only: bool, sizes: list[int]
) -> None:
    text = written(value, indent, ascii_only)
    reduced, *counted = run(text, sizes)
    small = all(len(each) < 4000 for each in map(orjson.dumps, value.values()))
    if small:
        assert json.loads(reduced) == wanted(json.loads(text))
        assert (counted[0], counted[1]) == text_in(value, ascii_only, level=1)
    assert counted[2:] == [False, True, len(text)]
    assert run(text, [len(text)]) == (reduced, *counted)
    assert run(text, [1 + len(text) // 50]) == (reduced, *counted)
    assert reduce_json(text) == reduced


@given(VALUES, st.binary(max_size=5), SIZES)
def test_the_text_ends_where_its_value_ends(value: object, rest: bytes, sizes: list[int]) -> None:
    text = written([value], None, True)
    reduced, *_, broken, ended, consumed = run(text + rest, sizes)
    assert (reduced, broken, ended) == (b"{}", False, True)
    reducer = JsonReducer()
    assert reducer.feed(text + rest) == len(text)
    assert consumed == len(text)


@given(st.one_of(st.binary(max_size=60), st.text('{}[]",:\\ a1', max_size=40).map(str.encode)), SIZES)
def test_nonsense_raises_nothing_and_what_comes_is_json(text: bytes, sizes: list[int]) -> None:
    reduced, *_ = run(text, sizes)
    assert isinstance(orjson.loads(reduced), dict)


@given(st.dictionaries(NAMES, VALUES, max_size=5), st.data())
def test_of_a_part_what_came_is_kept(value: dict[str, Any], data: st.DataObject) -> None:
    text = written(value, None, False)
    part = text[: data.draw(st.integers(0, len(text) - 1))]
    reducer = JsonReducer()
    assert reducer.feed(part) == len(part)
    reduced = orjson.loads(reducer.finish())
    assert not reducer.broken
    assert not reducer.ended
    assert set(reduced) <= set(KEPT) | set(CONTAINERS)
