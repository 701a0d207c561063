"""More requests than a relay can serve: who is refused, how fast, and how the others fare; with its gate for overload
on and off. And what the gate costs while there is nothing to refuse.

The requests have a body of some size, so that they cost the relay much more than the client and the provider. How many
a relay can serve is measured first, with the gate off. Then clients of both classes ask at their own pace, whether
others are answered or not. One that still waits when its turn comes leaves the turn out, and that answer counts as one
that did not come.
"""

from __future__ import annotations

import gc
import heapq
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from bench import unary
from bench.client import BODY, Client, Connection, request
from bench.cores import LOAD_CORES
from bench.figures import CaseResult, Collector, Series, rotated
from bench.peers import Running
from bench.peers.flowserver import Flowserver
from bench.processes import Process, cpu_ns, free_port, wait_until_quiet
from bench.source import whole_command
from bench.stats import percentile

ON, OFF = "gate on", "gate off"
INTERACTIVE, BATCH = "interactive", "batch"


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of each class, in multiples of what the relay can serve."""

    name: str
    interactive: float
    batch: float


LOADS = (
    Load("2 x, half batch", 1.0, 1.0),
    Load("2 x, three quarters batch", 0.5, 1.5),
    Load("2 x, no batch", 2.0, 0.0),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """`clients` are those of each class, `size` the bytes of a request's body, times are seconds. `idle` is a load that
    leaves the relay idle for a part of the time."""

    loads: Sequence[Load] = LOADS
    clients: int = 300
    size: int = 16 * 1024
    rounds: int = 3
    warm_up: float = 2
    seconds: float = 5
    idle: unary.Settings = field(
        default_factory=lambda: unary.Settings(connections=20, rate=400, rounds=11, warm_up=0.5, window=2)
    )


QUICK = Settings(
    rounds=1,
    warm_up=1.5,
    seconds=3,
    idle=unary.Settings(connections=20, rate=400, rounds=2, warm_up=0.5, window=2),
)


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures flowserver, which alone has classes; the other `relays` are not asked."""
    collector = Collector()
    series: list[Series] = []
    if "flowserver" in relays:
        with ExitStack() as stack:
            gates = _start(stack)
            wait_until_quiet()
            most = _capacity(gates[OFF], settings)
            for load in settings.loads:
                for number in range(settings.rounds):
                    for name in rotated(gates, number):
                        wait_until_quiet()
                        series += _overload(gates[name], load, most, settings, collector, with_series=number == 0)
            _idle(gates, settings, collector)
    return CaseResult(
        "overload",
        f"more requests of {settings.size >> 10} KB than can be served, {settings.clients} clients of each class",
        {"clients": settings.clients, "size": settings.size, "seconds": settings.seconds},
        collector.figures(),
        (
            "x is what the relay serves in a second of its CPU, with 50 requests under way at a time and its gate off.",
            "Goodput is the share of what was asked for; what took more than a second counts as not served.",
        ),
        tuple(series),
    )


def _start(stack: ExitStack) -> dict[str, Running]:
    port = free_port()
    stack.enter_context(Process(whole_command(port, 1024), port, cpus=LOAD_CORES))
    return {name: stack.enter_context(_relay(name, port)) for name in (ON, OFF)}


@contextmanager
def _relay(name: str, upstream: int) -> Iterator[Running]:
    settings = {} if name == ON else {"FLOW_OVERLOAD_TARGET": "off"}
    with Flowserver(name, settings=settings).start(upstream) as relay:
        yield relay


