"""Whatever part of an answer has come, what is made of it is JSON that says no more than the answer did."""

from __future__ import annotations

import json
import tracemalloc
from itertools import cycle

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.events.whole_body import WholeBody, repaired
from tests.property.test_json_reducer import SIZES, VALUES, written
from tests.support.scanning import pieces

TEXTS = st.one_of(
    st.text(max_size=8), st.sampled_from(["é€😀", '\\"\\', "\\\\", "\n\t\x00", "😀" * 3, '{"a": [', "\ud7ff\\u00e9"])
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False), TEXTS
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=15,
)
ROOTS = st.one_of(st.lists(TREES, max_size=4), st.dictionaries(TEXTS, TREES, max_size=4))


def is_part(part: object, whole: object, *, last: bool = True) -> bool:
    """Whether `part` is the beginning of `whole`; only in what is last of it may something be missing."""
    if isinstance(part, str) and isinstance(whole, str):
        return whole.startswith(part) if last else part == whole
    if isinstance(part, list) and isinstance(whole, list) and len(part) <= len(whole):
        return (last or len(part) == len(whole)) and all(
            is_part(each, whole[index], last=last and index == len(part) - 1) for index, each in enumerate(part)
        )
    if isinstance(part, dict) and isinstance(whole, dict) and len(part) <= len(whole):
        return (last or len(part) == len(whole)) and all(
            name == other and is_part(part[name], whole[other], last=last and index == len(part) - 1)
            for index, (name, other) in enumerate(zip(part, whole, strict=False))
        )
    return part == whole


@given(ROOTS, st.sampled_from([None, 0, 2]), st.booleans())
def test_every_part_is_made_whole(value: object, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    for end in range(len(text) + 1):
        made = repaired(text[:end])
        if made is None:
            assert not text[:end].strip()
            continue
        part = orjson.loads(made)
        assert is_part(part, value)
    assert orjson.loads(repaired(text) or b"") == value


@given(st.one_of(st.binary(max_size=60), st.text('{}[]",:\\ a1ut', max_size=40).map(str.encode)))
def test_nonsense_raises_nothing(text: bytes) -> None:
    repaired(text)


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4), SIZES, st.integers(0, 4000))
def test_an_answer_is_read_whole_or_reduced(value: dict[str, object], sizes: list[int], limit: int) -> None:
    text = written(value | {"usage": {"total_tokens": 7}}, None, False)
    body = WholeBody(limit)
    for piece in pieces(text, cycle(sizes)):
        body.feed(piece)
    assert body.size == len(text)
    assert body.is_reduced is (len(text) > limit)
    read = body.read()
    assert read is not None
    assert orjson.loads(read)["usage"] == {"total_tokens": 7}
    assert read == text or body.is_reduced


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", None),
        (b"  ", None),
        (b"12", None),
        (b'"abc', None),
        (b"<html>", None),
        (b"[}", None),
        (b"[" * 2_000, None),
        (b"[" * 50 + b"]" * 40, b"[" * 50 + b"]" * 50),
        (b"{", b"{}"),
        (b'{"a', b"{}"),
        (b'{"a"', b"{}"),
        (b'{"a" : ', b"{}"),
        (b'{"a": 1', b"{}"),
        (b'{"a": tru', b"{}"),
        (b'{"a": true', b'{"a": true}'),
        (b'{"a": [1, 2', b'{"a": [1]}'),
        (b'{"a": "x\\', b'{"a": "x"}'),
        (b'{"a": "x\\u00', b'{"a": "x"}'),
        (b'{"a": "x\\ud83d\\ude0', b'{"a": "x"}'),
        (b'{"a": "x\\\\', b'{"a": "x\\\\"}'),
        ('{"a": "x€'.encode()[:-1], b'{"a": "x"}'),
        (b'{"a": "x", "b', b'{"a": "x"}'),
        (b'{"a": "x"}', b'{"a": "x"}'),
        (b'{"a": "x"}\n', b'{"a": "x"}'),
    ],
)
def test_what_is_open_is_closed(text: bytes, expected: bytes | None) -> None:
    assert repaired(text) == expected
    body = WholeBody(10_000)
    body.feed(text)
    assert body.partial() == expected


def test_small_pieces_take_no_more_memory_than_large_ones() -> None:
    body = WholeBody(1_000_000)
    tracemalloc.start()
    try:
        for number in range(100_000):
            body.feed(number.to_bytes(4, "big"))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert body.size == 400_000
    assert held < 2 * body.size
