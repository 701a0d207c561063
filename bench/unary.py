"""CPU per small answer that is no stream, over connections that stay open.

Each connection asks at a steady pace, so that every relay has the same to do, and is idle for a part of the time.
"""

from __future__ import annotations

import gc
import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.client import C, Client, Connection, request
from bench.figures import CaseResult, Collector, rotated
from bench.peers import PEERS, Running
from bench.processes import cpu_ns, wait_until_quiet
from bench.provider import simulator
from bench.stats import percentile


@dataclass(frozen=True, slots=True)
class Settings:
    """`rate` is requests per second over all connections, `size` bytes of an answer's body, times are seconds."""

    connections: int = 50
    rate: float = 1000
    size: int = 1024
    rounds: int = 3
    warm_up: float = 1
    window: float = 5


QUICK = Settings(rounds=1, window=2)


class Asker(Protocol):
    """A connection that sends requests when it is told to. `times` are the seconds that answers took."""

    times: list[float]

    @property
    def waiting(self) -> int:
        """Requests without an answer."""
        ...

    @property
    def busy(self) -> bool:
        """Must the next request wait?"""
        ...

    def call(self) -> None: ...


class Caller(Connection):
    """One request at a time, as HTTP/1.1 has it. Answers are to have this `status`."""

    __slots__ = ("_answer", "_begin", "_length", "_message", "_sent", "times", "waiting")

    def __init__(self, port: int, message: bytes, *, status: int = 200) -> None:
        super().__init__(port)
        self._begin = b"HTTP/1.1 %d" % status
        self.waiting = 0
        self.times: list[float] = []
        self._message = message
        self._answer = b""
        self._length = 0
        self._sent = 0.0

    @property
    def busy(self) -> bool:
        return self.waiting > 0

    def call(self) -> None:
        self.waiting = 1
        self._answer = b""
        self._length = 0
        self._sent = time.monotonic()
        self.socket.send(self._message)

    def on_data(self, data: bytes) -> None:
        self._answer += data
        if self._is_whole():
            self.waiting = 0
            self.times.append(time.monotonic() - self._sent)

    def _is_whole(self) -> bool:
        """An answer has a length or is chunked."""
        if not self._length:
            head, blank, _ = self._answer.partition(b"\r\n\r\n")
            if not blank:
                return False
            if not head.startswith(self._begin):
                raise RuntimeError(f"no answer to count: {head!r}")
            _, found, after = head.lower().partition(b"content-length:")
            if not found:
                return self._answer.endswith(b"0\r\n\r\n")
            self._length = len(head) + 4 + int(after.split(b"\r\n")[0])
        return len(self._answer) >= self._length


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures each of `relays`, in turn, `settings.rounds` times."""
    collector = Collector()
    with simulator() as provider:
        for number in range(settings.rounds):
            for name in rotated(relays, number):
                wait_until_quiet()
                with PEERS[name].start(provider.port) as relay:
                    _measure(relay, settings, collector)
    return CaseResult(
        "unary",
        f"{settings.rate:g} whole answers/s of {settings.size} B, {settings.connections} connections kept open",
        {"connections": settings.connections, "rate": settings.rate, "size": settings.size, "window": settings.window},
        collector.figures(),
    )


def _measure(relay: Running, settings: Settings, collector: Collector) -> None:
    message = request(f"whole={settings.size}", stream=False)
    with Client[Caller]() as client:
        callers = [client.add(Caller(relay.port, message)) for _ in range(settings.connections)]
        measure(client, callers, relay, settings, "", collector)


def measure(
    client: Client[C], callers: Sequence[Asker], relay: Running, settings: Settings, shape: str, collector: Collector
) -> float | None:
    """Let `callers`, who are all in `client`, ask, and collect what it takes; `shape` says in words how they do.
    Returns the microseconds of CPU per answer; None where there is no relay."""
    rate = settings.rate * relay.share
    _call(client, callers, rate, settings.warm_up)
    for caller in callers:
        caller.times.clear()
    gc.disable()
    before = cpu_ns(relay.pid) if relay.pid is not None else 0
    _call(client, callers, rate, settings.window)
    after = cpu_ns(relay.pid) if relay.pid is not None else 0
    gc.enable()
    times = [time_taken for caller in callers for time_taken in caller.times]
    if not times:
        raise RuntimeError(f"{relay.name}: no answers came")
    cost = (after - before) / 1e3 / len(times) if relay.pid is not None else None
    if cost is not None:
        collector.add(relay.name, f"CPU per answer{shape}", "us", cost)
    collector.add(relay.name, f"time of an answer{shape}, p50", "ms", percentile(times, 50) * 1e3)
    collector.add(relay.name, f"time of an answer{shape}, p99", "ms", percentile(times, 99) * 1e3)
    collector.add(relay.name, f"answers that came{shape}", "%", 100 * len(times) / (rate * settings.window))
    return cost


def _call(client: Client[C], callers: Sequence[Asker], rate: float, seconds: float) -> None:
    """Let the callers ask at `rate` together. One that still waits for its answer leaves a turn out."""
    interval = len(callers) / rate
    started = time.monotonic()
    due = [(started + interval * number / len(callers), number) for number in range(len(callers))]
    while due[0][0] < started + seconds:
        now = time.monotonic()
        if due[0][0] > now:
            client.run(min(due[0][0] - now, 0.001))
            continue
        time_due, number = due[0]
        heapq.heapreplace(due, (time_due + interval, number))
        if not callers[number].busy:
            callers[number].call()
    client.run(2, lambda: not any(caller.waiting for caller in callers))
