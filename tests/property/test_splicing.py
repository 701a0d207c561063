"""What is read of a JSON body is what any reader reads of it, and what is changed in it is nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Any

import orjson
from hypothesis import assume, example, given
from hypothesis import strategies as st

from flowserver.json_text.edits import Edit, apply, edits, without_member
from flowserver.json_text.members import COUNT, JsonMembers, Reads
from tests.support.lenient_json import Pairs, Refused, folded, read
from tests.support.scanning import pieces

READS = Reads(
    {
        "model": None,
        "max_tokens": None,
        "skin": None,
        "prompt": COUNT,
        "options": Reads({"num_predict": None, "deep": Reads({"er": None})}),
        "config": Reads({"most": None}, {"the_most": "most"}),
    },
    {"the_config": "config"},
)
SCALAR_NAMES = ("model", "max_tokens", "skin")

# --- texts of JSON ---

SPACE = st.sampled_from(["", "", "", " ", "\n", "\t\r\n  "])
NUMBERS = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(
        ["-0", "1E5", "1e-7", "0.1000", "123456789012345678901234567890", "1" * 400, "12345678901234567.25"]
    ),
)
PLAIN = st.text(max_size=8)


@st.composite
def strings(draw: st.DrawFn, characters: st.SearchStrategy[str] = PLAIN) -> str:
    """A text as JSON, each character escaped or not."""
    written = []
    for character in draw(characters):
        code = ord(character)
        if code < 32 or character in '"\\' or draw(st.integers(0, 5)) == 0:
            units = character.encode("utf-16-be", "surrogatepass").hex()
            written += [rf"\u{units[start : start + 4]}" for start in range(0, len(units), 4)]
        else:
            written.append(character)
    return f'"{"".join(written)}"'


def _joined(draw: st.DrawFn, opening: str, parts: list[str], closing: str) -> str:
    spaced = [draw(SPACE) + part + draw(SPACE) for part in parts]
    return opening + (",".join(spaced) if spaced else draw(SPACE)) + closing


def _member(draw: st.DrawFn, name: str, value: str) -> str:
    return f"{name}{draw(SPACE)}:{draw(SPACE)}{value}"


ODD = st.sampled_from([r'"\ud83d"', r'"\udc00\ud800"', '"//"', r'"\\"', r'"\\\"{[]"', '"\'#"', '"' + "x" * 300 + '"'])
WORDS = st.sampled_from(["true", "false", "null"])
SCALARS = st.one_of(strings(), NUMBERS, WORDS)


@st.composite
def _containers(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    values = draw(st.lists(inner, max_size=4))
    if draw(st.booleans()):
        return _joined(draw, "[", values, "]")
    return _joined(draw, "{", [_member(draw, draw(strings()), value) for value in values], "}")


ANY = st.recursive(st.one_of(SCALARS, ODD), _containers, max_leaves=20)
DEEP = st.integers(1, 40).map(lambda depth: "[" * depth + '{"a":"]"}' + "]" * depth)
MATTERING = {"options": ("num_predict", "deep"), "deep": ("er",), "config": ("most",), "the_config": ("the_most",)}
TOP = (*SCALAR_NAMES, "prompt", "options", "config")


@st.composite
def objects(draw: st.DrawFn, names: tuple[str, ...] = TOP) -> str:
    """An object with some of `names`, each once, and others."""
    found = draw(st.lists(st.sampled_from(names), unique=True))
    if "config" in found and draw(st.booleans()):
        found[found.index("config")] = "the_config"
    members = []
    for name in found:
        if name in MATTERING and draw(st.integers(0, 3)):
            value = draw(objects(MATTERING[name]))
        elif name == "prompt":
            value = draw(st.one_of(ANY, st.lists(SCALARS).map(lambda each: f"[{','.join(each)}]")))
        else:
            value = draw(st.one_of(SCALARS, SCALARS, ANY))
        members.append((draw(strings(st.just(name))), value))
    for _ in range(draw(st.integers(0, 3))):
        members.append((draw(strings()), draw(st.one_of(ANY, DEEP))))
    members = draw(st.permutations(members))
    return _joined(draw, "{", [_member(draw, name, value) for name, value in members], "}")


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    text = draw(SPACE) + draw(objects()) + draw(SPACE)
    return text.encode()


SIZES = st.lists(st.one_of(st.integers(1, 3), st.integers(1, 100)), min_size=1, max_size=8)


def found_in(body: bytes, sizes: list[int] | None = None) -> JsonMembers:
    found = JsonMembers(READS)
    for piece in [body] if sizes is None else pieces(body, cycle(sizes)):
        found.feed(piece)
    found.finish()
    return found


# --- what they say ---


def counted(value: Any) -> int:
    if not isinstance(value, list) or not all(isinstance(each, str | list | Pairs) for each in value):
        return 1
    return max(1, len(value))


def said(pairs: Pairs, reads: Reads) -> dict[str, list[Any]]:
    """What an object says of all that matters: each value that a reader may take."""
    by_name: dict[str, list[Any]] = {}
    for spelling, name, inner in reads.exact.values():
        values = pairs.all(spelling)
        if inner is COUNT:
            values = [counted(value) for value in values]
        elif isinstance(inner, Reads):
            values = [said(value, inner) if isinstance(value, Pairs) else None for value in values]
        else:
            values = [None if isinstance(value, list | Pairs) else value for value in values]
        by_name.setdefault(name, []).extend(values)
    return by_name


def told(values: Mapping[str, Any], reads: Reads) -> dict[str, list[Any]]:
    """The same of what was found."""
    by_name: dict[str, list[Any]] = {}
    for spelling, name, inner in reads.exact.values():
        by_name.setdefault(name, [])
        if spelling in values:
            value = values[spelling]
            if isinstance(inner, Reads):
                value = told(value, inner) if isinstance(value, dict) else None
            elif inner is None and isinstance(value, list):
                value = None
            by_name[name].append(value)
    return by_name


def alike(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float) and not isinstance(one, bool):
        return float_of(one) == float_of(other)
    return type(one) is type(other) and bool(one == other)


def float_of(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")


def has_ambiguous_names(pairs: Pairs, reads: Reads) -> bool:
    values = said(pairs, reads)
    spellings = [spelling for spelling, _, _ in reads.exact.values()]
    if any(len(each) > 1 for each in values.values()):
        return True
    if any(name not in spellings and folded(name) in map(folded, spellings) for name, _ in pairs.pairs):
        return True
    inner = {spelling: each for spelling, _, each in reads.exact.values() if isinstance(each, Reads)}
    return any(
        isinstance(value, Pairs) and name in inner and has_ambiguous_names(value, inner[name])
        for name, value in pairs.pairs
    )


@given(bodies())
def test_what_matters_is_read_as_others_read_it(body: bytes) -> None:
    found = found_in(body)
    pairs = read(body)
    if has_ambiguous_names(pairs, READS):
        assert found.problem is not None
        return
    if found.problem is not None:  # a number or text that can't be kept as it is
        assert "is not valid JSON" in found.problem.text
        assert not found.problem.is_ambiguous
        return
    assert alike(told(found.values, READS), said(pairs, READS))


@given(bodies(), SIZES)
def test_pieces_do_not_matter(body: bytes, sizes: list[int]) -> None:
    whole, in_pieces = found_in(body), found_in(body, sizes)
    assert in_pieces.problem == whole.problem
    assert (in_pieces.values, in_pieces.members) == (whole.values, whole.members)


# --- what is changed ---


@st.composite
def changes(draw: st.DrawFn) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Sets some of what matters, and makes what is missing."""
    scalars = draw(st.dictionaries(st.sampled_from(SCALAR_NAMES), st.one_of(st.text(max_size=5), st.integers(0, 99))))
    inner = draw(st.booleans())

    def change(values: dict[str, Any]) -> dict[str, Any]:
        after = values | scalars
        if inner:
            options = values.get("options")
            after["options"] = {**(options if isinstance(options, dict) else {}), "num_predict": 7}
        return after

    return change


