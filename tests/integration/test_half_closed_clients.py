"""Clients that close their sending side and wait: right behind the request they are given a little time, and with
FLOW_HALF_CLOSE=serve they are served to the end."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.lab import Lab, chat, eventually, numbers
from tests.support.provider import answering, ok
from tests.support.wire import End, request, response

pytestmark = pytest.mark.serial  # a FIN has to follow its request within 10 ms


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_shut_right_behind_the_request(lab: Lab, version: str) -> None:
    _, _, client = await lab.between(ok)
    await client.send(request("POST", body=b"hello", version=version))
    client.half_close()
    assert (await client.response()).body == b"ok"
    assert await client.rest() == (b"", End.CLOSED)


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_shut_while_the_provider_thinks(lab: Lab, version: str) -> None:
    simulator, relay, client = await lab.simulated(half_close="serve")
    await client.send(chat(events=20, delay=0.2, first=0.2).replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1))
    await eventually(lambda: simulator.streams)
    client.half_close()
    assert numbers((await client.response()).body) == list(range(20))
    assert await client.rest() == (b"", End.CLOSED)
    assert await relay.ended() == "complete"


async def test_shut_while_the_relay_connects(lab: Lab) -> None:
    _, relay, client = await lab.between(ok)
    await client.send(request())
    client.half_close()
    assert (await client.response()).body == b"ok"
    assert await relay.ended() == "complete"


@pytest.mark.parametrize("options", [{}, {"length": 1}, {"close": 1}], ids=["chunked", "length", "close"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_shut_in_mid_stream(lab: Lab, version: str, options: dict[str, int]) -> None:
    _, relay, client = await lab.simulated(half_close="serve")
    await client.send(chat(events=40, rate=200, **options).replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1))
    await eventually(lambda: any(exchange.bytes_down for exchange in relay.exchanges))
    client.half_close()
    answer = await client.response()
    assert numbers(answer.body) == list(range(40))
    assert await client.rest() == (b"", End.CLOSED)


async def test_shut_while_chunks_wait_for_the_client(lab: Lab) -> None:
    _, relay, _ = await lab.simulated(half_close="serve")
    client = await lab.client(relay.port, receive_buffer=8192)
    await client.send(chat(events=10_000))
    await eventually(lambda: relay.relay.metrics.open)
    [exchange] = relay.exchanges
    await eventually(lambda: exchange.is_paused)
    client.half_close()
    assert numbers((await client.response()).body) == list(range(10_000))


async def test_shut_behind_pipelined_requests(lab: Lab) -> None:
    _, _, client = await lab.between(answering(lambda message: response(message.start.encode())))
    await client.send(b"".join(request(target=f"/{number}") for number in range(10)))
    client.half_close()
    for number in range(10):
        answer = await client.response()
        assert answer.body == b"GET /%d HTTP/1.1" % number
        assert answer.get("connection") == ("close" if number == 9 else None)
    assert await client.rest() == (b"", End.CLOSED)


async def test_shut_in_the_middle_of_a_pipelined_request(lab: Lab) -> None:
    """The whole one is answered, the other is not guessed."""
    provider, _, client = await lab.between(ok)
    await client.send(request(target="/whole") + request(target="/cut")[:-2])
    client.half_close()
    assert (await client.response()).body == b"ok"
    assert await client.rest() == (b"", End.CLOSED)
    assert len(provider.requests) == 1


async def test_shut_in_the_middle_of_a_body(lab: Lab) -> None:
    provider, relay, client = await lab.between(ok)
    await client.send(request("POST", headers=["Content-Length: 10"]) + b"half")
    client.half_close()
    await client.rest()
    assert await relay.ended() == "client_gone"
    assert all(message.body == b"" for message in provider.requests)


async def test_shut_on_an_idle_connection_closes_it(lab: Lab) -> None:
    _, _, client = await lab.between(ok)
    await client.send(request())
    assert (await client.response()).body == b"ok"
    client.half_close()
    assert await client.rest() == (b"", End.CLOSED)


async def test_a_half_closed_client_that_then_hangs_up_is_noticed(lab: Lab) -> None:
    """Its connection is not read any more; the hang-up is seen all the same, without a write."""
    simulator, relay, client = await lab.simulated(half_close="serve")
    await client.send(chat(events=0, rate=50, silence_after=3))
    await eventually(lambda: simulator.streams and simulator.streams[0]["state"] == "silent")
    client.half_close()
    await asyncio.sleep(0.1)
    assert simulator.streams[0]["state"] == "silent"
    client.reset()
    await eventually(lambda: simulator.streams[0]["state"] == "cancelled")
    assert await relay.ended() == "client_gone"


@pytest.mark.parametrize("deadline", ["first_byte_timeout", "idle_timeout"])
async def test_one_that_is_served_and_was_a_ghost_ends_by_a_deadline(lab: Lab, deadline: str) -> None:
    simulator, relay, client = await lab.simulated(half_close="serve", **{deadline: "300ms"})
    await client.send(chat(silence_after=3) if deadline == "idle_timeout" else chat(delay=60))
    await eventually(lambda: simulator.streams)
    client.half_close()
    await eventually(lambda: simulator.streams[0]["state"] == "cancelled")
    assert await relay.ended() == deadline
    await client.rest()


async def test_nothing_is_written_to_find_out(lab: Lab) -> None:
    simulator, _, client = await lab.simulated(half_close="serve")
    await client.send(chat(delay=0.5, events=1))
    await eventually(lambda: simulator.streams)
    client.half_close()
    assert (await client.head()).status == 200  # and no interim response before it
