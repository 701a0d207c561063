"""Reads into one buffer that all connections share."""

from __future__ import annotations

import asyncio
from typing import Final

READ_SIZE: Final = 16 * 1024
"""Most bytes of one read. uvloop's default is 256 KiB, which is what each upload could make the relay hold."""
READ_BUFFER: Final = memoryview(bytearray(READ_SIZE))
"""The buffer that all connections read into: data is copied out before the next read."""


class SharedReads(asyncio.BufferedProtocol):
    """A protocol that reads bounded pieces and gets them by `data_received`."""

    __slots__ = ()

    def get_buffer(self, sizehint: int) -> memoryview:
        return READ_BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(READ_BUFFER[:nbytes].tobytes())

    def data_received(self, data: bytes) -> None:
        raise NotImplementedError
