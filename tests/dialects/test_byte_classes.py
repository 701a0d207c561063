"""Classes of bytes: what each counts, that cuts make no difference, and that tokens come out about right."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.dialects.byte_classes import PENDING, WEIGHTS, ByteClasses


def counted(*pieces: bytes) -> ByteClasses:
    classes = ByteClasses()
    for piece in pieces:
        classes.add(piece)
        classes.settle()
    return classes


def counts(*pieces: bytes) -> dict[str, int]:
    return {name: count for name, count in counted(*pieces).counts.items() if count}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("the cat", {"letter": 6, "word": 2, "blank": 1}),
        ("getUserName", {"letter": 11, "word": 1, "inner capital": 2}),
        ("12 345", {"digit": 5, "number": 2, "blank": 1}),
        ('{"a":1}', {"letter": 1, "word": 1, "digit": 1, "number": 1, "sign": 5, "signs": 3}),
        ("a\n\nb", {"letter": 2, "word": 2, "line": 2}),
        ("über", {"letter": 3, "word": 1, "latin": 1}),
        ("мир", {"word": 1, "cyrillic": 3}),
        ("你好", {"word": 2}),
        ("a—b", {"letter": 2, "word": 2, "typographic": 1}),
        ("🎉", {"word": 1, "emoji": 1}),
    ],
)
def test_what_is_counted(text: str, expected: dict[str, int]) -> None:
    assert counts(text.encode()) == expected


@given(st.text(max_size=200), st.lists(st.integers(0, 400), max_size=12))
def test_how_a_text_is_cut_makes_no_difference(text: str, places: list[int]) -> None:
    data = text.encode(errors="replace")
    edges = [0, *sorted(place for place in places if place < len(data)), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    assert counts(*pieces) == counts(data)
    assert counted(*pieces).tokens == counted(data).tokens


@given(st.lists(st.text(max_size=40), max_size=20))
def test_tokens_of_settled_text_never_fall(texts: list[str]) -> None:
    classes, before = ByteClasses(), 0.0
    for text in texts:
        classes.add(text.encode(errors="replace"))
        classes.settle()
        assert classes.tokens >= before
        before = classes.tokens


def test_no_weight_is_negative() -> None:
    assert min(WEIGHTS.values()) >= 0


def test_little_is_pending() -> None:
    classes = ByteClasses()
    pending = classes.pending
    for _ in range(100):
        classes.add(b"x" * 100)
        assert len(classes.pending) <= PENDING + 100
    classes.settle()
    assert classes.pending is pending
    assert classes.counts["letter"] == 10_000


def test_what_is_pending_counts_like_what_came_before() -> None:
    text = b"All that glitters is not gold, and not all those who wander are lost. " * 20
    whole, part = counted(text), counted(text[:1200])
    part.add(text[1200:1400])
    assert part.tokens == pytest.approx(whole.tokens, rel=0.03)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        # By o200k; the others that the weights were fitted on are near.
        ("The quick brown fox jumps over the lazy dog, and nobody was surprised.", 15),
        ('{"location":"San Francisco, CA","unit":"celsius","days":3}', 17),
        ("def greet(name: str) -> str:\n    return f'Hello, {name}!'\n", 17),
        ("今天天气很好，我们去公园散步吧。", 11),
    ],
)
def test_tokens_of_short_texts(text: str, tokens: int) -> None:
    assert counted(text.encode()).tokens == pytest.approx(tokens, rel=0.25, abs=2)
