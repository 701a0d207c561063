"""Request bodies: framed anew, whole, and held back by a provider that does not read."""

from __future__ import annotations

import asyncio
import hashlib
import random

import orjson
import pytest

from tests.support.lab import Lab, eventually, full_backlog, simulate
from tests.support.provider import Caller, ok
from tests.support.wire import LAST_CHUNK, End, Message, Wire, chunk, request, response

MB = 1024 * 1024
PAYLOAD = random.Random(7).randbytes(12 * MB)
DIGEST = hashlib.sha256(PAYLOAD).hexdigest()


async def _upload(client: Wire, framing: str, target: str, *headers: str) -> None:
    if framing == "length":
        await client.send(request("POST", target, headers, body=PAYLOAD))
        return
    await client.send(request("POST", target, ["Transfer-Encoding: chunked", *headers]))
    sizes = random.Random(3)
    position = 0
    while position < len(PAYLOAD):
        piece = PAYLOAD[position : position + sizes.randrange(1, 300_000)]
        await client.send(chunk(piece))
        position += len(piece)
    await client.send(LAST_CHUNK)


def _is_whole(answer: Message) -> bool:
    return bool(orjson.loads(answer.body) == {"bytes": len(PAYLOAD), "sha256": DIGEST})


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_upload_arrives_whole_in_the_framing_it_came_in(lab: Lab, framing: str) -> None:
    simulator, relay, client = await lab.simulated()
    await _upload(client, framing, "/v1/sink")
    assert _is_whole(await client.response())
    [(_, _, headers)] = simulator.requests
    assert headers.get("content-length") == (str(len(PAYLOAD)) if framing == "length" else None)
    assert headers.get("transfer-encoding") == (None if framing == "length" else "chunked")
    [line] = await relay.access()
    assert line["bytes_up"] == len(PAYLOAD)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_provider_that_does_not_read_stops_the_upload(lab: Lab, framing: str) -> None:
    """The client is stopped when the kernel's buffers on both ways and the relay's own mark are full; afterwards
    everything arrives."""
    reads = asyncio.Event()

    async def script(caller: Caller) -> None:
        await caller.head()
        await reads.wait()
        caller.buffer.clear()
        while await caller.receive(1 * MB):
            pass

    provider = await lab.provider(script, receive_buffer=64 * 1024)
    relay = await lab.relay(provider.url)
    client = await lab.client(relay.port)
    uploading = asyncio.create_task(_upload(client, framing, "/v1/sink"))
    await eventually(lambda: provider.requests)
    [exchange] = relay.exchanges
    await eventually(lambda: exchange.upload_is_stopped)
    passed = -1
    while passed != exchange.bytes_up:  # until it stands still
        passed = exchange.bytes_up
        await asyncio.sleep(0.1)
    assert not uploading.done()
    assert passed < 8 * MB  # 4 MB of it can wait in the kernel, between relay and provider
    assert exchange.upload_is_stopped
    reads.set()
    await uploading
    await eventually(lambda: exchange.bytes_up == len(PAYLOAD))
    await eventually(lambda: not exchange.upload_is_stopped)
    assert (await relay.metrics())['flow_pauses_total{reason="upstream"}'] >= 1
    client.reset()


async def test_a_provider_that_reads_late_gets_everything(lab: Lab) -> None:
    _, _, client = await lab.simulated()
    await _upload(client, "length", "/v1/sink", simulate(read_after=0.3))
    assert _is_whole(await client.response())


async def test_a_provider_that_reads_slowly_gets_everything(lab: Lab) -> None:
    _, _, client = await lab.simulated()
    await _upload(client, "chunked", "/v1/sink", simulate(read_rate=20_000_000))
    assert _is_whole(await client.response())


