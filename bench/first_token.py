"""Providers whose first token takes very long for some requests: how long clients wait for it, with a deadline, with
hedges, with both, and what that costs in input tokens.

The relays run side by side, each before the same two providers, and get requests at random times at the same rate. A
provider decides for each attempt anew whether it is slow.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bench.cores import LOAD_CORES, RELAY_CORES
from bench.figures import CaseResult, Collector
from bench.peers import Running
from bench.processes import Process, free_port, python_module
from bench.stats import percentile

BODY = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"%b"}]}' % (b"Some words of a prompt. " * 20)
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: relay\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)


@dataclass(frozen=True, slots=True)
class Settings:
    """A `share` of attempts gets its first token after `slow` seconds, the others after a tenth of one. Each relay gets
    `rate` requests a second, for `seconds`, the first `warm_up` of which are not looked at. `timeout` in seconds."""

    share: float = 0.05
    slow: float = 3.0
    timeout: float = 0.5
    rate: float = 40.0
    warm_up: float = 20.0
    seconds: float = 120.0


QUICK = Settings(warm_up=10, seconds=40)


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Measures flowserver, which alone has both; the other `relays` are not asked."""
    collector = Collector()
    deadline = f'first_token_timeout = "{settings.timeout:g}s"\n'
    routes = {
        "plain": "",
        "deadline": deadline,
        "hedge, share 0.05": "hedge_share = 0.05\n",
        "hedge, share 0.1": "hedge_share = 0.1\n",
        "deadline and hedge": f"{deadline}hedge_share = 0.05\n",
    }
    if "flowserver" in relays:
        with ExitStack() as stack:
            ports = [free_port(), free_port()]
            for seed, port in enumerate(ports):
                command = python_module("bench.moody", str(port), str(settings.share), str(settings.slow), str(seed))
                stack.enter_context(Process(command, port, cpus=LOAD_CORES))
            started = {name: stack.enter_context(_relay(name, route, ports)) for name, route in routes.items()}
            asyncio.run(_measure(started, settings, collector))
    return CaseResult(
        "first_token",
        f"first tokens of two providers that take {settings.slow:g} s for {settings.share:.0%} of attempts, else 0.1 s",
        asdict(settings),
        collector.figures(),
        ("Extra input tokens: of hedges and of attempts that the deadline ended, by all input tokens.",),
    )


@contextmanager
def _relay(name: str, route: str, providers: Sequence[int]) -> Iterator[Running]:
    port, admin = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder) / "flowserver.toml"
        upstreams = [
            f'[[upstreams]]\nname = "p{number}"\nurl = "http://127.0.0.1:{provider}"\n'
            for number, provider in enumerate(providers)
        ]
        file.write_text("".join(upstreams) + f'[[routes]]\nupstreams = [["p0", "p1"]]\n{route}')
        environment = {
            "FLOW_LISTEN": f"127.0.0.1:{port}",
            "FLOW_ADMIN_LISTEN": f"127.0.0.1:{admin}",
            "FLOW_LOG_LEVEL": "warning",
            "FLOW_CONFIG": str(file),
        }
        with Process(python_module("flowserver", "serve"), port, environment=environment, cpus=RELAY_CORES) as process:
            yield Running(name, port, process.pid, admin=admin)


async def _measure(relays: Mapping[str, Running], settings: Settings, collector: Collector) -> None:
    times: dict[str, list[float]] = {name: [] for name in relays}
    await asyncio.gather(*[_load(relay.port, settings, times[name]) for name, relay in relays.items()])
    for name, relay in relays.items():
        found = times[name]
        collector.add(name, "requests", "", len(found))
        for share in (50, 95, 99):
            collector.add(name, f"first token, p{share}", "ms", percentile(found, share) * 1e3)
        collector.add(name, "first token, longest", "ms", max(found) * 1e3)
        collector.add(name, "first tokens after a second", "%", 100 * sum(each > 1 for each in found) / len(found))
        extra, everything = _tokens(relay)
        collector.add(name, "extra input tokens", "%", 100 * extra / everything)


def _tokens(relay: Running) -> tuple[float, float]:
    """Input tokens of extra attempts, and of all requests."""
    with urllib.request.urlopen(f"http://127.0.0.1:{relay.admin}/metrics") as page:
        families = text_string_to_metric_families(page.read().decode())
    samples = [sample for family in families for sample in family.samples]
    extra = sum(sample.value for sample in samples if sample.name == "flow_extra_input_tokens_total")
    every = sum(
        sample.value
        for sample in samples
        if sample.name == "gen_ai_client_token_usage_sum" and sample.labels["gen_ai_token_type"] == "input"
    )
    return extra, every


async def _load(port: int, settings: Settings, times: list[float]) -> None:
    """Requests at random times, each on a connection of its own."""
    tasks: set[asyncio.Task[None]] = set()
    began = time.monotonic()
    due = began
    while due < began + settings.seconds:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        kept = times if due >= began + settings.warm_up else []
        task = asyncio.create_task(_ask(port, kept))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += random.expovariate(settings.rate)
    if tasks:
        await asyncio.wait(tasks)


async def _ask(port: int, times: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.monotonic()
    writer.write(REQUEST)
    await reader.readuntil(b'"content":"token"')
    times.append(time.monotonic() - began)
    await reader.readuntil(b"0\r\n\r\n")
    writer.close()
