"""Hostile clients and providers at random, plain and over TLS, beside honest streams: these go on, and nothing is left.

FLOW_SOAK sets how many seconds that takes (default 30); `pytest -s` prints the figures. FLOW_SEED repeats the random
choices of a run, but not its timing.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import random
import signal
import ssl
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from tests.support.h2_lab import Certificates
from tests.support.hostile import PATH, BadH2Provider, BadProvider, HostileClient
from tests.support.lab import Lab, RelayProcess, eventually, free_port, numbers, page, samples, simulate
from tests.support.topology import toml

SECONDS = float(os.environ.get("FLOW_SOAK", "30"))
SEED = int(os.environ.get("FLOW_SEED", "1"))
HOSTILE, HONEST = 24, 2
"""Clients of each relay."""
MEMORY_SECONDS = 600.0
"""A shorter run says nothing about memory."""
MEMORY_GROWTH = 5_000_000
"""Bytes that memory may grow after the first tenth of a run."""
EVENTS = 100
"""Of an honest stream."""
MODELS = ("sim", "sim", "sim-tls", "bad", "bad", "bad-tls", "bad-h2", "bad-h2-tls", "nobody")
"""What hostile clients ask for, each a provider's name."""
SETTINGS = {
    "breaker_failures": 1_000_000,  # bad providers are to be asked again
    "idle_timeout": "2s",
    "first_byte_timeout": "2s",
    "stall_timeout": "2s",
    "head_timeout": "2s",
    "keepalive_timeout": "1s",
    "upstream_keepalive": "1s",
}
OPEN = {
    "flow_streams_open",
    "flow_streams_paused",
    "flow_held_bytes",
    "flow_connections_open",
    "flow_uploads_held_bytes",
    "flow_upstream_open",
    "flow_upstream_waiting",
}
"""Metrics that are 0 when everything has ended."""


@dataclass
class Watched:
    """A relay, and what it had before the run."""

    process: RelayProcess
    tls: Certificates | None
    sockets: int
    early_memory: int = 0
    """Bytes, after a tenth of the run."""

    @classmethod
    async def start(cls, lab: Lab, config: str, authority: str, tls: Certificates | None) -> Watched:
        own = {} if tls is None else tls.settings
        process = await lab.process(None, config=config, upstream_ca=authority, **SETTINGS, **own)
        return cls(process, tls, _sockets(process))

    async def watch(self, began: float) -> None:
        """Until cancelled. Access lines are dropped, or this process would hold all of them."""
        while True:
            await asyncio.sleep(min(5, SECONDS / 20))
            self.process.lines[:] = [line for line in self.process.lines if line["event"] != "access"]
            if not self.early_memory and time.monotonic() - began > SECONDS / 10:
                self.early_memory = _memory(self.process)

    async def metrics(self) -> dict[str, float]:
        return samples((await page(self.process.admin_port, "/metrics")).body.decode())

    async def check(self) -> None:
        """Nothing is left of the run, and the relay ends as asked."""
        process = self.process
        for _ in range(75):
            metrics = await self.metrics()
            left = {name: value for name, value in metrics.items() if name.partition("{")[0] in OPEN and value}
            if not left:
                break
            await asyncio.sleep(0.2)
        assert not left
        await eventually(lambda: _sockets(process) <= self.sockets + 1, "no socket is left")
        memory = _memory(process)
        print(f"memory after a tenth {self.early_memory / 1e6:.1f} MB, at the end {memory / 1e6:.1f} MB")
        print({name: value for name, value in metrics.items() if name.startswith("flow_exchanges_total")})
        if SECONDS >= MEMORY_SECONDS:
            assert memory - self.early_memory < MEMORY_GROWTH
        assert process.complaints == b""
        assert process.returncode is None
        process.signal(signal.SIGTERM)
        assert await process.exit_status() == 0


def _memory(process: RelayProcess) -> int:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _sockets(process: RelayProcess) -> int:
    count = 0
    for name in os.listdir(f"/proc/{process.pid}/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/{process.pid}/fd/{name}").startswith("socket:")
    return count


