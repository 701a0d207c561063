"""Nothing that HTTP/2 can carry and HTTP/1.1 can't say reaches a provider; the other streams do not notice."""

from __future__ import annotations

import pytest

from flowserver.http.messages import Headers
from tests.http.test_h2_request_head import MALFORMED, REFUSED
from tests.support import h2_frames as frames
from tests.support.h2_lab import h2_client
from tests.support.h2_wire import H2Wire
from tests.support.lab import Lab
from tests.support.provider import Caller, Provider, answering
from tests.support.wire import request, response


async def _between(lab: Lab) -> tuple[Provider, H2Wire, int]:
    """A provider, a client, and a request of it that is under way: the provider waits for its body."""
    provider = await lab.provider(answering(lambda message: response(message.body or b"ok")))
    relay = await lab.relay(provider.url)
    client = await h2_client(lab, relay.port)
    sibling = client.peer.request("POST", path="/sibling", end=False)
    await client.flush()
    return provider, client, sibling


async def _sound(provider: Provider, client: H2Wire, sibling: int, *, reached: list[str] | None = None) -> None:
    """The sibling finishes, another request is served, and the provider saw these and `reached` alone."""
    client.peer.upload(sibling, b"the body", end=True)
    assert (await client.answer(sibling)).body == b"the body"
    assert (await client.get("/after")).body == b"ok"
    assert client.peer.goaways == []
    starts = [message.start for message in provider.requests]
    expected = ["POST /sibling HTTP/1.1", *(reached or []), "GET /after HTTP/1.1"]
    assert sorted(starts) == sorted(expected)


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_request_is_reset_and_reaches_nobody(lab: Lab, fields: Headers) -> None:
    provider, client, sibling = await _between(lab)
    bad = client.peer.new_id()
    await client.raw(frames.headers(bad, fields))
    assert (await client.answer(bad)).reset == frames.PROTOCOL_ERROR
    await _sound(provider, client, sibling)


@pytest.mark.parametrize(("status", "fields"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_is_not_served_is_answered_and_reaches_nobody(lab: Lab, status: int, fields: Headers) -> None:
    provider, client, sibling = await _between(lab)
    refused = client.peer.new_id()
    await client.raw(frames.headers(refused, fields))
    answer = await client.answer(refused)
    assert (answer.status, answer.whole) == (status, True)
    await _sound(provider, client, sibling)


BODIES: dict[str, bytes] = {
    "longer-than-announced": frames.data(3, b"hello" + request()),
    "shorter-than-announced": frames.data(3, b"hell", end=True),
    "ended-by-trailers-too-soon": frames.data(3, b"hell") + frames.headers(3, [("x-sum", "1")]),
    "malformed-trailers": frames.data(3, b"hello") + frames.headers(3, [("x(sum", "1")]),
    "trailers-with-a-path": frames.data(3, b"hello") + frames.headers(3, [(":path", "/smuggled")]),
    "trailers-without-end": frames.data(3, b"hello") + frames.headers(3, [("x-sum", "1")], end=False),
}


@pytest.mark.parametrize("raw", BODIES.values(), ids=BODIES.keys())
async def test_a_body_that_contradicts_its_head_is_never_made_whole(lab: Lab, raw: bytes) -> None:
    provider, client, sibling = await _between(lab)
    bad = client.peer.new_id()
    assert bad == 3
    fields = frames.request_fields("POST", "/bad", [("content-length", "5")])
    await client.raw(frames.headers(bad, fields, end=False) + raw)
    assert (await client.answer(bad)).reset == frames.PROTOCOL_ERROR
    await _sound(provider, client, sibling)


async def test_what_a_provider_gets_is_plain_http_1_1(lab: Lab) -> None:
    heads: list[bytes] = []

    async def script(caller: Caller) -> None:
        heads.append(await caller.until(b"\r\n\r\n"))
        assert await caller.exactly(7) == b"2\r\nhi\r\n"
        assert await caller.exactly(5) == b"0\r\n\r\n"
        await caller.send(response(b"ok"))

    provider = await lab.provider(script)
    relay = await lab.relay(provider.url)
    client = await h2_client(lab, relay.port)
    fields = [
        ("cookie", "a=1"),
        ("te", "trailers"),
        ("x-bytes", "\xe4\xff"),
        ("cookie", "b=2"),
        ("priority", "u=1"),
        ("x-request-id", "one"),
    ]
    stream_id = client.peer.new_id()
    raw = frames.headers(stream_id, frames.request_fields("POST", "/v1?q='\"", fields), end=False)
    await client.raw(raw + frames.data(stream_id, b"hi", pad=9) + frames.headers(stream_id, [("x-sum", "1")]))
    assert (await client.answer(stream_id)).body == b"ok"
    start, *lines = heads[0][:-4].split(b"\r\n")
    assert start == b"POST /v1?q='\"" + b" HTTP/1.1"
    names = [line.partition(b":")[0].lower() for line in lines]
    assert len(set(names)) == len(names)
    assert b"cookie" not in names
    assert b"x-bytes: \xe4\xff" in [line.lower() for line in lines]
    assert b"transfer-encoding: chunked" in [line.lower() for line in lines]
    assert b"te" not in names
    assert f"host: 127.0.0.1:{provider.port}".encode() in [line.lower() for line in lines]
    [via] = [line for line in lines if line.lower().startswith(b"via:")]
    assert via.partition(b":")[2].strip().startswith(b"2 ")


@pytest.mark.parametrize("piece", [1, 100, 5000])
async def test_a_head_of_many_frames_is_one_request(lab: Lab, piece: int) -> None:
    provider, client, sibling = await _between(lab)
    block = frames.literals(frames.request_fields(path="/long", headers=[("x-long", "y" * (piece * 3))]))
    size = max(piece, len(block) // 8 + 1)
    pieces = [block[start : start + size] for start in range(0, len(block), size)]
    stream_id = client.peer.new_id()
    raw = frames.frame(frames.HEADERS, frames.END_STREAM, stream_id, pieces[0])
    for number, part in enumerate(pieces[1:], 2):
        last = frames.END_HEADERS if number == len(pieces) else 0
        raw += frames.frame(frames.CONTINUATION, last, stream_id, part)
    await client.raw(raw)
    assert (await client.answer(stream_id)).body == b"ok"
    await _sound(provider, client, sibling, reached=["GET /long HTTP/1.1"])
