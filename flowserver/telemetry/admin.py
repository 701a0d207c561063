"""The admin pages: health, readiness, metrics, live streams, the live page and its feed. Served by the relay's own
HTTP/1.1, on another address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..http.messages import RequestHead
from ..relay.interfaces import DownstreamStream
from .admin_hosts import AdminHosts
from .control_pages import ControlPages
from .live_feed import MOST_VIEWERS, CallLater, LiveFeed, LiveSource
from .live_views import BadView, is_once, view_of
from .paced_answer import PacedAnswer
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


class AdminSource(LiveSource, Protocol):
    """The source of the pages' content."""

    def unready(self) -> str | None:
        """Why new clients should go elsewhere; None: it is ready."""

    def metrics(self, done: Done) -> None:
        """The page of metrics, in Prometheus' text format."""

    def streams(self, done: Done) -> None:
        """The page of open streams, a JSON array."""


class Admin:
    """Answers the admin requests of a process."""

    def __init__(
        self, source: AdminSource, hosts: AdminHosts, call_later: CallLater, control: ControlPages | None = None
    ) -> None:
        """`control` None: there are no control pages."""
        self._control = control
        self._source = source
        self._hosts = hosts
        self._feed = LiveFeed(source, call_later)
        self._probes: dict[bytes, Callable[[], tuple[int, bytes]]] = {
            b"/healthz": self._health,
            b"/readyz": self._readiness,
        }
        """Status and text, for any host name, since probes use any."""
        self._pages: dict[bytes, tuple[bytes, Callable[[Done], None]]] = {
            b"/metrics": (_METRICS, source.metrics),
            b"/streams": (_JSON, source.streams),
        }
        """Media type and parts, only for host names in AdminHosts."""

    def open_exchange(self, request: RequestHead, stream: DownstreamStream) -> None:
        """A `relay.interfaces.OpenExchange`."""
        probe, entry = self._probes.get(request.path), self._pages.get(request.path)
        if self._control is not None and self._control.serves(request.path):
            if self._hosts.accepts(request):
                self._control.open_exchange(request, stream)
            else:
                PacedAnswer(stream).answer(421, _PLAIN, _MISDIRECTED)
        elif request.method not in (b"GET", b"HEAD"):
            PacedAnswer(stream).answer(405, _PLAIN, b"expected GET\n")
        elif probe is not None:
            status, text = probe()
            PacedAnswer(stream).answer(status, _PLAIN, text)
        elif not self._hosts.accepts(request):
            PacedAnswer(stream).answer(421, _PLAIN, _MISDIRECTED)
        elif request.path == b"/live":
            self._open_live(request, stream)
        elif request.path == b"/":
            self._show_page(PacedAnswer(stream))
        elif entry is not None:
            self._answer_later(PacedAnswer(stream), *entry)
        else:
            paths = [b"/", *self._probes, *self._pages, b"/live"]
            PacedAnswer(stream).answer(404, _PLAIN, b"the pages are %b\n" % b", ".join(paths))

    def drain(self) -> None:
        """End the live feed, so that viewers reconnect: another process answers them."""
        self._feed.end()

    def _show_page(self, shown: PacedAnswer) -> None:
        file = page()
        shown.answer(200, _HTML, file.body, [(b"content-security-policy", file.policy), _NO_REFERRER])

    def _open_live(self, request: RequestHead, stream: DownstreamStream) -> None:
        try:
            view = view_of(request.target)
        except BadView as error:
            PacedAnswer(stream).answer(400, _PLAIN, f"{error}\n".encode())
            return
        if request.fields.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            PacedAnswer(stream).answer(403, _PLAIN, _OF_ANOTHER_SITE)
        elif is_once(request.target):
            self._answer_later(PacedAnswer(stream), _JSON, lambda done: self._source.live([view], done))
        elif request.method == b"HEAD":
            PacedAnswer(stream).answer(200, b"text/event-stream", b"")
        elif self._feed.is_full:
            text = f"there are {MOST_VIEWERS} viewers already; /live?once answers one object\n"
            PacedAnswer(stream).answer(503, _PLAIN, text.encode(), [(b"retry-after", b"5")])
        else:
            self._feed.open(stream, view)

    def _health(self) -> tuple[int, bytes]:
        return 200, b"ok\n"

    def _readiness(self) -> tuple[int, bytes]:
        reason = self._source.unready()
        return (200, b"ready\n") if reason is None else (503, f"{reason}\n".encode())

    def _answer_later(self, page: PacedAnswer, kind: bytes, ask: Callable[[Done], None]) -> None:
        def done(parts: list[bytes] | None) -> None:
            if parts is None:
                page.answer(500, _PLAIN, b"the page could not be made; see standard error\n")
            else:
                page.answer(200, kind, b"".join(parts))

        ask(done)