def parsed(body: bytes) -> dict[str, Any]:
    """With each number as it is written."""
    result: dict[str, Any] = json.loads(body, parse_float=str, parse_int=str)
    return result


@given(bodies(), changes(), SIZES)
def test_nothing_else_is_changed(
    body: bytes, change: Callable[[dict[str, Any]], dict[str, Any]], sizes: list[int]
) -> None:
    found = found_in(body)
    assume(found.problem is None)
    after = change(found.values)
    changed = edits(found.values, found.members, after)
    text = b"".join(apply(changed, pieces(body, cycle(sizes))))
    expected = parsed(body)
    for name in [name for name in after if name not in found.values or after[name] is not found.values[name]]:
        if name == "options" and isinstance(expected.get(name), dict):
            expected[name] |= {"num_predict": "7"}
        else:
            expected[name] = parsed(orjson.dumps({name: after[name]}))[name]
    assert parsed(text) == expected
    again = JsonMembers(READS)
    again.feed(text)
    again.finish()
    assert again.problem is None
    assert again.values == after
    _rest_is_the_same(body, text, changed)


def _rest_is_the_same(body: bytes, text: bytes, changed: list[Any]) -> None:
    """What stands between the changes is in both, in the same order."""
    position = passed = 0
    for start, end, new in changed:
        unchanged = body[passed:start]
        assert text[position : position + len(unchanged)] == unchanged
        position += len(unchanged)
        assert text[position : position + len(new)] == new
        position += len(new)
        passed = end
    assert text[position:] == body[passed:]


