"""The reference pages agree with the code; `make docs` regenerates them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

from flowserver.cli.man_page import man_page
from flowserver.cli.reference import metrics_page, settings_page
from flowserver.config.entries import Key
from flowserver.config.file_keys import FILE_KEYS, HEALTH_KEYS, OUTLIER_KEYS, ROUTE_KEYS, UPSTREAM_KEYS
from flowserver.config.prices import PRICE_KEYS
from flowserver.config.settings import SETTINGS
from flowserver.config.tenants import TENANT_KEYS
from flowserver.routing.circuit_breaker import CircuitBreaker
from flowserver.stores.failover import FailoverStats
from flowserver.telemetry.snapshot import Table, encoded
from flowserver.telemetry.worker_figures import WorkerFigures, WorkerState
from tests.support.lab import Lab, RunningRelay, chat, free_port
from tests.support.provider import Caller
from tests.support.snapshots import read_snapshot
from tests.support.topology import tenant, toml
from tests.support.wire import request, response

DOCS = Path(__file__).parent.parent.parent / "docs"
TYPE = "Content-Type: application/json"
KEY = "flow-" + "k" * 43
AUTH = f"Authorization: Bearer {KEY}"
REQUESTS = 6


def _agrees(name: str, page: str) -> None:
    """Hold the file against `page`; under `make docs`, write it."""
    path = DOCS / name
    if os.environ.get("UPDATE_DOCS"):
        path.write_text(page, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == page, f"docs/{name} is out of date: run `make docs`"


def test_the_reference_of_settings_is_what_the_code_has() -> None:
    _agrees("settings.md", settings_page())


def test_the_manual_page_is_what_the_code_has() -> None:
    _agrees("flowserver.1", man_page())


def test_the_manual_page_has_every_setting_and_is_valid() -> None:
    page = man_page()
    assert [entry.env for entry in SETTINGS if f"\\fB{entry.env}\\fR" not in page] == []
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("groff is not installed")
    written = subprocess.run(
        [groff, "-man", "-ww", "-Tascii", "-P-cbou"], input=page, capture_output=True, text=True, timeout=60, check=True
    )
    assert written.stderr == ""
    assert re.search(r"^ +--high-water SIZE\|auto, FLOW_HIGH_WATER$", written.stdout, re.MULTILINE)


def test_the_reference_has_every_setting_and_every_key() -> None:
    page = settings_page()
    of_providers = (*UPSTREAM_KEYS, *HEALTH_KEYS, *ROUTE_KEYS, *OUTLIER_KEYS)
    keys: tuple[Key, ...] = (*FILE_KEYS, *of_providers, *TENANT_KEYS, *PRICE_KEYS)
    assert [name for name in [entry.env for entry in SETTINGS] if page.count(f"\n| `{name}` |") != 1] == []
    assert [key.name for key in keys if f"\n| `{key.name}` |" not in page] == []
    assert [key.name for key in keys if not key.doc.endswith(".")] == []


async def test_the_reference_of_metrics_is_what_a_relay_has(lab: Lab, tmp_path: Path) -> None:
    told = _tables((await _after_all_kinds_of_traffic(lab, tmp_path)).relay.metrics.snapshot())
    of_workers = WorkerFigures().families([WorkerState("0", 1, is_ready=True, load=0.0)], {1})
    added = _tables(line for family in of_workers for line in encoded(family))
    nameless = [table.name for table in (*told, *added) if not table.samples]
    assert nameless == [], "without a sample its labels are unknown"
    _agrees("metrics.md", metrics_page(told, added))


async def _after_all_kinds_of_traffic(lab: Lab, folder: Path) -> RunningRelay:
    """A relay that has something to tell in every family of metrics."""
    usage = {"prompt_tokens": 7, "completion_tokens": 2**40}
    disbelieved = orjson.dumps({"choices": [{"message": {"content": "Hi"}}], "usage": usage})
    details = {
        "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    detailed = orjson.dumps({"choices": [{"message": {"content": "Hi"}}], "usage": usage | details})
    turns = count()

    async def odd(caller: Caller) -> None:
        await caller.request()
        answers = (
            response(disbelieved, headers=[TYPE, "x-ratelimit-remaining-tokens: 9"]),
            response(b"?", headers=[TYPE]),
            response(detailed, headers=[TYPE]),
            response(orjson.dumps({"data": [], "usage": {"prompt_tokens": 7}}), headers=[TYPE]),
        )
        if (turn := next(turns)) < len(answers):
            await caller.send(answers[turn])
        else:
            caller.close()

    simulator, provider = await lab.simulator(), await lab.provider(odd)
    prices = '\n[[prices]]\nmodels = ["simulated"]\ninput = 1\noutput = 1\n'
    routes = '[[routes]]\npath = "/v1/*"\nmodels = ["odd"]\nupstreams = ["odd"]\n[[routes]]\nupstreams = ["usual"]'
    routes += "\n" + tenant(KEY, f"requests_per_minute = {REQUESTS}", "tokens_per_month = 1000000000")
    upstreams: dict[str, dict[str, object] | str] = {
        "usual": simulator.url.replace("127.0.0.1", "localhost"),
        "odd": {"url": provider.url, "max_concurrent": "auto"},
    }
    collector = f"http://127.0.0.1:{free_port()}"
    config = toml(folder, upstreams, routes + prices)
    settings = {"upstream_keepalive": "off", "otlp_endpoint": collector, "metrics_genai": "both"}
    relay = await lab.relay(None, config=config, **settings)
    client = await lab.client(relay.port)
    await client.send(chat((AUTH,), events=5))
    await client.response()
    chats, embeddings = "/v1/chat/completions", "/v1/embeddings"
    for path in (chats, chats, chats, embeddings, chats, chats):
        await client.send(request("POST", path, [TYPE, AUTH], body=b'{"model":"odd","messages":[],"input":"Hi"}'))
        status = (await client.response()).status
    assert status == 429, "the last one is refused"
    await client.send(b"nonsense\r\n\r\n")
    await client.response()
    relay.relay.metrics.h2.goaways["ping_flood"] += 1
    relay.relay.metrics.upstreams[0].affinity["preferred"] += 1
    relay.relay.metrics.upstreams[0].check_results["passed"] += 1
    relay.relay.metrics.upstreams[0].ejections["errors"] += 1
    relay.relay.metrics.store = SimpleNamespace(
        breaker=CircuitBreaker(failures=1, cooldown=1), failover=FailoverStats()
    )
    return relay


def _tables(snapshot: Iterable[bytes]) -> list[Table]:
    return list(read_snapshot(b"".join(snapshot)).values())
