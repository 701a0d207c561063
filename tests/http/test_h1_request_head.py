"""Request heads: which are taken and how they are read, and each shape that could smuggle a second request."""

from __future__ import annotations

import pytest

from flowserver.errors import Party, RelayError
from flowserver.http.h1_request_head import MAX_HEAD, MAX_HEADERS, MAX_URI, HeadReader
from flowserver.http.h1_server import read_request
from flowserver.http.messages import RequestHead

HOST = b"Host: relay.test\r\n"


def read(data: bytes) -> RequestHead | RelayError:
    """What becomes of a head that comes in one piece."""
    result = HeadReader().feed(data)
    assert result is not None, "the head is not whole"
    if isinstance(result, RelayError):
        return result
    raw, rest = result
    assert rest == b""
    request = read_request(raw)
    return request if isinstance(request, RelayError) else request[0]


def taken(data: bytes) -> RequestHead:
    head = read(data)
    assert isinstance(head, RequestHead), head
    return head


def refused(data: bytes) -> int:
    error = read(data)
    assert isinstance(error, RelayError), f"taken: {error.method!r} {error.target!r} {error.headers!r}"
    assert error.party is Party.CLIENT
    assert error.message.endswith(".")
    return error.status


def get(fields: bytes = b"", *, target: bytes = b"/", version: bytes = b"HTTP/1.1", method: bytes = b"GET") -> bytes:
    return b"%b %b %b\r\n%b%b\r\n" % (method, target, version, HOST, fields)


def post(fields: bytes, *, version: bytes = b"HTTP/1.1") -> bytes:
    return get(fields, method=b"POST", version=version)


# What is taken


def test_a_plain_request() -> None:
    head = taken(b"GET /v1/models?x=%20 HTTP/1.1\r\nHost: relay.test\r\nX-Two:  a b\t\r\n\r\n")
    assert (head.method, head.target, head.http_version) == (b"GET", b"/v1/models?x=%20", b"1.1")
    assert head.headers == [(b"host", b"relay.test"), (b"x-two", b"a b")]
    assert (head.content_length, head.has_body) == (None, False)


def test_a_body_of_known_length() -> None:
    head = taken(post(b"Content-Length: 5\r\n"))
    assert (head.content_length, head.has_body) == (5, True)


def test_a_body_of_no_bytes() -> None:
    head = taken(post(b"Content-Length: 0\r\n"))
    assert (head.content_length, head.has_body) == (0, False)


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked"])
def test_a_body_in_chunks(coding: bytes) -> None:
    head = taken(post(b"Transfer-Encoding: %b\r\n" % coding))
    assert (head.content_length, head.has_body) == (None, True)


def test_http_1_0_needs_no_host() -> None:
    head = taken(b"GET / HTTP/1.0\r\n\r\n")
    assert (head.http_version, head.headers) == (b"1.0", [])


def test_bytes_beyond_ascii_in_a_value() -> None:
    assert (b"x", b"\xc3\xa4") in taken(get(b"X: \xc3\xa4\r\n")).headers


def test_an_empty_value() -> None:
    assert (b"x", b"") in taken(get(b"X:\r\n")).headers


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"http://relay.test/a?b", b"/a?b"),
        (b"HTTP://RELAY.test/a", b"/a"),
        (b"http://relay.test", b"/"),
        (b"http://relay.test/%61%3a?%61", b"/a%3A?%61"),
        (b"https://relay.test?b", b"/?b"),
    ],
)
def test_an_absolute_target_that_agrees_with_host_is_brought_to_a_path(target: bytes, path: bytes) -> None:
    assert taken(get(target=target)).target == path


@pytest.mark.parametrize(
    "host", [b"relay.test", b"relay.test:8080", b"127.0.0.1:1", b"[::1]", b"[::1]:80", b"a_b.test", b"RELAY"]
)
def test_hosts_that_are_fine(host: bytes) -> None:
    assert taken(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host).target == b"/"


