"""One worker, and several under a parent: what they cost, how even their shares are, and how soon a dead one is back.

All cores are everybody's here: client and provider compete with the workers. So where the machine has few of them, CPU
per event and answer, of all the relay's processes together, says more than what goes through.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench import events, unary
from bench.client import Client, Connection, request
from bench.figures import CaseResult, Collector, rotated
from bench.h2_client import H2Connection
from bench.h2_client import spread as spread_over
from bench.peers import Running, Wiring
from bench.peers.flowserver import Flowserver
from bench.processes import Process, free_port, memory_bytes, own_cpu_ns, process_tree, wait_until_quiet
from bench.source import command, whole_command

EVERY_CORE = frozenset(os.sched_getaffinity(0))
STREAMS_ALLOWED = 1000
GIVE_UP = 30.0
"""Seconds in which a relay has to be back."""
LOAD = events.Settings(streams=400, rate=50, ticks=(0,), warm_up=1, window=3)
CALLS = unary.Settings(connections=60, at_once=60, warm_up=0.5, window=3)


@dataclass(frozen=True, slots=True)
class Settings:
    """`counts` are of workers. `idle` is the streams that the parent's CPU is measured with, times are in seconds."""

    counts: tuple[int, ...] = (1, 2)
    load: events.Settings = LOAD
    calls: unary.Settings = CALLS
    rounds: int = 7
    memory_with: tuple[int, int] = (2, 6)
    spread_with: tuple[int, ...] = (2, 4)
    connections: int = 1000
    h2: tuple[int, int] = (8, 100)
    """Connections, and streams on each."""
    idle: int = 5000
    watch: float = 10
    kills: int = 10


