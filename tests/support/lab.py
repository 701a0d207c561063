"""A relay between clients and providers over real sockets, and a check that nothing of it is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import itertools
import os
import re
import signal
import socket
import ssl
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
from prometheus_client.parser import text_string_to_metric_families

from flowserver.app.listening import listening_sockets
from flowserver.app.relay import Relay, WorkerPart
from flowserver.config.environment import load
from flowserver.config.file import load_topology
from flowserver.relay.exchange import Exchange
from flowserver.simulator import Simulator
from flowserver.stores.shared_state import SharedState
from flowserver.telemetry.log import Log
from flowserver.workers.load import LoadTable, WorkerLoad

from .provider import Provider, Script
from .wire import PATIENCE, Message, Wire, request

Line = dict[str, Any]

LISTENING = {
    "FLOW_LISTEN": "127.0.0.1:0",
    "FLOW_ADMIN_LISTEN": "127.0.0.1:0",
    "FLOW_ADMIN_HOSTS": "relay.test",  # which `wire.request` names
}


async def eventually(condition: Callable[[], object], what: str = "", *, within: float = PATIENCE) -> None:
    """Wait until `condition` holds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while not condition():
        assert loop.time() < deadline, f"never happened: {what or condition}"
        await asyncio.sleep(0.005)


async def finishes(waited: Awaitable[Any], *, within: float = PATIENCE) -> Any:
    async with asyncio.timeout(within):
        return await waited


WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = itertools.cycle(range(12_000 + WORKER % 20 * 400, 12_400 + WORKER % 20 * 400))
"""Below the ports that the kernel gives out, and for each worker others: nobody takes one before it is used."""


def free_port() -> int:
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable")


@contextlib.contextmanager
def full_backlog(host: str = "127.0.0.1") -> Iterator[int]:
    """A port where connecting never ends: its queue of connections is full, and nobody accepts."""
    with contextlib.ExitStack() as sockets:
        listening = sockets.enter_context(socket.socket())
        listening.bind((host, 0))
        listening.listen(0)
        port = int(listening.getsockname()[1])
        for _ in range(3):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect((host, port))
        yield port


def simulate(**options: object) -> str:
    """The header line that asks the simulator for something."""
    return "x-simulate: " + " ".join(f"{name}={value}" for name, value in options.items())


def numbers(body: bytes) -> list[int]:
    """The numbers of the simulator's content events in `body`."""
    return [int(digits) for digits in re.findall(rb"tok(\d{6})", body)]


def chat(headers: tuple[str, ...] = (), /, **options: object) -> bytes:
    """A chat-completions request to the simulator, to be streamed unless `whole` says otherwise."""
    body = orjson.dumps({"model": "simulated", "stream": True, "messages": [{"role": "user", "content": "Go on."}]})
    lines = ["Content-Type: application/json", simulate(**options), *headers]
    return request("POST", "/v1/chat/completions", lines, body=body)


class RunningRelay:
    """A relay in this process."""

    def __init__(self, url: str | None, settings: Mapping[str, object], shared: SharedState | None = None) -> None:
        """`shared`: what this relay shares with others, as a worker does."""
        self._output = io.BytesIO()
        environ = dict(LISTENING)
        if url is not None:
            environ["FLOW_UPSTREAM"] = url
        environ |= {f"FLOW_{name.upper()}": str(value) for name, value in settings.items()}
        self.log = Log("info", self._output)
        self._config = load(environ)
        part = None
        if shared is not None:
            part = WorkerPart(load_topology(self._config, os.environ), WorkerLoad(LoadTable(1), 0), shared)
        self.relay = Relay(self._config, self.log, part=part)
        self.port = 0
        self.admin_port = 0

    async def start(self) -> None:
        await self.relay.start(listening_sockets(self._config))
        self.port = self.relay.addresses[0].port
        if self.relay.admin_address is not None:
            self.admin_port = self.relay.admin_address.port

    async def close(self) -> None:
        await self.relay.close()
        self.log.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def exchanges(self) -> list[Exchange]:
        """Those that are open."""
        return [exchange for exchange in self.relay.metrics.open if isinstance(exchange, Exchange)]

    @property
    def output(self) -> bytes:
        """Everything logged so far."""
        return self._output.getvalue()

    @property
    def abandoned(self) -> list[Exchange]:
        """Exchanges whose clients have left and whose answers are drained."""
        return [exchange for exchange in self.exchanges if exchange.state() == "abandoned"]

    def lines(self, event: str) -> list[Line]:
        return [line for line in map(orjson.loads, self.output.splitlines()) if line["event"] == event]

    async def access(self, count: int = 1) -> list[Line]:
        """The access lines, when there are so many."""
        await eventually(lambda: len(self.lines("access")) >= count, f"{count} access lines")
        lines = self.lines("access")
        assert len(lines) == count, lines
        return lines

    async def ended(self) -> str:
        """How the only exchange ended."""
        [line] = await self.access()
        return str(line["end"])

    async def page(self, path: str) -> Message:
        return await page(self.admin_port, path)

    async def metrics(self) -> dict[str, float]:
        """Every sample by its name, labels behind it: `flow_pauses_total{reason="downstream"}`."""
        return samples((await self.page("/metrics")).body.decode())


