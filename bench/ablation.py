"""What each trick of the relay path gains: the same work with it and without it, in turn in this process. The fast path
is measured at two relays side by side instead, one of which has it switched off.

Heads, ids and lengths vary from one request to the next as real ones do. The share is of what a whole answer, or an
event, costs a relay of this build, sockets and kernel included; what gains less than 5 % of it is not worth its lines.
Run it on both builds: what is compiled may need a trick less.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import hpack
import redis.asyncio
import uvloop

from bench import events, h2_unary, unary
from bench.client import Client, request
from bench.cores import LOAD_CORES
from bench.figures import CaseResult, Collector, rotated
from bench.peers import PEERS, Running, Wiring
from bench.peers.flowserver import Flowserver
from bench.processes import Process, free_port, wait_until_at_rest, wait_until_quiet
from bench.redis_server import redis_server
from bench.source import command, whole_command
from flowserver.http.h1_request_head import RepeatedHead, parse_head
from flowserver.http.hpack_decoder import HpackDecoder
from flowserver.http.messages import RequestHead
from flowserver.stores.redis_connection import RedisClient

PEER = "flowserver"
ANSWER, H2_ANSWER = "whole answer, HTTP/1.1", "whole answer, HTTP/2"
SAMPLES = 500


@dataclass(frozen=True, slots=True)
class Settings:
    rounds: int = 11
    load: unary.Settings = field(default_factory=lambda: unary.Settings(warm_up=0.5, window=2))
    paced: events.Settings = field(default_factory=lambda: events.Settings(warm_up=1, window=2))


QUICK = Settings(3)


@dataclass(frozen=True, slots=True)
class Trick:
    """`case`: the cost that it is a part of. `kept` and `plain` do the same work SAMPLES times."""

    name: str
    case: str
    kept: Callable[[], object]
    plain: Callable[[], object]


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures flowserver, whose tricks they are; the other `relays` are not asked."""
    collector = Collector()
    notes: tuple[str, ...] = ()
    if PEER in relays:
        costs = _costs(settings.load)
        with redis_server() as port:
            tricks = [*_heads(), *([_redis_client(port)] if port is not None else [])]
            if port is None:
                notes = ("redis-server is not installed: its client is left out",)
            for number in range(-1, settings.rounds):
                for trick in rotated(tricks, max(0, number)):
                    _compare(trick, costs, collector if number >= 0 else Collector())
        for case, cost in costs.items():
            collector.add(PEER, f"CPU of a relay per {case}", "us", cost)
        _fast_path(settings, collector)
    return CaseResult(
        "ablation", "tricks of the relay path, with and without", {"samples": SAMPLES}, collector.figures(), notes
    )


def _compare(trick: Trick, costs: dict[str, float], collector: Collector) -> None:
    kept, plain = _cpu(trick.kept), _cpu(trick.plain)
    _add(collector, trick.name, f"a {trick.case}", kept=kept, plain=plain, cost=costs[trick.case])


def _add(collector: Collector, trick: str, case: str, *, kept: float, plain: float, cost: float) -> None:
    """Microseconds with the trick and without it, and what it gains of the `cost` of a `case`."""
    collector.add(PEER, f"{trick}: with", "us", kept)
    collector.add(PEER, f"{trick}: without", "us", plain)
    collector.add(PEER, f"{trick}: gain of {case}", "%", 100 * (plain - kept) / cost)


def _cpu(work: Callable[[], object]) -> float:
    """Microseconds of CPU of one of the SAMPLES."""
    begun = time.process_time()
    work()
    return (time.process_time() - begun) / SAMPLES * 1e6


# --- what the cases cost ---------------------------------------------------------------------------------------------


def _costs(load: unary.Settings) -> dict[str, float]:
    """Microseconds of a relay's CPU by case, at full load: the least that they cost, so that a share is the largest."""
    collector = Collector()
    port = free_port()
    with Process(whole_command(port, 1024), port, cpus=LOAD_CORES):
        wait_until_quiet()
        with PEERS[PEER].start(port) as relay:
            _answers(relay, load, collector)
        with PEERS[PEER].start(port, Wiring(client="h2", streams=1000)) as relay:
            _h2_answers(relay, load, collector)
    answer, h2_answer = [figure.median for figure in collector.figures() if figure.unit == "us"]
    return {ANSWER: answer, H2_ANSWER: h2_answer}


def _answers(relay: Running, load: unary.Settings, collector: Collector) -> None:
    message = request(stream=False)
    with Client[unary.Caller]() as client:
        callers = [client.add(unary.Caller(relay.port, message)) for _ in range(load.connections)]
        unary.measure_full(client, callers, relay, load, "", collector)


def _h2_answers(relay: Running, load: unary.Settings, collector: Collector) -> None:
    with Client[h2_unary.H2Caller]() as client:
        callers = [client.add(h2_unary.H2Caller(relay.port)) for _ in range(5)]
        unary.measure_full(client, callers, relay, load, ", HTTP/2", collector)


# --- heads -----------------------------------------------------------------------------------------------------------

