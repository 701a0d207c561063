"""Heads of answers are read alike, whatever came before them on their connection."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowserver.http.h1_response_head import AnswerHeads

LINES = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.1 201 OK", b"HTTP/1.1 200 Fine", b"HTTP/1.0 200 OK", b"HTTP/1.1 100 Continue"]
)
FIELDS = st.sampled_from(
    [
        b"Date: Sat, 28 Nov 2026 08:00:00 GMT",
        b"date: Sat, 28 Nov 2026 08:00:01 GMT",
        b"X-Request-Id: 1",
        b"X-Request-Id:  2 \t",
        b"X-Request-Id:",
        b"X-Request-Id : 3",
        b"X-Request-Id: \x01",
        b"x: \xe9",
        b" folded: 1",
        b"content-length",
        b"Set-Cookie: a",
        b"Set-Cookie: b",
        b"Content-Length: 5",
        b"Content-Length: 6",
        b"Content-Length: 0x5",
        b"content-length: 5, 5",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Connection: keep-alive",
        b"Connection: close",
    ]
)


@given(st.lists(st.tuples(LINES, st.lists(FIELDS, max_size=5), st.booleans()), max_size=6))
def test_a_head_is_read_as_if_it_were_the_first(heads: list[tuple[bytes, list[bytes], bool]]) -> None:
    kept = AnswerHeads()
    line, fields = b"HTTP/1.1 200 OK", [b"Date: today", b"X-Request-Id: 0", b"Content-Length: 1", b"Server: x"]
    for _ in range(2):  # the first is not kept
        kept.read(b"\r\n".join([line, *fields, b"", b""]))
    for next_line, next_fields, all_of_them in heads:
        if all_of_them:
            line, fields = next_line, next_fields
        else:  # alike but for one line
            place = len(next_fields) % len(fields) if fields else 0
            fields = [*fields[:place], *next_fields[:1], *fields[place + 1 :]]
        raw = b"\r\n".join([line, *fields, b"", b""])
        head, plain = kept.read(raw)
        reference, is_plain = AnswerHeads().read(raw)
        assert plain == is_plain
        if reference is None:
            assert head is None
        else:
            assert head is not None
            assert (head.status, head.reason, head.headers) == (reference.status, reference.reason, reference.headers)
            assert list(head.fields.items()) == list(reference.fields.items())


def test_lines_that_differ_are_read_anew() -> None:
    heads = AnswerHeads()
    form = b"HTTP/1.1 200 OK\r\nDate: %b\r\nSet-Cookie: a\r\nContent-Length: %d\r\nSet-Cookie: %b\r\n\r\n"
    for date, length, cookie in ((b"1", 5, b"b"), (b"1", 5, b"b"), (b"1", 5, b"b"), (b" 2\t", 7, b"b"), (b"", 0, b"c")):
        head, plain = heads.read(form % (date, length, cookie))
        assert head is not None
        assert plain
        assert head.headers == [
            (b"date", date.strip()),
            (b"set-cookie", b"a"),
            (b"content-length", b"%d" % length),
            (b"set-cookie", cookie),
        ]
        assert head.fields[b"content-length"] == b"%d" % length
        assert head.fields[b"set-cookie"] == b"a"
