"""What is found in a JSON object, and what is a problem."""

from __future__ import annotations

import json
from itertools import repeat
from typing import Any

import pytest

from flowserver.json_text.members import (
    COUNT,
    MOST_MEMBERS,
    MOST_NAME,
    MOST_SCALAR,
    MOST_VALUES,
    SPAN,
    JsonMembers,
    Reads,
)
from tests.support.scanning import by_bytes, pieces

READS = Reads(
    {
        "model": None,
        "max_tokens": None,
        "skin": None,
        "prompt": COUNT,
        "options": Reads({"num_predict": None}),
        "config": Reads({"most": None}, {"the_most": "most"}),
    },
    {"the_config": "config"},
)


def fed(body: bytes | list[bytes]) -> JsonMembers:
    found = JsonMembers(READS)
    for piece in [body] if isinstance(body, bytes) else body:
        found.feed(piece)
    found.finish()
    return found


def values_of(body: bytes) -> dict[str, Any]:
    """What is found, the same in one piece and byte by byte."""
    found, in_bytes = fed(body), fed(by_bytes(body))
    assert found.problem is None
    assert in_bytes.problem is None
    assert (in_bytes.values, in_bytes.members) == (found.values, found.members)
    return found.values


def problem_of(body: bytes) -> tuple[str, bool]:
    found, in_bytes = fed(body), fed(by_bytes(body))
    assert found.problem is not None
    assert in_bytes.problem == found.problem
    return found.problem.text, found.problem.is_ambiguous


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (b"{}", {}),
        (b' { "a" : 1 } \n', {}),
        (b'{"model":"m"}', {"model": "m"}),
        (b'{"mod\\u0065l" : "\\u006d\\ud83d\\ude00"}', {"model": "m\U0001f600"}),
        (b'{"max_tokens":5.0,"skin":true}', {"max_tokens": 5.0, "skin": True}),
        (b'{"model":null}', {"model": None}),
        (b'{"model":{"a":[1]}}', {"model": []}),
        (b'{"options":{}}', {"options": {}}),
        (b'{"options":{"x":{"num_predict":1},"num_predict":2}}', {"options": {"num_predict": 2}}),
        (b'{"options":[{"num_predict":1}]}', {"options": []}),
        (b'{"options":null}', {"options": None}),
        (b'{"config":{"the_most":3}}', {"config": {"the_most": 3}}),
        (b'{"the_config":{"most":3}}', {"the_config": {"most": 3}}),
        (b'{"x":"a\\ud83d","y":NaN,"z":[Infinity,-1e999],"model":"m"}', {"model": "m"}),
        (b'{"x":"\xff\x00\n","model":"m"}', {"model": "m"}),
        (b'{"x":"]}\\"","y":["\\\\","}\\"{"],"model":"m"}', {"model": "m"}),
        (b'{"\\ud83d":1,"modelled":2,"mode":3}', {}),
    ],
)
def test_what_matters_is_found(body: bytes, values: dict[str, Any]) -> None:
    assert values_of(body) == values


@pytest.mark.parametrize(
    ("prompt", "count"),
    [
        ('"one"', 1),
        ("[]", 1),
        ('["one"]', 1),
        ('["one", "two", ""]', 3),
        ("[[1, 2], [3], []]", 3),
        ("[1, 2, 3]", 1),
        ('[1, "two", 3]', 1),
        ('["one", 2]', 1),
        ('[{"prompt_string": "one"}, {"prompt_string": "two"}]', 2),
        ("null", 1),
        ("{}", 1),
        ("7", 1),
    ],
)
def test_prompts_are_counted(prompt: str, count: int) -> None:
    assert values_of(f'{{"prompt":{prompt},"model":"m"}}'.encode()) == {"prompt": count, "model": "m"}


@pytest.mark.parametrize("size", [MOST_SCALAR, 100_000])
def test_one_long_prompt_is_one(size: int) -> None:
    body = b'{"prompt":"%b","model":"m"}' % (b"x" * size)
    for found in (fed(body), fed(pieces(body, repeat(1000)))):
        assert found.problem is None
        assert found.values == {"prompt": 1, "model": "m"}


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":1,"model":1}',
        b'{"model":1,"x":2,"m\\u006fdel":1}',
        b'{"Model":1}',
        b'{"MODEL":[1],"model":1}',
        b'{"model":1,"\\u004dodel":1}',
        b'{"\xc5\xbfkin":1}',
        b'{"\\u017fkin":1}',
        b'{"s\xe2\x84\xaain":1}',
        b'{"s\\u212ain":1}',
        b'{"sk\xc4\xb1n":1}',
        b'{"options":{"num_predict":1,"NUM_predict":2}}',
        b'{"options":{},"options":{}}',
        b'{"options":{},"Options":{}}',
        b'{"config":{},"the_config":{}}',
        b'{"config":{"most":1,"the_most":1}}',
        b'{"prompt":["a"],"prompt":"b"}',
        b'{"mo\xffdel":1}',
        b'{"mo\\ud800del":1}',
        b'{"model\\u0000":1}',
        b'{"model\\u0000x":1}',
    ],
)
def test_a_name_that_may_be_another_is_ambiguous(body: bytes) -> None:
    text, is_ambiguous = problem_of(body)
    assert is_ambiguous
    assert text.startswith("the name ")


