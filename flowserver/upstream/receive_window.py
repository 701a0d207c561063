"""How far ahead of its client a provider may be: the receive windows of its connections and streams."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from typing import Final, cast

from ..flow.drain_rate import NEARBY, DrainRate
from ..flow.memory_budget import UNLIMITED, MemoryBudget
from ..flow.window_bound import WindowBound
from ..net import receive_buffer
from ..net.send_queue import limit_unsent
from ..net.sockets import largest_segment, round_trip
from ..relay.interfaces import Clock, UpstreamEvents

FIRST: Final = 4 * 1024
FIRST_AFAR: Final = 24 * 1024
"""Bytes that a provider, nearby or distant, may be ahead of a client of unknown pace."""
NARROW: Final = 12 * 1024
"""The maximum for a nearby provider. During a TLS handshake it is the minimum: certificates need that much."""

UNSENT_UPLOAD = 256 * 1024
"""Unsent bytes of a body that may wait for a provider. With fewer, the congestion window to a distant one does not grow
fully: 20 MB on a kept connection of 50 ms took 1.1 times as long with 16 KB, and mostly so with 128 KB."""


@dataclass(slots=True)
class AdaptiveFlow:
    """How the receive windows of one provider follow their clients. `target` in seconds: see `flow.drain_rate`."""

    target: float
    clock: Clock
    distance: float = 0.0
    """Round trip to the provider in seconds, as last measured; 0: not measured yet."""
    memory: MemoryBudget = field(default=UNLIMITED)
    """Limits the width of windows."""

    @property
    def first(self) -> int:
        """Bytes of a new window, for a client of unknown pace."""
        return FIRST if self.distance < NEARBY else FIRST_AFAR


@dataclass(frozen=True, slots=True)
class KernelBuffers:
    """The kernel buffers of new connections."""

    size: int | None
    """Least bytes of the receive buffer; None: the kernel's own."""
    flow: AdaptiveFlow | None = None
    """How it follows its clients; None: it is fixed."""
    unsent: int | None = None
    """Unsent bytes that may wait for a slow provider (TCP_NOTSENT_LOWAT); None: the kernel's own."""

    def prepare(self, connection: socket.socket, *, whole: bool) -> None:
        """Set options of a socket before it connects. `whole`: its first answer is known not to be a stream."""
        if self.size is not None and self.flow is None:
            receive_buffer.begin_narrow(connection, self.size, may_grow=False)
        elif self.size is not None and self.flow is not None and not whole:
            receive_buffer.begin_narrow(connection, max(self.size, self.flow.first), may_grow=True)
        if self.unsent is not None:
            limit_unsent(connection, self.unsent)


READ_SIZE = 8 * 1024
READ_BUFFER: Final = memoryview(bytearray(READ_SIZE))
"""The buffer that all connections read into: data is copied out before the next read. It is small, since a stream may
hold one read beyond its high watermark, and since the kernel accepts a whole write if it has room for a byte: reads of
16 KiB made a stalled client pull 8 KiB more. An event has 0.3 KiB. For slow clients less of it is used."""
CALM: Final = 4
"""Windows' worth of bytes until the next check of a stream with enough room: a check takes two system calls."""
_FAR: Final = 1 << 62
"""More bytes than will ever pass."""