async def page(admin_port: int, path: str) -> Message:
    """An admin page."""
    wire = await Wire.connect(admin_port)
    try:
        await wire.send(request("GET", path))
        return await wire.response()
    finally:
        wire.close()


def samples(text: str) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


class Leftovers:
    """What tasks and descriptors there were before; a relay is to leave no others behind."""

    def __init__(self) -> None:
        self._descriptors, self._tasks = _descriptors(), asyncio.all_tasks()

    async def none(self, running: RunningRelay) -> None:
        """Wait until nothing is left of what `running` did, then close it."""
        await settled(running)
        metrics = await running.metrics()
        assert metrics["flow_streams_open"] == metrics["flow_streams_paused"] == metrics["flow_held_bytes"] == 0
        await running.close()
        await eventually(lambda: all(pool.open_connections == 0 for pool in running.relay.metrics.pools))
        await eventually(lambda: asyncio.all_tasks() <= self._tasks, "no task is left")
        await eventually(lambda: not _descriptors() - self._descriptors, "no descriptor is left")


async def settled(running: RunningRelay) -> None:
    """Wait until the relay holds nothing for clients, and no provider works for it."""
    relay = running.relay
    await eventually(lambda: not relay.connections, "no client connection is left")
    await eventually(lambda: not relay.metrics.open, "no exchange is left")
    await eventually(lambda: relay.is_idle, "no provider is busy")


def _descriptors() -> set[str]:
    gc.collect()
    names = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            names.add(f"{descriptor} {os.readlink(f'/proc/self/fd/{descriptor}')}")
    return names


def _port(address: str) -> int:
    """0: it is a Unix socket's."""
    return 0 if address.startswith("unix:") else int(address.rpartition(":")[2])


class RelayProcess:
    """`python -m flowserver serve` in a process of its own."""

    def __init__(self, environ: Mapping[str, str], flags: Sequence[str] = ()) -> None:
        self._environ = environ
        self._flags = flags
        self._reading: asyncio.Task[None] | None = None
        self._reads = asyncio.Event()
        self._reads.set()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.lines: list[Line] = []
        self.port = 0
        self.admin_port = 0

    async def start(self) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLOW_")}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "flowserver",
            "serve",
            *self._flags,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._stderr,
            env=inherited | dict(self._environ),
        )
        self._reading = asyncio.get_running_loop().create_task(self._read())
        await eventually(lambda: self.lines, "the relay listens")
        listening = self.lines[0]
        assert listening["event"] == "listening"
        self.port, self.admin_port = _port(listening["listen"][0]), _port(listening["admin"])

    @property
    def pid(self) -> int:
        return self._process.pid

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            await self._reads.wait()
            if line.endswith(b"\n"):  # or the process ended in the middle of it
                self.lines.append(orjson.loads(line))

    def read_log(self, on: bool) -> None:
        """Read what it prints, or let it pile up: 128 KB in this process, then in the pipe."""
        (self._reads.set if on else self._reads.clear)()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def ended(self) -> int:
        """The exit status, when it has ended, however much of its log is unread."""
        await eventually(lambda: self.returncode is not None, "it ends")
        assert self.returncode is not None
        return self.returncode

    async def exit_status(self) -> int:
        """The exit status, when it has ended."""
        status: int = await finishes(self._process.wait())
        if self._reading is not None:
            await finishes(self._reading)
        return status

    def events(self) -> list[str]:
        return [str(line["event"]) for line in self.lines]

    @property
    def complaints(self) -> bytes:
        """What it wrote to stderr."""
        return os.pread(self._stderr.fileno(), 1 << 20, 0)

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self.exit_status()
        sys.stderr.write(self.complaints.decode())
        self._stderr.close()


