"""How a body is read by what its head says of it, and how it is kept."""

from __future__ import annotations

import pytest

from flowserver.http.messages import RequestHead
from flowserver.json_text.members import Reads
from flowserver.relay.request_body import BodyPieces, RequestBody, boundary_of, changed, open_body

READS = Reads({"model": None, "n": None})
FORM = b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nm1\r\n--B--\r\n'


def opened(*headers: tuple[bytes, bytes], known: bool = True, takes_forms: bool = False) -> RequestBody:
    head = RequestHead(b"POST", b"/v1/test", list(headers), has_body=True)
    return open_body(head, READS if known else None, takes_forms=takes_forms)


def whole(body: RequestBody, text: bytes) -> RequestBody:
    body.feed(text)
    body.finish()
    return body


TYPE = b"content-type"
MULTIPART = (TYPE, b"multipart/form-data; boundary=B")


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((TYPE, b"application/json"),),
        ((TYPE, b"text/plain; charset=UTF-8"),),
        ((TYPE, b"application/x-www-form-urlencoded"),),
        ((b"content-encoding", b"identity"),),
        ((b"content-encoding", b""),),
    ],
)
def test_json_is_read_whatever_it_calls_itself(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    body = whole(opened(*headers), b'{"model":"m1"}')
    assert body.error is None
    assert body.values == {"model": "m1"}


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        (((b"content-encoding", b"gzip"),), 415, "unsupported_encoding"),
        (((b"content-encoding", b"identity"), (b"content-encoding", b"br")), 415, "unsupported_encoding"),
        (((b"content-encoding", b"identity, gzip"),), 415, "unsupported_encoding"),
        (((TYPE, b"application/json; charset=utf-7"),), 415, "unsupported_charset"),
        (((TYPE, b"application/json"), MULTIPART), 400, "unreadable_body"),
        ((MULTIPART,), 415, "unsupported_media_type"),
        (((TYPE, b"multipart/form-data"),), 400, "unreadable_body"),
    ],
)
def test_what_is_not_looked_into(headers: tuple[tuple[bytes, bytes], ...], status: int, code: str) -> None:
    body = opened(*headers)
    assert body.is_known
    whole(body, b'{"model":"m1"}')
    assert body.error is not None
    assert (body.error.status, body.error.code) == (status, code)
    assert not body.is_ambiguous
    assert body.values == {}
    assert body.edits({"model": "m2"}) == []


def test_forms_are_read_where_they_may_be() -> None:
    for body in (opened(MULTIPART, takes_forms=True), opened(MULTIPART, known=False, takes_forms=True)):
        known = [body.is_known]
        for piece in (FORM[:50], FORM[50:-4]):
            body.feed(piece)
            known.append(body.is_known)
        assert known == [False, False, True]
        assert body.values == {"model": "m1"}
        body.feed(FORM[-4:])
        body.finish()
        assert body.error is None
        found = changed(body, {"model": "m1-prod"}, [FORM])
        assert found is not None
        assert (b"".join(found[0]), found[1]) == (FORM.replace(b"m1", b"m1-prod"), 5)
        assert changed(body, {"model": "m1"}, [FORM]) is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b'{"model":"a","Model":"b"}', "ambiguous_body"),
        (b'{"model":"a","model":"b"}', "ambiguous_body"),
        (b"\xef\xbb\xbf{}", "unreadable_body"),
        (b"", "unreadable_body"),
        (b'{"model":NaN}', "unreadable_body"),
        (b'{"model":"a"} //', "unreadable_body"),
    ],
)
def test_a_body_that_can_t_be_read(text: bytes, code: str) -> None:
    body = whole(opened(), text)
    assert body.error is not None
    assert body.error.code == code
    assert body.error.status == 400
    assert body.is_ambiguous == (code == "ambiguous_body")
    assert body.values == {}
    assert changed(body, {"model": "c"}, [text]) is None


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=B", b"B"),
        (b'multipart/form-data; Boundary = "a b"', b"a b"),
        (b"multipart/form-data; charset=utf-8; boundary=----WebKitFormBoundary7MA4", b"----WebKitFormBoundary7MA4"),
        (b"multipart/form-data; boundary=" + b"b" * 70, b"b" * 70),
        (b"multipart/form-data; boundary=" + b"b" * 71, None),
        (b"multipart/form-data; boundary=", None),
        (b'multipart/form-data; boundary=""', None),
        (b'multipart/form-data; boundary="B', None),
        (b'multipart/form-data; boundary="B\\""', None),
        (b"multipart/form-data; boundary=A, boundary=B", None),
        (b"multipart/form-data; boundary=A; boundary=B", None),
        (b"multipart/form-data; boundary=A; BOUNDARY=A", None),
        (b"multipart/form-data; boundary*=utf-8''B", None),
        (b"multipart/form-data; boundary=A; boundary*0=B", None),
        (b'multipart/form-data; x="; boundary=A"; boundary=B', None),
        (b"multipart/form-data", None),
    ],
)
def test_boundaries(content_type: bytes, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary


def test_small_pieces_are_kept_together() -> None:
    kept = BodyPieces()
    large = b"x" * 100_000
    sent = [b"a"] * 1000 + [large] + [b"bc"] * 150_000 + [large]
    for piece in sent:
        kept.append(piece)
    assert b"".join(kept.pieces) == b"".join(sent)
    assert len(kept.pieces) == 5
    assert kept.pieces[1] is large