QUICK = Settings(rounds=2, idle=1000, connections=200, watch=3, kills=3)


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures flowserver; the other `relays` have workers of other kinds, and are not asked."""
    collector = Collector()
    if "flowserver" in relays:
        _throughput(settings, collector)
        _memory(settings, collector)
        _spread(settings, collector)
        _parent(settings, collector)
        _recovery(settings, collector)
    return CaseResult(
        "workers",
        f"workers on {len(EVERY_CORE)} cores, which client and provider share",
        {"rounds": settings.rounds, "streams": settings.load.streams, "rate": settings.load.rate},
        collector.figures(),
        ("Share of the fullest: of the sockets that workers have, by how much it is above an even share.",),
    )


def _name(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"


@contextmanager
def _relay(count: int, source: int, wiring: Wiring | None = None, **settings: str) -> Iterator[Running]:
    chosen = {"FLOW_WORKERS": str(count), **settings}
    peer = Flowserver(_name(count), settings=chosen, cpus=EVERY_CORE)
    with peer.start(source, wiring or Wiring()) as running:
        while not _is_ready(running):  # its port takes connections before the first worker is forked
            time.sleep(0.05)
        yield running


def _is_ready(relay: Running) -> bool:
    assert relay.admin is not None
    with socket.create_connection(("127.0.0.1", relay.admin), 5) as client:
        client.sendall(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        return client.recv(100).startswith(b"HTTP/1.1 200")


@contextmanager
def _source(*, rate: float = 1, size: int = 250, whole: int | None = None) -> Iterator[int]:
    port = free_port()
    source = command(port, rate=rate, size=size) if whole is None else whole_command(port, whole)
    with Process(source, port, cpus=EVERY_CORE):
        yield port


def _throughput(settings: Settings, collector: Collector) -> None:
    load, calls = settings.load, settings.calls
    with _source(rate=load.rate, size=load.size) as source, ExitStack() as stack:
        started = [stack.enter_context(_relay(count, source)) for count in settings.counts]
        wait_until_quiet()
        for number in range(settings.rounds):
            for relay in rotated(started, number):
                found = events.h1_load(relay, load)
                events.collect(relay, found, load.rate, "evenly", collector)
                collector.add(relay.name, "events", "1/s", len(found.times) / (found.clocks.wall / 1e9))
    with _source(whole=calls.size) as source, ExitStack() as stack:
        started = [stack.enter_context(_relay(count, source)) for count in settings.counts]
        wait_until_quiet()
        message = request(stream=False)
        for number in range(settings.rounds):
            for relay in rotated(started, number):
                with Client[unary.Caller]() as client:
                    callers = [client.add(unary.Caller(relay.port, message)) for _ in range(calls.connections)]
                    unary.measure_full(client, callers, relay, calls, "", collector)


def _memory(settings: Settings, collector: Collector) -> None:
    """What further workers take, after each has answered."""
    few, many = settings.memory_with
    with _source(whole=1024) as source:
        taken = {}
        for count in (1, few, many):
            with _relay(count, source) as relay:
                _answers(relay.port, 20 * count)
                assert relay.pid is not None
                taken[count] = memory_bytes(relay.pid) / 1e6
                collector.add(relay.name, "memory of all processes", "MB", taken[count])
        collector.add(_name(many), "memory of each further worker", "MB", (taken[many] - taken[few]) / (many - few))


def _answers(port: int, count: int) -> None:
    message = request(stream=False)
    with Client[unary.Caller]() as client:
        for _ in range(count):
            client.add(unary.Caller(port, message)).call()
        client.run(10, lambda: not any(caller.waiting for caller in client.connections.values()))


def _spread(settings: Settings, collector: Collector) -> None:
    connections, streams = settings.h2
    wiring = Wiring(client="h2", streams=STREAMS_ALLOWED)
    with _source(rate=1) as source:
        for count in settings.spread_with:
            with _relay(count, source, wiring) as relay, Client[H2Connection]() as h2:
                before = _sockets(relay)
                for each in spread_over(connections * streams, connections):
                    connection = h2.add(H2Connection(relay.port))
                    for _ in range(each):
                        connection.request()
                h2.run(3)
                what = f"share of the fullest, {connections} HTTP/2 connections of {streams} streams"
                collector.add(relay.name, what, "%", _excess(before, _sockets(relay)))
            with _relay(count, source) as relay, Client[Connection]() as h1:
                before = _sockets(relay)
                for _ in range(settings.connections):
                    h1.add(Connection(relay.port)).send(request())
                h1.run(3)
                what = f"share of the fullest, {settings.connections} HTTP/1.1 connections"
                collector.add(relay.name, what, "%", _excess(before, _sockets(relay)))


def _workers(relay: Running) -> list[int]:
    assert relay.pid is not None
    return [pid for pid in process_tree(relay.pid) if pid != relay.pid]


def _sockets(relay: Running) -> dict[int, int]:
    return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in _workers(relay)}


def _excess(before: dict[int, int], after: dict[int, int]) -> float:
    """By how much the greatest share is above the mean of all, in percent."""
    shares = [after[pid] - before[pid] for pid in after]
    return 100 * (max(shares) * len(shares) / sum(shares) - 1)


def _parent(settings: Settings, collector: Collector) -> None:
    """The parent's CPU, and that of a worker beside it, in milliseconds a second."""
    with _source(rate=0.2) as source, _relay(2, source) as relay:
        _watch(relay, "idle", settings.watch, collector)
        with Client[Connection]() as client:
            for _ in range(settings.idle):
                client.add(Connection(relay.port)).send(request())
            client.run(2)
            _watch(relay, f"with {settings.idle} streams", settings.watch, collector, client)


def _watch(
    relay: Running, when: str, seconds: float, collector: Collector, client: Client[Connection] | None = None
) -> None:
    pid = relay.pid
    assert pid is not None
    workers = _workers(relay)
    before = own_cpu_ns(pid), sum(map(own_cpu_ns, workers))
    if client is None:
        time.sleep(seconds)
    else:
        client.run(seconds)
    parent, others = own_cpu_ns(pid) - before[0], sum(map(own_cpu_ns, workers)) - before[1]
    collector.add(relay.name, f"CPU of the parent, {when}", "ms/s", parent / 1e6 / seconds)
    collector.add(relay.name, f"CPU of each worker, {when}", "ms/s", others / 1e6 / seconds / len(workers))


def _recovery(settings: Settings, collector: Collector) -> None:
    """Both workers are killed at once: from then until the next client has its answer."""
    with _source(whole=1024) as source, _relay(2, source) as relay:
        for _ in range(settings.kills):
            time.sleep(1.5)
            for pid in _workers(relay):
                os.kill(pid, signal.SIGKILL)
            started = time.monotonic()
            while not _is_answered(relay.port):
                if time.monotonic() - started > GIVE_UP:
                    raise RuntimeError("no answer since its workers were killed")
            collector.add(relay.name, "until an answer, all workers killed", "ms", (time.monotonic() - started) * 1e3)


def _is_answered(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as client:
        client.sendall(request(stream=False))
        return client.recv(100).startswith(b"HTTP/1.1 200")
    return False
