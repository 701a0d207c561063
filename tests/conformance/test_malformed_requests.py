"""Shapes that two servers can read in two ways, or that no client sends: each is refused, and the connection with it.

A request that is fine follows every one of them on the same connection. Nothing may reach the provider, neither of the
malformed request nor of that one: where a malformed request ends is anyone's guess.
"""

from __future__ import annotations

import orjson
import pytest

from tests.support.lab import Lab, eventually
from tests.support.provider import ok
from tests.support.wire import End, request

GET = b"GET /v1/test HTTP/1.1\r\nHost: relay.test\r\n"
POST = b"POST /v1/test HTTP/1.1\r\nHost: relay.test\r\n"

MALFORMED: dict[str, bytes] = {
    # Where does the body end? (RFC 9112 section 6.3)
    "length-and-chunked": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked-and-length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two-lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "two-equal-lengths": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "list-of-lengths": POST + b"Content-Length: 5, 6\r\n\r\nhello",
    "list-of-equal-lengths": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "signed-length": POST + b"Content-Length: +5\r\n\r\nhello",
    "negative-length": POST + b"Content-Length: -5\r\n\r\nhello",
    "hex-length": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "underscored-length": POST + b"Content-Length: 1_0\r\n\r\nhellohello",
    "blank-in-length": POST + b"Content-Length: 1 0\r\n\r\nhellohello",
    "empty-length": POST + b"Content-Length: \r\n\r\nhello",
    "endless-length": POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\nhello",
    "chunked-on-http-1.0": b"POST /v1/test HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    # Where does the head end?
    "bare-line-feeds": b"GET /v1/test HTTP/1.1\nHost: relay.test\n\n",
    "bare-line-feed-in-fields": GET + b"X-One: 1\nX-Two: 2\r\n\r\n",
    "bare-line-feed-alone": b"\n",
    "bare-line-feed-behind-an-empty-line": b"\r\n\n",
    "bare-line-feed-at-the-end": GET + b"X-One: 1\r\n\n",
    "bare-carriage-return": GET + b"X-One: 1\rX-Two: 2\r\n\r\n",
    "folded-line": GET + b"X-One: 1\r\n 2\r\n\r\n",
    "folded-first-line": b"GET /v1/test HTTP/1.1\r\n Host: relay.test\r\nHost: relay.test\r\n\r\n",
    "no-colon": GET + b"X-One\r\n\r\n",
    # What is a field's name, what its value?
    "blank-before-colon": GET + b"X-One : 1\r\n\r\n",
    "blank-before-colon-of-length": POST + b"Content-Length : 5\r\n\r\nhello",
    "tab-before-colon-of-encoding": POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
    "empty-name": GET + b": 1\r\n\r\n",
    "name-is-no-token": GET + b"X(One): 1\r\n\r\n",
    "name-beyond-ascii": GET + b"X-\xe4: 1\r\n\r\n",
    "nul-in-value": GET + b"X-One: 1\x002\r\n\r\n",
    "control-byte-in-value": GET + b"X-One: 1\x012\r\n\r\n",
    "escape-in-value": GET + b"X-One: \x1b[2J\r\n\r\n",
    "delete-in-value": GET + b"X-One: 1\x7f\r\n\r\n",
    # Who is asked?
    "no-host": b"GET /v1/test HTTP/1.1\r\nX-One: 1\r\n\r\n",
    "no-fields": b"GET /v1/test HTTP/1.1\r\n\r\n",
    "two-hosts": GET + b"Host: relay.test\r\n\r\n",
    "empty-host": b"GET /v1/test HTTP/1.1\r\nHost: \r\n\r\n",
    "blank-in-host": b"GET /v1/test HTTP/1.1\r\nHost: a b\r\n\r\n",
    "path-in-host": b"GET /v1/test HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "user-in-host": b"GET /v1/test HTTP/1.1\r\nHost: me@a\r\n\r\n",
    "list-in-host": b"GET /v1/test HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "wrong-port-in-host": b"GET /v1/test HTTP/1.1\r\nHost: a:port\r\n\r\n",
    "target-against-host": b"GET http://other.test/v1 HTTP/1.1\r\nHost: relay.test\r\n\r\n",
    "user-in-target": b"GET http://me@relay.test/v1 HTTP/1.1\r\nHost: relay.test\r\n\r\n",
    # For what, in which language?
    "target-without-slash": b"GET v1/test HTTP/1.1\r\nHost: a\r\n\r\n",
    "target-with-another-scheme": b"GET ftp://a/v1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "target-with-fragment": b"GET /v1#part HTTP/1.1\r\nHost: a\r\n\r\n",
    "target-with-blank": b"GET /v1 test HTTP/1.1\r\nHost: a\r\n\r\n",
    "target-with-tab": b"GET /v1\ttest HTTP/1.1\r\nHost: a\r\n\r\n",
    "target-with-nul": b"GET /v1\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "target-beyond-ascii": b"GET /v1\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "target-asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "no-target": b"GET HTTP/1.1\r\nHost: a\r\n\r\n",
    "two-blanks": b"GET  /v1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "blank-first": b" GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "method-is-no-token": b"GE(T /v1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "no-version": b"GET /v1\r\nHost: a\r\n\r\n",
    "version-0.9": b"GET /v1 HTTP/0.9\r\nHost: a\r\n\r\n",
    "version-1.9": b"GET /v1 HTTP/1.9\r\nHost: a\r\n\r\n",
    "version-1.10": b"GET /v1 HTTP/1.10\r\nHost: a\r\n\r\n",
    "version-2.0": b"GET /v1 HTTP/2.0\r\nHost: a\r\n\r\n",
    "version-lower-case": b"GET /v1 http/1.1\r\nHost: a\r\n\r\n",
    "two-empty-lines-first": b"\r\n\r\n" + GET + b"\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + bytes(40) + b"\r\n\r\n",
}