_CHANCE = random.Random(7)
_PSEUDO = [
    (b":method", b"POST"),
    (b":scheme", b"https"),
    (b":authority", b"relay.example:8443"),
    (b":path", b"/v1/chat/completions"),
]
_SDK = [
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"content-type", b"application/json"),
    (b"user-agent", b"OpenAI/Python 2.8.1"),
    (b"x-stainless-lang", b"python"),
    (b"x-stainless-package-version", b"2.8.1"),
    (b"x-stainless-os", b"Linux"),
    (b"x-stainless-arch", b"x64"),
    (b"x-stainless-runtime", b"CPython"),
    (b"x-stainless-runtime-version", b"3.12.7"),
    (b"authorization", b"Bearer sk-proj-" + b"q7Zt" * 12),
    (b"x-stainless-async", b"async:asyncio"),
    (b"x-stainless-retry-count", b"0"),
    (b"x-stainless-read-timeout", b"600"),
]


def _request_fields(*, traced: bool) -> list[tuple[bytes, bytes]]:
    """As the OpenAI SDK sends them; `traced`: with a traceparent, of which no two are alike."""
    fields = [*_SDK, (b"content-length", b"%d" % _CHANCE.randint(200, 60_000))]
    if traced:
        fields.append((b"traceparent", f"00-{uuid.UUID(int=_CHANCE.getrandbits(128)).hex}-{'a1' * 8}-01".encode()))
    return fields


def _heads() -> Iterator[Trick]:
    for traced in (False, True):
        how = ", each with its own traceparent" if traced else ""
        fields = [_request_fields(traced=traced) for _ in range(SAMPLES)]
        raws = [_h1_request(each) for each in fields]
        yield Trick(f"remembered request heads{how}", ANSWER, partial(_remembered, raws), partial(_each, _parsed, raws))
        encoder = hpack.Encoder()
        blocks = [encoder.encode([*_PSEUDO, *each]) for each in fields]
        yield Trick(
            f"HPACK decoder{how}",
            H2_ANSWER,
            partial(_decoded, HpackDecoder, blocks),
            partial(_decoded, hpack.Decoder, blocks),
        )


def _h1_request(fields: list[tuple[bytes, bytes]]) -> bytes:
    lines = [b"POST /v1/chat/completions HTTP/1.1", b"host: relay.example:8080"]
    return b"\r\n".join([*lines, *(b"%b: %b" % each for each in fields)]) + b"\r\n\r\n"


def _remembered(raws: list[bytes]) -> None:
    """As a client's connection reads the heads of its requests, and then which fields it passes on."""
    known: RepeatedHead | None = RepeatedHead(raws[0], _parsed(raws[0]))
    for raw in raws:
        head = known.read(raw) if known is not None else None
        if head is None:
            known = None
            _parsed(raw)
        else:
            assert head.passing


def _parsed(raw: bytes) -> RequestHead:
    head = parse_head(raw)
    assert isinstance(head, RequestHead)
    assert head.passing
    return head


def _decoded(decoder: type[hpack.Decoder], blocks: list[bytes]) -> None:
    _each(partial(decoder().decode, raw=True), blocks)


def _each(work: Callable[[Any], object], samples: Sequence[Any]) -> None:
    for sample in samples:
        work(sample)


# --- the fast path ---------------------------------------------------------------------------------------------------


def _fast_path(settings: Settings, collector: Collector) -> None:
    """Both relays are started anew for each round: where in memory a process happens to lie moves its figures."""
    port = free_port()
    paced = settings.paced
    slow = Flowserver(settings={"FLOW_FAST_PATH": "off"})
    with Process(command(port, rate=paced.rate, size=paced.size, tick=0), port, cpus=LOAD_CORES):
        for number in range(settings.rounds):
            with PEERS[PEER].start(port) as with_it, slow.start(port) as without:
                wait_until_quiet()
                costs = {relay: _event(relay, paced) for relay in rotated([with_it, without], number)}
            kept, plain = costs[with_it], costs[without]
            _add(collector, "fast path", "an event", kept=kept, plain=plain, cost=kept)


def _event(relay: Running, paced: events.Settings) -> float:
    """Microseconds of its CPU per event."""
    cost = events.h1_measure(relay, paced, "", Collector())
    assert cost is not None
    wait_until_at_rest()
    return cost


# --- Redis -----------------------------------------------------------------------------------------------------------

_SCRIPT = 'return "1 " .. ARGV[2] .. " 60000 250"'
_AT_ONCE = 20


def _redis_client(port: int) -> Trick:
    return Trick("Redis client, two calls", ANSWER, partial(_called, _ours, port), partial(_called, _redis_py, port))


Call = Callable[..., Awaitable[object]]


def _called(client: Callable[[int], AbstractAsyncContextManager[Call]], port: int) -> None:
    uvloop.run(_call_all(client, port))


async def _call_all(client: Callable[[int], AbstractAsyncContextManager[Call]], port: int) -> None:
    """Two scripts for each of the SAMPLES, as a limited request needs them, some at a time."""
    async with client(port) as call:
        sha = hashlib.sha1(_SCRIPT.encode()).hexdigest()
        await call("SCRIPT", "LOAD", _SCRIPT)

        async def limited(number: int) -> None:
            for argument in range(SAMPLES // _AT_ONCE * 2):
                key = f"{{acme}}:user:{number}:{argument}"
                await call("EVALSHA", sha, 2, f"{key}:day", f"{key}:minute", argument, 256)

        async with asyncio.TaskGroup() as group:
            for number in range(_AT_ONCE):
                group.create_task(limited(number))


@asynccontextmanager
async def _ours(port: int) -> AsyncIterator[Call]:
    client = RedisClient(f"redis://127.0.0.1:{port}/0", 5.0)
    yield client.call
    await client.close()


@asynccontextmanager
async def _redis_py(port: int) -> AsyncIterator[Call]:
    async with redis.asyncio.Redis(port=port) as client:
        yield client.execute_command
