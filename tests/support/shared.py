"""A parent's server and its workers' ends, all in this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator

from flowserver.relay.interfaces import Clock
from flowserver.stores.memory import MemoryStore
from flowserver.stores.shared_server import SharedStoreServer
from flowserver.stores.shared_state import SharedState, connect


class Sharing:
    """`server` and the workers that a test adds. Whatever the server rejects is in `broken`."""

    def __init__(self, store: MemoryStore, clock: Clock, deadline: float) -> None:
        self.broken: list[tuple[int, Exception]] = []
        self.store = store
        self.server = SharedStoreServer(store, clock, broken=lambda worker, error: self.broken.append((worker, error)))
        self.workers: list[SharedState] = []
        self._deadline = deadline

    async def worker(self) -> SharedState:
        theirs, ours = socket.socketpair()
        await self.server.serve(theirs, len(self.workers))
        self.workers.append(await connect(ours, deadline=self._deadline))
        return self.workers[-1]

    async def raw(self) -> socket.socket:
        """A worker's end that speaks as a test wants it to."""
        theirs, ours = socket.socketpair()
        await self.server.serve(theirs, 99)
        return ours


@contextlib.asynccontextmanager
async def sharing(
    store: MemoryStore | None = None, *, clock: Clock = time.monotonic, deadline: float = 10.0
) -> AsyncIterator[Sharing]:
    made = Sharing(MemoryStore(time.time) if store is None else store, clock, deadline)
    try:
        yield made
    finally:
        made.server.close()
        for worker in made.workers:
            await worker.close()
        await asyncio.sleep(0)  # transports close after the present event
