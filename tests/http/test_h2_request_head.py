"""Request heads of HTTP/2: which become a request, which are answered, and which are malformed."""

from __future__ import annotations

import pytest

from flowserver.errors import RelayError
from flowserver.http.h2_request_head import Malformed, check_trailers, parse_h2_head
from flowserver.http.messages import Headers, RequestHead

PSEUDO: Headers = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"a.test"), (b":path", b"/v1?q=1")]


def _with(**values: bytes | None) -> Headers:
    """PSEUDO with another value, or without one that is None."""
    changed = [(name, values.get(name[1:].decode(), value)) for name, value in PSEUDO]
    return [(name, value) for name, value in changed if value is not None]


def _parsed(headers: Headers, *, ended: bool = True) -> RequestHead:
    head = parse_h2_head(headers, ended=ended)
    assert isinstance(head, RequestHead)
    return head


def test_a_request_is_what_its_fields_say() -> None:
    head = _parsed([*PSEUDO, (b"x-one", b"1"), (b"content-length", b"5")], ended=False)
    assert (head.method, head.target, head.http_version) == (b"POST", b"/v1?q=1", b"2")
    assert (head.content_length, head.has_body) == (5, True)
    assert (b"x-one", b"1") in head.headers


def test_a_path_is_brought_into_its_canonical_form() -> None:
    assert _parsed(_with(path=b"/v1/%63hat%3a?%63")).target == b"/v1/chat%3A?%63"


@pytest.mark.parametrize("path", [b"/v1/../x", b"//x", b"/a%2fb", b"/%", b"/a\\b"])
def test_a_path_that_can_be_read_in_two_ways_is_answered(path: bytes) -> None:
    error = parse_h2_head(_with(path=path), ended=True)
    assert isinstance(error, RelayError)
    assert (error.status, error.code) == (400, "bad_path")


def test_a_signed_path_is_not_changed() -> None:
    signed: Headers = [(b"authorization", b"AWS4-HMAC-SHA256 Credential=x")]
    assert _parsed([*_with(path=b"/model/a%3A0/converse"), *signed]).target == b"/model/a%3A0/converse"
    error = parse_h2_head([*_with(path=b"/model/%61/converse"), *signed], ended=True)
    assert isinstance(error, RelayError)
    assert "signature" in error.message


def test_a_request_without_a_length_may_have_a_body() -> None:
    head = _parsed(PSEUDO, ended=False)
    assert (head.content_length, head.has_body) == (None, True)


@pytest.mark.parametrize("length", [b"0", b"012", b"1" * 15])
def test_lengths_of_proper_form_pass(length: bytes) -> None:
    assert _parsed([*PSEUDO, (b"content-length", length)], ended=False).content_length == int(length)


def test_cookie_crumbs_are_joined() -> None:
    """HTTP/1.1 has one cookie field (RFC 9113 section 8.2.3)."""
    head = _parsed([*PSEUDO, (b"cookie", b"a=1"), (b"x-one", b"1"), (b"cookie", b"b=2"), (b"cookie", b"c=3")])
    assert [value for name, value in head.headers if name == b"cookie"] == [b"a=1; b=2; c=3"]


def test_a_host_field_will_do_for_an_authority() -> None:
    assert _parsed([*_with(authority=None), (b"host", b"a.test")]).method == b"POST"


def test_host_and_authority_may_agree() -> None:
    assert _parsed([*PSEUDO, (b"host", b"A.test")]).method == b"POST"


@pytest.mark.parametrize("authority", [b"a.test:8443", b"[::1]", b"[::1]:8443", b"127.0.0.1:80", b"a_b.test"])
def test_authorities_of_proper_form_pass(authority: bytes) -> None:
    assert _parsed(_with(authority=authority)).method == b"POST"


def test_te_may_ask_for_trailers() -> None:
    assert _parsed([*PSEUDO, (b"te", b"trailers")]).method == b"POST"


