"""Chats over three model servers with prefix caches: how much of them is found there with affinity, and without; how
evenly the servers are loaded; and what becomes of both when one of the three is killed, and when it is back, its cache
empty.

A turn has found its conversation if nine tenths of what was said before it came from the cache, without the
instructions, which all conversations share. How much was found in all is told in tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from bench.cache_provider import ANSWER, BYTES_PER_TOKEN
from bench.cores import LOAD_CORES, RELAY_CORES
from bench.figures import CaseResult, Collector
from bench.processes import Process, free_port, python_module
from bench.stats import percentile
from flowserver.routing.affinity import BOUND, SLACK

SERVERS = 3
HIT = 0.9
WELL, DOWN, BACK, AFTER = "all well", "one of three killed", "from its return on", "later"
SYSTEM = "Be brief, and say where you have it from. " * 100
"""All conversations begin with it."""
QUESTION = 600
"""Bytes of what the user says in each turn."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`sessions` at a time, each of `turns` turns, with `think` seconds between them on average. `tokens` of each
    cache. Seconds of each phase."""

    sessions: int = 120
    turns: int = 8
    think: float = 0.8
    tokens: int = 100_000
    warm_up: float = 12.0
    well: float = 20.0
    down: float = 12.0
    back: float = 6.0
    after: float = 12.0


QUICK = Settings(warm_up=8, well=6, down=5, back=3, after=4)
KINDS = ("session", "prefix", "none")


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures flowserver with each kind of affinity; other relays are not asked."""
    collector = Collector()
    for kind in KINDS:
        with ExitStack() as stack:
            rig = stack.enter_context(_rig(kind, settings))
            asyncio.run(_play(rig, kind, settings, collector))
    title = f"{settings.sessions} chats of {settings.turns} turns over {SERVERS} servers with prefix caches"
    return CaseResult(
        "affinity",
        title,
        {**asdict(settings)},
        collector.figures(),
        (f"The bound: {BOUND:g} x a server's share of the requests under way, or {SLACK} more than it.",),
    )


class Rig:
    """The servers and the relay before them."""

    def __init__(self, folder: Path, tokens: int) -> None:
        self._tokens = tokens
        self.ports = [free_port() for _ in range(SERVERS)]
        self.journals = [folder / f"{number}.journal" for number in range(SERVERS)]
        self.servers = [self._start(number) for number in range(SERVERS)]
        self.port = self.admin = 0

    def _start(self, number: int) -> Process:
        port = self.ports[number]
        command = python_module("bench.cache_provider", str(port), str(self._tokens), str(self.journals[number]))
        return Process(command, port, cpus=LOAD_CORES)

    def kill(self, number: int) -> None:
        os.kill(self.servers[number].pid, signal.SIGKILL)
        self.servers[number].stop()
        with self.journals[number].open("a") as journal:
            journal.write(f"{time.monotonic()} 0\n")

    def restart(self, number: int) -> None:
        self.servers[number] = self._start(number)

    def wait_for_requests(self, number: int) -> None:
        """Until it has more than the one that its breaker lets through first."""
        deadline = time.monotonic() + 10
        while self.loads()[-1][1][number] < 2 and time.monotonic() < deadline:
            time.sleep(0.05)

    def close(self) -> None:
        for server in self.servers:
            server.stop()

    def loads(self) -> list[tuple[float, list[int]]]:
        """Each request that began or ended: when, and what all had under way then."""
        events = []
        for number, journal in enumerate(self.journals):
            for line in journal.read_text().splitlines():
                with contextlib.suppress(ValueError):  # cut off by the kill
                    when, open_ones = line.split()
                    events.append((float(when), number, int(open_ones)))
        loads = [0] * SERVERS
        found = []
        for at, number, requests in sorted(events):
            loads[number] = requests
            found.append((at, loads.copy()))
        return found


@contextlib.contextmanager
def _rig(kind: str, settings: Settings) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        rig = Rig(Path(folder), settings.tokens)
        try:
            names = [f"server-{number}" for number in range(SERVERS)]
            upstreams = [
                f'[[upstreams]]\nname = "{name}"\nurl = "http://127.0.0.1:{port}"\n'
                for name, port in zip(names, rig.ports, strict=True)
            ]
            config = Path(folder, "flow.toml")
            route = f'[[routes]]\nupstreams = [{json.dumps(names)}]\naffinity = "{kind}"\n'
            config.write_text("\n".join([*upstreams, route]))
            rig.port, rig.admin = free_port(), free_port()
            environment = {
                "FLOW_LISTEN": f"127.0.0.1:{rig.port}",
                "FLOW_ADMIN_LISTEN": f"127.0.0.1:{rig.admin}",
                "FLOW_LOG_LEVEL": "warning",
                "FLOW_CONFIG": str(config),
                "FLOW_BREAKER_COOLDOWN": "1s",
            }
            command = python_module("flowserver", "serve")
            with Process(command, rig.port, environment=environment, cpus=RELAY_CORES):
                yield rig
        finally:
            rig.close()


@dataclass(slots=True)
class Turn:
    ended_at: float
    seconds: float
    before: int
    """Tokens of the conversation before this turn."""
    found: int
    """Of these, the ones in the cache."""


