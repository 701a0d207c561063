"""Decodes header blocks of requests (RFC 7541): hpack's decoder with a faster loop.

As strict as hpack's and with its table, so that changed settings apply; but it does not log, makes no object per field,
and reads short integers in place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import hpack
from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE
from hpack.table import HeaderTable

_Field = tuple[bytes, bytes]

_STATIC: dict[int, _Field] = dict(enumerate(HeaderTable.STATIC_TABLE, 1))
_ENTRY = 32
"""Overhead of a field in the table, in bytes (RFC 7541 section 4.1)."""
_MOST_RESIZES = 8
"""Table size updates in one block; two are useful (RFC 7541 section 4.2), and 16 KB of them take 13 ms."""
_LONGEST_INTEGER = 5
"""Bytes after an integer's first; hpack accepts no more."""


class HpackDecoder(hpack.Decoder):
    """Raises hpack's exceptions where hpack does. For the eight fields of a small request it takes 3 us, hpack 17."""

    def decode(self, data: bytes, raw: bool = False) -> Iterable[Any]:
        """Returns the fields of the whole header block `data`, in order; as plain tuples of bytes if `raw`.

        Raises hpack.HPACKDecodingError: the connection must end then, since the tables differ.
        """
        if not raw:
            return super().decode(data, raw)
        try:
            fields = self._fields(data)
        except IndexError:
            raise hpack.HPACKDecodingError("Truncated header block") from None
        if self.header_table_size > self.max_allowed_table_size:
            raise hpack.InvalidTableSizeError("Encoder did not shrink table size to within the max")
        return fields

    def _fields(self, data: bytes) -> list[_Field]:
        """Raises IndexError too if the block is truncated."""
        fields: list[_Field] = []
        table = self.header_table
        left = self.max_header_list_size
        position, end = 0, len(data)
        while position < end:
            first = data[position]
            if first >= 0x80:  # an indexed field (section 6.1)
                if first < 0xFF:
                    index = first - 0x80
                    position += 1
                else:
                    index, position = _integer(data, position, 0x7F)
                field = _STATIC.get(index) or table.get_by_index(index)
            elif 0x20 <= first < 0x40:
                position = self._resize(data, position)
                continue
            else:  # a literal, to be kept (section 6.2.1) or not (sections 6.2.2 and 6.2.3)
                most = 0x3F if first >= 0x40 else 0x0F
                index = first & most
                if not index:
                    name, position = _string(data, position + 1)
                else:
                    if index < most:
                        position += 1
                    else:
                        index, position = _integer(data, position, most)
                    name = (_STATIC.get(index) or table.get_by_index(index))[0]
                length = data[position]
                if length < 0x7F:  # a short string as it is
                    start = position + 1
                    position = start + length
                    value = data[start:position]
                else:
                    value, position = _string(data, position)
                if position > end:
                    raise IndexError
                field = (name, value)
                if first >= 0x40:
                    table.add(name, value)
            fields.append(field)
            left -= len(field[0]) + len(field[1]) + _ENTRY
            if left < 0:
                raise hpack.OversizedHeaderListError("The header list is too large")
        return fields

    def _resize(self, data: bytes, position: int) -> int:
        """Applies the size updates at the start of a block (section 6.3). Returns the position after them."""
        if position:
            raise hpack.HPACKDecodingError("Table size update not at the start of the block")
        resizes = 0
        while position < len(data) and 0x20 <= data[position] < 0x40:
            size, position = _integer(data, position, 0x1F)
            if size > self.max_allowed_table_size:
                raise hpack.InvalidTableSizeError("Encoder exceeded max allowable table size")
            self.header_table_size = size
            resizes += 1
            if resizes > _MOST_RESIZES:
                raise hpack.HPACKDecodingError("Too many table size updates")
        return position


def _integer(data: bytes, position: int, most: int) -> tuple[int, int]:
    """Returns the integer at `position` and the position after it (section 5.1); its first byte holds up to `most`."""
    number = data[position] & most
    position += 1
    if number < most:
        return number, position
    for shift in range(0, 7 * _LONGEST_INTEGER, 7):
        byte = data[position]
        position += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise hpack.HPACKDecodingError("An integer is too long")


def _string(data: bytes, position: int) -> tuple[bytes, int]:
    """Returns the string at `position` and the position after it (section 5.2)."""
    first = data[position]
    length, start = _integer(data, position, 0x7F)
    end = start + length
    if end > len(data):
        raise IndexError
    string = data[start:end]
    return (read_huffman(string) if first >= 0x80 else string), end


def read_huffman(string: bytes) -> bytes:
    """Decodes a Huffman string byte by byte (66 bytes take 3 us; hpack, which reads half bytes, takes 13)."""
    state = 0
    symbols = []
    for byte in string:
        state, some = (_STEPS[state] or _learn(state))[byte]
        symbols.append(some)
    if state not in _WHOLE:
        raise hpack.HPACKDecodingError("Not a Huffman string")
    return b"".join(symbols)


def _learn(state: int) -> list[tuple[int, bytes]]:
    _STEPS[state] += [_step(state, byte) for byte in range(256)]
    return _STEPS[state]


def _step(state: int, byte: int) -> tuple[int, bytes]:
    """Returns the next state and the symbols of `byte`: two steps in hpack's table."""
    symbols = b""
    for half in (byte >> 4, byte & 15):
        state, flags, symbol = HUFFMAN_TABLE[state * 16 + half]
        if flags & HUFFMAN_FAIL:
            return _FAILED, b""
        if flags & HUFFMAN_EMIT_SYMBOL:
            symbols += bytes((symbol,))
    return state, symbols


_FAILED = len(HUFFMAN_TABLE) // 16
"""A state beyond hpack's, which no byte leaves."""
_STEPS: list[list[tuple[int, bytes]]] = [*([] for _ in range(_FAILED)), [(_FAILED, b"")] * 256]
"""State -> byte -> next state and symbols. Filled on first use: text needs few states, and all would take 6 MB."""
_WHOLE = frozenset({0, *(state for state, flags, _ in HUFFMAN_TABLE if flags & HUFFMAN_COMPLETE)})
"""States in which a string may end (section 5.2)."""
