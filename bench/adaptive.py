"""How well `max_concurrent = "auto"` follows a provider whose capacity halves and doubles, beside fixed limits.

All limits are tried at the same time, each with a relay, a provider and clients of its own; there is little to compute.
Each phase is compared with the fixed limit that was best in this very phase, which nobody could know before. With few
answers chance decides which one that is: of phases with 20 to 60 answers, a limit that knew the capacity would miss
90 % in one of seven.

The first four scenarios were looked at while the limit was designed; its constants were chosen with random scenarios.
The last two played no part in either.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from pathlib import Path

from bench.client import Client, Connection
from bench.figures import CaseResult, Collector, Series
from bench.limited_provider import Capacity, command
from bench.processes import Process, free_port, python_module

_AGAIN = 0.3
"""Seconds until a client that was refused asks again."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """`clients` ask one after the other, with prompts of `prompts` bytes, for `phase` seconds at each of the shares of
    the provider's places that `shares` are."""

    name: str
    capacity: Capacity
    clients: int
    prompts: tuple[int, ...] = (300,)
    shares: tuple[float, ...] = (1, 0.5, 1, 2, 1)
    phase: float = 20

    def fixed(self) -> list[int]:
        """Limits that may be best in one phase or another: what is served at a time then, and up to what may wait."""
        found = set()
        for share in set(self.shares):
            places = max(1, round(self.capacity.places * share))
            found |= {places, round(places * 1.25) + 1, places + self.capacity.queue}
        return sorted(found)


SCENARIOS = (
    Scenario("20 places", Capacity(20, 20), 120),
    Scenario("50 places, mixed prompts", Capacity(50, 30, 0.1, 0.15, 3.0), 250, (300, 1000, 3000, 15000)),
    Scenario("12 places, slow", Capacity(12, 12, 0.6, 0.1, 5.0), 70, (300, 4000)),
    Scenario("30 places, early heads", Capacity(30, 15, 0.5, 0.05, 1.5, early_head=True), 150, (300, 8000)),
    Scenario("90 places, quick", Capacity(90, 60, 0.15, 0.02, 4.0), 260, (500, 2000, 9000)),
    Scenario("16 places, long tail", Capacity(16, 16, 0.4, 0.0, 3.0, spread=0.9), 90, shares=(1, 2, 1, 0.5, 1)),
)


@dataclass(frozen=True, slots=True)
class Settings:
    scenarios: tuple[Scenario, ...] = SCENARIOS


QUICK = Settings((replace(SCENARIOS[0], phase=10, shares=(1, 0.5, 1)),))


@dataclass(slots=True)
class Outcome:
    """Of one limit in one phase."""

    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def goodput(self) -> int:
        return self.statuses[200]

    @property
    def refused(self) -> float:
        """The share of answers that were 429."""
        return self.statuses[429] / max(1, self.statuses.total())


class _Asker(Connection):
    """A client that asks again and again."""

    __slots__ = ("_again", "_answer", "_prompts", "_random", "outcome")

    def __init__(
        self, port: int, prompts: Sequence[int], rng: random.Random, again: Callable[[float, _Asker], None]
    ) -> None:
        super().__init__(port)
        self._prompts = prompts
        self._random = rng
        self._again = again
        self._answer = b""
        self.outcome: Callable[[int], None] = lambda status: None

    def ask(self) -> None:
        prompt = "x" * self._random.choice(self._prompts)
        message = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": prompt}]}
        body = json.dumps(message).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        self.send(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    def on_data(self, data: bytes) -> None:
        self._answer = answer = self._answer + data
        head, found, body = answer.partition(b"\r\n\r\n")
        if not found:
            return
        status = int(head[9:12])
        if status == 200:
            if not body.endswith(b"0\r\n\r\n"):
                return
        else:
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
            if len(body) < length:
                return
        self._answer = b""
        self.outcome(status)
        self._again(0.0 if status == 200 else _AGAIN, self)


class _Load:
    """The clients of all limits, and when each asks again."""

    def __init__(self) -> None:
        self.client = Client[_Asker]()
        self._due: list[tuple[float, int, _Asker]] = []
        self._numbers = itertools.count()

    def again(self, seconds: float, asker: _Asker) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), asker))

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            while self._due and self._due[0][0] <= time.monotonic():
                heapq.heappop(self._due)[2].ask()
            until = self._due[0][0] - time.monotonic() if self._due else 1.0
            self.client.run(max(0.0, min(left, until, 0.02)), lambda: bool(self._due))


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """`relays` is of no concern: the limits of flowserver are compared."""
    collector, curves = Collector(), []
    for scenario in settings.scenarios:
        found, curve = measure(scenario)
        curves.append(Series("adaptive limit", scenario.name, "", "seconds", tuple(curve)))
        _collect(scenario, found, collector)
    return CaseResult(
        "adaptive",
        'max_concurrent = "auto" beside fixed limits, while the capacity changes',
        {"phase": settings.scenarios[0].phase},
        collector.figures(),
        (
            "Goodput is compared with the fixed limit that was best in each phase by itself.",
            "The last two scenarios played no part in the design of the limit.",
        ),
        tuple(curves),
    )


