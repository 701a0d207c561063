"""The admin pages: health, readiness, metrics, live streams, the live page and its feed. Served by the relay's own
HTTP/1.1, on another address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..errors import EndReason, RelayError
from ..http.messages import Headers, RequestHead, ResponseHead
from ..relay.interfaces import DownstreamStream
from .admin_hosts import AdminHosts
from .live_feed import MOST_VIEWERS, CallLater, LiveFeed, LiveSource
from .live_views import BadView, is_once, view_of
from .page_file import page
from .slices import Done

_JSON = b"application/json"
_PLAIN = b"text/plain; charset=utf-8"
_METRICS = b"text/plain; version=0.0.4; charset=utf-8"
_HTML = b"text/html; charset=utf-8"
_MISDIRECTED = (
    b"The admin listener does not answer to this host name. If it should, add the name to FLOW_ADMIN_HOSTS.\n"
    b"(This keeps web pages from reading it by DNS rebinding.)\n"
)
_OF_ANOTHER_SITE = b"The live feed is not for pages of other sites.\n"
_NO_REFERRER = (b"referrer-policy", b"no-referrer")
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

    def answer(self, status: int, kind: bytes, body: bytes, further: Headers | None = None) -> None:
        if self._is_over:
            return
        headers = [(b"content-type", kind), (b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
        headers += further or []
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


class AdminSource(LiveSource, Protocol):
    """Where the pages get what they show."""

    def unready(self) -> str | None:
        """Why new clients should go elsewhere; None: they are welcome."""

    def metrics(self, done: Done) -> None:
        """The page of metrics, in Prometheus' text format."""

    def streams(self, done: Done) -> None:
        """The page of open streams, a JSON array."""


class Admin:
    """Answers the admin requests of a process."""

    def __init__(self, source: AdminSource, hosts: AdminHosts, call_later: CallLater) -> None:
        self._source = source
        self._hosts = hosts
        self._feed = LiveFeed(source, call_later)
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
        probe, entry = self._probes.get(request.path), self._pages.get(request.path)
        if request.method not in (b"GET", b"HEAD"):
            _Page(stream).answer(405, _PLAIN, b"expected GET\n")
        elif probe is not None:
            status, text = probe()
            _Page(stream).answer(status, _PLAIN, text)
        elif not self._hosts.accepts(request):
            _Page(stream).answer(421, _PLAIN, _MISDIRECTED)
        elif request.path == b"/live":
            self._open_live(request, stream)
        elif request.path == b"/":
            self._show_page(_Page(stream))
        elif entry is not None:
            self._answer_later(_Page(stream), *entry)
        else:
            paths = [b"/", *self._probes, *self._pages, b"/live"]
            _Page(stream).answer(404, _PLAIN, b"the pages are %b\n" % b", ".join(paths))

    def drain(self) -> None:
        """Viewers of the live feed are to ask again: another process answers them."""
        self._feed.end()

    def _show_page(self, shown: _Page) -> None:
        file = page()
        shown.answer(200, _HTML, file.body, [(b"content-security-policy", file.policy), _NO_REFERRER])

    def _open_live(self, request: RequestHead, stream: DownstreamStream) -> None:
        try:
            view = view_of(request.target)
        except BadView as error:
            _Page(stream).answer(400, _PLAIN, f"{error}\n".encode())
            return
        if request.fields.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            _Page(stream).answer(403, _PLAIN, _OF_ANOTHER_SITE)
        elif is_once(request.target):
            self._answer_later(_Page(stream), _JSON, lambda done: self._source.live([view], done))
        elif request.method == b"HEAD":
            _Page(stream).answer(200, b"text/event-stream", b"")
        elif self._feed.is_full:
            text = f"{MOST_VIEWERS} viewers are there already; /live?once answers one object\n"
            _Page(stream).answer(503, _PLAIN, text.encode(), [(b"retry-after", b"5")])
        else:
            self._feed.open(stream, view)

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