@pytest.mark.parametrize(
    "body", [b'{"x":1,"x":2}', b'{"x":{"model":1,"Model":2}}', b'{"options":{"model":1},"model":2}']
)
def test_other_names_may_come_twice(body: bytes) -> None:
    assert fed(body).problem is None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"[]", "a JSON object is expected"),
        (b"m", "a JSON object is expected"),
        (b'"model"', "a JSON object is expected"),
        (b'\xef\xbb\xbf{"model":1}', "it begins with a byte order mark; send UTF-8 without one"),
        ('{"model":1}'.encode("utf-16"), "it is UTF-16 or UTF-32; send UTF-8"),
        ('{"model":1}'.encode("utf-16-be"), "it is UTF-16 or UTF-32; send UTF-8"),
        ('{"model":1}'.encode("utf-32-be"), "it is UTF-16 or UTF-32; send UTF-8"),
        (b'{"model":1', "it ends in the middle"),
        (b'{"model":1}{}', "something follows the object"),
        (b'{"model":1}\0', "something follows the object"),
        (b'{"model":1}//', "something follows the object"),
        (b'{"model":1,}', "a name in double quotes is expected"),
        (b"{'model':1}", "a name in double quotes is expected"),
        (b"{model:1}", "a name in double quotes is expected"),
        (b'{/**/"model":1}', "a name in double quotes is expected"),
        (b'{"model" 1}', "a colon is expected after a name"),
        (b'{"model":1 "x":2}', "a comma or a closing bracket is expected after a value"),
        (b'{"model":1]', "a comma or a closing bracket is expected after a value"),
        (b'{"prompt":["a","b"}', "a comma or a closing bracket is expected after a value"),
        (b'{"model":}', "a value is expected"),
        (b"{\"model\":'m'}", "a value is expected"),
        (b'{"prompt":["a",]}', "a value is expected"),
        (b'{"x":["a" /* " */]}', "it has a comment, a stray backslash or a string that is not in double quotes"),
        (b'{"x":[\'"\']}', "it has a comment, a stray backslash or a string that is not in double quotes"),
        (b'{"x":[\\"]"]}', "it has a comment, a stray backslash or a string that is not in double quotes"),
        (b'{"x":{"a":# "\n1}}', "it has a comment, a stray backslash or a string that is not in double quotes"),
        (b'{"model":NaN}', "the value of 'model' is not valid JSON"),
        (b'{"max_tokens":+5}', "the value of 'max_tokens' is not valid JSON"),
        (b'{"max_tokens":0x10}', "the value of 'max_tokens' is not valid JSON"),
        (b'{"model":"\xff"}', "the value of 'model' is not valid JSON"),
        (b'{"model":"\\ud800"}', "the value of 'model' is not valid JSON"),
        (b'{"model":"a\nb"}', "the value of 'model' is not valid JSON"),
        (b'{"m\\odel":1}', "a name has an invalid escape"),
        (b'{"\\x6dodel":1}', "a name has an invalid escape"),
        (b'{"mo\\\ndel":1}', "a name has an invalid escape"),
        (b'{"model":"%b"}' % (b"m" * MOST_SCALAR), f"the value of 'model' is longer than {MOST_SCALAR} bytes"),
        (b'{"x":%b}' % (b"1" * (MOST_SCALAR + 1)), f"a number is longer than {MOST_SCALAR} bytes"),
        (b'{"%b":1}' % (b"m" * (MOST_NAME + 1)), f"a name is longer than {MOST_NAME} bytes"),
        (b'{"%b":1}' % (b"\\n" * MOST_NAME), f"a name is longer than {MOST_NAME} bytes"),
    ],
)
def test_what_is_no_json_is_a_problem(body: bytes, text: str) -> None:
    assert problem_of(body) == (text, False)


