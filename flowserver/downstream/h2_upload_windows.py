"""How far ahead clients may be with request bodies on an HTTP/2 connection: the windows of its streams, and its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from ..flow.drain_rate import NEARBY, PaceMeter
from ..http.h2_server_state import ServerState, ServerStream
from ..net.sockets import round_trip
from ..relay.interfaces import Clock

WIDEST = 4 * 1024 * 1024
"""Most bytes of a stream's window."""
MOST = 16 * 1024 * 1024
"""Most bytes by which the connection's window may grow."""


class _Upload:
    """A body that has used up half of its window."""

    __slots__ = ("extra", "meter", "passed")

    def __init__(self, now: float) -> None:
        self.meter = PaceMeter(now)
        self.extra = 0
        """Bytes by which its window has grown."""
        self.passed = 0
        """Bytes since it was last checked."""


class UploadWindows:
    """The upload windows of one connection. A window that is too small for the client's distance grows as it is used
    up, and the connection's with it."""

    __slots__ = (
        "_clock",
        "_granted",
        "_grows",
        "_on_frame",
        "_socket",
        "_state",
        "_uploads",
    )

    def __init__(
        self,
        state: ServerState,
        transport: asyncio.BaseTransport,
        clock: Clock,
        on_frame: Callable[[], None],
        *,
        grow: bool,
    ) -> None:
        """`on_frame`: called when there is something to send. `grow`: whether windows grow."""
        self._state = state
        self._socket = cast(socket.socket, transport.get_extra_info("socket"))
        self._clock = clock
        self._on_frame = on_frame
        self._grows = grow
        self._granted = 0
        """Bytes by which the connection's window has grown: that can't be revoked, and serves all later uploads."""
        self._uploads: dict[int, _Upload] = {}
        """By stream id."""

    def __repr__(self) -> str:
        return f"<UploadWindows uploads={len(self._uploads)}>"

    def let_go(self) -> None:
        """The connection is lost: break the reference cycle."""
        self._on_frame = _nothing

    def forget(self, stream_id: int) -> None:
        """The stream is over."""
        self._uploads.pop(stream_id, None)

    def credit(self, stream: ServerStream, length: int) -> None:
        """The client may send `length` more bytes, on the stream and on the connection."""
        if not length:
            return
        upload = self._uploads.get(stream.stream_id)
        if upload is not None:
            upload.passed += length
        if self._state.acknowledge(stream, length):
            if self._grows and stream.is_receiving:
                self._grow(stream, upload)
            self._on_frame()

    def credit_connection(self, length: int) -> None:
        if self._state.credit_connection(length):
            self._on_frame()

    def credit_stream(self, stream: ServerStream, length: int) -> None:
        if self._state.credit_stream(stream, length):
            self._on_frame()

    def _grow(self, stream: ServerStream, upload: _Upload | None) -> None:
        if upload is None:
            self._uploads[stream.stream_id] = _Upload(self._clock())
            return
        distance = round_trip(self._socket)
        if distance < NEARBY:
            return
        passed, upload.passed = upload.passed, 0
        rate = upload.meter.measure(self._clock(), passed, distance, _none)
        wanted = 0 if rate is None else min(WIDEST, int(2 * rate * distance)) - stream.window_size
        extra = min(wanted, MOST - sum(one.extra for one in self._uploads.values()))
        if extra > 0:
            upload.extra += extra
            self._state.widen(stream, extra, connection=self._needed())

    def _needed(self) -> int:
        """Bytes to add to the connection's window, so that it covers the growth of its streams' windows: otherwise one
        stalled upload would hold up the others."""
        needed = max(0, sum(upload.extra for upload in self._uploads.values()) - self._granted)
        self._granted += needed
        return needed


def _none() -> int:
    """What was credited was taken."""
    return 0


def _nothing() -> None: ...
