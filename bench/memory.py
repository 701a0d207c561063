"""Memory per open stream: streams that bring one event a second, against the relay's memory before they came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.client import Client, Connection, request
from bench.cores import LOAD_CORES
from bench.figures import CaseResult, Collector, rotated
from bench.peers import PEERS, Running
from bench.processes import Process, free_port, memory_bytes
from bench.source import command


@dataclass(frozen=True, slots=True)
class Settings:
    """`warm_up` is streams that are opened and closed before the relay's memory is taken; `rest` is seconds."""

    streams: int = 1000
    warm_up: int = 50
    rest: float = 4
    rounds: int = 3


QUICK = Settings(streams=500, rest=2, rounds=1)


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures each of `relays`, in turn, each time with a fresh process."""
    collector = Collector()
    port = free_port()
    with Process(command(port, rate=1, size=250), port, cpus=LOAD_CORES):
        for number in range(settings.rounds):
            for name in rotated(relays, number):
                with PEERS[name].start(port) as relay:
                    _measure(relay, settings, collector)
    return CaseResult(
        "memory",
        f"memory of {settings.streams} open streams, 1 event/s each",
        {"streams": settings.streams},
        collector.figures(),
        ("The kernel's socket buffers are not in it.",),
    )


def _measure(relay: Running, settings: Settings, collector: Collector) -> None:
    if relay.pid is None:
        return
    hold(relay, settings.warm_up, settings.rest)
    before = memory_bytes(relay.pid)
    during = hold(relay, settings.streams, settings.rest)
    collector.add(relay.name, "memory before", "MB", before / 1e6)
    collector.add(relay.name, "memory per stream", "KB", (during - before) / 1024 / settings.streams)


def hold(relay: Running, streams: int, rest: float, look: Callable[[], object] = lambda: None) -> int:
    """Hold so many streams for `rest` seconds, then `look`. Returns the relay's memory in bytes."""
    assert relay.pid is not None
    with Client[Connection]() as client:
        for _ in range(streams):
            client.add(Connection(relay.port)).send(request())
        client.run_until_all(lambda connection: connection.received > 0, 10)
        client.run(rest)
        look()
        return memory_bytes(relay.pid)