@given(bodies())
def test_without_a_change_nothing_is_written(body: bytes) -> None:
    found = found_in(body)
    if found.problem is None:
        assert edits(found.values, found.members, dict(found.values)) == []


@given(bodies(), st.sampled_from(TOP))
def test_a_member_is_taken_out(body: bytes, name: str) -> None:
    text = without_member(body, name)
    before = json.loads(body, object_pairs_hook=Pairs, parse_float=str, parse_int=str)
    if text is None:
        return
    after = json.loads(text, object_pairs_hook=Pairs, parse_float=str, parse_int=str)
    assert [known for known, _ in after.pairs] == [known for known, _ in before.pairs if known != name]
    assert len(before.pairs) == len(after.pairs) + 1


@given(st.binary(max_size=60), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9), st.binary(max_size=4))), SIZES)
def test_edits_are_applied_in_any_pieces(body: bytes, drawn: list[tuple[int, int, bytes]], sizes: list[int]) -> None:
    changed, behind = [], 0
    for start, size, text in sorted(drawn):
        begin, end = max(start, behind), min(max(start, behind) + size, len(body))
        if begin < len(body) and begin <= end:
            changed.append((begin, end, text))
            behind = end + 1
    expected = body
    for begin, end, text in reversed(changed):
        expected = expected[:begin] + text + expected[end:]
    assert b"".join(apply([Edit(*each) for each in changed], pieces(body, cycle(sizes)))) == expected


# --- what others could read in another way ---

INSERTED = [
    *(b"//", b"/*", b"*/", b"#", b"'", b'"', b"\\", b"\\\n", b"\n", b",", b":", b"{", b"}", b"[", b"]", b"/", b"-"),
    *(b"\x0b", b"\xc2\xa0", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\0", b"\xff", b"+", b"0x", b".", b"1", b"e5", b"NaN"),
    *(b"\\x6d", b"\\m", b"\\u006d", b"\\'", b"\\0", b"\\u0000", b"\\ud800", b"\xc5\xbf", b"\xe2\x84\xaa", b"\xc4\xb1"),
    *(b'"model":"big",', b"model:1,", b"'model':1,", b'"MODEL":2,', b',"model":3', b"/*", b"*/", b"{}", b"[1 2]", b"`"),
]
MUTATION = st.tuples(
    st.sampled_from(["insert", "delete", "case", "double"]), st.integers(0, 2000), st.sampled_from(INSERTED)
)


def mutated(body: bytes, kind: str, place: int, inserted: bytes) -> bytes:
    place %= len(body) + 1
    before, here, behind = body[:place], body[place : place + 1], body[place + 1 :]
    if kind == "insert":
        return before + inserted + here + behind
    if kind == "delete":
        return before + behind
    return before + (here.swapcase() if kind == "case" else here + here) + behind


def check_every_reading(body: bytes, found: JsonMembers) -> None:
    try:
        value = read(body)
    except (Refused, RecursionError):
        return
    if found.problem is not None:
        return
    assert isinstance(value, Pairs)
    assert not has_ambiguous_names(value, READS)
    assert alike(told(found.values, READS), said(value, READS))


@given(bodies(), st.lists(MUTATION, min_size=1, max_size=3), SIZES)
@example(b'{"m\\odel":"big","model":"small"}', [], [1])
@example(b'{"model":"small","mode' + b"\\\n" * 600 + b'l":"big"}', [], [1])
@example(b'{"model":"small","mo\xffdel":"big"}', [], [1])
@example(b'{"model":"small","model\\u0000":"big"}', [], [1])
@example(b'{"model":"small","mo\\ud800del":"big"}', [], [1])
@example(b'{"x":["//"],"model":"small"} // "', [], [1])
def test_no_reader_reads_anything_else(body: bytes, mutations: list[tuple[str, int, bytes]], sizes: list[int]) -> None:
    for mutation in mutations:
        body = mutated(body, *mutation)
    found = found_in(body)
    check_every_reading(body, found)
    in_pieces = found_in(body, sizes)
    assert (in_pieces.problem is None) == (found.problem is None)
    if found.problem is None:
        assert (in_pieces.values, in_pieces.members) == (found.values, found.members)
    try:
        json.loads(body, strict=False)
    except (ValueError, RecursionError):
        return
    if found.problem is None:
        assert alike(told(found.values, READS), said(json.loads(body, strict=False, object_pairs_hook=Pairs), READS))
