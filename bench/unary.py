"""CPU per small answer that is no stream, over connections that stay open, under two loads.

At a steady pace every relay has the same to do, and is idle for a part of the time: its caches are cold, and each
answer wakes it up. At full load each connection asks again as soon as its answer is there, which is what an answer
costs a relay that is busy. The relays run side by side and take turns, round after round.
"""

from __future__ import annotations

import gc
import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.client import C, Client, Connection, request
from bench.cores import LOAD_CORES
from bench.figures import CaseResult, Collector
from bench.peers import Running, side_by_side
from bench.processes import Process, cpu_ns, free_port
from bench.source import whole_command
from bench.stats import percentile


@dataclass(frozen=True, slots=True)
class Settings:
    """`rate` is requests per second over all connections, `at_once` how many wait for their answers at full load,
    `size` bytes of an answer's body, times are seconds. `others` is as in `in_round`."""

    connections: int = 50
    rate: float = 1000
    at_once: int = 50
    size: int = 1024
    rounds: int = 3
    others: int | None = None
    warm_up: float = 1
    window: float = 5


QUICK = Settings(rounds=1, window=2)


class Asker(Protocol):
    """A connection that sends requests when told to. `times` are the seconds that answers took; with `insists` it sends
    the next request as soon as an answer is complete."""

    times: list[float]
    insists: bool

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

    __slots__ = ("_answer", "_begin", "_length", "_message", "_sent", "insists", "times", "waiting")

    def __init__(self, port: int, message: bytes, *, status: int = 200) -> None:
        super().__init__(port)
        self._begin = b"HTTP/1.1 %d" % status
        self.waiting = 0
        self.times: list[float] = []
        self.insists = False
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
            if self.insists:
                self.call()

    def _is_whole(self) -> bool:
        """An answer has a length or is chunked."""
        if not self._length:
            head, blank, _ = self._answer.partition(b"\r\n\r\n")
            if not blank:
                return False
            if not head.startswith(self._begin):
                raise RuntimeError(f"expected a 200 answer, got {head!r}")
            _, found, after = head.lower().partition(b"content-length:")
            if not found:
                return self._answer.endswith(b"0\r\n\r\n")
            self._length = len(head) + 4 + int(after.split(b"\r\n")[0])
        return len(self._answer) >= self._length


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures each of `relays`, in turn, `settings.rounds` times."""
    collector = Collector()
    port = free_port()
    source = Process(whole_command(port, settings.size), port, cpus=LOAD_CORES)
    with source, side_by_side(relays, port) as started:
        for number in range(settings.rounds):
            for relay in started.round(number, settings.others):
                _measure(relay, settings, collector)
    return CaseResult(
        "unary",
        f"whole answers of {settings.size} B, {settings.connections} connections kept open: {settings.rate:g}/s, and as"
        " many as go",
        {"connections": settings.connections, "rate": settings.rate, "size": settings.size, "window": settings.window},
        collector.figures(),
    )


def _measure(relay: Running, settings: Settings, collector: Collector) -> None:
    message = request(stream=False)
    with Client[Caller]() as client:
        callers = [client.add(Caller(relay.port, message)) for _ in range(settings.connections)]
        measure(client, callers, relay, settings, "", collector)
        measure_full(client, callers, relay, settings, "", collector)


def measure(
    client: Client[C], callers: Sequence[Asker], relay: Running, settings: Settings, shape: str, collector: Collector
) -> float | None:
    """Measure `callers`, all of them in `client`, at a steady rate. `shape` is part of the figures' names. Returns the
    microseconds of CPU per answer; None without a relay."""
    rate = settings.rate * relay.share
    _call(client, callers, rate, settings.warm_up)
    cost, times = _watch(callers, relay, lambda: _call(client, callers, rate, settings.window))
    if cost is not None:
        collector.add(relay.name, f"CPU per answer{shape}", "us", cost)
    collector.add(relay.name, f"time of an answer{shape}, p50", "ms", percentile(times, 50) * 1e3)
    collector.add(relay.name, f"time of an answer{shape}, p99", "ms", percentile(times, 99) * 1e3)
    collector.add(relay.name, f"answers that came{shape}", "%", 100 * len(times) / (rate * settings.window))
    return cost


def measure_full(
    client: Client[C], callers: Sequence[Asker], relay: Running, settings: Settings, shape: str, collector: Collector
) -> None:
    """As `measure`, with `settings.at_once` requests under way all the time, as far as the callers take them."""
    for number in range(settings.at_once):
        caller = callers[number % len(callers)]
        if not caller.busy:
            caller.insists = True
            caller.call()
    client.run(settings.warm_up)
    cost, times = _watch(callers, relay, lambda: client.run(settings.window))
    for caller in callers:
        caller.insists = False
    client.run(2, lambda: not any(caller.waiting for caller in callers))
    if cost is not None:
        collector.add(relay.name, f"CPU per answer, at full load{shape}", "us", cost)
    collector.add(relay.name, f"answers, at full load{shape}", "1/s", len(times) / settings.window)


def _watch(
    callers: Sequence[Asker], relay: Running, load: Callable[[], object]
) -> tuple[float | None, Sequence[float]]:
    """Microseconds of CPU for each answer that comes while `load` runs (None: there is no relay), and the seconds that
    each of them took."""
    for caller in callers:
        caller.times.clear()
    gc.disable()
    before = cpu_ns(relay.pid) if relay.pid is not None else 0
    load()
    after = cpu_ns(relay.pid) if relay.pid is not None else 0
    gc.enable()
    times = [time_taken for caller in callers for time_taken in caller.times]
    if not times:
        raise RuntimeError(f"{relay.name}: no answers arrived")
    return (after - before) / 1e3 / len(times) if relay.pid is not None else None, times


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
