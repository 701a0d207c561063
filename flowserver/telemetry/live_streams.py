"""The page of open streams: a JSON array, made of rows that a process reports line by line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from typing import Any

import orjson

from ..quota.money import usd_number
from ..relay.limited_time import Holder
from ..relay.record import RecordedExchange
from .metrics import Metrics


def rows(metrics: Metrics, clock: Callable[[], float]) -> Iterator[bytes]:
    """A line for each exchange that was open at the beginning and still is when its turn comes."""
    for exchange in list(metrics.open):
        if exchange in metrics.open:
            yield orjson.dumps(figures(exchange, clock()), option=orjson.OPT_APPEND_NEWLINE)


def rows_of(worker: str, lines: bytes) -> Iterator[bytes]:
    """The `rows` of a worker, with its name in each."""
    beginning = b'{"worker":%b,' % orjson.dumps(worker)
    for line in BytesIO(lines):
        yield beginning + line[1:]


def array(lines: Iterable[bytes]) -> Iterator[bytes]:
    separator = b"["
    for line in lines:
        yield separator + line[:-1]
        separator = b","
    yield b"[]" if separator == b"[" else b"]"


def figures(live: RecordedExchange, now: float) -> dict[str, Any]:
    """The row of one exchange at `now`. Costs a system call."""
    exchange = live.record()
    account = exchange.account
    return {
        "request_id": exchange.request_id.decode("ascii"),
        "method": exchange.request.method.decode("ascii"),
        "path": exchange.request.path.decode("latin-1"),
        "protocol": exchange.protocol,
        "client": exchange.client,
        "upstream": exchange.upstream,
        "state": exchange.state,
        "status": exchange.status or None,
        "age_seconds": round(now - exchange.started_at, 3),
        "model": account.model,
        "tokens": account.output,
        "cost_usd": None if account.cost is None else usd_number(account.cost),
        "unacknowledged_tokens": live.unacknowledged_tokens(),
        "budget": account.budget,
        "tenant": account.tenant,
        "user": account.user,
        "session": account.session,
        "lease_left": account.lease_left,
        "bytes_up": exchange.bytes_up,
        "bytes_down": exchange.bytes_down,
        "held_bytes": exchange.held,
        "held_seconds": round(exchange.held_seconds, 3),
        "pauses": exchange.pauses,
        "paused_seconds": round(exchange.paused_seconds, 3),
        "slow": exchange.slow,
        **{f"{holder}_seconds": round(exchange.limited.get(holder, 0.0), 3) for holder in Holder},
        "writes": exchange.writes,
        "writes_full": exchange.writes_full,
    }
