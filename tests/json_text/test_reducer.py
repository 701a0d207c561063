"""What a reducer keeps of a text. (tests/property holds it to a parser.)"""

from __future__ import annotations

import json
import tracemalloc
from itertools import repeat

import orjson
import pytest

from flowserver.json_text.reducer import JsonReducer, reduce_json
from tests.support.scanning import pieces


def run(text: bytes, size: int = 1 << 16) -> JsonReducer:
    reducer = JsonReducer()
    for piece in pieces(text, repeat(size)):
        reducer.feed_all(piece)
    return reducer


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('{"usage": {"total_tokens": 1}, "choices": [1]}', {"usage": {"total_tokens": 1}}),
        ('{"response": {"usage": {"a": 1}, "output": []}}', {"response": {"usage": {"a": 1}}}),
        ('{"metadata": {"response": {"message": {"id": 1}}}}', {"metadata": {"response": {}}}),
        ('{"usage": {"a": 1}, "usage": {"a": 2}}', {"usage": {"a": 2}}),
        ('{"usage": {"a": 1}, "usage": "%s"}' % ("x" * 20_000), {}),
        ('{"response": {"usage": 1}, "response": {}}', {"response": {}}),
        ('{"response": {"usage": 1}, "response": "text"}', {}),
        ('{"us\\u0061ge": 7}', {"usage": 7}),
        (json.dumps({"id": "x" * 4_000, "model": "y" * 5_000}), {"id": "x" * 4_000}),
        (json.dumps({"usage": [1] * 5_000}), {"usage": [1] * 5_000}),
        ('{"error": ' + "[" * 500 + "]" * 500 + "}", None),
        ('{"finish_reason": null, "done": true, "x": {}}', {"finish_reason": None, "done": True}),
        ('{"\\u001f": "' + "x " * 900 + '", "id": 1}', {"id": 1}),
        ("{}", {}),
        ("[]", {}),
        ('[{"usage": 1}]', {}),
        ('"usage"', {}),
        ("12", {}),
        (" \n null", {}),
    ],
)
def test_what_is_kept(text: str, kept: object) -> None:
    expected = json.loads(text) if kept is None else kept
    for size in (1, 100, 1 << 16):
        reducer = run(text.encode(), size)
        reduced = reducer.finish_whole()
        assert reduced is not None
        assert json.loads(reduced) == expected


@pytest.mark.parametrize(
    "text",
    [
        '{"choices": [{"usage": {"a": 1}}]}',
        '{"output": {"usage": {"a": 1}}}',
        '{"content": "\\"}, \\"usage\\": {\\"a\\": 1}"}',
        '{"content": "\\\\", "x": "\\"usage\\": 1"}',
        '{"content": "%s\\", \\"usage\\": 1"}' % ("x" * 5_000),
        '{"usage ": {"a": 1}, " usage": {"a": 1}}',
        '{"delta": ["usage", {"usage": 1}]}',
    ],
)
def test_a_report_is_not_forged(text: str) -> None:
    for size in (1, 7, 1 << 16):
        assert b'usage"' not in run(text.encode(), size).finish()
    assert b'usage"' not in reduce_json(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "<html>",
        "data: {}",
        '{"a" 1}',
        '{"a": 1,}',
        '{"a": 1 "b": 2}',
        "{1: 2}",
        '{,"a": 1}',
        '{"a": tru}',
        '{"a": 01}',
        '{"usage": {"a": 01}}',
        '{"usage": @}',
        '{"a": }',
        "{} {}",
        "{}]",
        "nul ",
    ],
)
def test_what_is_no_json_is_broken(text: str) -> None:
    for size in (1, 1 << 16):
        reducer = run(text.encode(), size)
        assert reducer.broken
        assert reducer.finish_whole() is None
        assert reducer.feed(b"{}") == 2
    assert reduce_json(text.encode()) == b"{}"


def test_a_text_that_has_not_ended_is_not_broken_before_it_should() -> None:
    reducer = run(b'{"usage": {"a": 1}, "choices": [{"text": "some te')
    assert (reducer.broken, reducer.ended) == (False, False)
    assert reducer.finish() == b'{"usage":{"a": 1}}'
    assert reducer.text_bytes == len("some te")
    assert reducer.finish_whole() is None
    assert reducer.broken


