"""Each deadline ends what it is for, says so, and leaves alone what it is not for.

Settings are short, waits are generous: what is asserted is what happens, never when.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from tests.support.lab import Lab, chat, eventually, full_backlog, numbers
from tests.support.provider import Caller, ok, silent
from tests.support.topology import toml
from tests.support.wire import CHUNKED_HEAD, LAST_CHUNK, End, Message, chunk, request, response


def _message(answer: Message) -> str:
    return str(orjson.loads(answer.body)["error"]["message"])


# --- the client's side ---


async def test_a_head_that_stops_in_the_middle_gets_408(lab: Lab) -> None:
    provider, _, client = await lab.between(ok, head_timeout="100ms")
    await client.send(request()[:-2])
    answer = await client.response()
    assert answer.status == 408
    assert "FLOW_HEAD_TIMEOUT" in _message(answer)
    assert await client.rest() == (b"", End.CLOSED)
    assert provider.callers == []


async def test_a_head_in_drips_gets_408_all_the_same(lab: Lab) -> None:
    _, _, client = await lab.between(ok, head_timeout="200ms")

    async def drip() -> None:
        for byte in request(headers=["X-Filling: " + "x" * 1000]):
            await client.send(bytes((byte,)))
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    assert (await client.response()).status == 408
    dripping.cancel()


async def test_a_client_that_never_sends_is_closed(lab: Lab) -> None:
    _, _, client = await lab.between(ok, head_timeout="100ms")
    assert await client.rest() == (b"", End.CLOSED)


async def test_empty_lines_do_not_keep_a_connection(lab: Lab) -> None:
    _, _, client = await lab.between(ok, head_timeout="200ms")

    async def drip() -> None:
        while True:
            await client.send(b"\r\n")
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    await client.rest()
    dripping.cancel()


async def test_an_idle_connection_is_closed(lab: Lab) -> None:
    _, _, client = await lab.between(ok, keepalive_timeout="100ms")
    await client.send(request())
    assert (await client.response()).body == b"ok"
    assert await client.rest() == (b"", End.CLOSED)


async def test_a_busy_connection_is_not_idle(lab: Lab) -> None:
    _, _, client = await lab.simulated(keepalive_timeout="50ms", head_timeout="50ms")
    await client.send(chat(events=40, rate=100))
    assert numbers((await client.response()).body) == list(range(40))


async def test_a_body_that_stops_gets_408_and_the_provider_no_whole_request(lab: Lab) -> None:
    provider, relay, client = await lab.between(ok, body_timeout="100ms")
    await client.send(request("POST", headers=["Content-Length: 10"]) + b"half")
    answer = await client.response()
    assert answer.status == 408
    assert "FLOW_BODY_TIMEOUT" in _message(answer)
    assert await client.rest() == (b"", End.CLOSED)
    assert all(message.body == b"" for message in provider.requests)
    assert await relay.ended() == "body_timeout"


async def test_a_body_that_comes_slowly_is_waited_for(lab: Lab) -> None:
    provider, _, client = await lab.between(ok, body_timeout="300ms", first_byte_timeout="300ms")
    await client.send(request("POST", headers=["Content-Length: 12"]))
    for byte in b"step by step":
        await asyncio.sleep(0.05)
        await client.send(bytes((byte,)))
    assert (await client.response()).body == b"ok"
    assert provider.requests[0].body == b"step by step"


async def test_a_stalled_client_is_cut_and_its_provider_cancelled(lab: Lab) -> None:
    simulator, relay, _ = await lab.simulated(stall_timeout="200ms")
    client = await lab.client(relay.port, receive_buffer=8192)
    await client.send(chat(events=50_000))
    await eventually(lambda: relay.lines("access"))
    assert await relay.ended() == "client_stalled"
    await eventually(lambda: simulator.streams[0]["state"] == "cancelled")
    body, end = await client.rest()
    assert end is End.RESET or LAST_CHUNK not in body[-16:]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_stalled_client_that_wakes_up_too_late_sees_a_broken_end(lab: Lab, version: str) -> None:
    """Above all with HTTP/1.0, where a plain end of the connection would be the end of the answer."""
    _, relay, _ = await lab.simulated(stall_timeout="200ms")
    client = await lab.client(relay.port, receive_buffer=8192)
    await client.send(chat(events=50_000).replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1))
    assert await relay.ended() == "client_stalled"
    body, end = await client.rest()
    assert b"[DONE]" not in body
    assert end is End.RESET


async def test_a_client_whose_kernel_buffers_alone_are_full_is_stalled_too(lab: Lab) -> None:
    """The relay itself holds nothing: a slow stream to a client that has stopped reading."""
    stops = asyncio.Event()

    async def script(caller: Caller) -> None:
        await caller.request()
        await caller.send(CHUNKED_HEAD)
        for _ in range(size // 1000):
            await caller.send(chunk(bytes(1000)))
        await stops.wait()

    size = 12_000  # more than the client's kernel takes, and less than ours does
    _, relay, _ = await lab.between(script, stall_timeout="300ms")
    client = await lab.client(relay.port, receive_buffer=2048)
    await client.send(request())
    await eventually(lambda: [e for e in relay.exchanges if e.bytes_down == size])
    assert [exchange.held for exchange in relay.exchanges] == [0]
    assert await relay.ended() == "client_stalled"
    stops.set()


async def test_a_client_that_takes_nothing_is_cut_at_so_many_tokens(lab: Lab) -> None:
    simulator, relay, _ = await lab.simulated(stall_timeout="off", stall_tokens=20, idle_timeout="200ms")
    client, reader = await lab.client(relay.port, receive_buffer=8192), await lab.client(relay.port)
    await client.send(chat(events=0, rate=500))
    await reader.send(chat(events=300, rate=200))
    assert numbers((await reader.response()).body) == list(range(300))
    lines = await relay.access(2)
    assert [line["end"] for line in lines] == ["client_stalled", "complete"]
    await eventually(lambda: {stream["state"] for stream in simulator.streams} == {"cancelled", "done"})


async def test_a_client_that_reads_slowly_does_not_stall(lab: Lab) -> None:
    _, relay, _ = await lab.simulated(stall_timeout="400ms")
    client = await lab.client(relay.port, receive_buffer=8192)
    await client.send(chat(events=1500))
    body = b""
    while not body.endswith(LAST_CHUNK):
        body += await client.receive(16 * 1024)
        await asyncio.sleep(0.05)
    assert numbers(body) == list(range(1500))
    assert await relay.ended() == "complete"


async def test_a_client_may_be_slow_as_long_as_its_provider_is(lab: Lab) -> None:
    """Nothing to read is no stall."""
    _, relay, client = await lab.simulated(stall_timeout="100ms")
    await client.send(chat(events=3, rate=4))
    assert numbers((await client.response()).body) == [0, 1, 2]
    assert await relay.ended() == "complete"


# --- the provider's side ---


async def test_a_provider_that_cannot_be_connected_to_in_time_gives_504(lab: Lab) -> None:
    with full_backlog() as port:
        relay = await lab.relay(f"http://127.0.0.1:{port}", connect_timeout="200ms")
        client = await lab.client(relay.port)
        await client.send(request())
        answer = await client.response()
        assert answer.status == 504
        assert "FLOW_CONNECT_TIMEOUT" in _message(answer)
        assert await relay.ended() == "connect_timeout"


async def test_a_tls_handshake_counts_as_connecting(lab: Lab) -> None:
    async def script(caller: Caller) -> None:
        await caller.receive()

    provider = await lab.provider(script)
    relay = await lab.relay(provider.url.replace("http", "https"), connect_timeout="200ms")
    client = await lab.client(relay.port)
    await client.send(request())
    assert (await client.response()).status == 504
    assert await relay.ended() == "connect_timeout"
    assert (await provider.callers[0].rest())[0] == b""


async def test_a_provider_that_says_nothing_gives_504(lab: Lab) -> None:
    provider, relay, client = await lab.between(silent, first_byte_timeout="100ms")
    await client.send(request())
    answer = await client.response()
    assert answer.status == 504
    assert "FLOW_FIRST_BYTE_TIMEOUT" in _message(answer)
    assert (await provider.callers[0].rest())[0] == b""
    assert await relay.ended() == "first_byte_timeout"
    await client.send(request())  # its own connection stays
    assert (await client.response()).status == 504


async def test_a_head_without_a_first_byte_is_broken_off(lab: Lab) -> None:
    simulator, relay, client = await lab.simulated(first_byte_timeout="200ms")
    await client.send(chat(events=3, first=30))
    assert (await client.head()).status == 200
    told, end = await client.rest()
    assert b'"code":"first_byte_timeout"' in told
    assert not told.endswith(LAST_CHUNK)  # broken
    assert end is End.CLOSED
    await eventually(lambda: simulator.streams[0]["state"] == "cancelled")
    assert await relay.ended() == "first_byte_timeout"


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("options", [{}, {"length": 1}], ids=["chunked", "length"])
async def test_a_provider_that_falls_silent_is_broken_off(lab: Lab, version: str, options: dict[str, int]) -> None:
    simulator, relay, client = await lab.simulated(idle_timeout="200ms")
    raw = chat(events=100, silence_after=3, **options)
    await client.send(raw.replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1))
    head = await client.head()
    body, end = await client.rest()
    assert numbers(body) == [0, 1, 2]
    in_chunks = head.get("transfer-encoding") == "chunked"
    assert (b"[DONE]" in body, body.endswith(LAST_CHUNK)) == (False, False)
    assert end is (End.CLOSED if in_chunks else End.RESET)
    await eventually(lambda: simulator.streams[0]["state"] == "cancelled")
    assert await relay.ended() == "idle_timeout"


async def test_a_provider_that_is_slow_but_not_silent_is_waited_for(lab: Lab) -> None:
    _, relay, client = await lab.simulated(idle_timeout="500ms", first_byte_timeout="500ms")
    await client.send(chat(events=12, rate=10))
    assert numbers((await client.response()).body) == list(range(12))
    assert await relay.ended() == "complete"


async def test_a_provider_that_the_relay_itself_stops_is_not_silent(lab: Lab) -> None:
    _, relay, _ = await lab.simulated(idle_timeout="200ms")
    client = await lab.client(relay.port, receive_buffer=8192)
    await client.send(chat(events=5000))
    await eventually(lambda: relay.relay.metrics.open)
    await asyncio.sleep(0.8)
    assert numbers((await client.response()).body) == list(range(5000))
    assert await relay.ended() == "complete"


async def test_a_total_cuts_live_streams_when_it_is_set(lab: Lab) -> None:
    simulator, relay, client = await lab.simulated(total_timeout="300ms")
    await client.send(chat(events=0, rate=100))
    await client.head()
    body, _ = await client.rest()
    assert numbers(body)
    assert not body.endswith(LAST_CHUNK)
    await eventually(lambda: simulator.streams[0]["state"] == "cancelled")
    assert await relay.ended() == "total_timeout"


async def test_a_total_before_the_head_gives_504(lab: Lab) -> None:
    _, relay, client = await lab.between(silent, total_timeout="100ms")
    await client.send(request())
    answer = await client.response()
    assert answer.status == 504
    assert "FLOW_TOTAL_TIMEOUT" in _message(answer)
    assert await relay.ended() == "total_timeout"


async def test_deadlines_that_are_off_never_come(lab: Lab) -> None:
    goes = asyncio.Event()

    async def script(caller: Caller) -> None:
        await caller.request()
        await goes.wait()
        await caller.send(CHUNKED_HEAD + chunk(b"late"))
        await asyncio.sleep(0.3)
        await caller.send(LAST_CHUNK)

    names = ("head", "body", "keepalive", "first_byte", "idle", "stall", "total")
    settings = {f"{name}_timeout": "off" for name in names} | {"upstream_keepalive": "80ms"}  # looks often
    _, _, client = await lab.between(script, **settings)
    await asyncio.sleep(0.2)
    await client.send(request())
    await asyncio.sleep(0.2)
    goes.set()
    assert (await client.response()).body == b"late"
    await client.send(request()[:10])
    assert await client.is_quiet(0.2)


async def test_a_provider_can_switch_off_what_the_environment_sets(lab: Lab, tmp_path: Path) -> None:
    async def script(caller: Caller) -> None:
        await caller.request()
        await asyncio.sleep(0.3)
        await caller.send(CHUNKED_HEAD + chunk(b"late"))
        await asyncio.sleep(0.3)
        await caller.send(LAST_CHUNK)

    provider = await lab.provider(script)
    own = {"url": provider.url, "first_byte_timeout": "off", "idle_timeout": 0, "keepalive": "off", "max_age": "off"}
    config = toml(tmp_path, {"patient": own})
    relay = await lab.relay(None, config=config, first_byte_timeout="100ms", idle_timeout="100ms")
    client = await lab.client(relay.port)
    await client.send(request())
    assert (await client.response()).body == b"late"
    assert await provider.callers[0].rest() == (b"", End.CLOSED)  # not kept


async def test_a_timeout_of_one_exchange_leaves_the_others_alone(lab: Lab) -> None:
    simulator, relay, client = await lab.simulated(first_byte_timeout="300ms")
    other = await lab.client(relay.port)
    await other.send(chat(events=80, rate=100))
    await client.send(chat(delay=30))
    assert (await client.response()).status == 504
    assert numbers((await other.response()).body) == list(range(80))
    assert sorted(stream["state"] for stream in simulator.streams) == ["cancelled", "done"]


async def test_nothing_comes_behind_a_504(lab: Lab) -> None:
    """The provider's late answer goes nowhere."""

    async def script(caller: Caller) -> None:
        await caller.request()
        await asyncio.sleep(0.3)
        await caller.send(response(b"too late"))

    _, _, client = await lab.between(script, first_byte_timeout="100ms")
    await client.send(request())
    assert (await client.response()).status == 504
    assert await client.is_quiet(0.4)
