"""Answers of the admin pages, sent at the pace of their readers."""

from __future__ import annotations

from ..errors import EndReason, RelayError
from ..http.messages import Headers, ResponseHead
from ..relay.interfaces import DownstreamStream

PIECE = 1 << 16
"""Bytes of a page that are sent at a time, as far as the reader accepts them."""


class Paced:
    """An answer in the making: `relay.interfaces.DownstreamEvents`. The request's body is ignored."""

    __slots__ = ("_is_full", "_is_over", "_rest", "_stream")

    tokens = 0

    def __init__(self, stream: DownstreamStream) -> None:
        self._stream = stream
        self._is_full = False
        self._is_over = False
        self._rest = memoryview(b"")
        """What is still to be sent."""
        stream.attach(self)

    def _send(self) -> None:
        while self._rest and not self._is_full and not self._is_over:
            piece, self._rest = self._rest[:PIECE], self._rest[PIECE:]
            self._stream.send_data(bytes(piece))

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


class PacedAnswer(Paced):
    """One request whose answer may come later."""

    __slots__ = ()

    def answer(self, status: int, kind: bytes, body: bytes, further: Headers | None = None) -> None:
        if self._is_over:
            return
        headers = [(b"content-type", kind), (b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
        headers += further or []
        self._stream.send_head(ResponseHead(status, headers, content_length=len(body)))
        self._rest = memoryview(body)
        self._send()

    def _send(self) -> None:
        super()._send()
        if not self._rest and not self._is_over:
            self._is_over = True
            self._stream.send_end()