class Lab:
    """Starts what a test needs. At the end everything is closed, client by client, and must then be gone."""

    def __init__(self) -> None:
        self.wires: list[Wire] = []
        self.relays: list[RunningRelay] = []
        self._exits = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Lab:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for wire in self.wires:
            wire.close()
        try:
            if kind is None:
                for relay in self.relays:
                    await settled(relay)
        finally:
            for relay in self.relays:
                await relay.close()
            await self._exits.aclose()
        if kind is None:
            await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "no task is left")

    async def relay(self, url: str | None, **settings: object) -> RunningRelay:
        """A relay before the provider at `url`; `settings` are the FLOW_ ones, in lower case. None: see `config`."""
        return await self._started(RunningRelay(url, settings))

    async def worker(self, shared: SharedState, **settings: object) -> RunningRelay:
        """A relay that shares with others what workers share."""
        return await self._started(RunningRelay(None, settings, shared))

    async def _started(self, relay: RunningRelay) -> RunningRelay:
        self.relays.append(relay)
        await relay.start()
        return relay

    async def process(self, url: str | None, **settings: object) -> RelayProcess:
        """The same as a process."""
        environ = dict(LISTENING)
        if url is not None:
            environ["FLOW_UPSTREAM"] = url
        return await self.process_with(
            (), environ | {f"FLOW_{name.upper()}": str(value) for name, value in settings.items()}
        )

    async def process_with(self, flags: Sequence[str], environ: Mapping[str, str]) -> RelayProcess:
        """The same with flags, which stand in place of variables."""
        process = RelayProcess(dict(LISTENING) | dict(environ), flags)
        await process.start()
        self._exits.push_async_callback(process.close)
        return process

    async def provider(
        self, script: Script, *, receive_buffer: int | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> Provider:
        provider = Provider(script)
        await provider.start(receive_buffer=receive_buffer, host=host, port=port)
        self._exits.push_async_callback(provider.close)
        return provider

    async def provider_at(self, path: Path, script: Script, *, backlog: int = 512) -> Provider:
        """One that listens on a Unix socket."""
        provider = Provider(script)
        await provider.start_at(str(path), backlog=backlog)
        self._exits.push_async_callback(provider.close)
        return provider

    async def simulator(self, *, tls: ssl.SSLContext | None = None) -> Simulator:
        simulator = Simulator()
        await simulator.start("127.0.0.1", 0, ssl=tls)
        self._exits.push_async_callback(simulator.close)
        return simulator

    def on_exit(self, close: Callable[[], object]) -> None:
        """Call `close` at the end."""
        self._exits.callback(close)

    async def client(self, port: int, *, receive_buffer: int | None = None) -> Wire:
        wire = await Wire.connect(port, receive_buffer=receive_buffer)
        self.wires.append(wire)
        return wire

    async def client_at(self, path: Path) -> Wire:
        """One that connects by a Unix socket."""
        wire = await Wire.connect_path(str(path))
        self.wires.append(wire)
        return wire

    async def between(self, script: Script, **settings: object) -> tuple[Provider, RunningRelay, Wire]:
        """A scripted provider, a relay before it, and a client connected to that."""
        provider = await self.provider(script)
        relay = await self.relay(provider.url, **settings)
        return provider, relay, await self.client(relay.port)

    async def simulated(self, **settings: object) -> tuple[Simulator, RunningRelay, Wire]:
        """A simulator, a relay before it, and a client connected to that."""
        simulator = await self.simulator()
        relay = await self.relay(simulator.url, **settings)
        return simulator, relay, await self.client(relay.port)
