"""From a dialled transport to a connection that carries requests."""

from __future__ import annotations

import asyncio

import pytest

from flowserver.errors import EndReason, RelayError, upstream_error
from flowserver.flow.bounded_buffer import Watermarks
from flowserver.upstream.connect import ConnectAttempts
from flowserver.upstream.dialer import DialError
from flowserver.upstream.h1 import UpstreamH1
from flowserver.upstream.h2 import UpstreamH2
from flowserver.upstream.pool import PooledConnection
from flowserver.upstream.receive_window import KernelBuffers, StreamWindows

from ..support import h2_frames as frames
from ..support.clock import FakeClock
from ..support.dialogue import FakeDialer
from ..support.h2_upstream import RecordingOwner
from ..support.transport import FakeTransport

MARKS = Watermarks(1000, 100, 8)


class Owner(RecordingOwner):
    """An owner of connections of either kind."""

    def on_capacity(self, connection: UpstreamH1 | UpstreamH2) -> None:
        self.capacities.append(connection.capacity)

    def on_lost(self, connection: UpstreamH1 | UpstreamH2) -> None:
        self.lost += 1


class Scene:
    def __init__(self, *, multiplexed: bool | None = False) -> None:
        self.dialer = FakeDialer()
        self.owner = Owner()
        self.connected: list[PooledConnection] = []
        self.failed: list[RelayError] = []
        self._attempts = ConnectAttempts(self.dialer, self._make, multiplexed=multiplexed, buffers=KernelBuffers(None))

    def dial(self) -> asyncio.Task[None]:
        return self._attempts(self.connected.append, self.failed.append, False)

    def _make(self, multiplexed: bool) -> UpstreamH1 | UpstreamH2:
        if not multiplexed:
            return UpstreamH1(self.owner, MARKS)
        return UpstreamH2(
            self.owner, MARKS, stream_windows=StreamWindows(65_536), ping_interval=None, clock=FakeClock()
        )


@pytest.mark.parametrize(("multiplexed", "kind"), [(False, UpstreamH1), (None, UpstreamH1), (True, UpstreamH2)])
async def test_on_a_plain_port_what_is_known_before_decides(multiplexed: bool | None, kind: type) -> None:
    scene = Scene(multiplexed=multiplexed)
    await scene.dial()
    [connection] = scene.connected
    assert isinstance(connection, kind)
    assert isinstance(scene.dialer.transports[0].get_protocol(), kind)


async def test_what_the_provider_said_before_is_read() -> None:
    scene = Scene(multiplexed=True)
    early = frames.settings((frames.MAX_STREAMS, 7)) + frames.ping() * 2000  # more than one read
    scene.dialer.on_connected = lambda transport: transport.arrive(early)
    await scene.dial()
    assert scene.connected[0].capacity == 7


async def test_bytes_before_any_request_are_no_http_1() -> None:
    scene = Scene()
    scene.dialer.on_connected = lambda transport: transport.arrive(b"220 mail.test ESMTP\r\n")
    await scene.dial()
    assert scene.connected == []
    assert scene.failed[0].not_processed
    assert scene.dialer.transports[0].end == "reset"


@pytest.mark.parametrize("how", [FakeTransport.lose, FakeTransport.arrive_eof])
async def test_a_provider_that_closes_as_soon_as_it_is_connected_is_a_failure(how: object) -> None:
    scene = Scene()
    scene.dialer.on_connected = how  # type: ignore[assignment]
    await scene.dial()
    assert scene.connected == []
    assert (scene.failed[0].end, scene.failed[0].not_processed) == (EndReason.CONNECT_FAILED, True)


async def test_no_connection_is_told() -> None:
    scene = Scene()
    error = upstream_error("connect_failed", "The provider can't be reached.", EndReason.CONNECT_FAILED)
    scene.dialer.error = DialError(error)
    await scene.dial()
    assert (scene.failed, scene.connected) == ([error], [])


async def test_a_dial_that_is_given_up_tells_nothing() -> None:
    scene = Scene()
    scene.dialer.outcome = asyncio.get_running_loop().create_future()
    task = scene.dial()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert scene.dialer.outcome.cancelled()
    assert (scene.failed, scene.connected) == ([], [])
