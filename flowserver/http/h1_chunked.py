"""Chunked framing of bodies (RFC 9112 section 7.1). No I/O.

h11 takes 5.8 us to read a chunk and 2.4 us to write one, against 0.5 and 0.2 here. Tests compare the results with h11's
for the same bytes.
"""

from __future__ import annotations

import re
from typing import Final

MAX_SIZE_LINE: Final = 256
"""Longest chunk-size line that is accepted, extensions included; providers send none."""

_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")

_COMMON_SIZES: Final = {b"%x" % size: size for size in range(1, 2048)}
"""Size lines of nearly all token events: a look-up takes 0.05 us, the regular expression 0.5."""


def _size_lines(longest: int) -> list[bytes]:
    lines = [b"\n"] * longest
    for size in range(1, longest):
        line = b"%x\r\n" % size
        if (length := len(line) + size + 2) < longest:
            lines[length] = line
    return lines


SIZE_LINES: Final = _size_lines(4096)
"""Length of a whole chunk -> its size line, as nearly all servers write it; where no chunk has that length, a line that
matches nothing."""


class FramingError(Exception):
    """The bytes are not a chunked body."""


def encode_chunk(data: bytes) -> bytes:
    """One chunk. `data` must not be empty: an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def take_chunks(data: bytes, position: int, pieces: list[bytes]) -> int:
    """Append the contents of the chunks from `position` on to `pieces`, as long as they are complete and their size
    lines are plain. Returns the position after the last of them."""
    while True:
        end = data.find(b"\r\n", position, position + 5)
        size = _COMMON_SIZES.get(data[position:end]) if end >= 0 else None
        if size is None:
            return position
        behind = end + 2 + size
        if data[behind : behind + 2] != b"\r\n":
            return position
        pieces.append(data[end + 2 : behind])
        position = behind + 2


class ChunkDecoder:
    """Takes a chunked body apart, up to its last chunk.

    `feed` returns body bytes. Once the last chunk's size line is reached, `ended` is True and `rest` collects
    everything from that line on (last chunk, trailers, and whatever follows) for the caller to read.
    """

    __slots__ = ("_left", "_line", "ended", "rest")

    def __init__(self) -> None:
        self._left = 0
        """Missing bytes of the current chunk, its CRLF included; 0 between chunks, -1 after the last."""
        self._line = b""
        """An incomplete size line."""
        self.rest = b""
        self.ended = False  # last, beside the flags of subclasses: see CONTRIBUTING.md, "The compiled build"

    @property
    def at_boundary(self) -> bool:
        """Whether a chunk or the end comes next."""
        return not self._left and not self._line

    def feed(self, data: bytes) -> bytes:
        """The body bytes in `data`, b"" when it has none. Raises FramingError."""
        if not self._left and not self._line:
            # The usual shape of a token stream: one read is one whole chunk.
            end = data.find(b"\r\n", 0, 18)
            size = _COMMON_SIZES.get(data[:end])
            if size and end + size + 4 == len(data) and data.endswith(b"\r\n"):
                return data[end + 2 : -2]
        return self._feed(data)

    def _feed(self, data: bytes) -> bytes:
        if self._left < 0:
            self.rest += data
            return b""
        pieces: list[bytes] = []
        position = 0
        length = len(data)
        while position < length:
            if self._left:
                position = self._take(data, position, pieces)
            else:
                if not self._line:
                    position = take_chunks(data, position, pieces)
                    if position == length:
                        break
                position = self._read_size(data, position)
                if self.ended:
                    break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _take(self, data: bytes, position: int, pieces: list[bytes]) -> int:
        """Chunk bytes from `position` on, then their CRLF."""
        body = self._left - 2
        if body > 0:
            piece = data[position : position + body]
            pieces.append(piece)
            position += len(piece)
            self._left -= len(piece)
        while 0 < self._left <= 2 and position < len(data):
            if data[position] != (0x0D if self._left == 2 else 0x0A):
                raise FramingError("a chunk does not end where its size says")
            position += 1
            self._left -= 1
        return position

    def _read_size(self, data: bytes, position: int) -> int:
        end = data.find(b"\n", position)
        line = self._line + data[position : end + 1 if end >= 0 else len(data)]
        if len(line) > MAX_SIZE_LINE:
            raise FramingError("a chunk's size line is too long")
        if end < 0:
            self._line = line
            return len(data)
        self._line = b""
        match = _SIZE_LINE.fullmatch(line, 0, len(line) - 2) if line.endswith(b"\r\n") else None
        if match is None:
            raise FramingError("a chunk's size line is malformed")
        size = int(match[1], 16)
        if size:
            self._left = size + 2
        else:
            self.ended = True
            self._left = -1
            self.rest = line + data[end + 1 :]
        return end + 1
