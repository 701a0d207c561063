"""Fair shares of a provider whose places are few: a tenant beside one with a hundred times the requests, and
interactive requests beside batch.

Both are shown with and without what makes them fair: in order of arrival, without tenants and classes, everybody gets
what the others leave.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.client import Client, Connection, request
from bench.cores import RELAY_CORES
from bench.figures import CaseResult, Collector, Series
from bench.processes import Process, free_port, python_module, wait_until_quiet
from bench.provider import Provider, simulator
from bench.stats import percentile

FEW, MANY = "few", "many"
ARRIVAL, FAIR, WORKERS = "in order of arrival", "fair", "fair, 2 workers"
ALONE, BESIDE, UNTOLD = "interactive alone", "beside batch", "beside the same without a class"

EVENT = b"data: "
LAST_CHUNK = b"0\r\n\r\n"
REST = 1.0
"""Seconds after which a refused client asks again."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`few` and `many` clients ask for stream after stream, of up to `longest` tokens at `rate` tokens per second.
    Interactive requests come at random, `arrivals` in a second, whose first token takes `first`; `batch` clients ask
    for stream after stream. Times are seconds."""

    places: int = 8
    queue: int = 300
    few: int = 12
    many: int = 1200
    longest: int = 150
    rate: float = 100
    seconds: float = 16
    batch_places: int = 16
    arrivals: float = 10
    first: float = 0.1
    tokens: int = 15
    batch: int = 60
    batch_tokens: int = 100
    warm_up: float = 10
    window: float = 40
    rounds: int = 1


QUICK = Settings(few=12, many=400, queue=100, seconds=8, warm_up=5, window=12, rounds=1)


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures flowserver alone; the other `relays` have neither tenants nor classes."""
    collector = Collector()
    series: list[Series] = []
    if "flowserver" in relays:
        with simulator() as provider:
            for number in range(settings.rounds):
                for kind in (ARRIVAL, FAIR, WORKERS):
                    points = _tenants(kind, provider, settings, collector)
                    if number == 0:
                        series.append(Series("share of the tenant with few requests", kind, "%", "seconds", points))
                for kind in (ALONE, BESIDE, UNTOLD):
                    _classes(kind, provider, settings, collector)
    return CaseResult(
        "fairness",
        f"fairness: tenants of {settings.few} and {settings.many} clients at {settings.places} places; "
        f"batch beside interactive at {settings.batch_places}",
        {name: getattr(settings, name) for name in ("places", "few", "many", "seconds", "batch_places", "window")},
        collector.figures(),
        (
            "A share is fair at 50 %; it is of the tokens of one second, from the second on in which both have places.",
            "Batch has begun after the interactive requests: those that come while batch has all places wait for one.",
        ),
        tuple(series),
    )


# --- clients ---------------------------------------------------------------------------------------------------------


class Asker(Connection):
    """Asks, reads a stream, and says when it is over, or was refused."""

    __slots__ = ("_end", "asked_at", "first_at", "is_idle", "is_refused", "message", "tokens")

    def __init__(self, port: int, message: bytes) -> None:
        super().__init__(port)
        self.message = message
        self.is_idle = True
        self.is_refused = False
        self.asked_at = 0.0
        self.first_at: float | None = None
        self.tokens = 0
        """Since they were last taken."""
        self._end = b""

    def ask(self) -> None:
        self.is_idle = self.is_refused = False
        self.asked_at, self.first_at = time.monotonic(), None
        self._end = b""
        self.socket.send(self.message)

    def on_data(self, data: bytes) -> None:
        if not self._end and not data.startswith(b"HTTP/1.1 200"):
            self.is_idle = self.is_refused = True
            return
        events = data.count(EVENT)
        if events and self.first_at is None:
            self.first_at = time.monotonic()
        self.tokens += events
        self._end = (self._end + data)[-len(LAST_CHUNK) :]
        if self._end == LAST_CHUNK:
            self.is_idle = True


def _message(key: str, simulate: str, traffic_class: str = "") -> bytes:
    message = request(simulate).replace(b"Bearer bench", f"Bearer {_key(key)}".encode())
    if not traffic_class:
        return message
    return message.replace(b"\r\n\r\n", f"\r\nx-flow-class: {traffic_class}\r\n\r\n".encode(), 1)


def _key(tenant: str) -> str:
    return f"flow-{tenant}"


# --- tenants ---------------------------------------------------------------------------------------------------------


def _tenants(
    kind: str, provider: Provider, settings: Settings, collector: Collector
) -> tuple[tuple[float, float], ...]:
    """Returns what share of the tokens the one with few requests had, second by second."""
    wait_until_quiet()
    draw = random.Random(7)
    places = f"max_concurrent = {settings.places}\nqueue = {settings.queue}\nqueue_timeout = '600s'\n"
    relay = _relay(provider.port, places, with_tenants=kind != ARRIVAL, workers=1 + (kind == WORKERS))
    with relay as port, Client[Asker]() as client:
        clients = {MANY: settings.many, FEW: settings.few}
        askers = {
            tenant: [client.add(Asker(port, _length(tenant, settings, draw))) for _ in range(number)]
            for tenant, number in clients.items()
        }
        passed = _play(client, askers, settings.seconds)
    points = []
    for second in range(1, int(settings.seconds)):
        few, many = passed[FEW, second], passed[MANY, second]
        points.append((float(second), 100 * few / max(1, few + many)))
    shares = [share for _, share in points]
    collector.add(kind, "share of the tenant with few requests", "%", sum(shares) / len(shares))
    collector.add(kind, "in its worst second", "%", min(shares))
    collector.add(kind, "in its best second", "%", max(shares))
    total = sum(passed.values()) / settings.seconds
    collector.add(kind, "tokens of both", "1/s", total)
    return tuple(points)


