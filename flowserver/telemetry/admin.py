"""The admin pages: health, readiness, metrics, live streams. Served by the relay's own HTTP/1.1, on another address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..errors import EndReason, RelayError
from ..http.messages import RequestHead, ResponseHead
from ..relay.interfaces import DownstreamStream
from .admin_hosts import AdminHosts
from .slices import Done

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


class AdminSource(Protocol):
    """Where the pages get what they show."""

    def unready(self) -> str | None:
        """Why new clients should go elsewhere; None: they are welcome."""

    def metrics(self, done: Done) -> None:
        """The page of metrics, in Prometheus' text format."""

    def streams(self, done: Done) -> None:
        """The page of open streams, a JSON array."""


class Admin:
    """Answers the admin requests of a process."""

    def __init__(self, source: AdminSource, hosts: AdminHosts) -> None:
        self._source = source
        self._hosts = hosts
        self._probes: dict[bytes, Callable[[], tuple[int, bytes]]] = {
            b"/healthz": self._health,
            b"/readyz": self._readiness,
        }
        """Status and text, for whoever can reach the listener: probes ask by any host name."""
        self._pages: dict[bytes, tuple[bytes, Callable[[Done], None]]] = {
            b"/metrics": (_METRICS, source.metrics),
            b"/streams": (_JSON, source.streams),
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
            self._answer_later(page, *entry)
        else:
            page.answer(404, _PLAIN, b"the pages are %b\n" % b", ".join([*self._probes, *self._pages]))

    def _health(self) -> tuple[int, bytes]:
        return 200, b"ok\n"

    def _readiness(self) -> tuple[int, bytes]:
        reason = self._source.unready()
        return (200, b"ready\n") if reason is None else (503, f"{reason}\n".encode())

    def _answer_later(self, page: _Page, kind: bytes, ask: Callable[[Done], None]) -> None:
        def done(parts: list[bytes] | None) -> None:
            if parts is None:
                page.answer(500, _PLAIN, b"the page could not be made; see standard error\n")
            else:
                page.answer(200, kind, b"".join(parts))

        ask(done)
