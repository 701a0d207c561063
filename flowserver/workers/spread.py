"""Accepts connections and gives each to the least loaded worker.

A connection stays with its worker, so the choice must be right when it is made: by the worker's last figures, and what
it was given since.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from .channel import MAX_SOCKETS
from .load import ADOPTED, ARRIVING, CONNECTIONS, PRESSURE, REFUSES, STREAMS, LoadTable

AT_A_TIME = MAX_SOCKETS
"""Connections accepted per iteration of the event loop."""
MAX_PENDING = 256
"""Most connections that a worker has been given but not adopted: enough for a burst, or a slow worker would get less
than its share. Those of a worker that dies are lost with it."""
RETRY = 0.01
"""Seconds until the next attempt, while no worker accepts any."""
EXHAUSTED = 1.0
"""Seconds without accepting after the system has refused a descriptor or memory for it."""
_EXHAUSTION = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Taker(Protocol):
    """A `Channel`."""

    @property
    def is_full(self) -> bool: ...

    def give(self, connections: list[socket.socket]) -> None: ...


class Spread:
    """Chooses a worker for each connection.

    HTTP/2 streams are only known once they are open, later than their connection. So the load is the streams of a
    second or two ago, plus newer connections, each counted as the average number of streams per connection: a burst of
    connections is spread by number.
    """

    __slots__ = ("_given", "_latest", "_loads", "_per_connection", "_settled")

    def __init__(self, loads: LoadTable) -> None:
        self._loads = loads
        self._given = [0] * loads.count
        """Connections that each worker process was given."""
        self._latest = [(0, 0)] * loads.count
        self._settled = [(0, 0)] * loads.count
        """Connections and streams of each worker at the last two `settle`s."""
        self._per_connection = 1.0
        """Average streams per connection, at least 1."""

    def reset(self, worker: int) -> None:
        """The worker has a new process."""
        self._given[worker] = 0
        self._latest[worker] = self._settled[worker] = 0, 0
        self._loads.reset(worker)

    def settle(self) -> None:
        """Called about once a second."""
        self._settled = self._latest
        self._latest = [
            (self._connections(worker), self._loads.read(worker, STREAMS)) for worker in range(self._loads.count)
        ]
        connections, streams = map(sum, zip(*self._settled, strict=True))
        self._per_connection = max(1.0, streams / connections) if connections else 1.0

    def pending(self, worker: int) -> int:
        """Connections that were given to it, but that it has not adopted."""
        return self._given[worker] - self._loads.read(worker, ADOPTED)

    def load(self, worker: int) -> float:
        connections = self._connections(worker)
        before, streams = self._settled[worker]
        return max(connections, streams + (connections - before) * self._per_connection)

    def _connections(self, worker: int) -> int:
        """Open connections, and those on their way."""
        loads = self._loads
        return loads.read(worker, CONNECTIONS) + loads.read(worker, ARRIVING) + self.pending(worker)

    def _refuses(self, worker: int) -> bool:
        """Whether it would refuse new connections, so that others should get them."""
        return self._loads.read(worker, PRESSURE) >= REFUSES

    def room(self, workers: Sequence[int]) -> int:
        """How many connections may be given to `workers`."""
        return sum(max(0, MAX_PENDING - self.pending(worker)) for worker in workers)

    def choose(self, workers: Sequence[int]) -> int | None:
        """The worker for the next connection; None: none has room."""
        open_ones = [worker for worker in workers if self.pending(worker) < MAX_PENDING]
        if not open_ones:
            return None
        chosen = min(open_ones, key=lambda worker: (self._refuses(worker), self.load(worker), self._given[worker]))
        self._given[chosen] += 1
        return chosen


class Acceptor:
    """Accepts connections as fast as workers take them; further ones wait in the kernel."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sequence[socket.socket],
        spread: Spread,
        takers: Callable[[], dict[int, Taker]],
        exhausted: Callable[[OSError], None],
    ) -> None:
        """`takers` returns the channels of the workers that may get connections. `exhausted` is called with the
        system's error, once until accepting works again."""
        self._sockets = sockets
        self._spread = spread
        self._takers = takers
        self._exhausted = exhausted
        self._is_exhausted = False
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._homeless: list[socket.socket] = []
        """Accepted connections without a worker: for example of one that died before it adopted them."""
        self.accepted = 0
        """Number of connections so far."""
        self._resume()

    def close(self) -> None:
        """Stop listening. Connections that wait in the kernel are accepted first, as far as workers have room."""
        for listening in self._sockets:
            while self._accept(listening):
                pass
        self.pause()
        for each in (*self._sockets, *self._homeless):
            each.close()
        self._sockets, self._homeless = (), []

    def take(self, connections: list[socket.socket]) -> None:
        """Give connections of a dead worker, or accepted elsewhere, to workers."""
        self._homeless += connections
        if not self._place_homeless():
            self.pause(RETRY)

    def pause(self, seconds: float | None = None) -> None:
        """Stop accepting, for `seconds`, or for good."""
        for listening in self._sockets:
            self._loop.remove_reader(listening.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._timer = None
        if not self._place_homeless():
            self.pause(RETRY)
            return
        for listening in self._sockets:
            self._loop.add_reader(listening.fileno(), self._on_ready, listening)

    def _open_takers(self) -> dict[int, Taker]:
        return {worker: taker for worker, taker in self._takers().items() if not taker.is_full}

    def _on_ready(self, listening: socket.socket) -> None:
        self._accept(listening)

    def _accept(self, listening: socket.socket) -> bool:
        """Accept some waiting connections, and give them to workers. Returns whether to go on at once."""
        takers = self._open_takers()
        room = min(AT_A_TIME, self._spread.room([*takers]))
        if not room:
            self.pause(RETRY)
            return False
        accepted: list[socket.socket] = []
        is_drained = False
        try:
            while len(accepted) < room:
                accepted.append(listening.accept()[0])
                self.accepted += 1
            self._is_exhausted = False
        except OSError as error:
            is_drained = True
            if error.errno in _EXHAUSTION:
                self._on_exhausted(error)
            elif isinstance(error, BlockingIOError):
                self._is_exhausted = False
            # Others concern one connection only, such as ECONNABORTED: go on in the next iteration.
        self._place(accepted, takers)
        return not is_drained

    def _on_exhausted(self, error: OSError) -> None:
        if not self._is_exhausted:
            self._is_exhausted = True
            self._exhausted(error)
        self.pause(EXHAUSTED)

    def _place_homeless(self) -> bool:
        """Give them to workers. Returns whether all have one now."""
        homeless, self._homeless = self._homeless, []
        self._place(homeless, self._open_takers() if homeless else {})
        return not self._homeless

    def _place(self, connections: list[socket.socket], takers: dict[int, Taker]) -> None:
        shares: dict[int, list[socket.socket]] = {}
        for connection in connections:
            worker = self._spread.choose([*takers])
            if worker is None:
                self._homeless.append(connection)
            else:
                shares.setdefault(worker, []).append(connection)
        for worker, share in shares.items():
            takers[worker].give(share)
