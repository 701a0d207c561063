"""Heads between the two sides: what is passed on, what ends here, what is added."""

from __future__ import annotations

from typing import Any

import pytest

from flowserver.http.messages import (
    CREDENTIALS,
    Headers,
    RequestHead,
    ResponseHead,
    end_to_end,
    find,
    given_request_id,
    has_no_body,
    passed_through,
    passing_fields,
    request_for_upstream,
    response_for_downstream,
    upstream_request_id,
)

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def upstream(headers: Headers, *, version: bytes = b"1.1", extra: Headers | None = None, **given: Any) -> Headers:
    """What a provider gets; `given` as `passing_fields` takes it."""
    request = RequestHead(b"POST", b"/v1", headers, content_length=3, has_body=True)
    request.http_version = version
    extra = extra or []
    own = [(b"host", b"api.test"), *passing_fields(request, extra, **given), *extra]
    head = request_for_upstream(request, b"/p/v1", own, pseudonym=b"relay-1", request_id=b"id-1")
    assert (head.method, head.target, head.content_length, head.has_body) == (b"POST", b"/p/v1", 3, True)
    return head.headers


def values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for field, value in headers if field == name]


@pytest.mark.parametrize(
    "name",
    [
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    ],
)
def test_fields_of_one_hop_are_passed_on_in_neither_direction(name: bytes) -> None:
    assert values(upstream([(name, b"x")]), name) == []
    head = response_for_downstream(ResponseHead(200, [(name, b"x")]), request_id=b"id")
    assert values(head.headers, name) == []


def test_fields_that_connection_names_end_here() -> None:
    headers = [(b"connection", b"close, X-Secret"), (b"connection", b"x-two ,"), (b"x-secret", b"1"), (b"x-two", b"2")]
    assert end_to_end(ResponseHead(200, [*headers, (b"x-three", b"3")])) == [(b"x-three", b"3")]


def test_other_fields_pass_in_order_and_unchanged() -> None:
    sent = [(b"a", b"1"), (b"http-referer", b"x=1"), (b"a", b"2"), (b"b", b"\xe4\t z")]
    assert [field for field in upstream(sent) if field[0] in (b"a", b"b", b"http-referer")] == sent


def test_the_provider_gets_its_own_host_and_one_of_it() -> None:
    assert values(upstream([(b"host", b"relay.test")]), b"host") == [b"api.test"]


def test_framing_as_received_is_never_passed_on() -> None:
    headers = upstream([(b"content-length", b"3"), (b"transfer-encoding", b"chunked")])
    assert values(headers, b"content-length") == values(headers, b"transfer-encoding") == []
    head = response_for_downstream(ResponseHead(200, [(b"content-length", b"3")], content_length=3), request_id=b"i")
    assert values(head.headers, b"content-length") == []
    assert head.content_length == 3


def test_identity_encoding_is_asked_for() -> None:
    assert values(upstream([(b"accept-encoding", b"gzip, br")]), b"accept-encoding") == [b"identity"]


def test_expect_ends_here() -> None:
    assert values(upstream([(b"expect", b"100-continue")]), b"expect") == []


def test_the_client_s_own_credentials_pass_where_the_relay_has_none() -> None:
    assert values(upstream([(b"authorization", b"Bearer mine")]), b"authorization") == [b"Bearer mine"]


def test_the_relay_s_key_takes_the_place_of_the_client_s() -> None:
    headers = upstream(
        [(b"authorization", b"Bearer mine"), (b"authorization", b"x")],
        extra=[(b"authorization", b"Bearer key")],
        hidden=CREDENTIALS,
    )
    assert values(headers, b"authorization") == [b"Bearer key"]


@pytest.mark.parametrize(
    "name",
    [b"cookie", b"referer", b"forwarded", b"x-real-ip", b"x-forwarded-for", b"x-forwarded-access-token"],
)
def test_what_tells_of_users_and_their_network_does_not_reach_providers(name: bytes) -> None:
    assert values(upstream([(name, b"x"), (b"x-forward", b"1")]), name) == []
    assert values(upstream([(name, b"x")], extra=[(name, b"configured")]), name) == [b"configured"]


def test_a_secret_reaches_the_provider_in_no_field() -> None:
    headers = [(b"x-other", b"Bearer flow-secret"), (b"x-kept", b"flow-secre")]
    assert [name for name, _ in upstream(headers, secret=b"flow-secret") if name.startswith(b"x-")] == [
        b"x-kept",
        b"x-request-id",
    ]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([(b"x-request-id", b"req_1"), (b"request-id", b"req_2")], b"req_1"),
        ([(b"request-id", b"req_2"), (b"cf-ray", b"9")], b"req_2"),
        ([(b"x-amzn-requestid", b"a-b-c")], b"a-b-c"),
        ([(b"apim-request-id", b"a-b-c")], b"a-b-c"),
        ([(b"x-goog-request-id", b"g1")], b"g1"),
        ([(b"x-request-id", b"id-1"), (b"x-upstream-request-id", b"req_3")], b"req_3"),
        ([(b"x-request-id", b"id-1")], None),
        ([(b"x-request-id", b"a b"), (b"request-id", b"req_2")], b"req_2"),
        ([(b"x-request-id", b"x" * 129)], None),
        ([(b"cf-ray", b"9")], None),
    ],
)
def test_the_provider_s_own_id_of_a_request(headers: Headers, expected: bytes | None) -> None:
    """Another relay, and some servers, give back the id that they were sent."""
    head = ResponseHead(200, headers)
    found = upstream_request_id(head, b"id-1")
    assert found == expected
    passed = response_for_downstream(head, request_id=b"id-1", upstream_id=found)
    assert values(passed.headers, b"x-upstream-request-id") == ([expected] if expected else [])
    assert values(passed.headers, b"x-request-id") == [b"id-1"]


