"""The package's simulator as the provider, and what it tells of its streams."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

from bench.cores import LOAD_CORES
from bench.processes import Process, free_port, python_module

Streams = dict[str, dict[str, Any]]
"""Name of the stream -> what the simulator tells of it."""


class Provider:
    """A simulator that listens on `port`, of 127.0.0.1 at least."""

    def __init__(self, port: int) -> None:
        self.port = port

    def streams(self) -> Streams:
        """Those that are open and those that ended since `forget`."""
        return {stream["id"]: stream for stream in json.loads(self._ask("GET"))}

    def totals(self) -> dict[str, int]:
        """`requests` since the start, `open` now, and others."""
        totals: dict[str, int] = json.loads(self._ask("GET", "totals"))
        return totals

    def forget(self) -> None:
        """Drop the streams that ended."""
        self._ask("DELETE")

    def wait(self, holds: Callable[[Streams], bool], seconds: float) -> Streams:
        """Ask until `holds` or the time is over; returns the last answer."""
        deadline = time.monotonic() + seconds
        while not holds(streams := self.streams()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return streams

    def _ask(self, method: str, what: str = "streams") -> bytes:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, f"/simulator/{what}")
            return connection.getresponse().read()
        finally:
            connection.close()


@contextmanager
def simulator(host: str = "127.0.0.1") -> Iterator[Provider]:
    """Start one; it ends with the context."""
    port = free_port()
    command = python_module("flowserver", "simulate", "--listen", f"{host}:{port}")
    with Process(command, port, cpus=LOAD_CORES):
        yield Provider(port)