def test_an_offer_of_h2c_is_ignored() -> None:
    taken(get(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"))


def test_one_empty_line_before_a_request_is_ignored() -> None:
    """RFC 9112 section 2.2."""
    assert taken(b"\r\n" + get()).method == b"GET"


def test_each_request_may_have_an_empty_line_before_it() -> None:
    reader = HeadReader()
    for pieces in ((b"\r\n", get()), (b"\r\n" + get(),), (get(),), (b"\r\n", get())):
        results = [reader.feed(piece) for piece in pieces]
        assert results[:-1] == [None] * (len(pieces) - 1)
        assert results[-1] == (get(), b"")


def test_as_many_headers_as_allowed() -> None:
    assert len(taken(get(b"X: y\r\n" * (MAX_HEADERS - 1))).headers) == MAX_HEADERS


def test_a_target_as_long_as_allowed() -> None:
    target = b"/" + b"x" * (MAX_URI - 1)
    assert taken(get(target=target)).target == target


def test_a_head_as_large_as_allowed() -> None:
    head = get(b"X: \r\n")
    assert taken(head.replace(b"X: ", b"X: " + b"y" * (MAX_HEAD - len(head))))


# What could be read in two ways

MALFORMED = {
    # Where does the body end? (RFC 9112 section 6.3)
    "a length and chunks": post(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
    "chunks and a length": post(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
    "chunks and a length of nothing": post(b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"),
    "two lengths": post(b"Content-Length: 5\r\nContent-Length: 6\r\n"),
    "one length twice": post(b"Content-Length: 5\r\nContent-Length: 5\r\n"),
    "one length twice, apart": post(b"content-length: 5\r\nX: y\r\nCONTENT-LENGTH: 5\r\n"),
    "a list of lengths": post(b"Content-Length: 5, 6\r\n"),
    "a list of one length": post(b"Content-Length: 5, 5\r\n"),
    "a list with an empty place": post(b"Content-Length: 5,\r\n"),
    "a plus before the length": post(b"Content-Length: +5\r\n"),
    "a minus before the length": post(b"Content-Length: -5\r\n"),
    "a length in hex": post(b"Content-Length: 0x5\r\n"),
    "a length with an underscore": post(b"Content-Length: 1_0\r\n"),
    "a length with a blank in it": post(b"Content-Length: 1 0\r\n"),
    "a length with a fraction": post(b"Content-Length: 5.0\r\n"),
    "an empty length": post(b"Content-Length:\r\n"),
    "a length beyond every number": post(b"Content-Length: " + b"9" * 5000 + b"\r\n"),
    "a length of other digits": post(b"Content-Length: \xb2\r\n"),
    "chunks in HTTP/1.0": post(b"Transfer-Encoding: chunked\r\n", version=b"HTTP/1.0"),
    # Where does a line end? (RFC 9112 section 2.2)
    "bare line feeds": get().replace(b"\r\n", b"\n") + b"\r\n\r\n",
    "a bare line feed behind the request line": get().replace(b"\r\n", b"\n", 1),
    "a bare line feed behind a header": get(b"X: y\nZ: a\r\n"),
    "a bare line feed at the end": b"GET / HTTP/1.1\r\nHost: relay.test\r\n\n\r\n\r\n",
    "a bare line feed first": b"\n" + get(),
    "a bare carriage return in a value": get(b"X: a\rb\r\n"),
    "a bare carriage return behind a header": get(b"X: a\r\r\n"),
    "a bare carriage return in the target": get(target=b"/a\rb"),
    "two empty lines first": b"\r\n\r\n" + get(),
    # Control bytes
    "a NUL in a value": get(b"X: a\0b\r\n"),
    "a NUL in a name": get(b"X\0: a\r\n"),
    "a NUL in the target": get(target=b"/\0"),
    "a control byte in a value": get(b"X: a\x01b\r\n"),
    "a vertical tab in a value": get(b"X: a\x0bb\r\n"),
    "DEL in a value": get(b"X: a\x7fb\r\n"),
    "DEL in the target": get(target=b"/\x7f"),
    "bytes beyond ASCII in the target": get(target=b"/\xc3\xa4"),
    # Header lines
    "a blank before the colon": get(b"X : y\r\n"),
    "a tab before the colon": get(b"X\t: y\r\n"),
    "a blank before the colon of a length": post(b"Content-Length : 5\r\n"),
    "a blank before the colon of chunks": post(b"Transfer-Encoding : chunked\r\n"),
    "no colon": get(b"X\r\n"),
    "no name": get(b": y\r\n"),
    "a name that is no token": get(b"X(: y\r\n"),
    "a name beyond ASCII": get(b"X\xe4: y\r\n"),
    "a folded line": get(b"X: y\r\n z\r\n"),
    "a folded line with a tab": get(b"X: y\r\n\tz\r\n"),
    "a fold that hides chunks": post(b"X: y\r\n Transfer-Encoding: chunked\r\n"),
    "a blank before the first header": b"GET / HTTP/1.1\r\n Host: relay.test\r\n\r\n",
    # Who is asked? (RFC 9112 section 3.2)
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": get(b"Host: other.test\r\n"),
    "one Host twice": get(HOST),
    "two Hosts in HTTP/1.0": get(HOST, version=b"HTTP/1.0"),
    "an empty Host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "a Host with a path": b"GET / HTTP/1.1\r\nHost: relay.test/x\r\n\r\n",
    "a Host with a user": b"GET / HTTP/1.1\r\nHost: user@relay.test\r\n\r\n",
    "a Host with a blank": b"GET / HTTP/1.1\r\nHost: relay.test other.test\r\n\r\n",
    "a list of Hosts": b"GET / HTTP/1.1\r\nHost: relay.test, /\r\n\r\n",
    "a Host with a strange port": b"GET / HTTP/1.1\r\nHost: relay.test:80x\r\n\r\n",
    "a Host with a long port": b"GET / HTTP/1.1\r\nHost: relay.test:123456\r\n\r\n",
    "a Host beyond ASCII": b"GET / HTTP/1.1\r\nHost: r\xe4lay.test\r\n\r\n",
    "a Host with half a bracket": b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "an absolute target that contradicts Host": get(target=b"http://other.test/"),
    "an absolute target with a user": get(target=b"http://user@relay.test/"),
    "an absolute target with another port": get(target=b"http://relay.test:81/"),
    "an absolute target without a host": get(target=b"http:///x"),
    "a path that leads elsewhere": get(target=b"/v1/%2e%2e/admin"),
    "a path with an encoded slash": get(target=b"http://relay.test/v1%2Fadmin"),
    "a path that is signed and not canonical": get(
        b"Authorization: AWS4-HMAC-SHA256 Credential=x\r\n", target=b"/model/a%3a0/converse"
    ),
    "an absolute target of another scheme": get(target=b"ftp://relay.test/"),
    "a target without a slash": get(target=b"v1/models"),
    "a target that is an authority": get(target=b"relay.test:80"),
    "a target with a fragment": get(target=b"/a#b"),
    "an asterisk": get(target=b"*", method=b"OPTIONS"),
    # The request line
    "version 1.9": get(version=b"HTTP/1.9"),
    "version 1.2": get(version=b"HTTP/1.2"),
    "version 0.9": get(version=b"HTTP/0.9"),
    "version 2.0": get(version=b"HTTP/2.0"),
    "version 1.10": get(version=b"HTTP/1.10"),
    "a version in lower case": get(version=b"http/1.1"),
    "no version": b"GET /\r\n" + HOST + b"\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\n",
    "two blanks in the request line": get(target=b" /"),
    "a blank in the target": get(target=b"/a b"),
    "a tab in the request line": get().replace(b" ", b"\t", 1),
    "a blank behind the version": get(version=b"HTTP/1.1 "),
    "a blank before the method": b" " + get(),
    "no method": get(method=b""),
    "a method that is no token": get(method=b"G(T"),
    "a method as long as a novel": get(method=b"G" * 100),
    "a response": b"HTTP/1.1 200 OK\r\n\r\n",
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_refused_with_400(data: bytes) -> None:
    assert refused(data) == 400


@pytest.mark.parametrize("coding", [b"gzip", b"gzip, chunked", b"chunked, chunked", b"identity", b"xchunked", b""])
def test_codings_other_than_chunked_are_not_served(coding: bytes) -> None:
    assert refused(post(b"Transfer-Encoding: %b\r\n" % coding)) == 501


def test_chunked_twice_is_refused() -> None:
    assert refused(post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")) == 501


@pytest.mark.parametrize(("method", "target"), [(b"CONNECT", b"relay.test:443"), (b"TRACE", b"/")])
def test_tunnels_and_traces_are_not_served(method: bytes, target: bytes) -> None:
    assert refused(get(method=method, target=target)) == 405


@pytest.mark.parametrize("protocol", [b"h2c, websocket", b"TLS/1.0"])
def test_other_protocols_are_not_served(protocol: bytes) -> None:
    assert refused(get(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % protocol)) == 501


def test_other_expectations_are_not_served() -> None:
    assert refused(post(b"Content-Length: 5\r\nExpect: miracles\r\n")) == 417


# Limits


def test_too_many_headers_in_one_feed() -> None:
    assert refused(get(b"X: y\r\n" * MAX_HEADERS)) == 431
    assert refused(get(b"X:\r\n" * 10_000)) == 431


def test_a_head_beyond_its_limit() -> None:
    head = get(b"X: \r\n")
    assert refused(head.replace(b"X: ", b"X: " + b"y" * (MAX_HEAD - len(head) + 1))) == 431


def test_a_head_beyond_its_limit_is_not_waited_for() -> None:
    reader = HeadReader()
    assert reader.feed(b"GET / HTTP/1.1\r\n") is None
    error = reader.feed(b"X: " + b"y" * MAX_HEAD)
    assert isinstance(error, RelayError)
    assert error.status == 431


def test_a_target_that_is_too_long() -> None:
    assert refused(get(target=b"/" + b"x" * MAX_URI)) == 414
    assert refused(get(target=b"/" + b"x" * 60_000)) == 414


def test_a_target_that_is_too_long_is_not_waited_for() -> None:
    reader = HeadReader()
    error = None
    for _ in range(100):
        error = reader.feed(b"GET /" + b"x" * 100)
        if error is not None:
            break
    assert isinstance(error, RelayError)
    assert error.status == 414


# Reading


def test_what_follows_a_head_is_given_back() -> None:
    assert HeadReader().feed(get() + b"body\r\n\r\nmore") == (get(), b"body\r\n\r\nmore")


def test_a_reader_serves_one_head_after_the_other() -> None:
    reader = HeadReader()
    assert reader.feed(get(target=b"/1")) == (get(target=b"/1"), b"")
    assert reader.is_empty
    assert reader.feed(b"\r\n" + get(target=b"/2")) == (get(target=b"/2"), b"")


def test_a_head_byte_by_byte() -> None:
    reader, head = HeadReader(), get(b"X: y\r\n")
    results = [reader.feed(head[i : i + 1]) for i in range(len(head))]
    assert results[:-1] == [None] * (len(head) - 1)
    assert results[-1] == (head, b"")


def test_empty_lines_without_end_are_refused_however_they_are_split() -> None:
    """Only one may come before a request, or a connection could be kept for ever without one."""
    by_line = HeadReader()
    assert [by_line.feed(b"\r\n") for _ in range(3)] == [None, None, (b"\r\n\r\n", b"")]
    assert HeadReader().feed(b"\r\n\r\n\r\n") == (b"\r\n\r\n", b"")
    assert refused(b"\r\n\r\n\r\n") == 400


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\nHost: x", b"\n", b"GET / HTTP/1.1\r\nX: y\n"])
def test_a_bare_line_feed_is_refused_before_the_head_is_whole(data: bytes) -> None:
    at_once, reader = HeadReader().feed(data), HeadReader()
    by_bytes = [reader.feed(data[i : i + 1]) for i in range(len(data))]
    assert isinstance(at_once, RelayError)
    assert at_once in by_bytes