async def test_an_upload_waits_bounded_while_the_relay_connects(lab: Lab) -> None:
    """The provider's queue of connections is full: there is no connection yet, so the body waits in the relay."""
    with full_backlog() as port:
        relay = await lab.relay(f"http://127.0.0.1:{port}")
        client = await lab.client(relay.port)
        uploading = asyncio.create_task(_upload(client, "length", "/v1/sink"))
        await eventually(lambda: relay.relay.metrics.open)
        [exchange] = relay.exchanges
        await eventually(lambda: exchange.upload_is_stopped)
        assert exchange.bytes_up < 1 * MB
        await asyncio.sleep(0.1)
        assert exchange.bytes_up < 1 * MB
        uploading.cancel()
        client.reset()
        assert await relay.ended() == "client_gone"


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_100_continue_is_answered_here(lab: Lab, version: str) -> None:
    provider, _, client = await lab.between(ok)
    await client.send(request("POST", headers=["Expect: 100-continue", "Content-Length: 5"], version=version))
    if version == "1.1":
        assert (await client.head()).status == 100
    await client.send(b"hello")
    assert (await client.head()).status == 200
    assert provider.requests[0].body == b"hello"
    assert provider.requests[0].get("expect") is None


async def test_100_continue_is_left_out_when_the_body_comes_anyway(lab: Lab) -> None:
    _, _, client = await lab.between(ok)
    await client.send(request("POST", headers=["Expect: 100-continue"], body=b"hello"))
    assert (await client.head()).status == 200


async def test_bytes_go_both_ways_at_once(lab: Lab) -> None:
    """A provider may answer while it still reads."""

    async def script(caller: Caller) -> None:
        await caller.head()
        await caller.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while data := await caller.chunk():
            await caller.send(chunk(data.upper()))
        await caller.send(LAST_CHUNK)

    _, _, client = await lab.between(script)
    await client.send(request("POST", headers=["Transfer-Encoding: chunked"]))
    assert (await client.head()).status == 200
    for word in (b"one", b"two", b"three"):
        await client.send(chunk(word))
        assert await client.chunk() == word.upper()
    await client.send(LAST_CHUNK)
    assert await client.chunk() == b""


async def test_an_answer_before_the_end_of_the_upload_reaches_the_client(lab: Lab) -> None:
    """The rest of the upload is of no use then, and the connection can't be used again."""

    async def script(caller: Caller) -> None:
        await caller.head()
        await caller.send(response(b"no need", status="403 Forbidden"))
        await caller.rest()

    _, relay, client = await lab.between(script)
    uploading = asyncio.create_task(_upload(client, "length", "/v1/sink"))
    answer = await client.response()
    assert (answer.status, answer.body, answer.get("connection")) == (403, b"no need", "close")
    await asyncio.wait([uploading])
    assert uploading.exception() is None
    assert await client.rest() == (b"", End.CLOSED)
    assert await relay.ended() == "complete"


async def test_a_client_that_leaves_in_mid_upload_leaves_no_whole_request(lab: Lab) -> None:
    gone = asyncio.Event()

    async def script(caller: Caller) -> None:
        await caller.head()
        await caller.rest()
        gone.set()

    provider, relay, client = await lab.between(script)
    await client.send(request("POST", headers=["Content-Length: 1000"]) + b"x" * 500)
    await eventually(lambda: provider.requests)
    client.close()
    async with asyncio.timeout(10):
        await gone.wait()
    assert await relay.ended() == "client_gone"


async def test_a_client_that_leaves_while_its_upload_is_held_back_is_noticed(lab: Lab) -> None:
    """Its connection is not read then: that it is gone is seen all the same."""
    provider = await lab.provider(_reads_the_head_only, receive_buffer=16 * 1024)
    relay = await lab.relay(provider.url)
    client = await lab.client(relay.port)
    uploading = asyncio.create_task(_upload(client, "length", "/v1/sink"))
    await eventually(lambda: relay.relay.metrics.open)
    [exchange] = relay.exchanges
    await eventually(lambda: exchange.upload_is_stopped)
    uploading.cancel()
    await asyncio.wait([uploading])
    client.reset()
    assert await relay.ended() == "client_gone"


