"""A minute in the life of two relays, for pictures of the dashboards: tenants with limits, slow clients, a provider
that is full, one that goes away for a while, and a model that has no price."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench.processes import Process, free_port, python_module

KEYS = {name: f"flow-{name.ljust(43, '0')}" for name in ("acme", "globex", "initech", "hooli")}
"""By tenant."""
AWAY = (0.45, 0.6)
"""From when to when, as shares of the time, one provider is away."""
SLOW_READ = 16_384
"""Bytes a second that slow clients take."""

_CONFIG = """
[[upstreams]]
name = "north"
url = "http://127.0.0.1:{north}"
queue = 50
[[upstreams]]
name = "south"
url = "http://127.0.0.1:{south}"
[[upstreams]]
name = "gpu-rack"
url = "http://127.0.0.1:{rack}"
max_concurrent = 6
queue = 200
queue_timeout = "20s"

[[routes]]
models = ["llama-*"]
upstreams = ["gpu-rack"]
[[routes]]
upstreams = [["north", "south"]]

[[prices]]
models = ["gpt-4o"]
input = 2.5
output = 10
[[prices]]
models = ["gpt-4o-mini"]
input = 0.15
output = 0.6

{tenants}
"""
_LIMITS = {
    "acme": "requests_per_minute = 6000",
    "globex": "requests_per_minute = 150\n[tenants.user]\nconcurrent = 4",
    "initech": "usd_per_day = 0.6",
    "hooli": 'class = "batch"',
}


@dataclass(frozen=True, slots=True)
class Habit:
    """What one client does again and again."""

    tenant: str
    model: str
    events: tuple[int, int]
    """Tokens of an answer, from and to."""
    rate: float
    """Tokens a second of its provider."""
    first: tuple[float, float]
    """Seconds until the first token."""
    pause: float
    """Seconds between two requests, on average."""
    reads: int | None = None
    """Bytes a second that it takes; None: all that comes."""


HABITS = (
    *[Habit("acme", "gpt-4o", (30, 200), 60, (0.1, 0.5), 0.6)] * 24,
    *[Habit("globex", "gpt-4o-mini", (10, 60), 90, (0.05, 0.2), 0.3)] * 8,
    *[Habit("initech", "gpt-4o", (4_000, 9_000), 0, (0.1, 0.3), 2.0, SLOW_READ)] * 10,
    *[Habit("hooli", "llama-70b", (60, 160), 45, (0.3, 0.9), 0.2)] * 10,
    *[Habit("acme", "llama-70b", (30, 90), 45, (0.3, 0.9), 1.5)] * 3,
)


@dataclass(slots=True)
class Provider:
    """A simulator that can go away."""

    port: int
    process: Process | None = None

    def start(self) -> None:
        self.process = Process(python_module("flowserver", "simulate", "--listen", f"127.0.0.1:{self.port}"), self.port)

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()
            self.process = None


@dataclass(frozen=True, slots=True)
class Scene:
    """What runs: clients connect to `ports`, Prometheus to `admin_ports`."""

    ports: list[int]
    admin_ports: list[int]
    south: Provider


@contextlib.contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """Two relays, one of them with two workers, before three providers."""
    providers = {name: Provider(free_port()) for name in ("north", "south", "rack")}
    tenants = [
        f'[[tenants]]\nname = "{name}"\nkey_sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n{_LIMITS[name]}\n'
        for name, key in KEYS.items()
    ]
    path = folder / "flow.toml"
    path.write_text(_CONFIG.format(**{name: each.port for name, each in providers.items()}, tenants="\n".join(tenants)))
    with contextlib.ExitStack() as running:
        for provider in providers.values():
            running.callback(provider.stop)
            provider.start()
        made = Scene([], [], providers["south"])
        for workers in (2, 1):
            port, admin_port = free_port(), free_port()
            environment = {
                "FLOW_CONFIG": str(path),
                "FLOW_LISTEN": f"127.0.0.1:{port}",
                "FLOW_ADMIN_LISTEN": f"127.0.0.1:{admin_port}",
                "FLOW_WORKERS": str(workers),
                "FLOW_MEMORY": "256m",
                "FLOW_ACCESS_LOG": "off",
            }
            running.enter_context(Process(python_module("flowserver", "serve"), port, environment=environment))
            made.ports.append(port)
            made.admin_ports.append(admin_port)
        yield made


async def live(made: Scene, seconds: float) -> None:
    """Have all clients do what they do for so long, while one provider goes and comes back."""
    clients = [asyncio.ensure_future(_client(habit, made.ports)) for habit in HABITS]
    leave, back = (share * seconds for share in AWAY)
    try:
        await asyncio.sleep(leave)
        await asyncio.to_thread(made.south.stop)
        await asyncio.sleep(back - leave)
        await asyncio.to_thread(made.south.start)
        await asyncio.sleep(seconds - back)
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def _client(habit: Habit, ports: list[int]) -> None:
    await asyncio.sleep(random.uniform(0, 3))
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await _ask(habit, random.choice(ports))
        await asyncio.sleep(random.expovariate(1 / habit.pause))


async def _ask(habit: Habit, port: int) -> None:
    body = orjson.dumps(
        {"model": habit.model, "stream": True, "messages": [{"role": "user", "content": "Go on. " * 40}]}
    )
    simulate = f"events={random.randint(*habit.events)} rate={habit.rate:g} first={random.uniform(*habit.first):.2f}"
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {KEYS[habit.tenant]}\r\n"
        f"x-flow-user: u{random.randint(1, 5)}\r\nx-simulate: {simulate}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
    try:
        writer.write(head.encode() + body)
        read: Callable[[], Awaitable[bytes]] = lambda: reader.read(4096)  # noqa: E731
        while await read():
            if habit.reads is not None:
                await asyncio.sleep(4096 / habit.reads)
    finally:
        writer.close()