async def _simulator_process(lab: Lab) -> str:
    """The URL of a simulator that this process does not delay."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flowserver", "simulate", "--listen", "127.0.0.1:0", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    lab.on_exit(process.kill)
    return (await process.stdout.readline()).split()[-1].decode()


def _server_context(tls: Certificates, protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    context.set_alpn_protocols([protocol])
    return context


async def _upstreams(lab: Lab, tls: Certificates, rng: random.Random) -> dict[str, Mapping[str, object] | str]:
    """Started providers by name, as `toml` takes them."""
    h1_tls, h2_tls = _server_context(tls, "http/1.1"), _server_context(tls, "h2")
    upstreams: dict[str, Mapping[str, object] | str] = {
        "honest": await _simulator_process(lab),
        "sim": (await lab.simulator()).url,
        "sim-tls": (await lab.simulator(tls=h1_tls)).url,
        "nobody": f"http://127.0.0.1:{free_port()}",
    }
    for name, provider, protocol, context in (
        ("bad", BadProvider(rng), "h1", None),
        ("bad-tls", BadProvider(rng), "h1", h1_tls),
        ("bad-h2", BadH2Provider(rng), "h2", None),
        ("bad-h2-tls", BadH2Provider(rng), "h2", h2_tls),
    ):
        server = await asyncio.start_server(provider, "127.0.0.1", 0, ssl=context, limit=1 << 22)
        lab.on_exit(server.close)
        scheme, port = "https" if context else "http", server.sockets[0].getsockname()[1]
        upstreams[name] = {"url": f"{scheme}://127.0.0.1:{port}", "protocol": protocol}
    return upstreams


def _stream_honestly(port: int, tls: Certificates | None, deadline: float) -> tuple[int, float]:
    """Streams one answer after the other, in a thread that this process's loop does not delay. Returns how many there
    were, and the longest gap between two reads in seconds."""
    count, longest = 0, 0.0
    name, _, value = simulate(events=EVENTS, rate=50).partition(": ")
    fields = {"Content-Type": "application/json", name: value}
    body = orjson.dumps({"model": "honest", "stream": True, "messages": []})
    while time.monotonic() < deadline:
        if tls is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=tls.client("http/1.1"))
        connection.request("POST", PATH, body, fields)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        read, last = b"", time.monotonic()
        while piece := answer.read1(65536):
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            read += piece
        assert numbers(read) == list(range(EVENTS))
        connection.close()
        count += 1
    return count, longest


@pytest.mark.serial
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_honest_streams_go_on_beside_hostile_ones_and_nothing_is_left(lab: Lab, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    tls = Certificates(tmp_path)
    upstreams = await _upstreams(lab, tls, rng)
    routes = [f'[[routes]]\npath = "{PATH}"\nmodels = ["{name}"]\nupstreams = ["{name}"]\n' for name in upstreams]
    config = toml(tmp_path, upstreams, "".join([*routes, '[[routes]]\npath = "*"\nupstreams = ["sim"]\n']))
    relays = [await Watched.start(lab, config, tls.authority, each) for each in (None, tls)]

    began = time.monotonic()
    deadline = began + SECONDS
    watches = [asyncio.create_task(relay.watch(began)) for relay in relays]
    clients = [HostileClient(relay.process.port, relay.tls, MODELS, rng) for relay in relays for _ in range(HOSTILE)]
    honest = [
        asyncio.create_task(asyncio.to_thread(_stream_honestly, relay.process.port, relay.tls, deadline))
        for relay in relays
        for _ in range(HONEST)
    ]
    await asyncio.gather(*(client.run(deadline) for client in clients))
    results = await asyncio.gather(*honest)
    for watch in watches:
        watch.cancel()
    await asyncio.wait(watches)

    done: Counter[str] = sum((client.done for client in clients), Counter())
    print(f"\n{SECONDS:g} s, seed {SEED}: {sum(done.values())} connections of hostile clients: {dict(done)}")
    for count, longest in results:
        print(f"honest client: {count} answers, longest gap {longest * 1000:.0f} ms")
        assert count > 0
    for relay in relays:
        await relay.check()
