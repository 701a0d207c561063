"""Handshakes of WebSockets."""

from __future__ import annotations

import pytest

from flowserver.errors import RelayError
from flowserver.http.h1_chunked import FramingError
from flowserver.http.h1_client import ResponseError, ResponseReader, encode_request_head
from flowserver.http.h1_server import read_request
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.http.websocket import handshake, is_accepted

KEY, ACCEPT = b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # of RFC 6455 section 1.3
FIELDS = (
    b"Host: relay.test\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"
)


def _read(fields: bytes = FIELDS, line: bytes = b"GET /v1/realtime HTTP/1.1\r\n") -> RequestHead | RelayError:
    request = read_request(line + fields + b"\r\n")
    return request if isinstance(request, RelayError) else request[0]


def _handshake(more: bytes = b"", *, is_read: bool = False) -> RequestHead:
    head = _read(FIELDS + more)
    assert isinstance(head, RequestHead)
    assert head.is_tunnel
    return handshake(head, is_read=is_read)


def test_it_goes_on_as_a_get_without_a_body() -> None:
    head = _handshake(b"Sec-WebSocket-Extensions: permessage-deflate\r\n")
    assert (head.method, head.has_body, head.is_tunnel) == (b"GET", False, True)
    sent = RequestHead(head.method, head.target, head.passing)
    sent.is_tunnel = True
    raw = encode_request_head(sent)
    assert raw.startswith(b"GET /v1/realtime HTTP/1.1\r\n")
    for line in (b"upgrade: websocket", b"connection: Upgrade", b"sec-websocket-key: " + KEY, b"permessage-deflate"):
        assert raw.count(line) == 1


def test_extensions_are_not_offered_where_frames_are_read() -> None:
    head = _handshake(b"Sec-WebSocket-Extensions: permessage-deflate\r\n", is_read=True)
    assert head.find(b"sec-websocket-extensions") is None


@pytest.mark.parametrize(
    ("shown", "kept", "key"),
    [
        (b"realtime, openai-insecure-api-key.sk-1, x", b"realtime, x", b"Bearer sk-1"),
        (b"openai-insecure-api-key.sk-1", None, b"Bearer sk-1"),
        (b"realtime,x", b"realtime,x", None),
        (b"realtime\r\nSec-WebSocket-Protocol: openai-insecure-api-key.sk-1", b"realtime", b"Bearer sk-1"),
        (b"a, openai-insecure-api-key.", b"a", None),
    ],
)
def test_a_key_among_the_subprotocols(shown: bytes, kept: bytes | None, key: bytes | None) -> None:
    head = _handshake(b"Sec-WebSocket-Protocol: " + shown + b"\r\n")
    assert head.find(b"sec-websocket-protocol") == kept
    assert head.find(b"authorization") == key
    assert b"openai-insecure-api-key" not in str(head.headers).encode()


def test_a_key_in_its_own_field_is_preferred() -> None:
    head = _handshake(b"Authorization: Bearer one\r\nSec-WebSocket-Protocol: openai-insecure-api-key.two\r\n")
    assert [value for name, value in head.headers if name == b"authorization"] == [b"Bearer one"]
    assert "two" not in str(head.headers)


def test_over_http2_the_relay_makes_the_key() -> None:
    request = RequestHead(b"CONNECT", b"/x", [(b"sec-websocket-key", b"the client's")], has_body=True)
    request.http_version = b"2"
    request.is_tunnel = True
    one, other = handshake(request, is_read=False), handshake(request, is_read=False)
    keys = [head.find(b"sec-websocket-key") or b"" for head in (one, other)]
    assert len({*keys, b"the client's"}) == 3
    assert [len(key) for key in keys] == [24, 24]


@pytest.mark.parametrize(
    ("fields", "line", "status"),
    [
        (FIELDS.replace(b"keep-alive, Upgrade", b"keep-alive"), b"GET / HTTP/1.1\r\n", 501),
        (FIELDS, b"POST / HTTP/1.1\r\n", 501),
        (FIELDS, b"GET / HTTP/1.0\r\n", 501),
        (FIELDS.replace(b"Upgrade: WebSocket", b"Upgrade: h2c, websocket"), b"GET / HTTP/1.1\r\n", 501),
        (FIELDS + b"Content-Length: 5\r\n", b"GET / HTTP/1.1\r\n", 400),
        (FIELDS + b"Transfer-Encoding: chunked\r\n", b"GET / HTTP/1.1\r\n", 400),
    ],
)
def test_what_is_no_handshake(fields: bytes, line: bytes, status: int) -> None:
    error = _read(fields, line)
    assert isinstance(error, RelayError)
    assert error.status == status


def test_an_answer_has_to_accept_the_key() -> None:
    request = _handshake()
    good = [(b"upgrade", b"WebSocket"), (b"sec-websocket-accept", ACCEPT)]
    assert is_accepted(request, ResponseHead(101, good))
    assert not is_accepted(request, ResponseHead(101, good[1:]))
    assert not is_accepted(request, ResponseHead(101, good[:1]))
    assert not is_accepted(request, ResponseHead(101, [(b"upgrade", b"h2c"), good[1]]))


# --- as messages of HTTP/1.1 ---


def test_all_bytes_behind_the_answer_are_the_tunnel_s() -> None:
    request = read_request(b"GET / HTTP/1.1\r\n" + FIELDS + b"\r\n")
    assert not isinstance(request, RelayError)
    _, message = request
    with pytest.raises(FramingError):
        message.feed(b"early")
    raw = message.head(ResponseHead(101, [(b"sec-websocket-accept", ACCEPT)]), closes=True)
    assert raw.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"connection: Upgrade" in raw
    assert b"close" not in raw
    assert message.feed(b"any\r\n\r\nbytes") == (b"any\r\n\r\nbytes", False, b"")
    assert (message.chunked, message.bodiless, message.end(), message.reusable) == (False, False, b"", False)


def test_any_other_answer_ends_the_connection() -> None:
    request = read_request(b"GET / HTTP/1.1\r\n" + FIELDS + b"\r\n")
    assert not isinstance(request, RelayError)
    _, message = request
    assert b"connection: close\r\n" in message.head(ResponseHead(401, [], content_length=2), closes=False)
    assert not message.reusable


def test_a_provider_s_101_is_final_where_it_was_asked_for() -> None:
    reader = ResponseReader(b"GET", switches=True)
    head = reader.feed(SWITCHED + b"\x81\x02hi")
    assert head is not None
    assert head.status == 101
    body, first = reader.begin_body(head)
    assert first == b"\x81\x02hi"
    assert (body.feed(b"\r\n"), body.until_close, body.ended) == (b"\r\n", True, False)


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_provider_s_101_is_wrong_where_it_was_not(method: bytes) -> None:
    reader = ResponseReader(method)
    with pytest.raises(ResponseError):
        reader.feed(SWITCHED)
