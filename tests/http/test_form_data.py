"""Fields of forms are found as every reader finds them, or there is a problem."""

from __future__ import annotations

from email import message_from_bytes, policy
from itertools import cycle
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowserver.http.form_data import FormMembers, has_plain_charset
from tests.support.scanning import by_bytes, pieces

WANTED = ("model", "stream", "n")


def fed(body: bytes | list[bytes], boundary: bytes = b"B") -> FormMembers:
    form = FormMembers(boundary, WANTED)
    for piece in [body] if isinstance(body, bytes) else body:
        form.feed(piece)
    form.finish()
    return form


def part(disposition: str, value: bytes, *more: str) -> bytes:
    lines = [f"Content-Disposition: form-data; {disposition}", *more, "", ""]
    return b"--B\r\n" + "\r\n".join(lines).encode() + value + b"\r\n"


END = b"--B--\r\n"
MODEL = part('name="model"', b"small")
FILE = part('name="file"; filename="a.wav"', b"RIFF\r\n--\r\n--A\r\n", "Content-Type: audio/wav")


def values_of(body: bytes) -> dict[str, str]:
    form, in_bytes = fed(body), fed(by_bytes(body))
    assert form.problem is None
    assert in_bytes.problem is None
    assert (in_bytes.values, in_bytes.model_place) == (form.values, form.model_place)
    if form.model_place is not None:
        assert body[slice(*form.model_place)].decode() == form.values["model"]
    return form.values


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (END, {}),
        (MODEL + END, {"model": "small"}),
        (MODEL + b"--B--", {"model": "small"}),
        (FILE + MODEL + part('name="stream"', b"true") + END, {"model": "small", "stream": "true"}),
        (MODEL + FILE + part('name="N2"', b"7") + END, {"model": "small"}),
        (b"A preamble\r\n" + MODEL + END + b"an epilogue\r\n", {"model": "small"}),
        (b"\r\n" + MODEL + END, {"model": "small"}),
        (part('name="model"', b"") + END, {"model": ""}),
        (part('name="model"', b"\r\n") + END, {"model": "\r\n"}),
        (part("name=model", b"small") + END, {"model": "small"}),
        (part('filename="x\\"; name=\\"y"; name="file"', b"") + MODEL + END, {"model": "small"}),
        (part('NAME="model" ', b"small", "content-TYPE: text/plain; charset=UTF-8") + END, {"model": "small"}),
        (part('name="model"', b"small", "Content-Transfer-Encoding: 8bit") + END, {"model": "small"}),
        (part('name="file"; filename="a"', b"=62", "Content-Transfer-Encoding: base64") + END, {}),
        (part('name="model"', "größe".encode()) + END, {"model": "größe"}),
        (part('name="größe"', b"1") + MODEL + END, {"model": "small"}),
        (part('name="modelled"', b"1") + part('name="mode"', b"1") + END, {}),
    ],
)
def test_fields_are_found(body: bytes, values: dict[str, str]) -> None:
    assert values_of(body) == values


@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_model_beside_a_large_file(place: str) -> None:
    file = part('name="file"; filename="a"', b"\r\n--C\r--\n-" * 500_000)
    body = file + MODEL + END if place == "before" else MODEL + file + END
    for form in (fed(body), fed(pieces(body, cycle([1, 70_000, 3, 1000])))):
        assert form.problem is None
        assert form.values == {"model": "small"}
        assert form.model_place is not None
        assert body[slice(*form.model_place)] == b"small"


BIG = part('name="model"', b"big")
ANOTHER = [
    BIG,
    part('name="Model"', b"big"),
    part('name="MODEL"; filename="x"', b"big"),
    part('name=" model "', b"big"),
    part('name="model\u00ad"', b"big").replace(b"\xc2\xad", b"\xad"),
    part('name="model"', b"=62ig", "Content-Transfer-Encoding: quoted-printable"),
    part('name="model"', b"YmlnCg==", "Content-Transfer-Encoding: base64"),
    part('name="model"', b"+AGI-ig", "Content-Type: text/plain; charset=utf-7"),
    part('name="m\\odel"', b"big"),
    part("name*=utf-8''model", b"big"),
    part('name*0="mo"; name*1="del"', b"big"),
    part('name="x"; name="model"', b"big"),
    # A quote that is escaped: what follows it stands inside the value or behind it.
    part('x="\\"; name=n; z="; name="model"', b"big"),
    part('name="x"', b"big", 'Content-Disposition: form-data; name="model"'),
    part('name="x"', b"big", 'Content-Disposition : form-data; name="model"'),
    part('name="x"', b"big", 'X: y\nContent-Disposition: form-data; name="model"'),
    part('name="x"', b"big", 'X: y\rContent-Disposition: form-data; name="model"'),
    part('name="x";\r\n name="model"', b"big"),
    b'--B\r\nContent-Disposition: form-data; name="model"\n\nbig\r\n',
    b"--B\r\nContent-Disposition: attachment; name=model\r\n\r\nbig\r\n",
    b"--B\r\n\r\nbig\r\n",
    b'--B\nContent-Disposition: form-data; name="model"\r\n\r\nbig\r\n',
    b'--B \r\nContent-Disposition: form-data; name="model"\r\n\r\nbig\r\n',
    b"x\n" + BIG,
    b"x\r" + BIG,
    FILE[:-2] + b"x\n" + BIG,
    FILE[:-2] + b"\r" + BIG,
    part('name="x"', b"").replace(b"\r\n\r\n\r\n", b"\r\n\r\n") + BIG,
]