@pytest.mark.parametrize("size", [MOST_NAME, MOST_NAME - 1])
def test_a_name_may_have_its_length(size: int) -> None:
    assert values_of(b'{"%b":1,"model":"m"}' % (b"x" * size)) == {"model": "m"}


def test_a_value_may_have_its_length() -> None:
    name = "m" * (MOST_SCALAR - 2)
    assert values_of(b'{"model":"%b"}' % name.encode()) == {"model": name}
    assert values_of(b'{"x":%b}' % (b"1" * MOST_SCALAR)) == {}


@pytest.mark.parametrize(
    "member", [b'"x":1', b'"x":"y"', b'"\\u0078":[]', b'"x":{"y":[[]]}', b'"x":' + b"[" * 20 + b"]" * 20]
)
def test_the_members_of_an_object_are_bounded(member: bytes) -> None:
    others = [member] * (MOST_MEMBERS - 1)
    assert values_of(b'{%b,"model":"m"}' % b",".join(others)) == {"model": "m"}
    assert problem_of(b'{%b,"model":"m"}' % b",".join([*others, member])) == (
        f"an object has more than {MOST_MEMBERS} members",
        False,
    )


@pytest.mark.parametrize("value", [b'"x"', b"[1]", b"{}", b"[" * 20 + b"]" * 20])
def test_the_values_that_are_counted_are_bounded(value: bytes) -> None:
    values = [value] * MOST_VALUES
    assert values_of(b'{"prompt":[%b]}' % b",".join(values)) == {"prompt": MOST_VALUES}
    assert problem_of(b'{"prompt":[%b]}' % b",".join([*values, value])) == (
        f"an array has more than {MOST_VALUES} values",
        False,
    )


def test_of_what_does_not_matter_there_may_be_any_amount() -> None:
    inside = b",".join(b'{"a":[%d,"b"]}' % number for number in range(50_000))
    body = b'{"x":[%b],"y":{"z":%b},"prompt":[%b],"model":"m"}' % (
        inside,
        b"[" * 5000 + b"]" * 5000,
        b"1," * 50_000 + b"1",
    )
    for found in (fed(body), fed(pieces(body, repeat(4096)))):
        assert found.problem is None
        assert found.values == {"prompt": 1, "model": "m"}


def test_nothing_is_read_behind_a_problem() -> None:
    found = JsonMembers(READS)
    found.feed(b'{"Model":1')
    problem = found.problem
    found.feed(b',"model":1}')
    found.finish()
    assert found.problem is problem
    assert problem is not None
    assert not found.ended


def test_where_a_member_stands() -> None:
    body = b' {"x": 1, "options": { "num_predict" :5 } ,"model":"m" } '
    found = fed(body)
    shown = {path: body[member.start : member.end] for path, member in found.members.items()}
    assert shown == {
        (): body.strip(),
        ("options",): b'{ "num_predict" :5 }',
        ("options", "num_predict"): b"5",
        ("model",): b'"m"',
    }
    assert [body[found.members[path].close : found.members[path].end] for path in ((), ("options",))] == [b"}", b"}"]
    assert json.loads(body)["options"] == found.values["options"]


def span_of(body: bytes) -> bytes:
    """What stands at the only name that matters, found the same in one piece and byte by byte."""
    reads = Reads({"span": SPAN})
    found, in_bytes = JsonMembers(reads), JsonMembers(reads)
    found.feed(body)
    for byte in by_bytes(body):
        in_bytes.feed(byte)
    for each in (found, in_bytes):
        each.finish()
        assert each.problem is None
    assert (in_bytes.values, in_bytes.members) == (found.values, found.members)
    span = found.members[("span",)]
    return body[span.start : span.end]


@pytest.mark.parametrize(
    "value",
    [
        b'"text"',
        b'"%b"' % (b"long " * MOST_SCALAR),
        rb'"a \" \\"',
        b"1.5e3",
        b"null",
        b"{}",
        b"[ ]",
        b'{"span": {"span": [1, "]"]}}',
        b"[%b1]" % (b"1, " * MOST_VALUES * 2),
    ],
)
def test_of_a_span_only_the_place_is_found(value: bytes) -> None:
    assert span_of(b'{ "a" : [1] , "span" : %b , "b" : "x" }' % value) == value
    assert span_of(b'{"span":%b}' % value) == value


def test_a_span_that_appears_twice_is_ambiguous() -> None:
    for body in (b'{"span":"a","span":[]}', b'{"span":"a","SPAN":[]}'):
        found = JsonMembers(Reads({"span": SPAN}))
        found.feed(body)
        assert found.problem is not None
        assert found.problem.is_ambiguous
