"""Which connection serves a request, and what a stream does until it has one."""

from __future__ import annotations

import asyncio
from typing import cast

from flowserver.errors import EndReason, upstream_error
from flowserver.flow import Marks
from flowserver.messages import RequestHead
from flowserver.upstream.dial import Dialer, DialError
from flowserver.upstream.h1 import UpstreamH1
from flowserver.upstream.pool import MAX_IDLE, Pool, PooledStream

from ..support.clock import FakeClock
from ..support.dialogue import FakeDialer, Provider
from ..support.recording import RecordingUpstreamEvents
from ..support.transport import FakeTransport

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Scene:
    def __init__(self, *, keepalive: float | None = 30.0) -> None:
        self.clock = FakeClock()
        self.dialer = FakeDialer()
        marks = Marks(high=1000, low=100, chunks=16)
        self.pool = Pool("api", cast(Dialer, self.dialer), marks, keepalive=keepalive, clock=self.clock)

    def ask(self, *, has_body: bool = False) -> tuple[PooledStream, Events]:
        events = Events()
        head = RequestHead(b"POST", b"/", [(b"host", b"x")], has_body=has_body)
        events.stream = stream = self.pool.open(head, events)
        if not has_body:
            stream.send_end()
        return stream, events

    def provider(self, number: int = -1) -> Provider:
        transport = self.dialer.transports[number]
        return Provider(cast(UpstreamH1, transport._protocol), transport)

    async def answered(self) -> Events:
        """A request that was asked, connected and answered."""
        _, events = self.ask()
        await turn()
        self.provider().says(ANSWER)
        return events


class Events(RecordingUpstreamEvents):
    """As the exchange does: the end and a failure cancel the stream."""

    stream: PooledStream

    def on_upstream_end(self) -> None:
        super().on_upstream_end()
        self.stream.cancel()


async def turn() -> None:
    """Let tasks go as far as they can."""
    for _ in range(5):
        await asyncio.sleep(0)


# Connecting


async def test_a_request_goes_out_when_its_connection_is_there() -> None:
    scene = Scene()
    stream, events = scene.ask()
    await turn()
    assert scene.provider().hears() == b"POST / HTTP/1.1\r\nhost: x\r\n\r\n"
    scene.provider().says(ANSWER)
    assert events.log == ["head 200", "data", "end"]
    assert not stream.reused
    assert (scene.pool.connects, scene.pool.open_connections, scene.pool.idle_connections) == (1, 1, 1)


async def test_a_body_waits_for_its_connection_up_to_the_high_mark() -> None:
    scene = Scene()
    scene.dialer.outcome = asyncio.get_running_loop().create_future()
    stream, events = scene.ask(has_body=True)
    stream.send_data(b"x" * 999)
    assert events.log == []
    stream.send_data(b"y")
    assert events.log == ["full"]
    stream.send_data(b"z")
    stream.send_end()
    scene.dialer.outcome.set_result(None)
    await turn()
    assert events.log == ["full", "drained"]
    assert scene.provider().hears().endswith(b"\r\n\r\n3e9\r\n" + b"x" * 999 + b"yz\r\n0\r\n\r\n")


async def test_a_body_that_waited_and_fills_the_transport_is_drained_by_it() -> None:
    scene = Scene()
    scene.dialer.outcome = asyncio.get_running_loop().create_future()
    scene.dialer.on_connected = FakeTransport.block
    stream, events = scene.ask(has_body=True)
    stream.send_data(b"x" * 1500)
    stream.send_end()
    scene.dialer.outcome.set_result(None)
    await turn()
    assert events.log[0] == "full"
    assert "drained" not in events.log
    scene.provider().reads()
    assert events.log[-1] == "drained"
    assert scene.provider().hears().endswith(b"x\r\n0\r\n\r\n")


async def test_no_connection_is_told_to_the_client() -> None:
    scene = Scene()
    error = upstream_error("connect_failed", "The provider can't be reached.", EndReason.CONNECT_FAILED)
    scene.dialer.error = DialError(error)
    _, events = scene.ask()
    assert events.log == []
    await turn()
    assert events.errors == [error]
    assert scene.pool.open_connections == 0


async def test_a_client_that_leaves_while_connecting_ends_the_connecting() -> None:
    scene = Scene()
    scene.dialer.outcome = asyncio.get_running_loop().create_future()
    stream, events = scene.ask()
    await turn()
    stream.cancel()
    await turn()
    assert scene.dialer.outcome.cancelled()
    assert events.log == []


async def test_a_client_that_leaves_as_the_connection_is_made_leaves_nothing_open() -> None:
    scene = Scene()
    stream, events = scene.ask()
    scene.dialer.on_connected = lambda transport: stream.cancel()
    await turn()
    assert [transport.end for transport in scene.dialer.transports] == ["reset"]
    assert events.log == []
    assert scene.provider().hears() == b""