async def test_a_provider_that_never_reads_on_is_given_up(lab: Lab) -> None:
    """It is the provider that is waited for then, not the client."""
    provider = await lab.provider(_reads_the_head_only, receive_buffer=16 * 1024)
    relay = await lab.relay(provider.url, first_byte_timeout="200ms", body_timeout="100ms")
    client = await lab.client(relay.port)
    uploading = asyncio.create_task(_upload(client, "length", "/v1/sink"))
    answer = await client.response()
    assert answer.status == 504
    assert "accepted no more" in orjson.loads(answer.body)["error"]["message"]
    uploading.cancel()
    await asyncio.wait([uploading])
    assert await relay.ended() == "first_byte_timeout"


async def _reads_the_head_only(caller: Caller) -> None:
    await caller.head()


# --- unfinished ones that are read whole ---

CHAT_BODY = b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * (300 * 1024) + b'"}]}'


def _chat_head() -> bytes:
    length = f"Content-Length: {len(CHAT_BODY)}"
    return request("POST", "/v1/chat/completions", ["Content-Type: application/json", length])


async def test_unfinished_uploads_of_all_clients_are_bounded_and_the_first_goes_on(lab: Lab) -> None:
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url, max_uploads="1m")
    clients = [await lab.client(relay.port) for _ in range(20)]
    await clients[0].send(_chat_head() + CHAT_BODY[:1000])
    await eventually(lambda: relay.relay.metrics.open)
    sending = [asyncio.create_task(client.send(_chat_head() + CHAT_BODY[:-1])) for client in clients[1:]]
    await eventually(lambda: len(relay.relay.metrics.open) == 20)
    await eventually(lambda: relay.relay.metrics.uploads.waits)  # type: ignore[union-attr]
    for _ in range(20):
        await asyncio.sleep(0.01)
        assert (await relay.metrics())["flow_uploads_held_bytes"] < 2 * MB
    await clients[0].send(CHAT_BODY[1000:])
    assert (await clients[0].response()).status == 200
    small = await lab.client(relay.port)
    await small.send(request("POST", "/v1/chat/completions", ["Content-Type: application/json"], body=b'{"model":"m"}'))
    assert (await small.response()).status == 200
    for task in sending:
        task.cancel()
    await asyncio.wait(sending)
    for client in clients[1:]:
        client.close()
    await eventually(lambda: not relay.relay.metrics.open)
    assert (await relay.metrics())["flow_uploads_held_bytes"] == 0


async def test_many_large_uploads_at_once_all_arrive_one_after_the_other(lab: Lab) -> None:
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url, max_uploads="512k")

    async def one() -> int:
        client = await lab.client(relay.port)
        await client.send(_chat_head() + CHAT_BODY)
        return (await client.response()).status

    assert await asyncio.gather(*(one() for _ in range(30))) == [200] * 30
    assert {len(message.body) for message in provider.requests} <= {0, len(CHAT_BODY)}
    assert (await relay.metrics())["flow_uploads_held_bytes"] == 0


async def test_an_upload_that_waits_too_long_is_answered_and_makes_room(lab: Lab) -> None:
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url, max_uploads="256k", body_timeout="300ms")
    clients = [await lab.client(relay.port) for _ in range(5)]
    sending = []
    for client in clients:
        sending.append(asyncio.create_task(client.send(_chat_head() + CHAT_BODY[:-1])))
        await asyncio.sleep(0.02)
    statuses = sorted([(await client.response()).status for client in clients])
    assert set(statuses) == {408, 503}  # the first, which may go on and does not, and those that wait
    for task in sending:
        task.cancel()
    await asyncio.wait(sending)
    client = await lab.client(relay.port)
    await client.send(_chat_head() + CHAT_BODY)
    assert (await client.response()).status == 200
