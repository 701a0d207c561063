"""What guards against pressure costs while there is none: CPU per small answer and per event, with each guard alone
and with all of them, beside a relay that has none.

The relays run side by side in front of the same two providers and take turns within each round. What a guard adds is
the median over the rounds of its figure against that of the same round without any.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import events, unary
from bench.client import Client, request
from bench.cores import LOAD_CORES
from bench.figures import CaseResult, Collector, rotated
from bench.peers import Running
from bench.peers.flowserver import Flowserver
from bench.processes import Process, free_port, wait_until_quiet
from bench.source import command, whole_command

ANSWERS, EVENTS = "answers", "events"
"""What the providers give."""


@dataclass(frozen=True, slots=True)
class Guard:
    """`environment` are settings, `provider` lines of each provider's table in the file, `route` of the route's."""

    name: str
    environment: tuple[tuple[str, str], ...] = ()
    provider: str = ""
    route: str = ""

    def with_(self, other: Guard, name: str) -> Guard:
        """Both at once."""
        environment = dict(self.environment) | dict(other.environment)
        return Guard(name, tuple(environment.items()), self.provider + other.provider, self.route + other.route)


NONE = Guard("none", (("FLOW_MEMORY", "off"), ("FLOW_OVERLOAD_TARGET", "off")))
GUARDS = (
    Guard("memory", (("FLOW_MEMORY", "1g"), ("FLOW_OVERLOAD_TARGET", "off"))),
    Guard("overload gate", (("FLOW_MEMORY", "off"),)),
    Guard("max_concurrent", NONE.environment, provider="max_concurrent = 10000\n"),
    Guard('max_concurrent = "auto"', NONE.environment, provider='max_concurrent = "auto"\n'),
    Guard("first_token_timeout", NONE.environment, route='first_token_timeout = "60s"\n'),
    Guard("hedge_share", NONE.environment, route="hedge_share = 0.05\n"),
    Guard("affinity", NONE.environment, route='affinity = "session"\n'),
    Guard("health", NONE.environment, provider='health = { path = "/health", interval = "10m" }\n'),
)


def _all() -> Guard:
    every = Guard("all of them", (("FLOW_MEMORY", "1g"),))
    for guard in GUARDS:
        if guard.name != "max_concurrent":
            every = every.with_(Guard("", provider=guard.provider, route=guard.route), every.name)
    return every


KINDS = (NONE, *GUARDS, _all())


@dataclass(frozen=True, slots=True)
class Settings:
    """`answers` and `paced` are loads that leave the relays idle for a part of the time."""

    rounds: int = 11
    answers: unary.Settings = field(
        default_factory=lambda: unary.Settings(connections=20, rate=400, warm_up=0.5, window=2)
    )
    paced: events.Settings = field(default_factory=lambda: events.Settings(streams=200, warm_up=1, window=2))


QUICK = Settings(3)


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures flowserver, which alone has these guards; other `relays` are not asked."""
    collector = Collector()
    if "flowserver" in relays:
        for what in (ANSWERS, EVENTS):
            with _relays(what, settings) as running:
                wait_until_quiet()
                for number in range(-1, settings.rounds):
                    _round(running, what, number, settings, collector if number >= 0 else Collector())
    load = settings.answers
    return CaseResult(
        "idle",
        f"what guards against pressure cost without it: {load.rate:g} answers/s, {settings.paced.streams} streams",
        {"rate": load.rate, "streams": settings.paced.streams, "window": load.window},
        collector.figures(),
    )


@contextmanager
def _relays(what: str, settings: Settings) -> Iterator[dict[str, Running]]:
    """By the names of KINDS."""
    with ExitStack() as stack:
        ports = [free_port(), free_port()]
        for port in ports:
            paced = settings.paced
            provider = (
                whole_command(port, settings.answers.size)
                if what == ANSWERS
                else command(port, rate=paced.rate, size=paced.size, tick=0)
            )
            stack.enter_context(Process(provider, port, cpus=LOAD_CORES))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        yield {kind.name: stack.enter_context(_relay(kind, ports, folder)) for kind in KINDS}


@contextmanager
def _relay(kind: Guard, ports: Sequence[int], folder: Path) -> Iterator[Running]:
    names = [f"provider-{number}" for number in range(len(ports))]
    tables = [
        f'[[upstreams]]\nname = "{name}"\nurl = "http://127.0.0.1:{port}"\n{kind.provider}'
        for name, port in zip(names, ports, strict=True)
    ]
    listed = ", ".join(f'"{name}"' for name in names)
    file = folder / f"{kind.name.encode().hex()}.toml"
    file.write_text("\n".join([*tables, f"[[routes]]\nupstreams = [[{listed}]]\n{kind.route}"]))
    settings = {"FLOW_UPSTREAM": "", "FLOW_CONFIG": str(file), **dict(kind.environment)}
    with Flowserver(kind.name, settings=settings).start(ports[0]) as relay:
        yield relay


def _round(running: dict[str, Running], what: str, number: int, settings: Settings, collector: Collector) -> None:
    """Each of KINDS once."""
    costs = {}
    for name in rotated(running, max(0, number)):
        costs[name] = _answers(running[name], settings) if what == ANSWERS else _events(running[name], settings)
    base = costs[NONE.name]
    for name in running:
        each = "answer" if what == ANSWERS else "event"
        collector.add(name, f"CPU per {each}", "us", costs[name])
        if name != NONE.name:
            collector.add(name, f"added per {each}", "%", 100 * (costs[name] / base - 1))


def _answers(relay: Running, settings: Settings) -> float:
    """Microseconds of CPU per answer."""
    message = request(stream=False)
    with Client[unary.Caller]() as client:
        callers = [client.add(unary.Caller(relay.port, message)) for _ in range(settings.answers.connections)]
        cost = unary.measure(client, callers, relay, settings.answers, "", Collector())
    assert cost is not None
    return cost


def _events(relay: Running, settings: Settings) -> float:
    """Microseconds of CPU per event."""
    cost = events.h1_measure(relay, settings.paced, "", Collector())
    assert cost is not None
    return cost
