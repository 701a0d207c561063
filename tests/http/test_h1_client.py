"""The client's side of HTTP/1.1 without a transport: heads, bodies, ends, and what h11 makes of the same bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.http.h1_chunked import FramingError, encode_chunk
from flowserver.http.h1_client import (
    MAX_HEAD,
    MAX_INTERIM,
    ResponseBody,
    ResponseError,
    ResponseReader,
    encode_request_head,
)
from flowserver.http.messages import RequestHead, ResponseHead

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"


@dataclass
class Seen:
    """What was read of one response."""

    heads: list[tuple[int, bytes, list[tuple[bytes, bytes]]]] = field(default_factory=list)
    body: bytes = b""
    whole: bool = False
    keeps_alive: bool = False
    """Whether the connection can carry another request."""
    error: str = ""

    def add_head(self, head: ResponseHead | h11.Response | h11.InformationalResponse) -> None:
        if isinstance(head, ResponseHead):
            self.heads.append((head.status, head.reason, head.headers))
        else:
            self.heads.append((head.status_code, bytes(head.reason), [(name, value) for name, value in head.headers]))


class Response:
    """Reads one response as a connection does."""

    def __init__(self, method: bytes = b"GET") -> None:
        self.reader = ResponseReader(method)
        self.body: ResponseBody | None = None
        self.seen = Seen()

    def reads(self, *pieces: bytes) -> Seen:
        for piece in pieces:
            if not self.seen.error:
                try:
                    self._read(piece)
                except (ResponseError, FramingError) as error:
                    self.seen.error = str(error)
        return self.seen

    def ends(self) -> Seen:
        """The connection ends."""
        seen, body = self.seen, self.body
        if not seen.error and not seen.whole:
            seen.whole = body is not None and body.until_close
        return seen

    def _read(self, data: bytes) -> None:
        if self.body is None:
            data = self._read_heads(data)
        body = self.body
        if body is None:
            return
        if data:
            self.seen.body += body.feed(data)
        if body.ended:
            self.seen.whole = body.read_end()
            self.seen.keeps_alive = self.seen.whole and body.keeps_alive

    def _read_heads(self, data: bytes) -> bytes:
        """Returns the first bytes of the body."""
        head = self.reader.feed(data)
        while head is not None:
            self.seen.add_head(head)
            if head.status >= 200:
                self.body, first = self.reader.begin_body(head)
                assert head.body_follows == bool(first and head.content_length and not self.body.ended)
                return first
            head = self.reader.feed(b"")
        return b""


def split(wire: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, *(cut for cut in cuts if cut < len(wire)), len(wire)})
    return [wire[start:end] for start, end in pairwise(edges)]


def read_by_h11(wire: bytes, method: bytes, *, ends: bool) -> Seen:
    """The same by h11 alone."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    connection.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(wire)
    seen = Seen()
    try:
        _next_events(connection, seen)
        if ends and not seen.whole:
            connection.receive_data(b"")
            _next_events(connection, seen)
            seen.keeps_alive = False
    except h11.RemoteProtocolError as error:
        seen.error = str(error)
    return seen


def _next_events(connection: h11.Connection, seen: Seen) -> None:
    while not seen.whole:
        event = connection.next_event()
        if isinstance(event, h11.Response | h11.InformationalResponse):
            seen.add_head(event)
        elif isinstance(event, h11.Data):
            seen.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            seen.whole = True
            seen.keeps_alive = connection.their_state is h11.DONE and not connection.trailing_data[0]
        else:
            return


# Requests


@pytest.mark.parametrize(
    ("length", "has_body", "framing"),
    [
        (None, False, b""),
        (0, False, b"content-length: 0\r\n"),
        (5, True, b"content-length: 5\r\n"),
        (None, True, b"transfer-encoding: chunked\r\n"),
    ],
)
def test_a_request_says_how_its_body_is_framed(length: int | None, has_body: bool, framing: bytes) -> None:
    head = RequestHead(b"POST", b"/v1", [(b"host", b"api.test")], content_length=length, has_body=has_body)
    assert encode_request_head(head) == b"POST /v1 HTTP/1.1\r\nhost: api.test\r\n" + framing + b"\r\n"


