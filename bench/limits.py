"""What tenants and their limits add to a small answer that is no stream: kept in memory, in Redis, or Redis has
stopped, under both policies; and what the limits of one request take by themselves, in this process.

Five relay processes and the provider run side by side and take turns within each round, so that what the machine does
meanwhile falls on all of them alike.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from bench import unary
from bench.client import Client, request
from bench.cores import RELAY_CORES
from bench.figures import CaseResult, Collector, rotated
from bench.peers import Running
from bench.processes import Process, free_port, python_module, wait_until_quiet
from bench.provider import simulator
from bench.redis_server import redis_server
from flowserver.config.tenants import read_tenant
from flowserver.dialects import recognise
from flowserver.dialects.estimate import Ratios
from flowserver.http.messages import RequestHead
from flowserver.quota.identify import QuotaContext
from flowserver.quota.tenants import Tenants, limits_for
from flowserver.relay.account import Account, AccountSettings
from flowserver.stores.limiter import StoreLimiter
from flowserver.stores.memory import MemoryStore

KEY = "bench"
"""What `bench.client` shows in authorization."""

NONE, MEMORY, REDIS = "no tenants", "in memory", "in Redis"
STOPPED = {policy: f"Redis stopped, {policy}" for policy in ("open", "closed")}
"""By policy. Under the closed one what is measured is the refusal."""
IN_PROCESS = "in this process"

TENANT = f"""
[[tenants]]
name = "bench"
key_sha256 = "{hashlib.sha256(KEY.encode()).hexdigest()}"
requests_per_minute = 1000000000
concurrent = 1000000
tokens_per_day = 10000000000

[tenants.user]
requests_per_minute = 1000000000
"""
"""Limits of all kinds that ask the store, none of which is ever reached."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`load` is as in `unary`. Few requests at once, as what a busy relay adds is its queue."""

    load: unary.Settings


FULL = Settings(unary.Settings(connections=20, rate=400, rounds=11, warm_up=0.5, window=2))
QUICK = Settings(unary.Settings(connections=20, rate=400, rounds=2, warm_up=0.5, window=2))


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures flowserver, which alone has tenants; the other `relays` are not asked."""
    collector = Collector()
    load = settings.load
    notes: tuple[str, ...] = ()
    if "flowserver" in relays:
        in_process(load.rounds, collector)
        with ExitStack() as stack:
            kinds, notes = _start(stack)
            wait_until_quiet()
            for number in range(load.rounds):
                _round(kinds, number, load, collector)
    return CaseResult(
        "limits",
        f"limits: {load.rate:g} whole answers/s of {load.size} B, {load.connections} connections kept open",
        {"connections": load.connections, "rate": load.rate, "size": load.size, "window": load.window},
        collector.figures(),
        notes,
    )


def _start(stack: ExitStack) -> tuple[dict[str, Running], tuple[str, ...]]:
    """The relays by what they keep their limits in, and what is to be said of those that are not there."""
    provider = stack.enter_context(simulator())
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
    upstream = f'[[upstreams]]\nname = "provider"\nurl = "http://127.0.0.1:{provider.port}"\n'
    plain, limited = folder / "plain.toml", folder / "limited.toml"
    plain.write_text(upstream)
    limited.write_text(upstream + TENANT)

    def relay(kind: str, config: Path, redis: int | None = None, policy: str = "open") -> Running:
        return stack.enter_context(_relay(kind, config, redis, policy))

    kinds = {NONE: relay(NONE, plain), MEMORY: relay(MEMORY, limited)}
    port, ended = stack.enter_context(redis_server()), free_port()
    if port is None:
        return kinds, ("redis-server is not installed: its figures are left out",)
    kinds[REDIS] = relay(REDIS, limited, port)
    kinds |= {kind: relay(kind, limited, ended, policy) for policy, kind in STOPPED.items()}
    return kinds, (
        "Redis stopped: nobody listens there, and the warm-up has opened the breaker; closed: each answer is a 503",
    )


@contextmanager
def _relay(kind: str, config: Path, redis: int | None, policy: str) -> Iterator[Running]:
    port = free_port()
    environment = {
        "FLOW_LISTEN": f"127.0.0.1:{port}",
        "FLOW_ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
        "FLOW_LOG_LEVEL": "warning",
        "FLOW_CONFIG": str(config),
        "FLOW_LIMITS_POLICY": policy,
        "FLOW_REDIS_URL": "" if redis is None else f"redis://127.0.0.1:{redis}/0",
    }
    with Process(python_module("flowserver", "serve"), port, environment=environment, cpus=RELAY_CORES) as process:
        yield Running(kind, port, process.pid)


def _round(kinds: dict[str, Running], number: int, load: unary.Settings, collector: Collector) -> None:
    """Each of `kinds` once, and what it takes beyond a relay without tenants."""
    found = {kind: _measure(kinds[kind], load, collector) for kind in rotated(kinds, number)}
    base = found[NONE]
    for kind in kinds:
        if kind == NONE:
            continue
        for (what, unit), value in found[kind].items():
            collector.add(kind, f"added {what}", unit, value - base[what, unit])


def _measure(relay: Running, load: unary.Settings, collector: Collector) -> dict[tuple[str, str], float]:
    """By quantity and unit."""
    own = Collector()
    message = request(f"whole={load.size}", stream=False)
    with Client[unary.Caller]() as client:
        status = 503 if relay.name == STOPPED["closed"] else 200
        callers = [client.add(unary.Caller(relay.port, message, status=status)) for _ in range(load.connections)]
        unary.measure(client, callers, relay, load, "", own)
    figures = own.figures()
    for figure in figures:
        collector.add(relay.name, figure.what, figure.unit, figure.median)
    return {(figure.what, figure.unit): figure.median for figure in figures if figure.unit != "%"}


REQUESTS = 3000
"""In one measurement, and a second of the store's clock: so many are remembered as in a relay that is this busy."""


