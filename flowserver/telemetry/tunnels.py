"""The totals of WebSockets."""

from __future__ import annotations

from collections.abc import Iterator

from ..relay.record import ExchangeRecord
from .exposition import Family, Merge, counter, counters, gauge

_NANO = 1_000_000_000


class TunnelTotals:
    """Totals of ended tunnels, or of ended and open ones. In whole numbers, like all totals of exchanges."""

    __slots__ = ("bytes_down", "bytes_up", "nanoseconds", "number", "open")

    def __init__(self) -> None:
        self.number = 0
        self.open = 0
        self.nanoseconds = 0
        self.bytes_up = 0
        self.bytes_down = 0

    def add(self, tunnel: ExchangeRecord, seconds: float) -> None:
        """`seconds`: how long it has been open."""
        self.number += 1
        self.open += tunnel.ended_at is None
        self.nanoseconds += round(seconds * _NANO)
        self.bytes_up += tunnel.bytes_up
        self.bytes_down += tunnel.bytes_down

    def families(self) -> Iterator[Family]:
        yield gauge("flow_tunnels_open", "Open WebSockets.", self.open, Merge.SUM)
        yield counter("flow_tunnels", "WebSockets opened.", self.number)
        yield counter("flow_tunnel_seconds", "Seconds for which WebSockets were open.", self.nanoseconds / _NANO)
        sizes = [({"direction": "down"}, self.bytes_down), ({"direction": "up"}, self.bytes_up)]
        yield counters("flow_tunnel_bytes", "Bytes that passed through WebSockets; also in flow_body_bytes.", sizes)
