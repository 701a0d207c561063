"""The admin pages: health, readiness, metrics, live streams. Served by the relay's own HTTP/1.1, on another address."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson

from ..errors import EndReason, RelayError
from ..http.messages import RequestHead, ResponseHead
from ..relay.interfaces import DownstreamStream
from ..relay.limited_time import Holder
from ..relay.record import RecordedExchange
from .admin_hosts import AdminHosts
from .metrics import Metrics
from .slices import Slices

_JSON = b"application/json"
_PLAIN = b"text/plain; charset=utf-8"
_METRICS = b"text/plain; version=0.0.4; charset=utf-8"
_MISDIRECTED = (
    b"The admin listener does not answer to this host name. If it should, add the name to FLOW_ADMIN_HOSTS.\n"
    b"(This keeps web pages from reading it by DNS rebinding.)\n"
)
PIECE = 1 << 16
"""Bytes of a page that are sent at a time, as far as its reader takes them."""


class _Page:
    """One request for a page, whose body may come later. It is sent at the pace of its reader."""

    __slots__ = ("_is_full", "_is_over", "_rest", "_stream")

    tokens = 0

    def __init__(self, stream: DownstreamStream) -> None:
        self._stream = stream
        self._is_full = False
        self._is_over = False
        self._rest = memoryview(b"")
        stream.attach(self)

    def answer(self, status: int, kind: bytes, body: bytes) -> None:
        if self._is_over:
            return
        headers = [(b"content-type", kind), (b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
        self._stream.send_head(ResponseHead(status, headers, content_length=len(body)))
        self._rest = memoryview(body)
        self._send()

    def _send(self) -> None:
        while self._rest and not self._is_full and not self._is_over:
            piece, self._rest = self._rest[:PIECE], self._rest[PIECE:]
            self._stream.send_data(bytes(piece))
        if not self._rest and not self._is_over:
            self._is_over = True
            self._stream.send_end()

    def on_downstream_data(self, data: bytes) -> None: ...

    def on_downstream_end(self) -> None: ...

    def on_downstream_failed(self, error: RelayError) -> None: ...

    def on_downstream_reset(self, reason: EndReason) -> None:
        self._is_over = True
        self._rest = memoryview(b"")

    def on_downstream_blocked(self) -> None: ...

    def on_downstream_full(self) -> None:
        self._is_full = True

    def on_downstream_drained(self) -> None:
        self._is_full = False
        self._send()

    def on_downstream_finished(self) -> None: ...

    def sweep(self, now: float) -> None: ...

    def on_drain_timeout(self) -> None: ...


class Admin:
    """Answers the admin requests of one worker. Pages that take long are made in slices of the event loop, whose
    `call_soon` and `clock` are given."""

    def __init__(
        self,
        metrics: Metrics,
        hosts: AdminHosts,
        *,
        clock: Callable[[], float],
        call_soon: Callable[[Callable[[], None]], object],
        is_draining: Callable[[], bool],
    ) -> None:
        self._metrics = metrics
        self._hosts = hosts
        self._clock = clock
        self._is_draining = is_draining
        self._slices = Slices(call_soon, clock)
        self._probes: dict[bytes, Callable[[], tuple[int, bytes]]] = {
            b"/healthz": self._health,
            b"/readyz": self._readiness,
        }
        """Status and text, for whoever can reach the listener: probes ask by any host name."""
        self._pages: dict[bytes, tuple[bytes, Callable[[], Iterator[bytes]]]] = {
            b"/metrics": (_METRICS, metrics.scrape),
            b"/streams": (_JSON, self._streams),
        }
        """Media type and parts, for those who ask by a name of AdminHosts."""

    def open_exchange(self, request: RequestHead, stream: DownstreamStream) -> None:
        """A `relay.interfaces.OpenExchange`."""
        page = _Page(stream)
        probe, entry = self._probes.get(request.path), self._pages.get(request.path)
        if request.method not in (b"GET", b"HEAD"):
            page.answer(405, _PLAIN, b"expected GET\n")
        elif probe is not None:
            status, text = probe()
            page.answer(status, _PLAIN, text)
        elif not self._hosts.accepts(request):
            page.answer(421, _PLAIN, _MISDIRECTED)
        elif entry is not None:
            self._answer_later(page, request.path, *entry)
        else:
            page.answer(404, _PLAIN, b"the pages are %b\n" % b", ".join([*self._probes, *self._pages]))

    def _health(self) -> tuple[int, bytes]:
        return 200, b"ok\n"

    def _readiness(self) -> tuple[int, bytes]:
        return (503, b"draining\n") if self._is_draining() else (200, b"ready\n")

    def _answer_later(self, page: _Page, name: bytes, kind: bytes, work: Callable[[], Iterator[bytes]]) -> None:
        def done(parts: list[bytes] | None) -> None:
            if parts is None:
                page.answer(500, _PLAIN, b"the page could not be made; see standard error\n")
            else:
                page.answer(200, kind, b"".join(parts))

        self._slices.ask(name, work, done)

    def _streams(self) -> Iterator[bytes]:
        """Those open at the beginning that are still open when their turn comes."""
        separator = b"["
        for exchange in list(self._metrics.open):
            if exchange in self._metrics.open:
                yield separator + orjson.dumps(_figures(exchange, self._clock()))
                separator = b","
        yield b"[]" if separator == b"[" else b"]"


def _figures(live: RecordedExchange, now: float) -> dict[str, Any]:
    exchange = live.record()
    account = exchange.account
    return {
        "request_id": exchange.request_id.decode("ascii"),
        "method": exchange.request.method.decode("ascii"),
        "path": exchange.request.path.decode("latin-1"),
        "protocol": exchange.protocol,
        "upstream": exchange.upstream,
        "state": exchange.state,
        "status": exchange.status or None,
        "age_seconds": round(now - exchange.started_at, 3),
        "model": account.model,
        "tokens": account.output,
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