MALFORMED: dict[str, Headers] = {
    # Each would write another request line.
    "blank-in-method": _with(method=b"GET / HTTP/1.1"),
    "line-end-in-method": _with(method=b"GET\r\n"),
    "empty-method": _with(method=b""),
    "no-method": _with(method=None),
    "blank-in-path": _with(path=b"/v1 HTTP/1.1"),
    "line-end-in-path": _with(path=b"/v1\r\nx: y"),
    "absolute-path": _with(path=b"http://evil.test/v1"),
    "path-without-slash": _with(path=b"v1"),
    "fragment-in-path": _with(path=b"/v1#part"),
    "path-beyond-ascii": _with(path=b"/v1\xff"),
    "tab-in-path": _with(path=b"/v1\t"),
    "asterisk-for-another-method": _with(path=b"*"),
    "empty-path": _with(path=b""),
    "no-path": _with(path=None),
    "no-scheme": _with(scheme=None),
    "another-scheme": _with(scheme=b"ftp"),
    "line-end-in-scheme": _with(scheme=b"http\r\n"),
    # Who is asked?
    "user-in-authority": _with(authority=b"me@a.test"),
    "empty-authority": _with(authority=b""),
    "empty-authority-beside-host": [*_with(authority=b""), (b"host", b"a.test")],
    "path-in-authority": _with(authority=b"a.test/v1"),
    "blank-in-authority": _with(authority=b"a.test b.test"),
    "list-in-authority": _with(authority=b"a.test, b.test"),
    "no-authority": _with(authority=None),
    "host-against-authority": [*PSEUDO, (b"host", b"b.test")],
    "two-hosts": [*PSEUDO, (b"host", b"a.test"), (b"host", b"a.test")],
    "user-in-host": [*_with(authority=None), (b"host", b"me@a.test")],
    # What is a name, what a value?
    "upper-case-name": [*PSEUDO, (b"X-One", b"1")],
    "name-is-no-token": [*PSEUDO, (b"x(", b"1")],
    "blank-in-name": [*PSEUDO, (b"x one", b"1")],
    "colon-in-name": [*PSEUDO, (b"x:one", b"1")],
    "line-end-in-name": [*PSEUDO, (b"x\r\ny", b"1")],
    "empty-name": [*PSEUDO, (b"", b"1")],
    "nul-in-value": [*PSEUDO, (b"x-one", b"a\x00b")],
    "line-feed-in-value": [*PSEUDO, (b"x-one", b"a\nb: c")],
    "carriage-return-in-value": [*PSEUDO, (b"x-one", b"a\rb")],
    "escape-in-value": [*PSEUDO, (b"x-one", b"a\x1bb")],
    "delete-in-value": [*PSEUDO, (b"x-one", b"a\x7fb")],
    "leading-blank-in-value": [*PSEUDO, (b"x-one", b" a")],
    "leading-tab-in-value": [*PSEUDO, (b"x-one", b"\ta")],
    "trailing-blank-in-value": [*PSEUDO, (b"x-one", b"a ")],
    # Which pseudo-header fields?
    "protocol": [*PSEUDO, (b":protocol", b"websocket")],
    "status": [*PSEUDO, (b":status", b"100")],
    "unknown-pseudo-field": [*PSEUDO, (b":version", b"2")],
    "two-paths": [*PSEUDO, (b":path", b"/v2")],
    "two-methods": [(b":method", b"GET"), *PSEUDO],
    "pseudo-field-behind-others": [*PSEUDO[:3], (b"x-one", b"1"), PSEUDO[3]],
    # What belongs to a connection of HTTP/1.1.
    "connection": [*PSEUDO, (b"connection", b"x-one")],
    "transfer-encoding": [*PSEUDO, (b"transfer-encoding", b"chunked")],
    "upgrade": [*PSEUDO, (b"upgrade", b"h2c")],
    "keep-alive": [*PSEUDO, (b"keep-alive", b"timeout=5")],
    "proxy-connection": [*PSEUDO, (b"proxy-connection", b"close")],
    "http2-settings": [*PSEUDO, (b"http2-settings", b"AAMAAABk")],
    "te-of-more": [*PSEUDO, (b"te", b"trailers, gzip")],
    # Where does the body end?
    "length-without-body": [*PSEUDO, (b"content-length", b"5")],
    "two-lengths": [*PSEUDO, (b"content-length", b"0"), (b"content-length", b"0")],
    "signed-length": [*PSEUDO, (b"content-length", b"+0")],
    "list-of-lengths": [*PSEUDO, (b"content-length", b"0, 0")],
    "empty-length": [*PSEUDO, (b"content-length", b"")],
    "endless-length": [*PSEUDO, (b"content-length", b"9" * 40)],
}


@pytest.mark.parametrize("headers", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_malformed_becomes_no_request(headers: Headers) -> None:
    with pytest.raises(Malformed):
        parse_h2_head(headers, ended=True)


REFUSED: dict[str, tuple[int, Headers]] = {
    "connect": (405, [(b":method", b"CONNECT"), (b":authority", b"a.test:443")]),
    "connect-with-path": (405, _with(method=b"CONNECT")),
    "trace": (405, _with(method=b"TRACE")),
    "options-asterisk": (400, _with(method=b"OPTIONS", path=b"*")),
    "long-target": (414, _with(path=b"/" + b"x" * 8192)),
    "many-fields": (431, [*PSEUDO, *[(b"x-%d" % number, b"1") for number in range(101)]]),
    "another-expectation": (417, [*PSEUDO, (b"expect", b"200-ok")]),
}


@pytest.mark.parametrize(("status", "headers"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_served_is_refused_by_name(status: int, headers: Headers) -> None:
    error = parse_h2_head(headers, ended=True)
    assert isinstance(error, RelayError)
    assert error.status == status


@pytest.mark.parametrize("trailers", [[], [(b"x-sum", b"1")]])
def test_trailers_of_proper_form_pass(trailers: Headers) -> None:
    check_trailers(trailers)


@pytest.mark.parametrize(
    "trailers", [[(b":path", b"/")], [(b":status", b"200")], [(b"X", b"1")], [(b"x", b"\n")], [(b"connection", b"x")]]
)
def test_malformed_trailers_are_told(trailers: Headers) -> None:
    with pytest.raises(Malformed):
        check_trailers(trailers)
