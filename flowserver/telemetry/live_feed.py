"""The live feed: server-sent events, one object a second (html.spec.whatwg.org/multipage/server-sent-events.html).

One scan a second serves all viewers; without viewers there is none. Viewers with the same view share its bytes. A
viewer that has not read an object yet skips the next ones, so nothing queues up for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..errors import EndReason
from ..http.messages import ResponseHead
from ..relay.interfaces import DownstreamStream
from .live_views import View
from .paced_answer import Paced
from .slices import Done

INTERVAL = 1.0
"""Seconds between two objects."""
MOST_VIEWERS = 16
_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]
_RETRY = b"retry: 1000\n\n"
"""Milliseconds after which a browser reconnects if the connection is lost."""

CallLater = Callable[[float, Callable[[], None]], object]


class LiveSource(Protocol):
    """The source of the objects."""

    def live(self, views: list[View], done: Done) -> None:
        """Make a line with an object for each of `views`."""


class _Viewer(Paced):
    """One connection."""

    __slots__ = ("_feed", "view")

    def __init__(self, feed: LiveFeed, stream: DownstreamStream, view: View) -> None:
        self._feed = feed
        self.view = view
        super().__init__(stream)

    def begin(self) -> None:
        self._stream.send_head(ResponseHead(200, _HEADERS))
        self._stream.send_data(_RETRY)

    @property
    def is_behind(self) -> bool:
        """Whether it has not read the last object yet."""
        return self._is_full or bool(self._rest)

    def show(self, event: bytes) -> None:
        """Send an object, or skip it."""
        if not self.is_behind:
            self._rest = memoryview(event)
            self._send()

    def end(self) -> None:
        """End cleanly, after what has been sent. The viewer reconnects."""
        self._is_over = True
        self._rest = memoryview(b"")
        self._stream.send_end()

    def on_downstream_reset(self, reason: EndReason) -> None:
        super().on_downstream_reset(reason)
        self._feed.leave(self)

    def on_drain_timeout(self) -> None:
        self._feed.leave(self)
        self.end()


class LiveFeed:
    """All viewers of a process."""

    __slots__ = ("_call_later", "_is_ticking", "_is_under_way", "_source", "_viewers")

    def __init__(self, source: LiveSource, call_later: CallLater) -> None:
        self._source = source
        self._call_later = call_later
        self._viewers: dict[_Viewer, None] = {}
        """In the order of arrival."""
        self._is_ticking = False
        self._is_under_way = False
        """Whether objects are being made."""

    @property
    def is_full(self) -> bool:
        return len(self._viewers) >= MOST_VIEWERS

    def open(self, stream: DownstreamStream, view: View) -> None:
        """Show `view` from now on."""
        viewer = _Viewer(self, stream, view)
        self._viewers[viewer] = None
        viewer.begin()
        if not self._is_ticking:
            self._tick()

    def leave(self, viewer: _Viewer) -> None:
        self._viewers.pop(viewer, None)

    def end(self) -> None:
        """End all feeds, because another process answers from now on."""
        viewers, self._viewers = self._viewers, {}
        for viewer in viewers:
            viewer.end()

    def _tick(self) -> None:
        self._is_ticking = bool(self._viewers)
        if not self._is_ticking:
            return
        self._call_later(INTERVAL, self._tick)
        views = list({viewer.view: None for viewer in self._viewers if not viewer.is_behind})
        if views and not self._is_under_way:
            self._is_under_way = True
            self._source.live(views, lambda parts: self._show(views, parts))

    def _show(self, views: list[View], parts: list[bytes] | None) -> None:
        self._is_under_way = False
        if parts is None:  # it could not be made; see standard error
            return
        lines = b"".join(parts).split(b"\n")
        events = {view: b"data: %b\n\n" % line for view, line in zip(views, lines, strict=False)}
        for viewer in list(self._viewers):
            event = events.get(viewer.view)
            if event is not None:
                viewer.show(event)
