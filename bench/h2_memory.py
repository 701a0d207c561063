"""Memory per open stream with clients that speak HTTP/2: as `memory` has it for HTTP/1.1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.client import Client
from bench.cores import LOAD_CORES
from bench.figures import CaseResult, Collector, rotated
from bench.h2_client import H2Connection, spread
from bench.peers import PEERS, Running, Wiring, those_that
from bench.processes import Process, free_port, memory_bytes
from bench.source import command


@dataclass(frozen=True, slots=True)
class Settings:
    """`shapes` are how many connections the streams lie on. `warm_up` is streams that are opened and closed before the
    relay's memory is taken; `rest` is seconds."""

    shapes: tuple[int, ...] = (1, 5, 100)
    streams: int = 500
    warm_up: int = 50
    rest: float = 3
    rounds: int = 3


QUICK = Settings(shapes=(5,), rest=1.5, rounds=1)


class Holder(H2Connection):
    """Knows which of its streams have brought something."""

    __slots__ = ("heard",)

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.heard: set[int] = set()

    def on_stream_data(self, stream: int, data: bytes) -> None:
        self.heard.add(stream)


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures each of `relays`, in turn, each time with a fresh process."""
    collector = Collector()
    port = free_port()
    wiring = Wiring(client="h2", streams=max(1000, settings.streams))
    with Process(command(port), port, cpus=LOAD_CORES):
        for connections in settings.shapes:
            for number in range(settings.rounds):
                for name in rotated(those_that(relays, wiring), number):
                    with PEERS[name].start(port, wiring) as relay:
                        _measure(relay, settings, connections, collector)
    return CaseResult(
        "h2_memory",
        f"HTTP/2 clients: memory of {settings.streams} open streams, 1 event/s each",
        {"streams": settings.streams},
        collector.figures(),
        ("The kernel's socket buffers are not in it; what the connections themselves take is.",),
    )


def _measure(relay: Running, settings: Settings, connections: int, collector: Collector) -> None:
    if relay.pid is None:
        return
    hold(relay, settings.warm_up, 1, settings.rest)
    before = memory_bytes(relay.pid)
    during = hold(relay, settings.streams, connections, settings.rest)
    where = "1 connection" if connections == 1 else f"{connections} connections"
    collector.add(relay.name, f"memory per stream, {where}", "KB", (during - before) / 1024 / settings.streams)


def hold(relay: Running, streams: int, connections: int, rest: float, look: Callable[[], object] = lambda: None) -> int:
    """Hold so many streams for `rest` seconds, then `look`. Returns the relay's memory in bytes."""
    assert relay.pid is not None
    with Client[Holder]() as client:
        for count in spread(streams, connections):
            holder = client.add(Holder(relay.port))
            for _ in range(count):
                holder.request()
        silent = client.run_until_all(lambda holder: len(holder.heard) == len(holder.open), 10)
        if silent or sum(len(holder.open) for holder in client.connections.values()) != streams:
            raise RuntimeError(f"{relay.name}: not all streams opened")
        client.run(rest)
        look()
        return memory_bytes(relay.pid)