class ReceiveWindow:
    """The window of an HTTP/1.1 connection, over all of its requests: what the kernel reads before the relay does.

    It begins narrow. Each time a window's worth has passed it is checked, and widened as the current rate requires; a
    client that blocks narrows it to its pace. For an answer that is known not to be a stream it is the kernel's own.
    """

    __slots__ = (
        "_flow",
        "_largest",
        "_left",
        "_segment",
        "_socket",
        "_wanted",
        "bound",
        "buffer",
        "has_been_wide",
        "is_wide",
    )

    def __init__(self, transport: asyncio.BaseTransport, flow: AdaptiveFlow) -> None:
        self._flow = flow
        self._socket = cast(socket.socket, transport.get_extra_info("socket"))
        self._wanted = WindowBound(flow.clock, flow.target, NARROW, flow.memory)
        flow.distance = round_trip(self._socket)
        self._segment = largest_segment(self._socket)
        self._largest = receive_buffer.size(self._socket)
        """The largest window that was ever granted."""
        self.bound = 0
        """Bytes of a bounded window; 0: it has not begun."""
        self.is_wide = False
        """Whether it is the kernel's own."""
        self.has_been_wide = self._largest > FIRST_AFAR
        """Whether it ever was: what was granted then can't be revoked."""
        self._left = 0
        """Bytes until the next check."""
        self.buffer = READ_BUFFER
        """The buffer that the connection reads into."""

    def __repr__(self) -> str:
        return f"<ReceiveWindow {'wide' if self.is_wide else self.bound}>"

    def begin(self, *, whole: bool) -> None:
        """A request begins. `whole`: its answer is known not to be a stream."""
        self._wanted.expect()
        self.buffer = READ_BUFFER
        if whole:
            self.widen()
        else:
            self._fit(self._flow.first)
        self._left = self.bound

    def widen(self) -> None:
        """The answer is not a stream: leave the window to the kernel."""
        if not self.is_wide:
            self.is_wide = self.has_been_wide = True
            self._largest = _FAR
            receive_buffer.leave_to_kernel(self._socket)

    def passed(self, size: int, events: UpstreamEvents) -> None:
        """`size` bytes were read."""
        if self._wanted.passed(size):
            self._left -= size
            if self._left <= 0:
                self._look(events)

    def _look(self, events: UpstreamEvents) -> None:
        if self.is_wide:
            self._left = _FAR
            return
        distance = self._flow.distance = round_trip(self._socket)
        if distance < NEARBY and self.bound >= NARROW:
            self._left = _FAR  # it can't get any wider
            return
        self._left = self.bound
        bound = self._wanted.wanted(self.bound, distance, events.unacknowledged)
        if bound is None:
            return
        if bound > self.bound:
            self.buffer = READ_BUFFER
            self._set(bound)
        else:
            self._left *= CALM

    def keep_pace(self, pace: DrainRate) -> None:
        """The client is the bottleneck, and has this pace."""
        self.buffer = READ_BUFFER[: pace.waiting(READ_SIZE)]
        distance = self._flow.distance = round_trip(self._socket)
        self._fit(self._wanted.follow(pace, distance))

    def _fit(self, bound: int) -> None:
        """Change it to `bound`, unless the change is small."""
        bound = max(bound, self._least())
        if self.is_wide or not self.bound * 3 < bound * 4 < self.bound * 5:
            self._set(bound)

    def _least(self) -> int:
        """The narrowest safe window. A sender waits, up to its persist timer, until the window has a whole segment; or,
        with segments as large as on loopback, half of the largest window that it ever saw (RFC 1122 section 4.2.3.4). A
        buffer's window depends on the packets in it, so such a window is never narrowed."""
        return min(2 * self._segment, self._largest)

    def _set(self, bound: int) -> None:
        receive_buffer.bound_window(self._socket, bound, 0 if self.is_wide else self.bound)
        self.is_wide = False
        self.bound = bound
        self._largest = max(self._largest, bound)
        self._left = min(self._left, bound)


STREAM_WINDOW = 16 * 1024
"""The same for an HTTP/2 stream."""
WHOLE_WINDOW = 128 * 1024
"""The initial window of a whole answer."""


@dataclass(frozen=True, slots=True)
class StreamWindows:
    """The initial windows of a connection's streams."""

    size: int
    """What the provider may send at first."""
    flow: AdaptiveFlow | None = None
    """How they follow their clients; None: they are fixed."""

    def open(self) -> StreamWindow:
        return StreamWindow(self.size, self.flow)


class StreamWindow:
    """The window of an HTTP/2 stream. A granted window can't be revoked, so it is narrowed by withholding credit."""

    __slots__ = ("_wanted", "left", "size")

    def __init__(self, size: int, flow: AdaptiveFlow | None) -> None:
        self.size = self.left = size
        """`left`: bytes that the provider may still send without another credit."""
        self._wanted = None if flow is None else WindowBound(flow.clock, flow.target, STREAM_WINDOW, flow.memory)

    def __repr__(self) -> str:
        return f"<StreamWindow {self.size} left={self.left}>"

    def take(self, size: int) -> bool:
        """`size` bytes arrived. False: more than allowed."""
        if self._wanted is not None:
            self._wanted.passed(size)
        self.left -= size
        return self.left >= 0

    def widen(self, size: int) -> int:
        """Widen it to `size`. Returns the bytes to credit for that."""
        granted = max(0, size - self.size)
        self.size += granted
        self.left += granted
        return granted

    @property
    def follows(self) -> bool:
        """Whether it follows its client, so that the distance is needed."""
        return self._wanted is not None

    @property
    def is_half_used(self) -> bool:
        """Whether a credit is due once everything was read."""
        return self.left * 2 <= self.size

    def credit(self, distance: float, events: UpstreamEvents) -> int:
        """Returns the bytes to credit. `distance`: the round trip."""
        if self._wanted is not None:
            wanted = self._wanted.wanted(self.size, distance, events.unacknowledged)
            if wanted is not None:
                self.size = max(self.size, wanted)
        granted = self.size - self.left
        self.left = self.size
        return granted

    def keep_pace(self, pace: DrainRate, distance: float) -> None:
        """The client is the bottleneck, and has this pace."""
        if self._wanted is not None:
            self.size = self._wanted.follow(pace, distance)
