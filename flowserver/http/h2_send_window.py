"""Send windows of an HTTP/2 connection and its streams (RFC 9113 section 6.9). No I/O.

h2 keeps windows for the DATA frames that it makes itself. Here DATA is framed without it, on both sides, so these are
the windows that count, and h2 sees no WINDOW_UPDATE for the connection or an open stream.
"""

from __future__ import annotations

from h2.exceptions import FlowControlError

INITIAL_WINDOW = 65_535
"""Bytes of the connection's window, and of its streams' until SETTINGS say otherwise (section 6.9.2)."""
MAX_WINDOW = 2**31 - 1
RESERVE = 4096
"""Bytes that a stream reserves at a time: some fifteen events."""


class StreamWindow:
    """The window of one stream."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left
        """Bytes that may be sent; below 0 where SETTINGS took more than was left (section 6.9.2)."""

    def __repr__(self) -> str:
        return f"<StreamWindow left={self.left}>"


class SendWindows:
    """The window of one connection, and those of its streams."""

    __slots__ = ("_streams", "initial", "left")

    def __init__(self) -> None:
        self.left = INITIAL_WINDOW
        """Bytes that may be sent on the connection, of all streams together."""
        self.initial = INITIAL_WINDOW
        """Bytes that the window of a new stream has."""
        self._streams: dict[int, StreamWindow] = {}

    def __repr__(self) -> str:
        return f"<SendWindows left={self.left} initial={self.initial} streams={len(self._streams)}>"

    def open(self, stream_id: int) -> StreamWindow:
        """The window of a stream that begins. `close` it when the stream is over."""
        window = self._streams[stream_id] = StreamWindow(self.initial)
        return window

    def close(self, stream_id: int) -> None:
        self._streams.pop(stream_id, None)

    def take(self, window: StreamWindow, wanted: int) -> int:
        """Use up to `wanted` bytes of a stream's window and of the connection's. Returns how many may be sent."""
        size = min(wanted, window.left, self.left)
        if size <= 0:
            return 0
        window.left -= size
        self.left -= size
        return size

    def reserve(self, window: StreamWindow) -> int:
        """Take `RESERVE` bytes for a stream, which sends them without checking the windows. Returns how many it took: 0
        where they are scarce. `release` what is left before anything else depends on this stream's window."""
        if window.left < RESERVE or self.left < RESERVE * len(self._streams):
            return 0
        window.left -= RESERVE
        self.left -= RESERVE
        return RESERVE

    def release(self, window: StreamWindow, size: int) -> None:
        """Return `size` bytes that were reserved and not sent."""
        window.left += size
        self.left += size

    def update(self, increment: int) -> None:
        """WINDOW_UPDATE of the connection. Raises FlowControlError: the connection must end (section 6.9.1)."""
        self.left = _sum(self.left, increment)

    def update_stream(self, window: StreamWindow, increment: int) -> None:
        """WINDOW_UPDATE of a stream. Raises FlowControlError: the stream must be reset (section 6.9.1).

        What the stream has reserved is ignored, so an overflow by less than that goes unnoticed.
        """
        window.left = _sum(window.left, increment)

    def change_initial(self, size: int) -> None:
        """SETTINGS_INITIAL_WINDOW_SIZE: applies to open streams too, but not to the connection (section 6.9.2).

        Raises FlowControlError: the connection must end.
        """
        difference = size - self.initial
        self.initial = size
        for window in self._streams.values():
            window.left = _sum(window.left, difference)


def _sum(left: int, increment: int) -> int:
    left += increment
    if left > MAX_WINDOW:
        raise FlowControlError(f"May not increment flow control window past {MAX_WINDOW}")
    return left
