"""Bodies are changed where they are meant, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from flowserver.json_text.edits import JOINED, Edit, apply, edits, without_member
from flowserver.json_text.members import COUNT, JsonMembers, Reads
from tests.support.build import COMPILED
from tests.support.scanning import by_bytes

READS = Reads({"model": None, "n": None, "prompt": COUNT, "options": Reads({"most": None})})


def changed(body: bytes, **values: Any) -> bytes:
    found = JsonMembers(READS)
    found.feed(body)
    found.finish()
    assert found.problem is None
    made = edits(found.values, found.members, {**found.values, **values})
    assert b"".join(apply(made, by_bytes(body))) == b"".join(apply(made, [body]))
    return b"".join(apply(made, [body]))


@pytest.mark.parametrize(
    ("body", "values", "text"),
    [
        (b'{"model":"a"}', {"model": "b"}, b'{"model":"b"}'),
        (b' { "model" : "a" , "x":1e5 } ', {"model": "b"}, b' { "model" : "b" , "x":1e5 } '),
        (b'{"m\\u006fdel":"a"}', {"model": "b"}, b'{"m\\u006fdel":"b"}'),
        (b"{}", {"n": 1}, b'{"n":1}'),
        (b"{ }", {"n": 1}, b'{ "n":1}'),
        (b"{}", {"n": 1, "model": "b"}, b'{"n":1,"model":"b"}'),
        (b'{"x":2\n}', {"n": 1}, b'{"x":2\n,"n":1}'),
        (b'{"x":2}', {"options": {"most": 1}}, b'{"x":2,"options":{"most":1}}'),
        (b'{"options":{}}', {"options": {"most": 1}}, b'{"options":{"most":1}}'),
        (b'{"options":{"y":0}}', {"options": {"most": 1}}, b'{"options":{"y":0,"most":1}}'),
        (b'{"options":{"most":9,"y":0}}', {"options": {"most": 1}}, b'{"options":{"most":1,"y":0}}'),
        (b'{"options":null}', {"options": {"most": 1}}, b'{"options":{"most":1}}'),
        (b'{"options":[1]}', {"options": {"most": 1}}, b'{"options":{"most":1}}'),
        (b'{"options":{"most":9},"n":3}', {"options": {"most": 1}, "n": 2}, b'{"options":{"most":1},"n":2}'),
        (b'{"n":1.0}', {"n": 1}, b'{"n":1}'),
        (b'{"n":true}', {"n": 1}, b'{"n":1}'),
        (b'{"n":1.00}', {"n": 1.0}, b'{"n":1.00}'),
        (b'{"prompt":"p"}', {"n": 1}, b'{"prompt":"p","n":1}'),
        (b'{"prompt":["p","q"]}', {"n": 1}, b'{"prompt":["p","q"],"n":1}'),
        (b'{"prompt":[1,2]}', {}, b'{"prompt":[1,2]}'),
        ('{"x":"ß\U0001f600","model":"a"}'.encode(), {"model": "ü"}, '{"x":"ß\U0001f600","model":"ü"}'.encode()),
    ],
)
def test_what_is_changed(body: bytes, values: dict[str, Any], text: bytes) -> None:
    assert changed(body, **values) == text


@pytest.mark.parametrize(("size", "pieces"), [(10, 1), (JOINED - 1, 1), (JOINED, 3)])
def test_a_changed_piece_is_one_write_unless_it_is_long(size: int, pieces: int) -> None:
    text = b"a" * size + b"z"
    applied = apply([Edit(size // 2, size // 2, b"-")], [text])
    assert len(applied) == pieces
    assert b"".join(applied) == text[: size // 2] + b"-" + text[size // 2 :]


def test_a_long_prompt_in_pieces_is_left_as_it_is() -> None:
    found = JsonMembers(READS)
    pieces = [b'{"prompt":"', b"p" * 20_000, b'","n":2}']
    for piece in pieces:
        found.feed(piece)
    found.finish()
    made = edits(found.values, found.members, found.values | {"n": 1})
    assert [edit.text for edit in made] == [b"1"]
    assert b"".join(apply(made, pieces)) == b"".join(pieces).replace(b'"n":2', b'"n":1')


def test_pieces_without_a_change_are_the_same_objects() -> None:
    pieces = [b"0123", b"4567", b"89"]
    applied = apply([Edit(5, 6, b"x")], pieces)
    assert b"".join(applied) == b"01234x6789"
    assert COMPILED or (applied[0] is pieces[0] and applied[-1] is pieces[2])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"n":1}', b"{}"),
        (b'{"n":1,"x":2}', b'{"x":2}'),
        (b'{"x":2 , "n" : {"a":[]} }', b'{"x":2 }'),
        (b'{"x":2,"n":"","y":3}', b'{"x":2,"y":3}'),
        (b'{"\\u006e":1,"x":2}', b'{"x":2}'),
        (b'{"x":2}', None),
        (b'{"n":1,"n":2}', None),
        (b'{"N":1}', None),
        (b'{"n":1', None),
        (b"[]", None),
    ],
)
def test_a_member_is_taken_out(body: bytes, text: bytes | None) -> None:
    assert without_member(body, "n") == text
