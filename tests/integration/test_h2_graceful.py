"""Going down and closing without breaking streams; deadlines of real connections."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path

from tests.support import h2_frames as frames
from tests.support.h2_lab import ask, h2_client
from tests.support.h2_peer import H2Peer
from tests.support.lab import Lab, eventually, finishes, numbers
from tests.support.peers import curl, program, run
from tests.support.wire import End


async def test_a_drain_lets_streams_finish_and_closes_then(lab: Lab) -> None:
    simulator = await lab.simulator()
    relay = await lab.process(simulator.url)
    client = await h2_client(lab, relay.port)
    ids = [ask(client, events=200, rate=100) for _ in range(10)]
    await client.until(lambda: all(client.peer.answers[number].body for number in ids))
    relay.signal(signal.SIGTERM)
    await client.until(lambda: len(client.peer.goaways) == 2)
    assert [goaway.code for goaway in client.peer.goaways] == [frames.NO_ERROR] * 2
    await client.until(lambda: all(client.peer.answers[number].whole for number in ids))
    assert all(numbers(client.peer.answers[number].body) == list(range(200)) for number in ids)
    assert await client.ended() is End.CLOSED
    client.close()
    assert await relay.exit_status() == 0


async def test_the_end_of_the_drain_time_breaks_streams_off(lab: Lab) -> None:
    simulator = await lab.simulator()
    relay = await lab.process(simulator.url, drain_timeout="300ms")
    client = await h2_client(lab, relay.port)
    streaming, waiting = ask(client, events=0, rate=50), ask(client, delay=60)
    await client.until(lambda: client.peer.answers[streaming].body)
    relay.signal(signal.SIGTERM)
    await client.ended()
    assert client.peer.answers[streaming].reset == frames.INTERNAL_ERROR
    assert (client.peer.answers[waiting].status, client.peer.answers[waiting].whole) == (503, True)
    assert [goaway.last for goaway in client.peer.goaways] == [2**31 - 1, waiting]
    assert await relay.exit_status() == 0
    assert [line["end"] for line in relay.lines if line["event"] == "access"] == ["relay_stopped"] * 2


async def test_a_second_signal_ends_streams_at_once(lab: Lab) -> None:
    simulator = await lab.simulator()
    relay = await lab.process(simulator.url)
    client = await h2_client(lab, relay.port)
    streaming, waiting = ask(client, events=0, rate=50), ask(client, delay=60)
    await client.until(lambda: client.peer.answers[streaming].body)
    relay.signal(signal.SIGTERM)
    await client.until(lambda: client.peer.goaways)
    relay.signal(signal.SIGTERM)
    assert await relay.exit_status() == 0
    assert not client.peer.answers[streaming].whole
    assert not client.peer.answers[waiting].status
    assert [line["end"] for line in relay.lines if line["event"] == "access"] == ["relay_stopped"] * 2
    await eventually(lambda: {stream["state"] for stream in simulator.streams} == {"cancelled"})


async def test_nghttp_is_told_in_two_steps(lab: Lab, tmp_path: Path) -> None:
    """RFC 9113 section 6.8. nghttp ends a connection that has answered all its requests, so one answer lasts."""
    simulator = await lab.simulator()
    relay = await lab.process(simulator.url)
    body = tmp_path / "body"
    body.write_text('{"model": "simulated", "stream": true, "messages": []}')
    options = ("--verbose", "-d", str(body), "-H", "x-simulate: events=250 rate=100")
    url = f"http://127.0.0.1:{relay.port}/v1/chat/completions"
    asking = asyncio.create_task(run(program("nghttp"), *options, url))
    await eventually(lambda: simulator.streams)
    relay.signal(signal.SIGTERM)
    status, out, err = await asking
    assert status == 0, err.decode()
    assert numbers(out) == list(range(250))
    lasts = re.findall(r"recv.* GOAWAY frame.*\n.*last_stream_id=(\d+), error_code=NO_ERROR", out.decode())
    streams = re.findall(r"send.* HEADERS frame <.*stream_id=(\d+)>", out.decode())
    assert lasts == [str(2**31 - 1), *streams]
    assert await relay.exit_status() == 0


async def test_curl_is_told_that_its_connection_closes(lab: Lab, tmp_path: Path) -> None:
    """HTTP/1.1: an answer that begins while the relay drains says `connection: close`."""
    simulator = await lab.simulator()
    relay = await lab.process(simulator.url)
    options = ("-N", "-i", "-H", "x-simulate: events=20 delay=1", "-H", "content-type: application/json")
    data = '{"model": "simulated", "stream": true, "messages": []}'
    asking = asyncio.create_task(curl(*options, "-d", data, f"http://127.0.0.1:{relay.port}/v1/chat/completions"))
    await eventually(lambda: simulator.streams)
    relay.signal(signal.SIGTERM)
    head, _, answer = (await asking).partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower().split(b"\r\n")
    assert numbers(answer) == list(range(20))
    assert await relay.exit_status() == 0


async def test_a_connection_ends_after_its_requests_and_loses_none(lab: Lab) -> None:
    _, relay, _ = await lab.simulated(h2_max_requests=10)
    client = await h2_client(lab, relay.port)
    ids = [ask(client, events=30, rate=100) for _ in range(15)]
    await client.until(lambda: all(client.peer.answers[number].whole for number in ids))
    assert await client.ended() is End.CLOSED
    assert client.peer.goaways[-1].last == ids[-1]


async def test_an_idle_connection_is_ended(lab: Lab) -> None:
    _, relay, _ = await lab.simulated(keepalive_timeout="200ms")
    client = await h2_client(lab, relay.port)
    assert (await client.answer(ask(client, events=1))).whole
    assert await client.ended() is End.CLOSED
    assert [goaway.reason for goaway in client.peer.goaways] == ["idle"]


async def test_a_stalled_stream_is_reset_and_its_sibling_goes_on(lab: Lab) -> None:
    simulator, relay, _ = await lab.simulated(stall_timeout="500ms")
    client = await h2_client(lab, relay.port, peer=H2Peer(window=1000))
    stalled = ask(client, events=0, id="stalled")
    client.peer.stalled.add(stalled)
    live = ask(client, events=200, rate=100)
    answer = await client.answer(stalled)
    assert answer.reset == frames.CANCEL
    assert numbers((await client.answer(live)).body) == list(range(200))
    assert [s["state"] for s in simulator.streams if s["id"] == "stalled"] == ["cancelled"]
    assert [line["end"] for line in await relay.access(2)] == ["client_stalled", "complete"]


async def test_a_client_that_acknowledges_nothing_ends_with_all_its_streams(lab: Lab) -> None:
    simulator, relay, _ = await lab.simulated(stall_timeout="500ms")
    client = await h2_client(lab, relay.port, peer=H2Peer(window=1 << 24), receive_buffer=8192)
    client.peer.credit(0, 1 << 24)
    for _ in range(3):
        ask(client, events=0)
    await client.flush()
    assert {line["end"] for line in await relay.access(3)} == {"client_stalled"}
    await eventually(lambda: {stream["state"] for stream in simulator.streams} == {"cancelled"})


async def test_a_client_that_reads_slowly_is_not_stalled(lab: Lab) -> None:
    _, relay, _ = await lab.simulated(stall_timeout="500ms")
    client = await h2_client(lab, relay.port, peer=H2Peer(window=1 << 20), receive_buffer=8192)
    client.peer.credit(0, 1 << 24)
    ids = [ask(client, events=300) for _ in range(4)]
    await client.flush()
    while not all(client.peer.answers[number].whole for number in ids):
        await client.step()
        await asyncio.sleep(0.02)
    assert all(numbers(client.peer.answers[number].body) == list(range(300)) for number in ids)


async def test_a_client_whose_host_answers_pings_is_kept_though_it_does_not(lab: Lab) -> None:
    """A program that is busy with what it read, and reads no more for a while."""
    _, relay, _ = await lab.simulated(h2_ping_interval="100ms")
    client = await h2_client(lab, relay.port)
    stream_id = ask(client, events=5, silence_after=2)
    await client.until(lambda: client.peer.answers[stream_id].body)
    await asyncio.sleep(0.6)
    assert relay.relay.metrics.open
    await client.until(lambda: client.peer.pings)


async def test_connections_and_streams_are_counted(lab: Lab) -> None:
    _, relay, _ = await lab.simulated()
    client = await h2_client(lab, relay.port, peer=H2Peer(window=1000))
    stalled = [ask(client, events=0) for _ in range(3)]
    client.peer.stalled.update(stalled)
    await client.until(lambda: all(len(client.peer.answers[number].body) == 1000 for number in stalled))
    metrics = await relay.metrics()
    assert (metrics["flow_h2_connections"], metrics["flow_h2_streams"]) == (1, 3)
    assert metrics["flow_h2_window_stalls_total"] >= 3
    client.close()
    await eventually(lambda: not relay.relay.metrics.open)
    metrics = await relay.metrics()
    assert (metrics["flow_h2_connections"], metrics["flow_h2_streams"]) == (0, 0)
    assert metrics["flow_h2_window_stall_seconds_total"] > 0
    await finishes(relay.access(3))
