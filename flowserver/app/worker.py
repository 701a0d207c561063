"""A worker: a process with a relay that gets its connections and commands from its parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

import orjson
import uvloop

from ..config.errors import ConfigError
from ..config.settings import Config
from ..config.topology import Topology
from ..stores.shared_state import connect
from ..telemetry.log import Log
from ..telemetry.sink import DescriptorSink
from ..telemetry.slices import Slices
from ..telemetry.sources import WorkerReports
from ..workers.channel import Channel, Kind, Message, as_sockets, framed
from ..workers.load import LoadTable, WorkerLoad
from . import garbage
from .open_log import open_log
from .parent_control import COMMAND
from .relay import Relay, WorkerPart


@dataclass(frozen=True, slots=True)
class Seat:
    """What a worker process starts with."""

    number: int
    """From 0."""
    config: Config
    topology: Topology
    environ: Mapping[str, str]
    loads: LoadTable
    control: socket.socket
    store: socket.socket
    memory: int
    """Bytes of memory that it may use."""
    out: frozenset[str] = frozenset()
    """The providers that the operator has taken out."""


def run_worker(seat: Seat) -> int:
    """Run in a process that was just forked. Returns the exit status."""
    log = open_log(seat.config, sink=DescriptorSink(1, is_shared=True), fields={"worker": seat.number})
    try:
        uvloop.run(_work(seat, log))
    except ConfigError as error:
        seat.control.setblocking(True)
        with contextlib.suppress(OSError):  # the parent is gone
            seat.control.sendall(framed(Kind.FAILED, orjson.dumps(error.problems)))
        return os.EX_CONFIG
    finally:
        log.close()
    return 0


async def _work(seat: Seat, log: Log) -> None:
    load = WorkerLoad(seat.loads, seat.number)
    shared = await connect(seat.store)
    part = WorkerPart(seat.topology, load, shared, seat.memory, seat.out)
    relay = Relay(seat.config, log, seat.environ, part)
    worker = _Worker(relay, log, load, seat.control)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    relay.begin()
    garbage.settle()
    await worker.run()
    await relay.close()
    await shared.close()


class _Worker:
    """Acts on the parent's messages."""

    def __init__(self, relay: Relay, log: Log, load: WorkerLoad, control: socket.socket) -> None:
        self._relay = relay
        self._log = log
        self._load = load
        self._drain = asyncio.Event()
        self._stop = asyncio.Event()
        self._reports = WorkerReports(
            relay.metrics,
            Slices(asyncio.get_running_loop().call_soon, time.monotonic),
            relay.live_report,
            time.monotonic,
        )
        self._channel = Channel(asyncio.get_running_loop(), control, self._on_message, self._on_lost)

    async def run(self) -> None:
        """Run until the relay has drained, or has to be closed at once."""
        self._channel.send_json(Kind.READY, os.getpid())
        stop = asyncio.ensure_future(self._stop.wait())
        drain = asyncio.ensure_future(self._drain_when_told())
        await asyncio.wait((drain, stop), return_when=asyncio.FIRST_COMPLETED)
        drain.cancel()
        stop.cancel()

    async def _drain_when_told(self) -> None:
        await self._drain.wait()
        await self._relay.drain()

    def leave(self) -> None:
        """On SIGTERM from anyone but the parent, or to the whole process group."""
        if self._channel.is_closed:
            self._stop.set()
        else:
            self._channel.send(Kind.LEAVING)

    def _on_lost(self, unsent: list[socket.socket]) -> None:
        self._log.write("error", "parent_gone")
        self._drain.set()

    def _on_message(self, message: Message) -> None:
        match message.kind:
            case Kind.ADOPT:
                self._adopt(message)
            case Kind.PING:
                self._channel.send(Kind.PONG)
            case Kind.RELOAD:
                self._reload()
            case Kind.ASK:
                self._answer(message.payload[:4], message.payload[4:])
            case Kind.DRAIN:
                self._drain.set()
            case Kind.STOP:
                self._stop.set()

    def _adopt(self, message: Message) -> None:
        connections = as_sockets(message)
        given = message.json()
        lost = given - len(connections)
        self._load.adopt(len(connections), lost)
        for connection in connections:
            self._relay.adopt(connection, self._load.arrived)
        if lost:  # no descriptor was left for them
            self._log.write("error", "connections_lost", count=lost)

    def _answer(self, question: bytes, what: bytes) -> None:
        if what.startswith(COMMAND):
            count = self._relay.control.operations.execute(orjson.loads(what.removeprefix(COMMAND)))
            self._channel.send(Kind.ANSWER, b"%b\0%d" % (question, count))
            return

        def made(parts: list[bytes] | None) -> None:
            self._channel.send(Kind.ANSWER, question if parts is None else b"".join((question, b"\0", *parts)))

        self._reports.tell(what, made)

    def _reload(self) -> None:
        problems: list[str] = []
        try:
            self._relay.read_again()
        except ConfigError as error:
            problems = error.problems
        self._channel.send_json(Kind.RELOADED, problems)
