"""Reads into one buffer that all connections share."""

from __future__ import annotations

import asyncio
from typing import Final

READ_SIZE: Final = 16 * 1024
"""Most bytes of one read. uvloop's default is 256 KiB, which is what each upload could make the relay hold."""
READ_BUFFER: Final = memoryview(bytearray(READ_SIZE))
"""The buffer that all connections read into: data is copied out before the next read."""


class SharedReads(asyncio.BufferedProtocol):
    """A protocol that reads bounded pieces and gets them by `receive`. (uvloop's transports keep the methods that they
    call, and each takes 80 bytes per connection. `data_received` they would keep too, without ever calling it.)"""

    __slots__ = ()

    @staticmethod
    def get_buffer(sizehint: int) -> memoryview:
        return READ_BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        self.receive(READ_BUFFER[:nbytes].tobytes())

    def receive(self, data: bytes) -> None:
        raise NotImplementedError