def message(traffic_class: str, size: int) -> bytes:
    """A request of class `traffic_class` whose body has `size` bytes."""
    plain = request(f"x\r\nx-flow-class: {traffic_class}", stream=False)
    short = len(BODY.replace(b"true", b"false"))
    head, body = plain[:-short], plain[-short:]
    body = body.replace(b"Go on.", b"Go on. " * ((size - short) // 7))
    return head.replace(b"content-length: %d" % short, b"content-length: %d" % len(body)) + body


class Asker(Connection):
    """Asks at its own pace, and notes for each answer what became of it."""

    __slots__ = ("_answer", "_message", "_sent", "_size", "answers", "waiting")

    def __init__(self, port: int, message: bytes) -> None:
        super().__init__(port)
        self._message = message
        self._answer = b""
        self._size = 0
        self._sent = 0.0
        self.waiting = False
        self.answers: list[tuple[float, int, float]] = []
        """When it came, its status, and the seconds that it took."""

    def call(self) -> None:
        self.waiting = True
        self._answer, self._size = b"", 0
        self._sent = time.monotonic()
        self.send(self._message)

    def on_data(self, data: bytes) -> None:
        self._answer += data
        if not self._size:
            head, blank, _ = self._answer.partition(b"\r\n\r\n")
            if not blank:
                return
            _, _, after = head.lower().partition(b"content-length:")
            self._size = len(head) + 4 + int(after.split(b"\r\n")[0])
        if len(self._answer) >= self._size:
            now = time.monotonic()
            self.waiting = False
            self.answers.append((now, int(self._answer[9:12]), now - self._sent))


def _capacity(relay: Running, settings: Settings) -> float:
    """Answers in a second of the relay's CPU, with 50 requests under way all the time."""
    assert relay.pid is not None
    with Client[Asker]() as client:
        askers = [client.add(Asker(relay.port, message(INTERACTIVE, settings.size))) for _ in range(50)]
        for _ in range(2):  # the first is for warming up
            before, until = cpu_ns(relay.pid), time.monotonic() + settings.warm_up
            for asker in askers:
                asker.answers.clear()
            while time.monotonic() < until:
                for asker in askers:
                    if not asker.waiting:
                        asker.call()
                client.run(0.0005)
        return sum(len(asker.answers) for asker in askers) / (cpu_ns(relay.pid) - before) * 1e9


def _overload(
    relay: Running, load: Load, most: float, settings: Settings, collector: Collector, *, with_series: bool
) -> list[Series]:
    """Returns series only if `with_series`."""
    rates = {INTERACTIVE: load.interactive * most, BATCH: load.batch * most}
    with Client[Asker]() as client:
        askers = {
            name: [client.add(Asker(relay.port, message(name, settings.size))) for _ in range(settings.clients)]
            for name, rate in rates.items()
            if rate
        }
        everybody = [(asker, rates[name] / settings.clients) for name in askers for asker in askers[name]]
        random.Random(1).shuffle(everybody)
        assert relay.pid is not None
        gc.disable()
        started, before = time.monotonic(), cpu_ns(relay.pid)
        _ask(client, everybody, settings)
        busy = (cpu_ns(relay.pid) - before) / 1e9 / (time.monotonic() - started)
        gc.enable()
    collector.add(relay.name, f"{load.name}: CPU of the relay", "%", 100 * busy)
    since = started + settings.warm_up
    found = {name: [answer for asker in askers[name] for answer in asker.answers] for name in askers}
    for name, answers in found.items():
        late = [answer for answer in answers if answer[0] >= since]
        served = [seconds for _, status, seconds in late if status == 200]
        refused = [seconds for _, status, seconds in late if status == 503]
        asked = rates[name] * settings.seconds
        good = sum(seconds <= 1 for seconds in served)
        collector.add(relay.name, f"{load.name}: {name}, goodput", "%", 100 * good / asked)
        for percent in (50, 99):
            if served:
                what = f"{load.name}: {name}, time of an answer, p{percent}"
                collector.add(relay.name, what, "ms", 1e3 * percentile(served, percent))
        collector.add(relay.name, f"{load.name}: {name}, refused", "%", 100 * len(refused) / asked)
        for percent in (50, 99):
            if refused:
                what = f"{load.name}: {name}, time to the refusal, p{percent}"
                collector.add(relay.name, what, "ms", 1e3 * percentile(refused, percent))
    if not with_series:
        return []
    return [
        Series(f"{load.name}: {name} refused", relay.name, "%", "seconds", tuple(_refused(answers, started)))
        for name, answers in found.items()
    ]


def _refused(answers: Sequence[tuple[float, int, float]], started: float) -> Iterator[tuple[float, float]]:
    """The share of answers that were refusals, for each tenth of a second."""
    counts: dict[int, list[int]] = {}
    for at, status, _ in answers:
        count = counts.setdefault(int((at - started) * 10), [0, 0])
        count[0] += status == 503
        count[1] += 1
    for tenth, (refused, every) in sorted(counts.items()):
        yield tenth / 10, 100 * refused / every


def _ask(client: Client[Asker], askers: Sequence[tuple[Asker, float]], settings: Settings) -> None:
    """Let each ask at its rate."""
    started = time.monotonic()
    due = [(started + number / len(askers) / rate, number) for number, (_, rate) in enumerate(askers)]
    heapq.heapify(due)
    until = started + settings.warm_up + settings.seconds
    while due[0][0] < until:
        now = time.monotonic()
        if due[0][0] > now:
            client.run(min(due[0][0] - now, 0.001))
            continue
        time_due, number = due[0]
        asker, rate = askers[number]
        heapq.heapreplace(due, (max(time_due, now - 0.05) + 1 / rate, number))
        if not asker.waiting:
            asker.call()
            client.run(0)
    client.run(2, lambda: not any(asker.waiting for asker, _ in askers))


def _idle(gates: dict[str, Running], settings: Settings, collector: Collector) -> None:
    """CPU per small answer, in turn."""
    small = request(stream=False)
    for number in range(settings.idle.rounds):
        for name in rotated(gates, number):
            relay = gates[name]
            with Client[unary.Caller]() as client:
                callers = [client.add(unary.Caller(relay.port, small)) for _ in range(settings.idle.connections)]
                unary.measure(client, callers, relay, settings.idle, ", idle", collector)
