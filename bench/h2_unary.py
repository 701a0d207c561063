"""CPU per small answer that is no stream, with clients that speak HTTP/2: as `unary` has it for HTTP/1.1."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench import unary
from bench.client import Client
from bench.cores import LOAD_CORES
from bench.figures import CaseResult, Collector
from bench.h2_client import H2Connection
from bench.peers import Running, Wiring, side_by_side
from bench.processes import Process, free_port
from bench.source import whole_command

CALLS = unary.Settings()

MOST = 100
"""Requests without an answer that a connection may have."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The shapes are how many connections; `calls` are as in `unary`."""

    shapes: tuple[int, ...] = (1, 5, 100)
    calls: unary.Settings = CALLS


QUICK = Settings(shapes=(5,), calls=unary.QUICK)


class H2Caller(H2Connection):
    """Many requests at a time."""

    __slots__ = ("_sent", "insists", "times")

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.times: list[float] = []
        self.insists = False
        self._sent: dict[int, float] = {}

    @property
    def waiting(self) -> int:
        return len(self._sent)

    @property
    def busy(self) -> bool:
        return len(self._sent) >= MOST

    def call(self) -> None:
        sent = time.monotonic()
        self._sent[self.request(stream=False)] = sent

    def on_stream_end(self, stream: int, *, whole: bool) -> None:
        taken = time.monotonic() - self._sent.pop(stream)
        if whole:
            self.times.append(taken)
        if self.insists:
            self.call()


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures each of `relays`, in turn, as often as `settings.calls` says."""
    collector = Collector()
    wiring = Wiring(client="h2", streams=1000)
    calls = settings.calls
    port = free_port()
    source = Process(whole_command(port, calls.size), port, cpus=LOAD_CORES)
    with source, side_by_side(relays, port, wiring) as started:
        for connections in settings.shapes:
            for number in range(calls.rounds):
                for relay in started.round(number, calls.others):
                    _measure(relay, replace(calls, connections=connections), collector)
    return CaseResult(
        "h2_unary",
        f"HTTP/2 clients, whole answers of {calls.size} B: {calls.rate:g}/s, and as many as go",
        {"rate": calls.rate, "size": calls.size, "window": calls.window},
        collector.figures(),
    )


def _measure(relay: Running, calls: unary.Settings, collector: Collector) -> None:
    shape = ", 1 connection" if calls.connections == 1 else f", {calls.connections} connections"
    with Client[H2Caller]() as client:
        callers = [client.add(H2Caller(relay.port)) for _ in range(calls.connections)]
        unary.measure(client, callers, relay, calls, shape, collector)
        unary.measure_full(client, callers, relay, calls, shape, collector)