OTHER_STATUSES: dict[str, tuple[int, bytes]] = {
    "connect": (405, b"CONNECT relay.test:443 HTTP/1.1\r\nHost: relay.test:443\r\n\r\n"),
    "connect-by-path": (405, b"CONNECT /v1 HTTP/1.1\r\nHost: relay.test\r\n\r\n"),
    "trace": (405, b"TRACE /v1 HTTP/1.1\r\nHost: relay.test\r\n\r\n"),
    "other-protocol": (501, GET + b"Connection: Upgrade\r\nUpgrade: TLS/1.3\r\n\r\n"),
    "websocket-without-option": (501, GET + b"Upgrade: websocket\r\n\r\n"),
    "websocket-by-post": (501, POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n"),
    "websocket-of-1.0": (501, b"GET /v1 HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
    "unknown-transfer-encoding": (501, POST + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n"),
    "gzip-then-chunked": (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunked-twice": (501, POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    "two-transfer-encodings": (
        501,
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    ),
    "other-expectation": (417, POST + b"Expect: 200-ok\r\nContent-Length: 5\r\n\r\nhello"),
}

SMUGGLED = request("GET", "/v1/smuggled")


async def _is_refused(lab: Lab, raw: bytes, status: int) -> None:
    provider, relay, client = await lab.between(ok)
    await client.send(raw + SMUGGLED)
    answer = await client.response()
    assert answer.status == status
    assert answer.get("connection") == "close"
    assert answer.get("content-type") == "application/json"
    assert orjson.loads(answer.body)["error"]["type"] == "invalid_request_error"
    assert await client.rest() == (b"", End.CLOSED)
    assert provider.callers == []
    await eventually(lambda: relay.lines("refused"))
    assert [line["status"] for line in relay.lines("refused")] == [status]


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_request_gets_400_and_a_closed_connection(lab: Lab, raw: bytes) -> None:
    await _is_refused(lab, raw, 400)


@pytest.mark.parametrize(("status", "raw"), OTHER_STATUSES.values(), ids=OTHER_STATUSES.keys())
async def test_what_is_not_served_is_refused_by_name(lab: Lab, status: int, raw: bytes) -> None:
    await _is_refused(lab, raw, status)


@pytest.mark.parametrize("step", [1, 3])
async def test_a_malformed_request_in_pieces_is_refused_too(lab: Lab, step: int) -> None:
    provider, _, client = await lab.between(ok)
    raw = MALFORMED["length-and-chunked"]
    for start in range(0, len(raw), step):
        await client.send(raw[start : start + step])
    assert (await client.response()).status == 400
    assert await client.rest() == (b"", End.CLOSED)
    assert provider.callers == []


async def test_a_malformed_request_behind_good_ones_is_refused_in_its_turn(lab: Lab) -> None:
    provider, _, client = await lab.between(ok)
    await client.send(request(target="/1") + request(target="/2") + MALFORMED["bare-line-feed-in-fields"] + SMUGGLED)
    assert (await client.response()).body == b"ok"
    assert (await client.response()).body == b"ok"
    assert (await client.response()).status == 400
    assert await client.rest() == (b"", End.CLOSED)
    assert [message.start for message in provider.requests] == ["GET /1 HTTP/1.1", "GET /2 HTTP/1.1"]


BODIES: dict[str, bytes] = {
    "size-is-no-number": b"xyz\r\nhello\r\n0\r\n\r\n",
    "negative-size": b"-5\r\nhello\r\n0\r\n\r\n",
    "signed-size": b"+5\r\nhello\r\n0\r\n\r\n",
    "prefixed-size": b"0x5\r\nhello\r\n0\r\n\r\n",
    "underscored-size": b"0_5\r\nhello\r\n0\r\n\r\n",
    "size-beyond-64-bits": b"f" * 32 + b"\r\nhello\r\n0\r\n\r\n",
    "no-size": b"\r\nhello\r\n0\r\n\r\n",
    "bare-line-feed-behind-size": b"5\nhello\r\n0\r\n\r\n",
    "bare-line-feed-in-extension": b"5;a\nhello\r\n0\r\n\r\n",
    "chunk-longer-than-its-size": b"5\r\nhello there\r\n0\r\n\r\n",
    "chunk-shorter-than-its-size": b"9\r\nhello\r\n0\r\n\r\n",
    "bare-line-feed-behind-chunk": b"5\r\nhello\n0\r\n\r\n",
    "something-else-behind-chunk": b"5\r\nhelloXX0\r\n\r\n",
    "bare-line-feed-in-trailers": b"5\r\nhello\r\n0\r\nX-One: 1\nX-Two: 2\r\n\r\n",
    "bare-line-feed-ends-trailers": b"5\r\nhello\r\n0\r\n\n",
    "control-byte-in-trailers": b"5\r\nhello\r\n0\r\nX-One: \x01\r\n\r\n",
    "length-in-trailers": b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    "encoding-in-trailers": b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "host-in-trailers": b"5\r\nhello\r\n0\r\nHost: other.test\r\n\r\n",
    "endless-extension": b"5;" + b"a" * 70_000 + b"\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_a_malformed_chunked_body_is_never_made_whole(lab: Lab, body: bytes) -> None:
    """The head is on its way to the provider when the body turns out malformed: the provider must not take the
    request for complete, and what follows is not served."""
    provider, _, client = await lab.between(ok)
    await client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n" + body + SMUGGLED)
    answer = await client.response()
    assert answer.status == 400
    assert answer.get("connection") == "close"
    assert await client.rest() == (b"", End.CLOSED)
    assert all("/v1/test" in message.start and not message.body for message in provider.requests)


async def test_an_incomplete_body_is_never_made_whole(lab: Lab) -> None:
    provider, _, client = await lab.between(ok)
    await client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    client.half_close()
    await client.rest()
    assert [message.body for message in provider.requests] in ([], [b""])