class Chats:
    """Plays conversations until it is stopped."""

    def __init__(self, port: int, kind: str, settings: Settings) -> None:
        self._port = port
        self._kind = kind
        self._settings = settings
        self._is_stopping = False
        self.turns: list[Turn] = []
        self.failed = 0

    def stop(self) -> None:
        self._is_stopping = True

    async def play(self) -> None:
        await asyncio.gather(*(self._one_after_another(number) for number in range(self._settings.sessions)))

    async def _one_after_another(self, number: int) -> None:
        await asyncio.sleep(random.uniform(0, self._settings.think * 4))
        chat = 0
        while not self._is_stopping:
            chat += 1
            try:
                await self._chat(f"{number}-{chat}")
            except (OSError, asyncio.IncompleteReadError):
                self.failed += 1
                await asyncio.sleep(0.05)

    async def _chat(self, name: str) -> None:
        messages = [{"role": "system", "content": SYSTEM}]
        before = 0
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            for _ in range(self._settings.turns):
                if self._is_stopping:
                    return
                messages.append({"role": "user", "content": random.randbytes(QUESTION // 2).hex()})
                began = time.monotonic()
                status, answer = await self._ask(reader, writer, name, messages)
                if status != 200:
                    self.failed += 1
                    return
                now = time.monotonic()
                usage = answer["usage"]
                cached = usage["prompt_tokens_details"]["cached_tokens"]
                found = max(0, min(before, cached - len(SYSTEM) // BYTES_PER_TOKEN))
                self.turns.append(Turn(now, now - began, before, found))
                messages.append(answer["choices"][0]["message"])
                before = usage["prompt_tokens"] + (ANSWER - len(SYSTEM)) // BYTES_PER_TOKEN
                await asyncio.sleep(random.expovariate(1 / self._settings.think))
        finally:
            writer.close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, messages: list[dict[str, str]]
    ) -> tuple[int, Any]:
        body = json.dumps({"model": "m", "messages": messages}).encode()
        session = f"x-flow-session: {name}\r\n" if self._kind == "session" else ""
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: relay\r\n{session}content-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        return int(lines[0].split()[1]), json.loads(await reader.readexactly(length))


async def _play(rig: Rig, kind: str, settings: Settings, collector: Collector) -> None:
    chats = Chats(rig.port, kind, settings)
    playing = asyncio.ensure_future(chats.play())
    await asyncio.sleep(settings.warm_up)
    phases: dict[str, tuple[float, float]] = {}

    async def phase(name: str, seconds: float) -> None:
        began = time.monotonic()
        await asyncio.sleep(seconds)
        phases[name] = (began, time.monotonic())

    await phase(WELL, settings.well)
    passed = _passed_over(rig.admin)
    await asyncio.to_thread(rig.kill, 1)
    await phase(DOWN, settings.down)
    await asyncio.to_thread(rig.restart, 1)
    await asyncio.to_thread(rig.wait_for_requests, 1)
    await phase(BACK, settings.back)
    await phase(AFTER, settings.after)
    chats.stop()
    await playing
    name = f"affinity = {kind}"
    loads = rig.loads()
    for what, (begin, end) in phases.items():
        turns = [turn for turn in chats.turns if begin <= turn.ended_at < end]
        again = [turn for turn in turns if turn.before]
        hits = statistics.mean(turn.found >= HIT * turn.before for turn in again)
        tokens = sum(turn.found for turn in again) / sum(turn.before for turn in again)
        collector.add(name, f"turns that found their conversation, {what}", "%", 100 * hits)
        collector.add(name, f"tokens of conversations found, {what}", "%", 100 * tokens)
        collector.add(
            name, f"time of an answer, {what}, median", "ms", 1e3 * percentile([t.seconds for t in turns], 50)
        )
        servers = [0, 2] if what == DOWN else [*range(SERVERS)]
        _add_loads(name, what, [(at, each) for at, each in loads if begin <= at < end], servers, collector)
    collector.add(name, "turns passed over for load, all well", "%", passed)
    collector.add(name, "turns that failed", "", chats.failed)
    collector.add(name, "turns", "", len(chats.turns))


def _add_loads(
    name: str, what: str, loads: list[tuple[float, list[int]]], servers: list[int], collector: Collector
) -> None:
    given = above = worst = 0
    ratios = []
    before = loads[0][1]
    for _, now in loads:
        total = sum(now[server] for server in servers)
        share = total / len(servers)
        most = math.ceil(max(BOUND * share, share + SLACK))
        for server in servers:
            if now[server] > before[server]:
                given += 1
                above += now[server] > most
                worst = max(worst, now[server] - most)
        ratios.append(max(now[server] for server in servers) / share if share else 1.0)
        before = now
    collector.add(name, f"requests given above the bound, {what}", "%", 100 * above / given)
    collector.add(name, f"most above the bound, {what}", "requests", worst)
    collector.add(name, f"fullest server of its share, {what}, median", "%", 100 * percentile(ratios, 50))
    collector.add(name, f"fullest server of its share, {what}, p99", "%", 100 * percentile(ratios, 99))


def _passed_over(admin: int) -> float:
    """Of all turns that preferred a server, the share that another one got for its load."""
    connection = HTTPConnection("127.0.0.1", admin, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    lines = [line for line in text.splitlines() if line.startswith("flow_upstream_affinity_total{")]
    found = {line: float(line.rpartition(" ")[2]) for line in lines}
    total = sum(found.values())
    return 100 * sum(value for line, value in found.items() if 'result="load"' in line) / total if total else 0.0