@pytest.mark.parametrize(
    ("value", "text_bytes", "attachments"),
    [
        ({"content": "some text", "role": ["a", {"b": "c"}]}, 11, 0),
        ({"choices": [{"content": "some text"}], "usage": {"text": "kept"}, "id": "kept"}, 9, 0),
        ({"a": "word " * 1_000, "b": [["word " * 1_000]]}, 10_000, 0),
        ({"a": "x" * 2_000, "b": ["x" * 2_000]}, 4_000, 0),
        ({"a": "x" * 2_001, "b": ["x" * 2_001]}, 0, 2),
        ({"a": "x" * 2_000 + " " * 100, "b": "x" * 1_999 + " " * 100}, 2_099, 1),
        ({"a": "é" * 100, "b": ["日本" * 10]}, 360, 0),
        ({"logprobs": [{"token": "some", "top": [{"token": "text"}]}], "token": "x"}, 0, 0),
    ],
)
def test_text_that_is_passed_over_is_counted(value: object, text_bytes: int, attachments: int) -> None:
    text = json.dumps(value).encode()
    for size in (1, 50, 3_000, 1 << 16):
        reducer = run(text, size)
        reducer.finish()
        assert (reducer.text_bytes, reducer.attachments) == (text_bytes, attachments)


def test_feed_tells_where_the_text_ends() -> None:
    reducer = JsonReducer()
    assert reducer.feed(b' {"a": [1') == 9
    assert reducer.feed(b']}\n{"b"') == 2
    assert reducer.ended
    assert reducer.feed(b"{}") == 0


@pytest.mark.parametrize(
    "piece",
    [
        b'"content": "x", ',
        b'"usage": {"a": 1}, ',
        b'"delta": {"usage": [%b1]}, ' % (b"1," * 4_000),
        b'"error": "%b", ' % (b"x" * 4_000),
        b'"x": %b1%b, ' % (b"[" * 3_000, b"]" * 3_000),
        b'"x": "%b", ' % (b"\\\\" * 3_000),
    ],
)
def test_many_members_take_no_memory(piece: bytes) -> None:
    reducer = JsonReducer()
    reducer.feed(b"{")
    tracemalloc.start()
    try:
        for _ in range(200):
            reducer.feed(piece)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 80_000
    reducer.feed(b'"id": 1}')
    assert reducer.ended
    assert len(reducer.finish()) <= 1 << 16


@pytest.mark.parametrize(
    "piece", [b"[", b'{"a":', b'["', b'\\"', b"x", b" ", b"1", b'"', b'"",', b'"x" ', b"\\", b"[]"]
)
@pytest.mark.parametrize("start", [b"", b"[", b"{", b'{"a":', b'{"', b'["', b'{"usage":', b'{"usage":"'])
def test_an_endless_text_takes_no_memory(start: bytes, piece: bytes) -> None:
    reducer = JsonReducer()
    reducer.feed(start)
    data = piece * 5_000
    tracemalloc.start()
    try:
        for _ in range(20):
            assert reducer.feed(data) <= len(data)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 70_000
    orjson.loads(reducer.finish())


def test_a_report_has_its_room_whatever_else_there_is() -> None:
    large = {name: {"id": "x" * 4_000, "model": "y" * 4_000} for name in ("delta", "message", "response", "metadata")}
    reduced = json.loads(reduce_json(json.dumps({**large, "error": "z" * 4_000, "usage": [1] * 5_000}).encode()))
    assert reduced["usage"] == [1] * 5_000
    assert len(json.dumps(reduced)) < 1 << 16


@pytest.mark.parametrize("character", ["\u6c49", '\\n\\"\u00e9', "word.", "{}"])
def test_long_text_without_blanks_is_text(character: str) -> None:
    reducer = JsonReducer()
    reducer.feed_all(b'{"choices":[{"text":"%b"}]}' % (character * 2000).encode())
    reducer.finish()
    assert reducer.attachments == 0
    assert reducer.text_bytes > 2000


@pytest.mark.parametrize("start", ["", "data:image/png;base64,", "AAAA\\n", "a-b_c/"])
def test_a_long_encoded_string_is_an_attachment(start: str) -> None:
    reducer = JsonReducer()
    reducer.feed_all(b'{"data":[{"b64_json":"%b"}]}' % (start + "QUJD" * 2000).encode())
    reducer.finish()
    assert (reducer.attachments, reducer.text_bytes) == (1, 0)
