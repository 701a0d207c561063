"""The parent's end of the workers' sockets: limits in its memory, and the shared state of providers.

What a worker holds comes back when its socket closes, however it ended:

- slots and places, at once, to whoever waits;
- leases of tokens are charged in full. How much of them its streams had used is not known any more, and what a client
  has got must not be free: a limit is never overdrawn, and a tenant loses at most one lease for each stream of a worker
  that crashed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import cast

from ..relay.interfaces import Clock
from ..routing.shared_provider import Member, SharedProvider
from .frames import BrokenFrame, FrameReader, Message, pack
from .memory import MemoryStore, at_once
from .shared_channel import CLIENTS, EVENT
from .shared_clients import ClientTally, TallyPart
from .shared_limits import StoreDesk

Broken = Callable[[int, Exception], None]
"""Is called with the worker's number and the error in its message."""

_FEW = 1024
"""Above this many streams of a worker, and twice the number left last time, finished ones are searched for and
dropped."""


class SharedStoreServer:
    """Needs no event loop while nobody calls: its state survives leaving and re-entering the loop."""

    __slots__ = ("_broken", "_clock", "_desk", "_providers", "_workers", "clients")

    def __init__(self, store: MemoryStore, clock: Clock, *, broken: Broken) -> None:
        """`clock` is the monotonic clock that workers share. `broken` is called for a worker that sends an invalid
        message, whose socket is closed then."""
        self._desk = StoreDesk(store)
        self._clock = clock
        self._broken = broken
        self._providers: dict[str, SharedProvider] = {}
        self._workers: set[_Worker] = set()
        self.clients = ClientTally()

    def __repr__(self) -> str:
        return f"<SharedStoreServer of {len(self._workers)} workers and {len(self._providers)} providers>"

    @property
    def workers(self) -> int:
        """Number of open sockets."""
        return len(self._workers)

    @property
    def streams(self) -> int:
        """Streams whose leases workers hold, as far as is known."""
        return sum(worker.streams for worker in self._workers)

    async def serve(self, sock: socket.socket, worker: int) -> None:
        """Serve a worker until its end of the socket closes. Returns at once. `worker` is its number."""
        protocol = _Worker(worker, self)
        await asyncio.get_running_loop().create_unix_connection(lambda: protocol, sock=sock)

    def close(self) -> None:
        """Close all sockets, and release what the workers held."""
        for worker in list(self._workers):
            worker.close()

    # --- for its workers --------------------------------------------------------------------------------------------

    def opened(self, worker: _Worker) -> None:
        self._workers.add(worker)

    def closed(self, worker: _Worker) -> None:
        self._workers.discard(worker)

    def reject(self, worker: int, error: Exception) -> None:
        self._broken(worker, error)

    def answer(self, call: Message) -> Message:
        return self._desk.answer(call)

    def leased(self, stream_id: str) -> int | None:
        return self._desk.store.leased(stream_id)

    def charge_leased(self, stream_id: str) -> None:
        """Charge the lease of a stream whose worker is gone."""
        leased = self.leased(stream_id)
        if leased is not None:
            at_once(self._desk.store.settle(stream_id, leased))

    def trouble(self, key: str) -> str | None:
        """`UpstreamHost.trouble` of the shared state of a provider."""
        found = self._providers.get(key)
        return None if found is None else found.trouble

    def provider(self, key: str, failures: int, cooldown: float) -> SharedProvider:
        found = self._providers.get(key)
        if found is None:
            found = self._providers[key] = SharedProvider(self._clock, failures=failures, cooldown=cooldown)
        return found


class _Worker(asyncio.Protocol):
    """One worker's socket, and what it holds."""

    def __init__(self, number: int, server: SharedStoreServer) -> None:
        self._number = number
        self._server = server
        self._frames = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._streams: set[str] = set()
        """Streams that are admitted and, as far as is known, not settled."""
        self._many = _FEW
        self._parts: list[tuple[SharedProvider, Member]] = []
        """By the worker's number for the provider."""
        self._clients = TallyPart(partial(self._tell, CLIENTS))

    def __repr__(self) -> str:
        state = "closed" if self._transport is None else "open"
        return f"<worker {self._number}, {state}: {len(self._streams)} streams>"

    @property
    def streams(self) -> int:
        return len(self._streams)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._end()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        answers: list[bytes] = []
        try:
            for message in self._frames.feed(data):
                number = message.pop(0)
                if number == EVENT:
                    self._on_event(message)
                else:
                    answers.append(pack([number, *self._answer(message)]))
        except (BrokenFrame, ValueError, LookupError, TypeError) as error:
            self._server.reject(self._number, error)
            self.close()
            return
        if answers and self._transport is not None:
            self._transport.write(b"".join(answers))

    def connection_lost(self, error: Exception | None) -> None:
        self._end()

    # --- inside ---

    def _answer(self, call: Message) -> Message:
        answer = self._server.answer(call)
        name = call[0]
        if name == "admit" and answer[0] >= 0:
            self._streams.add(call[1])
            if len(self._streams) > self._many:
                self._forget()
        elif name == "settle":
            self._streams.discard(call[1])
        return answer

    def _forget(self) -> None:
        """Forget streams whose end was not reported, and whose leases expired long ago."""
        self._streams = {stream_id for stream_id in self._streams if self._server.leased(stream_id) is not None}
        self._many = max(_FEW, 2 * len(self._streams))

    def _on_event(self, event: Message) -> None:
        number, name, *given = event
        if number == CLIENTS:
            self._server.clients.hear(self._clients, name, *given)
        elif name == "join":
            part = self._server.provider(*given), Member(partial(self._tell, number))
            if number != len(self._parts):
                raise ValueError(f"provider {number} after {len(self._parts)}")
            self._parts.append(part)
            part[0].join(part[1])
        else:
            provider, member = self._parts[number]
            provider.hear(member, name, *given)

    def _tell(self, number: int, *event: object) -> None:
        if self._transport is not None:
            self._transport.write(pack([EVENT, number, *event]))

    def _end(self) -> None:
        """Release everything that the worker held."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        self._server.closed(self)
        self._server.clients.leave(self._clients)
        for provider, member in self._parts:
            provider.part(member)
        for stream_id in self._streams:
            self._server.charge_leased(stream_id)
        self._streams = set()
