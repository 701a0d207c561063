"""Plain requests and their answers are on the wire as h11 has them."""

from __future__ import annotations

from itertools import pairwise

import h11
from hypothesis import given
from hypothesis import strategies as st

from flowserver.errors import RelayError
from flowserver.http.h1_server import H11Message, Message, PlainMessage, read_request
from flowserver.http.messages import ResponseHead

METHODS = st.sampled_from([b"GET", b"POST", b"HEAD", b"DELETE"])
STATUSES = st.sampled_from([200, 201, 204, 304, 404, 500])


def both(method: bytes, length: int | None) -> tuple[PlainMessage, H11Message]:
    fields = b"" if length is None else b"content-length: %d\r\n" % length
    raw = b"%b / HTTP/1.1\r\nhost: relay\r\n%b\r\n" % (method, fields)
    request = read_request(raw)
    assert not isinstance(request, RelayError)
    head, message = request
    assert isinstance(message, PlainMessage)
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    connection.next_event()
    return message, H11Message(head, connection)


def parsed(wire: bytes) -> tuple[bytes, set[bytes], bytes]:
    head, _, body = wire.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    return line, {field.lower() for field in fields}, body


def answered(message: Message, status: int, length: int | None, closes: bool, body: bytes) -> tuple[object, bool]:
    """The answer on the wire, and whether another request may follow."""
    message.feed(b"")
    head = ResponseHead(status, [(b"x-of", b"provider")], reason=b"As it is", content_length=length)
    wire = message.head(head, closes=closes)
    assert message.head_sent
    if body and not message.chunked:
        wire += message.body(body)
    return parsed(wire + message.end()), message.reusable


@given(METHODS, STATUSES, st.integers(0, 30) | st.none(), st.booleans(), st.binary(max_size=30))
def test_an_answer(method: bytes, status: int, upload: int | None, closes: bool, body: bytes) -> None:
    sized = status not in (204, 304) and method != b"HEAD"
    for length in (len(body), None) if sized else (None,):
        plain, reference = both(method, upload)
        assert answered(plain, status, length, closes, body if sized else b"") == answered(
            reference, status, length, closes, body if sized else b""
        )


@given(st.integers(1, 50), st.lists(st.integers(0, 60), max_size=5))
def test_a_body_and_what_follows_it(length: int, cuts: list[int]) -> None:
    data = bytes(range(length)) + b"GET /next HTTP/1.1\r\n\r\n"
    edges = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    seen = []
    for message in both(b"POST", length):
        body, whole, rest = b"", False, b""
        for start, end in pairwise(edges):
            if whole:
                rest += data[start:end]
                continue
            piece, whole, after = message.feed(data[start:end])
            body, rest = body + piece, rest + after
        seen.append((body, whole, rest))
    assert seen[0] == seen[1] == (data[:length], True, data[length:])


def test_an_interim_answer() -> None:
    plain, reference = both(b"POST", 3)
    early = ResponseHead(103, [(b"link", b"</style.css>")], reason=b"Early Hints")
    assert parsed(plain.interim(early)) == parsed(reference.interim(early))
    assert not plain.head_sent
    assert not reference.head_sent


def test_what_is_not_plain_is_left_to_h11() -> None:
    for version, field in (
        (b"1.0", b"x: y"),
        (b"1.1", b"connection: close"),
        (b"1.1", b"expect: 100-continue\r\ncontent-length: 3"),
        (b"1.1", b"transfer-encoding: chunked"),
    ):
        request = read_request(b"POST / HTTP/%b\r\nhost: relay\r\n%b\r\n\r\n" % (version, field))
        assert not isinstance(request, RelayError)
        assert isinstance(request[1], H11Message)
