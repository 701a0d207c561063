"""What a relay adds to the time to the first byte.

One request at a time over connections that stay open on both sides, on a machine that does nothing else; the relays and
`direct` take turns request by request. The time is from the client's send() to the recv() that brings body bytes.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bench.client import request
from bench.figures import CaseResult, Collector
from bench.peers import PEERS
from bench.processes import wait_until_quiet
from bench.provider import simulator
from bench.stats import percentile

END = b"0\r\n\r\n"
"""The last chunk of a chunked answer."""

PAUSE = 0.002
"""Seconds between two requests, so that nobody's work for the one falls into the next."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`requests` is for each relay and round."""

    requests: int = 300
    warm_up: int = 20
    rounds: int = 3


QUICK = Settings(requests=200, rounds=1)


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """All of `relays` run at once, since an idle one takes nothing; each request goes to another one."""
    collector = Collector()
    with ExitStack() as stack:
        provider = stack.enter_context(simulator())
        clients: dict[str, socket.socket] = {}
        for name in relays:
            relay = stack.enter_context(PEERS[name].start(provider.port))
            client = stack.enter_context(socket.create_connection(("127.0.0.1", relay.port), 10))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            clients[name] = client
        _round(clients, settings.warm_up)
        for _ in range(settings.rounds):
            wait_until_quiet()
            for name, times in _round(clients, settings.requests).items():
                collector.add(name, "time to first byte, p50", "ms", percentile(times, 50) * 1e3)
                collector.add(name, "time to first byte, p99", "ms", percentile(times, 99) * 1e3)
    return CaseResult(
        "first_byte",
        "time to the first byte, one request at a time, connections kept open",
        {"requests": settings.requests},
        collector.figures(),
    )


def _round(clients: dict[str, socket.socket], requests: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in clients}
    for _ in range(requests):
        for name, client in clients.items():
            times[name].append(time_to_first_byte(client))
            time.sleep(PAUSE)
    return times


def time_to_first_byte(client: socket.socket) -> float:
    """Seconds. Reads the answer to its end."""
    started = time.monotonic()
    client.sendall(request("events=1 rate=0"))
    answer = b""
    first = 0.0
    while not answer.partition(b"\r\n\r\n")[2].endswith(END):  # a head may end like a body
        data = client.recv(65536)
        if not data:
            raise RuntimeError(f"the connection closed in the middle of an answer, after {answer!r}")
        answer += data
        if not first and b"data:" in answer:
            first = time.monotonic() - started
    return first