def test_the_relay_adds_itself_to_via() -> None:
    assert values(upstream([]), b"via") == [b"1.1 relay-1"]
    headers = upstream([(b"via", b"1.0 a"), (b"via", b"1.1 b")], version=b"1.0")
    assert values(headers, b"via") == [b"1.0 a, 1.1 b, 1.0 relay-1"]


def test_a_request_that_came_by_before_is_known() -> None:
    assert passed_through([(b"via", b"1.1 a, 1.1 relay-1, 1.1 b")], b"relay-1")
    assert not passed_through([(b"via", b"1.1 relay-2"), (b"x", b"relay-1")], b"relay-1")


def test_a_sane_trace_passes() -> None:
    headers = upstream([(b"traceparent", TRACE), (b"tracestate", b"a=1")])
    assert values(headers, b"traceparent") == [TRACE]
    assert values(headers, b"tracestate") == [b"a=1"]


@pytest.mark.parametrize(
    "trace",
    [
        b"",
        b"nonsense",
        TRACE.upper(),
        TRACE[:-1],
        TRACE.replace(b"0af7651916cd43dd8448eb211c80319c", b"0" * 32),
        TRACE.replace(b"b7ad6b7169203331", b"0" * 16),
    ],
)
def test_a_malformed_trace_is_dropped_with_its_state(trace: bytes) -> None:
    headers = upstream([(b"tracestate", b"a=1"), (b"traceparent", trace)])
    assert values(headers, b"traceparent") == values(headers, b"tracestate") == []


@pytest.mark.parametrize("sane", [b"a", b"req_123-456.7:8/9+0=", b"x" * 128, b"a//b/", b"...", b"a..b/.c"])
def test_a_sane_request_id_is_kept(sane: bytes) -> None:
    assert given_request_id(RequestHead(b"GET", b"/", [(b"x-request-id", sane)])) == sane


@pytest.mark.parametrize(
    "odd", [b"", b"a b", b'"a"', b"x" * 129, b"\xe4", b"a\tb", b"a,b", b"..", b".", b"a/../b", b"./a", b"a/."]
)
def test_an_odd_request_id_is_not(odd: bytes) -> None:
    assert given_request_id(RequestHead(b"GET", b"/", [(b"x-request-id", odd)])) is None


def test_the_request_id_goes_both_ways_once() -> None:
    assert values(upstream([(b"x-request-id", b"theirs")]), b"x-request-id") == [b"id-1"]
    head = response_for_downstream(ResponseHead(200, [(b"x-request-id", b"theirs")]), request_id=b"id-1")
    assert values(head.headers, b"x-request-id") == [b"id-1"]


def test_the_first_value_is_found() -> None:
    assert find([(b"a", b"1"), (b"b", b"2"), (b"b", b"3")], b"b") == b"2"
    assert find([], b"b") is None


def test_the_path_is_the_target_without_its_query() -> None:
    assert RequestHead(b"GET", b"/a/b?c?d", []).path == b"/a/b"


@pytest.mark.parametrize(
    ("method", "status", "bodiless"),
    [(b"HEAD", 200, True), (b"GET", 204, True), (b"GET", 304, True), (b"GET", 103, True), (b"GET", 200, False)],
)
def test_which_answers_have_no_body(method: bytes, status: int, bodiless: bool) -> None:
    assert has_no_body(method, status) is bodiless


def test_no_length_is_told_of_an_answer_that_may_not_tell_one() -> None:
    """RFC 9110 section 8.6: none with 204, but with 304 and HEAD it stands for the body that is not there."""
    assert response_for_downstream(ResponseHead(204, [], content_length=5), request_id=b"i").content_length is None
    assert response_for_downstream(ResponseHead(304, [], content_length=5), request_id=b"i").content_length == 5


def test_a_repeated_head_finds_the_fields_to_pass_on_once() -> None:
    first = RequestHead(b"POST", b"/", [(b"host", b"relay"), (b"x-a", b"1"), (b"content-length", b"3")])
    first.keep_passing()
    second = first.of_length(2, b"5", has_body=True)
    second.forget_index()
    assert second.find(b"content-length") == b"5"
    assert second.passing is first.passing == [(b"x-a", b"1")]


def test_an_answered_request_is_known_by_its_line_only() -> None:
    headers = [(b"host", b"relay"), (b"user-agent", b"sdk"), (b"content-length", b"3")]
    request = RequestHead(b"POST", b"/v1?key=k", headers, content_length=3, has_body=True)
    assert request.passing
    request.forget_fields()
    assert (request.method, request.path, request.content_length) == (b"POST", b"/v1", 3)
    assert request.headers == request.passing == []
    assert request.find(b"user-agent") is None
    assert len(headers) == 3
