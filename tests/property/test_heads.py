"""A request head is read the same however it is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowserver.errors import RelayError
from flowserver.http.h1_request_head import MAX_HEAD, MAX_URI, HeadReader, RepeatedHead, whole_head
from flowserver.http.h1_server import read_request
from flowserver.http.messages import RequestHead

from .test_framing import cut

CUTS = st.lists(st.integers(1, 50), min_size=1, max_size=12)
LINE = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"POST /v1?x HTTP/1.0\r\n",
        b"Host: x\r\n",
        b"Content-Length: 5\r\n",
        b"content-length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"X: y\r\n",
        b"X: y\n",
        b" folded\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"body",
    ]
)


def read(pieces: list[bytes]) -> tuple[str, object]:
    """What becomes of the first head in `pieces`: taken, with all that counts in it, refused, or incomplete."""
    reader = HeadReader()
    for number, piece in enumerate(pieces):
        result = (whole_head(piece) if not number else None) or reader.feed(piece)
        if isinstance(result, RelayError):
            return "refused", None
        if result is not None:
            raw, rest = result
            request = read_request(raw)
            head = request if isinstance(request, RelayError) else request[0]
            if isinstance(head, RelayError):
                return "refused", None
            told = (head.method, head.target, head.headers, head.content_length, head.has_body)
            return "taken", (told, rest + b"".join(pieces[number + 1 :]))
    return "incomplete", None


@given(st.lists(LINE, max_size=10), CUTS)
def test_lines_in_any_order_and_any_cuts(lines: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(lines)
    assert read(cut(wire, cuts)) == read([wire])


@given(st.lists(LINE, max_size=6), CUTS)
def test_a_good_head_and_what_follows(lines: list[bytes], cuts: list[int]) -> None:
    wire = b"GET /v1 HTTP/1.1\r\nHost: x\r\nX:  y \r\n\r\n" + b"".join(lines)
    outcome, told = read(cut(wire, cuts))
    assert (outcome, told) == read([wire])
    assert outcome == "taken"


FIELDS = st.lists(
    st.sampled_from([b"X: y\r\n", b"X: 12\r\n", b"Accept:12\r\n", b"Via: 1.1 a\r\n", b"X-Content-Length: 12\r\n"])
)
LENGTHS = st.sampled_from(
    [b"Content-Length: %b\r\n", b"content-length:%b\r\n", b"CONTENT-LENGTH: \t%b \r\n", b"X: %b\r\n", b"%b: 1\r\n"]
)
VALUES = st.integers(0, 2000).map(lambda number: b"%d" % number) | st.sampled_from(
    [b"", b"012", b"-1", b"+12", b"1 2", b"12\r\nContent-Length: 1", b"12\r\nX: y", b"1" * 18, b"1" * 19, b"\xb2"]
)


@given(FIELDS, LENGTHS, FIELDS, st.lists(VALUES, min_size=1, max_size=5))
def test_a_head_that_is_read_by_the_one_before_is_what_it_is_by_itself(
    before: list[bytes], length: bytes, after: list[bytes], values: list[bytes]
) -> None:
    begin, end = b"".join([b"POST /v1 HTTP/1.1\r\nHost: x\r\n", *before]), b"".join([*after, b"\r\n"])
    first = begin + b"Content-Length: 12\r\n" + end
    known = read_request(first)
    assert not isinstance(known, RelayError)
    repeated = RepeatedHead(first, known[0])
    for value in [b"12", *values]:
        raw = begin + length % value + end
        head, by_itself = repeated.read(raw), read_request(raw)
        if head is not None:
            assert not isinstance(by_itself, RelayError)
            assert _all_of(head) == _all_of(by_itself[0])
        else:
            assert raw != first
            assert length != b"Content-Length: %b\r\n" or not value.isdigit() or len(value) > 18


def _all_of(head: RequestHead) -> object:
    told = (head.method, head.target, head.headers, head.http_version, head.content_length, head.has_body, head.fields)
    return told, list(head.fields)


@given(st.binary(max_size=60), CUTS)
def test_any_bytes_in_any_cuts(data: bytes, cuts: list[int]) -> None:
    assert read(cut(data, cuts)) == read([data])


@given(st.integers(-3, 3), st.integers(1, 32), st.integers(1, 5000))
def test_a_target_about_as_long_as_allowed(more: int, method: int, size: int) -> None:
    wire = b"G" * method + b" /" + b"x" * (MAX_URI - 1 + more) + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    outcome, _ = read([wire[i : i + size] for i in range(0, len(wire), size)])
    assert outcome == ("taken" if more <= 0 else "refused")


@given(st.integers(-3, 3), st.integers(1000, MAX_HEAD + 10))
def test_a_head_about_as_large_as_allowed(more: int, size: int) -> None:
    start = b"GET / HTTP/1.1\r\nHost: x\r\nX: "
    wire = start + b"y" * (MAX_HEAD - len(start) - 4 + more) + b"\r\n\r\n"
    outcome, _ = read([wire[i : i + size] for i in range(0, len(wire), size)])
    assert outcome == ("taken" if more <= 0 else "refused")
