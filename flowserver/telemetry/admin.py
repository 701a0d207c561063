"""The admin pages: health, readiness, metrics, live streams. Served by the relay's own HTTP/1.1, on another address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from ..errors import EndReason, RelayError
from ..messages import RequestHead, ResponseHead
from ..relay.ports import DownstreamStream
from .metrics import Metrics

_JSON = b"application/json"
_PLAIN = b"text/plain; charset=utf-8"


class _Page:
    """One answered request: the events of a stream whose answer was given at once."""

    __slots__ = ("_stream",)

    def __init__(self, stream: DownstreamStream) -> None:
        self._stream = stream
        stream.attach(self)

    def answer(self, status: int, kind: bytes, body: bytes) -> None:
        headers = [(b"content-type", kind), (b"cache-control", b"no-store")]
        self._stream.send_head(ResponseHead(status, headers, content_length=len(body)))
        self._stream.send_data(body)
        self._stream.send_end()

    def on_downstream_data(self, data: bytes) -> None: ...

    def on_downstream_end(self) -> None: ...

    def on_downstream_failed(self, error: RelayError) -> None: ...

    def on_downstream_reset(self, reason: EndReason) -> None: ...

    def on_downstream_blocked(self) -> None: ...

    def on_downstream_full(self) -> None: ...

    def on_downstream_drained(self) -> None: ...

    def on_downstream_finished(self) -> None: ...

    def sweep(self, now: float) -> None: ...

    def on_drain_timeout(self) -> None: ...


class Admin:
    """Answers the admin requests of one worker."""

    def __init__(self, metrics: Metrics, *, clock: Callable[[], float], is_draining: Callable[[], bool]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._is_draining = is_draining

    def open_exchange(self, request: RequestHead, stream: DownstreamStream) -> None:
        """A `relay.ports.OpenExchange`."""
        status, kind, body = self._respond(request)
        _Page(stream).answer(status, kind, body)

    def _respond(self, request: RequestHead) -> tuple[int, bytes, bytes]:
        if request.method not in (b"GET", b"HEAD"):
            return 405, _PLAIN, b"GET is wanted\n"
        path = request.path
        if path == b"/healthz":
            return 200, _PLAIN, b"ok\n"
        if path == b"/readyz":
            return (503, _PLAIN, b"draining\n") if self._is_draining() else (200, _PLAIN, b"ready\n")
        if path == b"/metrics":
            return 200, b"text/plain; version=0.0.4; charset=utf-8", self._metrics.text()
        if path == b"/streams":
            return 200, _JSON, orjson.dumps(self._streams())
        return 404, _PLAIN, b"there is /healthz, /readyz, /metrics and /streams\n"

    def _streams(self) -> list[dict[str, Any]]:
        now = self._clock()
        streams = []
        for exchange in self._metrics.open:
            pauses, paused = exchange.paused()
            writes, full = exchange.writes
            streams.append(
                {
                    "request_id": exchange.identity.decode("ascii"),
                    "method": exchange.request.method.decode("ascii"),
                    "path": exchange.request.path.decode("latin-1"),
                    "protocol": exchange.protocol,
                    "upstream": exchange.upstream,
                    "state": exchange.state(),
                    "status": exchange.status or None,
                    "age_seconds": round(now - exchange.started_at, 3),
                    "model": exchange.account.model,
                    "tokens": exchange.account.output,
                    "budget": exchange.account.budget,
                    "tenant": exchange.account.tenant.name if exchange.account.tenant is not None else None,
                    "user": exchange.account.user,
                    "session": exchange.account.session,
                    "lease_left": exchange.account.permit.left if exchange.account.permit is not None else None,
                    "bytes_up": exchange.bytes_up,
                    "bytes_down": exchange.bytes_down,
                    "held_bytes": exchange.held,
                    "pauses": pauses,
                    "paused_seconds": round(paused, 3),
                    "writes": writes,
                    "writes_full": full,
                }
            )
        return streams
