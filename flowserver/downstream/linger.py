"""The end of a connection whose client may still be sending (RFC 9112 section 9.6).

Closing while bytes are unread, or still arrive, makes the kernel send a reset, which may destroy an answer that the
client has not read yet: most clients send their whole request first. So the relay closes its sending side only, and
reads and drops what still arrives.
"""

from __future__ import annotations

import asyncio

from ..flow.memory_budget import Level
from ..net.send_queue import SendQueue
from ..net.shared_read import SharedReads
from .clients_by_address import Client
from .context import ListenerContext
from .drop_budget import DropBudget

LINGER_TIME = 30.0
"""Seconds that a client has for the rest of its request once its answer is sent."""
LINGER_SILENCE = 5.0
"""Seconds without bytes after which it is given up."""
LINGER_BYTES = 256 << 20
"""Bytes that are dropped in total."""
SHORT_LINGER_TIME = 1.0
"""Seconds that replace `LINGER_TIME` while memory is short, once the client has the answer: the kernel holds what has
not been dropped yet."""


class Linger(SharedReads):
    """Takes over a plain transport after the last byte of an answer, until the client closes or its time is over."""

    __slots__ = ("_began", "_budget", "_context", "_heard", "_left", "_transport", "client", "send_queue")

    def __init__(self, context: ListenerContext, transport: asyncio.Transport, client: Client) -> None:
        self._context = context
        self.client = client
        self._transport = transport
        self.send_queue = SendQueue(transport, transport.get_extra_info("socket").fileno())
        self._began = self._heard = context.clock()
        self._budget = DropBudget(context.drops, self._began)
        """Reading stops when it is used up, until the next sweep."""
        self._left = LINGER_BYTES
        context.connections.add(self)
        transport.set_protocol(self)
        transport.write_eof()
        if not transport.is_reading():
            transport.resume_reading()

    def __repr__(self) -> str:
        state = "closing" if self._transport.is_closing() else "reading" if self._transport.is_reading() else "paused"
        return f"<Linger {state} left={self._left}>"

    # --- asyncio.BufferedProtocol ----------------------------------------------------------------------------------

    def buffer_updated(self, nbytes: int) -> None:
        self._heard = self._context.clock()
        self._left -= nbytes
        may_go_on = self._budget.drop(nbytes)
        if self._left <= 0:
            self._transport.abort()
        elif not may_go_on:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._context.connections.discard(self)

    # --- context.Connection -----------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        limit = self._context.settings.stall_timeout
        if limit is not None and self.send_queue.stalled_for(now, busy=False) >= limit:
            self._transport.abort()
            return
        if self._transport.get_write_buffer_size():
            self._began = self._heard = now  # the end of the answer is still on its way to a slow client
        elif not self._transport.is_reading():
            self._heard = now  # what it has sent in the meantime waits in the kernel
        is_short = self._context.memory.level >= Level.NO_BATCH and self.send_queue.in_kernel() <= 0
        if now - self._began >= (SHORT_LINGER_TIME if is_short else LINGER_TIME) or now - self._heard >= LINGER_SILENCE:
            self._transport.abort()
            return
        self._budget.refill(now)
        if self._budget.has_room and not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()

    def drain(self) -> None:
        """The answer is sent; its client gets the time it needs to read it."""

    def end_drain(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()
