"""Reads go straight to their receiver, everything else to the connection."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop

from flowserver.net.direct_receiver import DirectReceiver

from ..support.lab import eventually


class Connection(asyncio.Protocol):
    """Notes what the transport calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.over = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.calls.append(f"data {data!r}")

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return False

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.over.set()


async def _serve() -> tuple[list[str], list[bytes]]:
    """What the connection and the receiver get of a short life."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    connection = Connection()
    received: list[bytes] = []
    with theirs:
        transport, _ = await loop.create_connection(lambda: connection, sock=ours)
        receiver = DirectReceiver(received.append, connection)
        transport.set_protocol(receiver)  # type: ignore[arg-type]
        theirs.sendall(b"direct")
        await eventually(lambda: received)
        transport.set_write_buffer_limits(high=0)
        transport.write(b"x" * (1 << 22))
        theirs.setblocking(True)
        left = 1 << 22
        while left:
            left -= len(await loop.run_in_executor(None, theirs.recv, 1 << 20))
        await eventually(lambda: "resume" in connection.calls)
        transport.set_protocol(connection)
        theirs.sendall(b"again")
        await eventually(lambda: len(connection.calls) == 3)
        transport.set_protocol(receiver)  # type: ignore[arg-type]
        theirs.shutdown(socket.SHUT_WR)
        await connection.over.wait()
    return connection.calls, received


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_only_reads_go_past_the_connection(loop_factory: object) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:  # type: ignore[arg-type]
        calls, received = runner.run(asyncio.wait_for(_serve(), 10))
    assert received == [b"direct"]
    assert calls == ["pause", "resume", "data b'again'", "eof", "lost"]
