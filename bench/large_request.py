"""One large request to a relay with routes by model, a budget and a tenant's quota: is it routed, bounded and counted,
how long does it block the event loop, and how much memory does it take?

The client and the provider run beside the relay. `bench.blocks` measures the longest turn of the relay's loop; memory
is sampled every 5 ms.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cores import LOAD_CORES, RELAY_CORES
from bench.figures import CaseResult, Collector
from bench.processes import Process, free_port, memory_bytes, python_module

KEY = "flow-bench-key"
BUDGET = 10
SHAPES = ("text", "image", "messages")
"""A prompt of words, an image in base64, and many short messages."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`size` bytes of a request."""

    size: int = 32_000_000
    rounds: int = 5


QUICK = Settings(rounds=2)


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures flowserver alone: others do not look into requests."""
    collector = Collector()
    port = free_port()
    provider = python_module("flowserver", "simulate", "--listen", f"127.0.0.1:{port}")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, Process(provider, port, cpus=LOAD_CORES):
        for _ in range(settings.rounds):
            for shape in SHAPES:
                _measure(port, shape, settings.size, Path(folder), collector)
    return CaseResult(
        "large_request",
        f"a request of {settings.size / 1e6:g} MB with routes by model, a budget of {BUDGET} tokens and a quota",
        {"size": settings.size},
        collector.figures(),
        ("A relay alone turns its loop in some 0.3 ms. Memory is beside what it has before.",),
    )


def _measure(upstream: int, shape: str, size: int, folder: Path, collector: Collector) -> None:
    port, told = free_port(), folder / "longest"
    config = folder / "flowserver.toml"
    config.write_text(_config(upstream))
    environment = {
        "FLOW_LISTEN": f"127.0.0.1:{port}",
        "FLOW_ADMIN_LISTEN": "off",
        "FLOW_LOG_LEVEL": "warning",
        "FLOW_CONFIG": str(config),
    }
    command = python_module("bench.blocks", str(told))
    with Process(command, port, environment=environment, cpus=RELAY_CORES) as relay:
        _ask(port, _body(shape, 1000))
        time.sleep(0.5)
        _longest(relay.pid, told)
        before = memory_bytes(relay.pid)
        with _Peak(relay.pid) as peak:
            started = time.perf_counter()
            answer = _ask(port, _body(shape, size))
            seconds = time.perf_counter() - started
        longest = _longest(relay.pid, told)
        time.sleep(1)
        after = memory_bytes(relay.pid)
    words = answer.count(b'"content":"') - answer.count(b'"content":""')
    collector.add("flowserver", f"{shape}: longest turn of the loop", "ms", longest)
    collector.add("flowserver", f"{shape}: memory at most", "MB", (peak.bytes - before) / 1e6)
    collector.add("flowserver", f"{shape}: memory a second later", "MB", (after - before) / 1e6)
    collector.add("flowserver", f"{shape}: time until the answer's end", "ms", seconds * 1e3)
    collector.add("flowserver", f"{shape}: tokens of {BUDGET} that came", "", words)


def _config(upstream: int) -> str:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    return (
        f'[[upstreams]]\nname = "provider"\nurl = "http://127.0.0.1:{upstream}"\nmodels = {{ "alias" = "model" }}\n'
        f'[[routes]]\npath = "/v1/*"\nmodels = ["alias"]\nupstreams = ["provider"]\nmax_tokens = {BUDGET}\n'
        f'[[tenants]]\nname = "bench"\nkey_sha256 = "{digest}"\ntokens_per_day = 1000000000\n'
    )


def _body(shape: str, size: int) -> bytes:
    if shape == "text":
        content = b'{"role":"user","content":"%b"}' % (b"word " * (size // 5))
    elif shape == "image":
        url = b"data:image/png;base64," + b"A" * size
        content = b'{"role":"user","content":[{"type":"image_url","image_url":{"url":"%b"}}]}' % url
    else:
        message = b'{"role":"user","content":"What is the weather like in Paris today?"}'
        content = b",".join([message] * (size // len(message)))
    return b'{"messages":[%b],"model":"alias","stream":true,"max_tokens":500000}' % content


def _ask(port: int, body: bytes) -> bytes:
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), 60) as client:
        client.sendall(head.encode() + body)
        pieces = []
        while data := client.recv(1 << 16):
            pieces.append(data)
    answer = b"".join(pieces)
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"expected a 200 answer, got {answer[:200]!r}")
    return answer


def _longest(pid: int, told: Path) -> float:
    """Milliseconds of the longest turn since this was last asked."""
    told.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR1)
    for _ in range(1000):
        if told.exists():
            return float(told.read_text())
        time.sleep(0.01)
    raise RuntimeError("the relay did not react to SIGUSR1")


class _Peak:
    """The most memory that a process has while this is open."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.bytes = 0

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        with open(f"/proc/{self._pid}/statm") as file:
            page = os.sysconf("SC_PAGE_SIZE")
            while not self._over.wait(0.005):
                file.seek(0)
                self.bytes = max(self.bytes, int(file.read().split()[1]) * page)
