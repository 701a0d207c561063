"""The text messages that a server sends over a WebSocket (RFC 6455 section 5), read as they pass. No I/O."""

from __future__ import annotations

from typing import NamedTuple

from .large_event import LargeLine

KEPT = 64 << 10
"""Most bytes of a message that is held; larger ones are read as they come."""

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_KNOWN = frozenset((_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG))
_MAX_CONTROL = 125
_MAX_LENGTH = 1 << 63


class FrameError(Exception):
    """The bytes violate RFC 6455. The text says what the sender did: "sent a masked frame"."""


class TextMessage(NamedTuple):
    """A complete text message."""

    end: int
    """Where it ends in the bytes last fed."""
    text: bytes
    """Of a message of more than `KEPT` bytes, what matters of its JSON; b"": it is not JSON."""
    size: int
    """Bytes of the original message."""


class MessageReader:
    """Reads the frames of one server, without extensions: `feed` it all bytes after the handshake."""

    __slots__ = ("_head", "_is_final", "_kept", "_large", "_left", "_message", "_opcode", "_size", "closed")

    def __init__(self) -> None:
        self._head = b""
        """The beginning of a frame's header."""
        self._left = 0
        """Bytes to come of the current frame's payload."""
        self._opcode = _CONTINUATION
        """Of the current frame."""
        self._is_final = True
        self._message: int | None = None
        """The opcode of the unfinished message; None: there is none."""
        self._kept = bytearray()
        self._large: LargeLine | None = None
        """Reads the unfinished message if it is a large text."""
        self._size = 0
        self.closed = False
        """Whether the server has sent a Close frame."""

    def __repr__(self) -> str:
        return f"<MessageReader message={self._message} size={self._size} left={self._left} closed={self.closed}>"

    @property
    def at_boundary(self) -> bool:
        """Whether a frame begins next, so that a control frame may be inserted here."""
        return not self._head and not self._left

    @property
    def held(self) -> int:
        return len(self._kept)

    def feed(self, data: bytes) -> list[TextMessage]:
        """The text messages that end in `data`. Raises FrameError."""
        found: list[TextMessage] = []
        position, size = 0, len(data)
        while position < size:
            if self._left:
                taken = min(self._left, size - position)
                if self._opcode < _CLOSE:
                    self._size += taken
                    if self._message == _TEXT:
                        self._keep(data[position : position + taken])
                position += taken
                self._left -= taken
            else:
                position = self._read_head(data, position)
                if self._head:
                    break
            if not self._left and (text := self._end_frame()) is not None:
                found.append(TextMessage(position, text, self._size))
        return found

    def _read_head(self, data: bytes, start: int) -> int:
        """Begin a frame if its header is complete. Returns where its payload begins."""
        before = len(self._head)
        head = self._head + data[start : start + 10 - before]
        size = _head_size(head)
        if len(head) < size:
            self._head = head
            return start + len(head) - before
        self._head = b""
        self._left = _payload_length(head, size)
        self._begin_frame(head[0])
        return start + size - before

    def _begin_frame(self, first: int) -> None:
        self._opcode, self._is_final = first & 0x0F, first & 0x80 != 0
        if first & 0x70:
            raise FrameError("used an extension that was not negotiated")
        if self._opcode not in _KNOWN:
            raise FrameError("sent a frame of an unknown kind")
        if self._opcode >= _CLOSE:
            if self._left > _MAX_CONTROL or not self._is_final:
                raise FrameError("sent a control frame that is too long or in fragments")
            self.closed = self.closed or self._opcode == _CLOSE
        elif (self._opcode == _CONTINUATION) != (self._message is not None):
            raise FrameError("sent fragments of messages out of order")
        elif self._opcode != _CONTINUATION:
            self._message, self._size = self._opcode, 0

    def _keep(self, piece: bytes) -> None:
        if self._large is not None:
            self._large.feed(piece)
        elif len(self._kept) + len(piece) <= KEPT:
            self._kept += piece
        else:
            self._large = large = LargeLine()
            large.feed(bytes(self._kept))
            large.feed(piece)
            self._kept.clear()

    def _end_frame(self) -> bytes | None:
        """The current frame is complete. Returns the text that ends with it, if one does."""
        if self._opcode >= _CLOSE or not self._is_final:
            return None
        message, self._message = self._message, None
        if message != _TEXT:
            return None
        large, self._large = self._large, None
        if large is not None:
            reduced = large.finish()
            return b"" if reduced is None else reduced[1]
        text = bytes(self._kept)
        self._kept.clear()
        return text


def _head_size(head: bytes) -> int:
    """Bytes of the header that begins with `head`."""
    if len(head) < 2:
        return 2
    if head[1] & 0x80:
        raise FrameError("sent a masked frame")
    return {126: 4, 127: 10}.get(head[1], 2)


def _payload_length(head: bytes, size: int) -> int:
    if size == 2:
        return head[1]
    length = int.from_bytes(head[2:size], "big")
    if length < (126 if size == 4 else 1 << 16) or length >= _MAX_LENGTH:
        raise FrameError("sent a malformed length")
    return length