def _collect(scenario: Scenario, found: dict[str, list[Outcome]], collector: Collector) -> None:
    auto = found["auto"]
    for number, share in enumerate(scenario.shares):
        best = max(outcomes[number].goodput for limit, outcomes in found.items() if limit != "auto")
        where = f"phase {number + 1}, {share:g} x places"
        collector.add(
            scenario.name, f"goodput of the best fixed limit's, {where}", "%", 100 * auto[number].goodput / best
        )
    whole: Counter[int] = sum((outcome.statuses for outcome in auto), Counter())
    collector.add(scenario.name, "429 of all answers", "%", 100 * whole[429] / whole.total())
    total = max(sum(outcome.goodput for outcome in outcomes) for limit, outcomes in found.items() if limit != "auto")
    collector.add(scenario.name, "goodput of the best fixed limit's over all phases", "%", 100 * whole[200] / total)


def measure(scenario: Scenario) -> tuple[dict[str, list[Outcome]], list[tuple[float, float]]]:
    """The outcomes of each limit by phase, and the adaptive limit by time in seconds."""
    limits = ['"auto"', *map(str, scenario.fixed())]
    load = _Load()
    found: dict[str, list[Outcome]] = {limit.strip('"'): [] for limit in limits}
    curve: list[tuple[float, float]] = []
    with ExitStack() as stack:
        stack.enter_context(load.client)
        rigs = [stack.enter_context(_rig(limit, scenario)) for limit in limits]
        for rig in rigs:  # once all relays run: they close connections that are silent for long
            rig.connect(scenario, load)
        began = time.monotonic()
        for share in scenario.shares:
            for rig, outcomes in zip(rigs, found.values(), strict=True):
                _change(rig.provider, places=max(1, round(scenario.capacity.places * share)))
                outcome = Outcome()
                outcomes.append(outcome)
                rig.count_in(outcome)
            for _ in range(round(scenario.phase * 2)):
                load.run(0.5)
                curve.append((time.monotonic() - began, _limit_of(rigs[0].admin)))
        broken = sum(asker.ended for rig in rigs for asker in rig.askers)
        if broken:
            raise RuntimeError(f"{broken} clients lost their connection")
    return found, curve


@dataclass(frozen=True, slots=True)
class _Rig:
    """A limit's relay and provider, by their ports, and clients."""

    port: int
    provider: int
    admin: int
    askers: list[_Asker] = field(default_factory=list)

    def connect(self, scenario: Scenario, load: _Load) -> None:
        for number in range(scenario.clients):
            asker = _Asker(self.port, scenario.prompts, random.Random(number), load.again)
            self.askers.append(load.client.add(asker))
            load.again(0.5 * number / scenario.clients, asker)

    def count_in(self, outcome: Outcome) -> None:
        def count(status: int) -> None:
            outcome.statuses[status] += 1

        for asker in self.askers:
            asker.outcome = count


@contextmanager
def _rig(limit: str, scenario: Scenario) -> Iterator[_Rig]:
    port, admin, provider = free_port(), free_port(), free_port()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        file = folder / "flowserver.toml"
        file.write_text(
            f'[[upstreams]]\nname = "provider"\nurl = "http://127.0.0.1:{provider}"\napi_key = "env:BENCH_KEY"\n'
            f'max_concurrent = {limit}\nqueue = 10000\nqueue_timeout = "120s"\n'
        )
        environment = {
            "FLOW_LISTEN": f"127.0.0.1:{port}",
            "FLOW_ADMIN_LISTEN": f"127.0.0.1:{admin}",
            "FLOW_LOG_LEVEL": "warning",
            "FLOW_CONFIG": str(file),
            "FLOW_RETRY_ATTEMPTS": "1",
            "BENCH_KEY": "key",
        }
        stack.enter_context(Process(command(provider, scenario.capacity), provider))
        stack.enter_context(Process(python_module("flowserver", "serve"), port, environment=environment))
        yield _Rig(port, provider, admin)


def _change(port: int, **values: int) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("PUT", "/capacity", json.dumps(values))
    connection.getresponse().read()
    connection.close()


def _limit_of(port: int) -> float:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    line = next((line for line in text.splitlines() if line.startswith("flow_upstream_limit{")), "0 0")
    return float(line.rpartition(" ")[2])