def _length(tenant: str, settings: Settings, draw: random.Random) -> bytes:
    """The one with many requests has longer answers as well."""
    longest = settings.longest if tenant == MANY else settings.longest // 3
    return _message(tenant, f"events={draw.randint(longest // 3, longest)} rate={settings.rate:g}")


def _play(client: Client[Asker], askers: dict[str, list[Asker]], seconds: float) -> Counter[tuple[str, int]]:
    """All ask again as soon as they have an answer, and after a rest where they were refused. Returns the tokens by
    tenant and second."""
    passed: Counter[tuple[str, int]] = Counter()
    began = time.monotonic()
    refused: dict[Asker, float] = {}
    for tenant in askers:
        for asker in askers[tenant]:
            asker.ask()
    while (now := time.monotonic()) - began < seconds:
        client.run(0.02)
        now = time.monotonic()
        for tenant, each in askers.items():
            for asker in each:
                if asker.tokens:
                    passed[tenant, int(now - began)] += asker.tokens
                    asker.tokens = 0
                if asker.is_refused and asker not in refused:
                    refused[asker] = now + REST
                if asker.is_idle and refused.get(asker, 0.0) <= now:
                    refused.pop(asker, None)
                    asker.ask()
    return passed


# --- classes ---------------------------------------------------------------------------------------------------------


def _classes(kind: str, provider: Provider, settings: Settings, collector: Collector) -> None:
    wait_until_quiet()
    places = f"max_concurrent = {settings.batch_places}\nqueue = 1000\nqueue_timeout = '600s'\n"
    with _relay(provider.port, places, with_tenants=True) as port, Client[Asker]() as client:
        first = f"delay={settings.first:g} rate=50"
        interactive = [client.add(Asker(port, _message(FEW, f"{first} events={settings.tokens}"))) for _ in range(100)]
        batch: list[Asker] = []
        taken = _Arrivals(settings.arrivals)
        taken.play(client, interactive, batch, settings.warm_up)
        if kind != ALONE:
            traffic_class = "batch" if kind == BESIDE else ""
            message = _message(MANY, f"{first} events={settings.batch_tokens}", traffic_class)
            batch += [client.add(Asker(port, message)) for _ in range(settings.batch)]
        taken.play(client, interactive, batch, settings.warm_up)
        taken.times.clear()
        tokens = taken.batch_tokens
        taken.play(client, interactive, batch, settings.window)
    collector.add(kind, "first token, p50", "ms", 1e3 * percentile(taken.times, 50))
    collector.add(kind, "first token, p99", "ms", 1e3 * percentile(taken.times, 99))
    if kind != ALONE:
        collector.add(kind, "tokens of batch", "1/s", (taken.batch_tokens - tokens) / settings.window)


class _Arrivals:
    """Interactive requests that come at random, whatever became of those before; batch that never ends."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._draw = random.Random(11)
        self._waiting: set[Asker] = set()
        self.times: list[float] = []
        """Seconds until the first token."""
        self.batch_tokens = 0

    def play(self, client: Client[Asker], interactive: list[Asker], batch: list[Asker], seconds: float) -> None:
        now = time.monotonic()
        ends, due = now + seconds, now + self._draw.expovariate(self._rate)
        while (now := time.monotonic()) < ends:
            client.run(max(0.0, min(0.02, due - now)))
            now = time.monotonic()
            while due <= now:
                due += self._draw.expovariate(self._rate)
                asker = next(asker for asker in interactive if asker.is_idle and asker not in self._waiting)
                self._waiting.add(asker)
                asker.ask()
            for asker in [asker for asker in self._waiting if asker.first_at is not None]:
                assert asker.first_at is not None
                self._waiting.discard(asker)
                self.times.append(asker.first_at - asker.asked_at)
            for asker in batch:
                self.batch_tokens += asker.tokens
                asker.tokens = 0
                if asker.is_idle:
                    asker.ask()


# --- the relay -------------------------------------------------------------------------------------------------------


@contextmanager
def _relay(provider: int, places: str, *, with_tenants: bool, workers: int = 1) -> Iterator[int]:
    """Its port."""
    text = f'[[upstreams]]\nname = "provider"\nurl = "http://127.0.0.1:{provider}"\n{places}'
    if with_tenants:
        for tenant in (FEW, MANY):
            digest = hashlib.sha256(_key(tenant).encode()).hexdigest()
            text += f'[[tenants]]\nname = "{tenant}"\nkey_sha256 = "{digest}"\n'
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        config = Path(folder) / "config.toml"
        config.write_text(text)
        environment = {
            "FLOW_LISTEN": f"127.0.0.1:{port}",
            "FLOW_ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
            "FLOW_LOG_LEVEL": "warning",
            "FLOW_CONFIG": str(config),
            "FLOW_WORKERS": str(workers),
        }
        with Process(python_module("flowserver", "serve"), port, environment=environment, cpus=RELAY_CORES):
            yield port