@pytest.mark.parametrize("another", ANOTHER)
def test_a_second_model_is_never_overlooked(another: bytes) -> None:
    for body in (
        another + MODEL + END,
        MODEL + another + END,
        MODEL + END + another + END,
        MODEL + b"--B--x\r\n" + another,
    ):
        for form in (fed(body), fed(by_bytes(body))):
            assert form.problem is not None, body


@pytest.mark.parametrize("another", [BIG, part('name="Model"', b""), part('name="\xadmodel"', b"")])
def test_a_field_that_is_there_twice_is_ambiguous_before_its_content_came(another: bytes) -> None:
    form = FormMembers(b"B", WANTED)
    form.feed(MODEL)
    form.feed(another[: another.index(b"\r\n\r\n") + 4])
    assert form.problem is None if b"\xc2" in another else form.problem is not None and form.problem.is_ambiguous


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "it ends in the middle"),
        (b'{"model":"small"}', "it ends in the middle"),
        (MODEL, "it ends in the middle"),
        (MODEL + b"--B-", "it ends in the middle"),
        (MODEL + b"--B-x", "a boundary is not followed by a line end"),
        (MODEL + b"--Bx\r\n", "a boundary is not followed by a line end"),
        (MODEL.replace(b"\r\n", b"\n") + END, "a boundary is not followed by a line end"),
        (part('name="x"', b"", "X: " + "y" * 9000) + END, "the head of a part is too long"),
        (part('name="x"', b"") * 257 + END, "it has more than 256 parts"),
        (part('name="model"' + "; x=y" * 8, b"") + END, "a part is not described as form data with a name"),
        (part('name="model"', b"m" * 9000) + END, "the field 'model' is longer than 8192 bytes"),
        (part('name="model"', b"\xff") + END, "the field 'model' is not UTF-8"),
    ],
)
def test_what_is_no_form_is_a_problem(body: bytes, text: str) -> None:
    for form in (fed(body), fed(by_bytes(body))):
        assert form.problem is not None
        assert form.problem.text == text


def test_a_value_may_have_its_length() -> None:
    assert values_of(part('name="model"', b"m" * 8192) + END) == {"model": "m" * 8192}


@pytest.mark.parametrize(
    ("content_type", "plain"),
    [
        (b"multipart/form-data; boundary=B", True),
        (b"application/json; charset=utf-8", True),
        (b'application/json;Charset = "UTF-8"', True),
        (b"text/plain; charset=iso-8859-1", True),
        (b"application/json; charset=utf-7", False),
        (b"application/json; charset=utf-16", False),
        (b"application/json; charset=utf-8; charset='utf-7'", False),
        (b"application/json; charset*=us-ascii''utf-7", False),
        (b"application/json; charset=", False),
    ],
)
def test_charsets(content_type: bytes, plain: bool) -> None:
    assert has_plain_charset(content_type) is plain


# --- against what others write and read ---

NAMES = st.one_of(st.sampled_from(["model", "stream", "n", "file", "modèl"]), st.text(min_size=1, max_size=6))
CONTENT = st.one_of(st.binary(max_size=30), st.lists(st.sampled_from([b"\r", b"\n", b"--", b"x", b"B"])).map(b"".join))
FILES = st.lists(st.tuples(NAMES, st.tuples(st.text(min_size=1, max_size=8), CONTENT)), max_size=3)
FIELDS = st.dictionaries(st.sampled_from(WANTED), st.text(max_size=10), max_size=3)
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def _named_plainly(name: str) -> bool:
    """No more than httpx escapes, and no field that matters."""
    return name.strip().casefold() not in WANTED and name.isprintable() and not set(name) & set('\\"%')


@given(FIELDS, FILES, SIZES)
def test_what_httpx_writes_is_found(fields: dict[str, str], files: list[tuple[str, Any]], sizes: list[int]) -> None:
    files = [("file", (".", b"")), *((name, file) for name, file in files if _named_plainly(name))]
    request = httpx.Request("POST", "http://relay.test", data=fields, files=files)
    body = request.read()
    boundary = request.headers["content-type"].partition("boundary=")[2].encode()
    for form in (fed(body, boundary), fed(pieces(body, cycle(sizes)), boundary)):
        assert form.problem is None
        assert form.values == fields


PARTS = st.lists(
    st.sampled_from(
        [*ANOTHER, MODEL, FILE, END, b"\r\n", b"\n", b"x", b"--B", b"\r\n--B\r\n", b"--B\r", part('name="n"', b"1")]
    ),
    max_size=5,
)


@given(PARTS, SIZES)
@example([MODEL, b"--B"], [1])  # "--B--B--": the last boundary for some, content for others
def test_pythons_reader_finds_the_same(parts: list[bytes], sizes: list[int]) -> None:
    """It is a lenient one: where it finds another model there must be a problem."""
    body = b"".join(parts) + END
    form = fed(body)
    in_pieces = fed(pieces(body, cycle(sizes)))
    assert in_pieces.problem == form.problem
    if form.problem is not None:
        return
    assert in_pieces.values == form.values
    message = message_from_bytes(b"Content-Type: multipart/form-data; boundary=B\r\n\r\n" + body, policy=policy.HTTP)
    found: Any = message.get_payload() if message.is_multipart() else ()
    named = [each for each in found if each.get_param("name", header="content-disposition") == "model"]
    models = [each.get_payload(decode=True) for each in named]
    assert models == [form.values["model"].encode()] if "model" in form.values else not models