class _Clock:
    """Seconds since the epoch, which pass with each request and not by themselves."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def in_process(rounds: int, collector: Collector) -> None:
    """CPU that the limits of one request take without sockets: of the memory store alone, its two calls, and of all
    that tenants add to a request (whose it is, lease, fields of the answer, settling)."""
    clock = _Clock()
    tenant = read_tenant(tomllib.loads(TENANT)["tenants"][0], "bench")
    store = MemoryStore(clock, ttl=LIFE, remember=LIFE)
    limiter = StoreLimiter(store, lease=256, life=LIFE, is_local=True)
    limits = limits_for(tenant, user=None, session=None, model="m", now=clock.now)
    numbers = count()

    def store_alone() -> None:
        stream_id = f"{{bench}}:{next(numbers)}"
        limiter.admit(stream_id, limits, need=2, want=258, done=_ignore)
        limiter.settle(stream_id, 20)

    around = AccountSettings(Ratios(), 1 << 20, 8192)
    limited = replace(around, quota=QuotaContext(Tenants([tenant]), limiter, clock))
    for number in range(rounds + WARM_UP):
        alone = _cpu(store_alone, clock)
        added = _cpu(lambda: _one(limited), clock) - _cpu(lambda: _one(around), clock)
        if number >= WARM_UP:
            collector.add(IN_PROCESS, "CPU of the memory store for one request", "us", alone)
            collector.add(IN_PROCESS, "CPU of tenants for one request", "us", added)


LIFE = 5.0
"""Seconds of a lease."""
WARM_UP = 3
"""Rounds until as much is forgotten as is added."""


def _cpu(call: Callable[[], None], clock: _Clock) -> float:
    """Microseconds of one call."""
    before = time.process_time()
    for _ in range(REQUESTS):
        clock.now += 1 / REQUESTS
        call()
    return (time.process_time() - before) / REQUESTS * 1e6


def _one(settings: AccountSettings) -> None:
    account = Account(settings, recognise(TARGET), HEAD)
    account.request.open()
    account.identify(HEAD, _ignore)
    account.request.feed(BODY)
    account.request.finish()
    account.request_permit(HEAD, _ignore, _nothing, providers=())
    account.answer_fields([(b"content-type", b"application/json"), (b"date", b"now")])
    account.settle()


TARGET = "/v1/chat/completions"
BODY = b'{"model":"m","messages":[{"role":"user","content":"Go on."}]}'
HEAD = RequestHead(
    b"POST",
    TARGET.encode(),
    [(b"host", b"relay"), (b"authorization", b"Bearer " + KEY.encode())],
    content_length=len(BODY),
    has_body=True,
)


def _ignore(answer: object) -> None:
    """Nobody is refused."""


def _nothing() -> None:
    """Nobody waits."""
