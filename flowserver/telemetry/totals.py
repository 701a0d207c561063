"""The totals of exchanges, including open ones."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Final

from ..relay.limited_time import Holder
from ..relay.record import ExchangeRecord, RecordedExchange
from .tunnels import TunnelTotals

NANO: Final = 1_000_000_000


class Totals:
    """Totals of exchanges. Sums are of whole numbers, so that they do not depend on the order: a total that falls by a
    rounding error looks to Prometheus like a restart, and the whole of it like an increase."""

    __slots__ = (
        "bytes_down",
        "bytes_up",
        "chunks",
        "fast_chunks",
        "heartbeats",
        "limited",
        "tunnels",
        "writes",
        "writes_full",
    )

    def __init__(self) -> None:
        self.limited = dict.fromkeys(Holder, 0)
        """Nanoseconds."""
        self.bytes_up = 0
        self.bytes_down = 0
        self.chunks = 0
        self.fast_chunks = 0
        self.writes = 0
        self.writes_full = 0
        self.heartbeats = 0
        self.tunnels = TunnelTotals()

    def add(self, exchange: ExchangeRecord) -> None:
        self.writes += exchange.writes
        self.writes_full += exchange.writes_full
        self.bytes_up += exchange.bytes_up
        self.bytes_down += exchange.bytes_down
        self.chunks += exchange.chunks_down
        self.fast_chunks += exchange.fast_chunks
        self.heartbeats += exchange.heartbeats
        if exchange.tunnel_seconds is not None:
            self.tunnels.add(exchange, exchange.tunnel_seconds)
        for holder, seconds in exchange.limited.items():
            self.limited[holder] += round(seconds * NANO)


AT_A_TIME = 20
"""Exchanges per piece of work."""


class Census:
    """Totals of ended and open exchanges, computed while the relay continues.

    Each exchange that is open at the beginning counts once: with its figures when its turn comes, or at its end if that
    is earlier. So no total is less than in an earlier census.
    """

    __slots__ = ("_left", "held", "open", "paused", "tenants", "tokens", "totals", "without_tokens")

    def __init__(self, ended: Totals, live: set[RecordedExchange]) -> None:
        self.totals = deepcopy(ended)
        self._left = live.copy()
        self.open = 0
        self.paused = 0
        self.without_tokens = 0
        self.held = 0
        self.tokens = 0
        self.tenants: set[str] = set()
        """Those with open exchanges."""

    def look(self) -> Iterator[bytes]:
        """Add up the open exchanges. Yields empty pieces in between."""
        while self._left:
            for _ in range(min(AT_A_TIME, len(self._left))):
                self._add(self._left.pop().record())
            yield b""

    def exchange_ended(self, exchange: RecordedExchange, record: ExchangeRecord) -> None:
        if exchange in self._left:
            self._left.discard(exchange)
            self.totals.add(record)

    def _add(self, exchange: ExchangeRecord) -> None:
        self.totals.add(exchange)
        self.open += 1
        self.paused += exchange.state == "paused"
        self.without_tokens += exchange.state == "waiting_for_tokens"
        self.held += exchange.held
        self.tokens += exchange.account.output
        if exchange.account.tenant is not None:
            self.tenants.add(exchange.account.tenant)
