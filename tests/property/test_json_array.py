"""The scanner of arrays finds the elements that a parser finds, however the array is cut."""

from __future__ import annotations

import json
from itertools import cycle

from hypothesis import given
from hypothesis import strategies as st

from flowserver.events.json_array import JsonArrayScanner
from flowserver.json_text.reducer import JsonReducer
from tests.property.test_json_reducer import SIZES, VALUES, written
from tests.support.scanning import by_bytes, pieces, scan

ELEMENTS = st.lists(st.one_of(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), VALUES), max_size=6)
BETWEEN = st.sampled_from([b",", b",\n", b"\n,\r\n", b" , "])


def counted(element: bytes, bound: int) -> bytes | None:
    if len(element) <= bound:
        return element
    reducer = JsonReducer()
    reducer.feed_all(element)
    return reducer.finish_whole()


@given(ELEMENTS, BETWEEN, st.sampled_from([None, 1]), SIZES, st.sampled_from([10, 100, 1_000_000]))
def test_elements_are_events(
    values: list[object], between: bytes, indent: int | None, sizes: list[int], bound: int
) -> None:
    elements = [written(value, indent, False) for value in values]
    stream = b" [ " + between.join(elements) + b"\n]\n"
    expected, end, text = [], 3, 0
    for element in elements:
        end += len(element)
        if element[:1] in b'"{[':
            expected.append((b"", counted(element, bound), end))
        end += len(between)
    for fed in (pieces(stream, cycle(sizes)), [stream]):
        scanner = JsonArrayScanner(bound)
        assert scan(scanner, fed) == expected
        assert (scanner.broken, scanner.oversized, scanner.at_boundary) == (False, 0, False)
        text = text or scanner.unread_text
        assert scanner.unread_text == text


@given(st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=2), max_size=4), BETWEEN)
def test_one_more_element_may_be_put_in_at_each_boundary(values: list[object], between: bytes) -> None:
    stream = b"[" + between.join(written(value, None, True) for value in values) + b"]"
    scanner = JsonArrayScanner(1_000_000)
    number = 0
    for end, byte in enumerate([b"", *by_bytes(stream)[:2000]]):
        number += len(scanner.feed(byte))
        if scanner.at_boundary:
            before, behind = scanner.closing(number > 0)
            whole = json.loads(stream[:end] + before + b'{"more": 1}' + behind)
            assert whole == [*values[:number], {"more": 1}]
    assert json.loads(b"[" + b"%b1%b" % scanner.closing(False, opened=True)) == [1]


@given(
    st.one_of(st.binary(max_size=40), st.text('{}[]",:\\ a1', max_size=40).map(str.encode)), SIZES, st.integers(1, 9)
)
def test_nonsense_raises_nothing(stream: bytes, sizes: list[int], bound: int) -> None:
    at_once, in_pieces = JsonArrayScanner(bound), JsonArrayScanner(bound)
    events = at_once.feed(b"[" + stream)
    assert scan(in_pieces, pieces(b"[" + stream, cycle(sizes))) == events
    assert in_pieces.broken is at_once.broken
    assert not (at_once.broken and at_once.at_boundary)
