from __future__ import annotations

import io

import orjson

from flowserver.app.breaker_watch import BreakerWatch
from flowserver.routing.circuit_breaker import CircuitBreaker
from flowserver.telemetry.log import Log


def test_openings_and_closings_are_told_once() -> None:
    stream = io.BytesIO()
    log = Log("info", stream)
    watch = BreakerWatch(log)
    breaker, store = CircuitBreaker(failures=1, cooldown=5), CircuitBreaker(failures=1, cooldown=5)
    both = [("vllm", breaker), ("", store)]
    watch.look(both, 0.0)
    breaker.failed(1.0, probe=False)
    store.failed(1.0, probe=False)
    watch.look(both, 1.0)
    watch.look(both, 7.0)  # half open
    breaker.succeeded()
    store.succeeded()
    watch.look(both, 8.5)
    log.close()
    lines = [orjson.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["level"], line["event"], line.get("upstream"), line.get("after_seconds")) for line in lines] == [
        ("warning", "breaker_opened", "vllm", None),
        ("warning", "store_lost", None, None),
        ("info", "breaker_closed", "vllm", 7.5),
        ("info", "store_back", None, 7.5),
    ]


def test_a_provider_that_is_gone_is_forgotten() -> None:
    stream = io.BytesIO()
    log = Log("info", stream)
    watch = BreakerWatch(log)
    breaker = CircuitBreaker(failures=1, cooldown=5)
    breaker.failed(0.0, probe=False)
    for breakers in ([("a", breaker)], [], [("a", breaker)]):
        watch.look(breakers, 1.0)
    log.close()
    assert stream.getvalue().count(b"breaker_opened") == 2