async def test_a_provider_that_closes_as_soon_as_it_is_connected_is_told_to_the_client() -> None:
    scene = Scene()
    scene.dialer.on_connected = FakeTransport.lose
    _, events = scene.ask()
    await turn()
    assert events.log == ["failed 502"]
    assert scene.pool.open_connections == 0


async def test_a_pause_from_before_the_connection_holds() -> None:
    scene = Scene()
    stream, events = scene.ask()
    stream.pause_reading()
    await turn()
    scene.provider().says(ANSWER)
    assert events.log == []
    stream.resume_reading()
    scene.provider().transport.deliver()
    assert events.log == ["head 200", "data", "end"]


# Keeping


async def test_a_kept_connection_is_taken_at_once() -> None:
    scene = Scene()
    await scene.answered()
    stream, events = scene.ask()
    assert stream.reused
    scene.provider().says(ANSWER)
    assert events.body == b"hello"
    assert (scene.pool.connects, scene.pool.reuses, scene.pool.open_connections) == (1, 1, 1)


async def test_the_connection_used_last_is_taken_first() -> None:
    scene = Scene()
    for _ in range(2):
        scene.ask()
    await turn()
    scene.provider(1).says(ANSWER)
    scene.provider(0).says(ANSWER)
    scene.provider(0).hears(), scene.provider(1).hears()
    before = [len(transport.sent) for transport in scene.dialer.transports]
    scene.ask()
    after = [len(transport.sent) for transport in scene.dialer.transports]
    assert after[0] > before[0]
    assert after[1] == before[1]


async def test_a_dead_connection_is_passed_over() -> None:
    scene = Scene()
    await scene.answered()
    scene.dialer.transports[0].socket.tcp_state = 8
    stream, _ = scene.ask()
    await turn()
    assert not stream.reused
    assert scene.dialer.transports[0].end == "reset"
    assert len(scene.dialer.transports) == 2


async def test_a_connection_that_the_provider_closed_is_forgotten() -> None:
    scene = Scene()
    await scene.answered()
    scene.provider().shuts()
    scene.provider().transport.lose()
    assert (scene.pool.open_connections, scene.pool.idle_connections) == (0, 0)


async def test_a_connection_that_was_idle_for_too_long_is_closed() -> None:
    scene = Scene()
    await scene.answered()
    scene.pool.sweep(scene.clock.advance(29))
    assert scene.provider().end == "open"
    scene.pool.sweep(scene.clock.advance(1))
    assert scene.provider().end == "reset"
    assert scene.pool.idle_connections == 0


async def test_only_what_was_idle_for_too_long_is_closed() -> None:
    scene = Scene()
    for _ in range(2):
        scene.ask()
    await turn()
    scene.provider(1).says(ANSWER)
    scene.clock.advance(20)
    scene.provider(0).says(ANSWER)
    scene.pool.sweep(scene.clock.advance(20))
    assert [transport.end for transport in scene.dialer.transports] == ["open", "reset"]


async def test_without_keepalive_no_connection_is_kept() -> None:
    scene = Scene(keepalive=None)
    await scene.answered()
    assert scene.provider().end == "reset"
    assert scene.pool.idle_connections == 0


async def test_no_more_than_so_many_connections_are_kept() -> None:
    scene = Scene()
    for _ in range(MAX_IDLE + 1):
        scene.ask()
    await turn()
    for number in range(MAX_IDLE + 1):
        scene.provider(number).says(ANSWER)
    assert scene.pool.idle_connections == MAX_IDLE
    assert scene.provider().end == "reset"


async def test_closing_the_pool_closes_busy_and_idle_connections() -> None:
    scene = Scene()
    await scene.answered()
    scene.ask()
    scene.ask()
    await turn()
    scene.pool.close()
    assert [transport.end for transport in scene.dialer.transports] == ["reset", "reset"]


# Ending


async def test_a_cancelled_stream_ignores_what_follows() -> None:
    scene = Scene()
    stream, events = scene.ask(has_body=True)
    await turn()
    scene.provider().hears()
    stream.cancel()
    stream.cancel()
    stream.send_data(b"x")
    stream.send_end()
    stream.pause_reading()
    stream.resume_reading()
    scene.provider().transport.lose()
    assert scene.provider().transport.calls == ["abort"]
    assert events.log == []


async def test_a_stream_that_is_over_has_no_hand_in_the_next_one() -> None:
    scene = Scene()
    first, _ = scene.ask()
    await turn()
    scene.provider().says(ANSWER)
    _, events = scene.ask()
    first.pause_reading()
    first.cancel()
    scene.provider().says(ANSWER)
    assert events.log == ["head 200", "data", "end"]