# Responses


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (SIZED + b"hello", b"hello"),
        (CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"),
        (CHUNKED + b"5\r\nhello\r\n0\r\nX-Trailer: dropped\r\n\r\n", b"hello"),
        (CHUNKED + b"0\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
def test_a_plain_response_is_read_without_h11(wire: bytes, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h11, "Connection", None)
    for pieces in ([wire], [wire[i : i + 1] for i in range(len(wire))]):
        seen = Response().reads(*pieces)
        assert (seen.body, seen.whole, seen.keeps_alive, seen.error) == (body, True, True, "")


def test_a_response_may_end_with_its_connection() -> None:
    response = Response()
    assert not response.reads(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo").whole
    seen = response.ends()
    assert seen.whole
    assert not seen.keeps_alive
    assert seen.body == b"hello"


@pytest.mark.parametrize(
    ("answer", "body", "keeps_alive"),
    [
        (SIZED + b"hello", b"hello", True),
        (CHUNKED + b"5\r\nworld\r\n0\r\n\r\n", b"world", True),
        (b"HTTP/1.0 200 OK\r\n\r\nbye", b"bye", False),
    ],
)
def test_nothing_of_a_response_stays_in_the_reader_of_its_head(answer: bytes, body: bytes, keeps_alive: bool) -> None:
    response = Response()
    seen = response.reads(answer)
    assert (seen.body, seen.keeps_alive, response.reader.is_empty) == (body, keeps_alive, True)


def test_a_head_that_is_not_whole_waits() -> None:
    response = Response()
    waits = [not response.reader.is_empty]
    for piece in (SIZED[:-1], b"\n"):
        response.reads(piece)
        waits.append(not response.reader.is_empty)
    assert waits == [False, True, False]
    assert len(response.seen.heads) == 1


def test_interim_responses_come_first_and_are_bounded() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    seen = Response().reads(interim * MAX_INTERIM + SIZED + b"hello")
    assert [status for status, *_ in seen.heads] == [103] * MAX_INTERIM + [200]
    assert seen.whole
    seen = Response().reads(interim * (MAX_INTERIM + 1) + SIZED + b"hello")
    assert len(seen.heads) == MAX_INTERIM
    assert seen.error == "sent too many interim responses or changed the protocol"


@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("by_h11", [b"", b"Connection: x-unknown\r\n"])
def test_what_follows_a_response_is_not_kept_and_ends_the_connection(framing: bytes, by_h11: bytes) -> None:
    body = b"hello" if framing.startswith(b"C") else b"5\r\nhello\r\n0\r\n\r\n"
    response = Response()
    assert response.reads(b"HTTP/1.1 200 OK\r\n" + framing + by_h11 + b"\r\n" + body).keeps_alive
    seen = response.reads(b"more", b"5\r\nof it\r\n")
    assert seen.whole
    assert not seen.keeps_alive
    assert seen.body == b"hello"


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        (b"SSH-2.0", "sent something that is not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD, f"sent a head of more than {MAX_HEAD} bytes"),
        (b"HTTP/1.1 200 OK\r\nX: y\n", "sent a head with bare line feeds"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\n", "sent a head with bare line feeds"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 201 + b"\r\n", "sent more than 200 headers"),
        (b"HTTP/1.1 200 OK\r\nX: a\x1bb\r\n\r\n", "sent control characters in its head"),
        (CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n", "sent both Transfer-Encoding and Content-Length"),
        (CHUNKED + b"5\r\nhelloXX", "a chunk does not end where its size says"),
        (CHUNKED + b"0\r\nno colon\r\n\r\n", "sent a malformed trailer"),
        (CHUNKED + b"0\r\nX: y\n", "sent trailers with bare line feeds"),
        (CHUNKED + b"0\r\nX: " + b"y" * MAX_HEAD, f"sent trailers of more than {MAX_HEAD} bytes"),
        (
            CHUNKED[:-2] + b"Connection: close\r\n\r\n0\r\nno colon\r\n\r\n",
            "sent a malformed answer: illegal header line: bytearray(b'no colon')",
        ),
    ],
)
def test_what_is_no_response_says_why(wire: bytes, error: str) -> None:
    """Also where it comes in small pieces: its end is not waited for."""
    for size in (7, 2000, len(wire)):
        seen = Response().reads(*[wire[start : start + size] for start in range(0, len(wire), size)])
        assert seen.error == error
        assert not seen.whole


def test_body_bytes_before_a_malformed_end_are_not_lost() -> None:
    seen = Response().reads(CHUNKED + b"5\r\nhello\r\n0\r\nno colon\r\n\r\n")
    assert seen.body == b"hello"
    assert seen.error == "sent a malformed trailer"


# The same bytes, read by h11


METHODS = st.sampled_from([b"GET", b"HEAD", b"POST"])
FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b"X-Of", b"Date", b"Server", b"Connection", b"Content-Type"]),
        st.sampled_from([b"x", b"", b"a, b", b"keep-alive", b"close", b"text/event-stream", b"\xe4"]),
    ),
    max_size=4,
)
CUTS = st.lists(st.integers(0, 400), max_size=8)


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, bool]:
    """A response on the wire, with interim ones before it and surplus bytes behind; whether the connection ends."""
    status = draw(st.sampled_from([200, 201, 204, 304, 404, 503]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.0"]))
    pieces = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
    framing = draw(st.sampled_from(["length", "chunks", "trailers", "close"]))
    body = b"".join(pieces)
    fields = b"".join(b"%b: %b\r\n" % each for each in draw(FIELDS))
    if framing == "length":
        fields += b"Content-Length: %d\r\n" % len(body)
    elif framing != "close":
        fields += b"Transfer-Encoding: chunked\r\n"
        trailer = b"X-Trailer: t\r\n" if framing == "trailers" else b""
        body = b"".join(map(encode_chunk, pieces)) + b"0\r\n" + trailer + b"\r\n"
    interim = b"".join(draw(st.lists(st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n"]), max_size=2)))
    head = b"HTTP/%b %d As it is\r\n%b\r\n" % (version, status, fields)
    surplus = draw(st.sampled_from([b"", b"", b"more", SIZED]))
    sent = b"" if status in (204, 304) and draw(st.booleans()) else body
    return interim + head + sent + surplus, draw(st.booleans())


@given(METHODS, responses(), CUTS)
def test_a_response_is_the_same_to_h11(method: bytes, response: tuple[bytes, bool], cuts: list[int]) -> None:
    wire, ends = response
    ours = Response(method)
    seen = ours.reads(*split(wire, cuts))
    if ends:
        seen = ours.ends()
    theirs = read_by_h11(wire, method, ends=ends)
    theirs.error = ""  # of an end in the middle, which is the connection's to tell
    assert seen == theirs


@given(METHODS, responses(), CUTS, st.integers(0, 300), st.binary(max_size=3), st.integers(0, 2))
def test_a_damaged_response_is_refused_or_the_same_to_h11(
    method: bytes, response: tuple[bytes, bool], cuts: list[int], place: int, bytes_: bytes, dropped: int
) -> None:
    """h11 accepts more than is accepted here; what is accepted must mean the same."""
    wire, _ = response
    wire = wire[:place] + bytes_ + wire[place + dropped :]
    seen = Response(method).reads(*split(wire, cuts))
    if seen.whole and not seen.error:
        assert seen == read_by_h11(wire, method, ends=False)


@given(METHODS, responses(), CUTS)
def test_a_plain_response_is_the_same_where_h11_reads_it(
    method: bytes, response: tuple[bytes, bool], cuts: list[int]
) -> None:
    wire, _ = response
    start = wire.index(b"As it is\r\n") + len(b"As it is\r\n")
    mark = b"connection: x-unknown\r\n"
    """Changes nothing, but makes a response one for h11."""
    plain = Response(method).reads(*split(wire, cuts))
    by_h11 = Response(method).reads(*split(wire[:start] + mark + wire[start:], cuts))
    for _, _, headers in by_h11.heads:
        if (b"connection", b"x-unknown") in headers:
            headers.remove((b"connection", b"x-unknown"))
    assert plain == by_h11
