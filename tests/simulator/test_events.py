"""Numbered events with more numbers than one."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from flowserver.simulator.events import FILLER, TEXT, NumberedEvents, counter, event, padded, token_text

SIZES = st.sampled_from([1, 90, 120])
"""Below the least possible, around it, and above."""


def made(size: int, firsts: list[int], *, chunked: bool = False, blank: bool = False) -> NumberedEvents:
    counters = {f"c{place}": counter(first) for place, first in enumerate(firsts)}
    if blank:
        template = padded(event({"text": TEXT, **counters}))
    else:
        template = event({"text": TEXT, "filler": FILLER, **counters})
    return NumberedEvents(template, size=size, chunked=chunked)


@given(
    st.integers(0, 1_100_000),
    st.lists(st.integers(0, 10**7), max_size=3),
    SIZES,
    st.booleans(),
)
def test_each_number_goes_up_from_its_first(number: int, firsts: list[int], size: int, blank: bool) -> None:
    events = made(size, firsts, blank=blank)
    data = events.one(number)
    payload = json.loads(data.removeprefix(b"data: "))
    assert payload["text"] == f"tok{number:06d} "
    assert [payload[f"c{place}"] for place in range(len(firsts))] == [first + number for first in firsts]
    assert len(data) == events.size >= size


@given(
    st.integers(0, 1_000_100),
    st.integers(1, 150),
    st.lists(st.integers(0, 1_000_100), max_size=2),
    SIZES,
    st.booleans(),
)
def test_a_run_is_its_events_one_by_one(start: int, count: int, firsts: list[int], size: int, chunked: bool) -> None:
    batch, single = (made(size, firsts, chunked=chunked) for _ in range(2))
    data, total = batch.run(start, count)
    pieces, sizes = [], 0
    for number in range(start, start + count):
        pieces.append(single.one(number))
        sizes += single.size
    assert data == b"".join(pieces)
    assert total == sizes


@given(st.integers(0, 250), st.lists(st.integers(0, 1000), max_size=2), SIZES)
def test_the_total_is_known_beforehand(count: int, firsts: list[int], size: int) -> None:
    events = made(size, firsts)
    assert events.total(count) == len(b"".join([events.one(number) for number in range(count)]))


def test_blanks_stand_within_the_braces() -> None:
    data = made(60, [], blank=True).one(1)
    assert data.endswith(b" }\n\n")
    assert len(data) == 60


def test_the_text_of_tokens_is_that_of_their_events() -> None:
    assert token_text(0) == b""
    assert token_text(2) == b"tok000000 tok000001 "
