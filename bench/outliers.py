"""One bad provider of three: what clients see of it, with and without the relay's outlier detection.

Providers and clients are in this process, the relay in one of its own. Requests come at random at a steady rate,
however slow the answers are. Run as `python -m bench.outliers`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.processes import Process, free_port, python_module
from bench.stats import percentile

RATE = 150.0
"""Requests per second."""
SECONDS = 20.0
USUAL = 0.04
"""Seconds that a good provider takes for an answer, on average."""
OUTLIERS = '{ interval = "1s", ejection = "10s" }'
"""Shorter than the defaults, 10 s and 30 s, so that the bench is."""

_REQUEST = b"GET /v1/models HTTP/1.1\r\nHost: relay\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the bad provider."""

    name: str
    slowness: float = 1.0
    errors: float = 0.0
    """Share of its answers."""


FAULTS = (Fault("none"), Fault("ten times as slow", slowness=10.0), Fault("500 for 30 %", errors=0.3))


class _Provider(asyncio.Protocol):
    """One connection to a provider: one request at a time."""

    def __init__(self, name: str, fault: Fault, served: Counter[str]) -> None:
        self._name = name
        self._fault = fault
        self._served = served

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._served[self._name] += 1
        delay = USUAL * self._fault.slowness * random.uniform(0.5, 1.5)
        asyncio.get_running_loop().call_later(delay, self._answer)

    def _answer(self) -> None:
        assert isinstance(self._transport, asyncio.Transport)
        status = b"500 Oops" if random.random() < self._fault.errors else b"200 OK"
        self._transport.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nok")


@dataclass(slots=True)
class Seen:
    """What clients saw: the beginning of each request, in seconds from that of the load, how long it took, and whether
    it failed."""

    answers: list[tuple[float, float, bool]] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)

    def figures(self, since: float = 0.0) -> str:
        """Of requests that began later than `since`."""
        later = [answer for answer in self.answers if answer[0] >= since]
        times = [took * 1000 for _, took, _ in later]
        failed = sum(failed for *_, failed in later) / len(later)
        return f"p50 {percentile(times, 50):4.0f} ms  p99 {percentile(times, 99):4.0f} ms  failed {failed:6.2%}"


@contextlib.asynccontextmanager
async def _providers(fault: Fault, served: Counter[str]) -> AsyncIterator[list[int]]:
    loop, servers = asyncio.get_running_loop(), []
    for name, own in (("bad", fault), ("b", FAULTS[0]), ("c", FAULTS[0])):
        server = await loop.create_server(partial(_Provider, name, own, served), "127.0.0.1", 0)
        servers.append(server)
    try:
        yield [server.sockets[0].getsockname()[1] for server in servers]
    finally:
        for server in servers:
            server.close()


def _config(ports: Sequence[int], folder: Path, *, detects: bool) -> Path:
    tables = [
        f'[[upstreams]]\nname = "{name}"\nurl = "http://127.0.0.1:{port}"\n'
        for name, port in zip(("bad", "b", "c"), ports, strict=True)
    ]
    route = '[[routes]]\nupstreams = [["bad", "b", "c"]]\n' + (f"outliers = {OUTLIERS}\n" if detects else "")
    path = folder / "flow.toml"
    path.write_text("\n".join([*tables, route]))
    return path


async def _ask(
    port: int, began: float, seen: Seen, idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
) -> None:
    sent = time.monotonic()
    reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
    writer.write(_REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    await reader.readexactly(length)
    seen.answers.append((sent - began, time.monotonic() - sent, not head.startswith(b"HTTP/1.1 200")))
    idle.append((reader, writer))


async def _load(port: int, seen: Seen) -> None:
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    began, due = time.monotonic(), 0.0
    async with asyncio.TaskGroup() as asking:
        while due < SECONDS:
            due += random.expovariate(RATE)
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))
            asking.create_task(_ask(port, began, seen, idle))
    for _, writer in idle:
        writer.close()


async def measure(fault: Fault, *, detects: bool) -> Seen:
    seen = Seen()
    async with _providers(fault, seen.served) as ports:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            port, config = free_port(), _config(ports, Path(folder), detects=detects)
            environment = {
                "FLOW_LISTEN": f"127.0.0.1:{port}",
                "FLOW_ADMIN_LISTEN": "off",
                "FLOW_CONFIG": str(config),
                "FLOW_LOG_LEVEL": "warning",
            }
            with Process(python_module("flowserver", "serve"), port, environment=environment):
                await _load(port, seen)
    return seen


def main() -> None:
    for fault in FAULTS:
        for detects in (False, True):
            seen = asyncio.run(measure(fault, detects=detects))
            total = seen.served.total()
            print(f"bad provider: {fault.name}, outliers {'on' if detects else 'off'}")
            print(f"    all {SECONDS:g} s        {seen.figures()}  at the bad one {seen.served['bad'] / total:6.2%}")
            print(f"    after 5 s       {seen.figures(5.0)}")


if __name__ == "__main__":
    main()
