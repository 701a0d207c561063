"""Races the addresses of one provider (Happy Eyeballs Version 2, RFC 8305): one that does not answer costs a quarter of
a second."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Generic, TypeVar

from .resolver import HostAddress

ATTEMPT_DELAY = 0.25
"""Seconds without progress after which the next address is tried in parallel (RFC 8305 section 5)."""
MIN_DELAY = 0.01
HANDSHAKE_ROUND_TRIPS = 3
"""Times the duration of the TCP handshake that the TLS handshake may take until the next address is tried."""

_T = TypeVar("_T")


class FinalFailure(Exception):
    """Raised by an attempt when no other address should be tried; `error` is the reason."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


Progress = Callable[[], None]
"""Called by an attempt whose TCP connection is established."""
Attempt = Callable[[HostAddress, Progress], Coroutine[Any, Any, _T]]
More = Callable[[], Coroutine[Any, Any, Sequence[HostAddress]]]


class Race(Generic[_T]):
    """One dial: attempts at addresses in order, each begun when the previous one failed or made no progress for a
    while.

    `attempt` connects to an address; it is cancelled when another one wins. `dispose` closes what it connected, when
    two win at once. `more` returns further addresses if the first ones fail; those already tried are skipped. `delay`
    is in seconds.
    """

    __slots__ = (
        "_addresses",
        "_attempt",
        "_delay",
        "_dispose",
        "_due",
        "_error",
        "_looking",
        "_loop",
        "_more",
        "_tasks",
        "failed",
        "tried",
        "winner",
    )

    def __init__(
        self,
        addresses: Iterable[HostAddress],
        attempt: Attempt[_T],
        dispose: Callable[[_T], None],
        *,
        more: More | None = None,
        delay: float = ATTEMPT_DELAY,
    ) -> None:
        self._addresses = deque(addresses)
        self._attempt = attempt
        self._dispose = dispose
        self._more = more
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        """When the next attempt begins."""
        self._error: BaseException | None = None
        """The error of the last attempt that failed."""
        self._looking: asyncio.Task[Sequence[HostAddress]] | None = None
        """The task that calls `more`; None: it is not running."""
        self._tasks: dict[asyncio.Task[_T], HostAddress] = {}
        """Attempts under way, in the order in which they began."""
        self.tried: list[HostAddress] = []
        """In the order in which they began."""
        self.failed: list[HostAddress] = []
        self.winner: HostAddress | None = None

    async def run(self) -> _T:
        """Returns the result of the first attempt that succeeds. If all fail, raises the last failure."""
        try:
            while True:
                self._go_on()
                waited = [*self._tasks] if self._looking is None else [*self._tasks, self._looking]
                if not waited:
                    raise self._error or OSError("its name has no address")
                timeout = max(0.0, self._due - self._loop.time()) if self._addresses or self._more else None
                await asyncio.wait(waited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                winner = self._take_outcomes()
                if winner is not None:
                    return winner.result()
                self._take_addresses()
        finally:
            self._abandon()

    def _go_on(self) -> None:
        """Begin the next attempt, or get more addresses, if it is time."""
        if self._tasks and self._loop.time() < self._due:
            return
        if self._addresses:
            self._begin(self._addresses.popleft())
        elif self._more is not None:
            self._looking, self._more = self._loop.create_task(self._more()), None

    def _begin(self, address: HostAddress) -> None:
        self.tried.append(address)
        began = self._loop.time()
        self._due = began + self._delay

        def progress() -> None:
            now = self._loop.time()
            self._due = max(self._due, now + max(self._delay, HANDSHAKE_ROUND_TRIPS * (now - began)))

        self._tasks[self._loop.create_task(self._attempt(address, progress))] = address

    def _take_outcomes(self) -> asyncio.Task[_T] | None:
        """Remove finished attempts. Returns the winner, if any."""
        for task, address in list(self._tasks.items()):
            if not task.done():
                continue
            failure = task.exception()
            if failure is None:
                self.winner = self._tasks.pop(task)
                return task
            del self._tasks[task]
            self.failed.append(address)
            if isinstance(failure, FinalFailure):
                raise failure.error
            self._error = failure
            if address == self.tried[-1]:
                self._due = 0.0  # the next one at once
        return None

    def _take_addresses(self) -> None:
        """Add the addresses that `more` found. They are tried at once, since earlier ones have had their time."""
        looking = self._looking
        if looking is None or not looking.done():
            return
        self._looking = None
        if looking.exception() is None:
            self._addresses.extend(address for address in looking.result() if address not in self.tried)
            self._due = 0.0

    def _abandon(self) -> None:
        """Cancel whatever is still under way."""
        if self._looking is not None:
            self._looking.add_done_callback(_look_away)
            self._looking.cancel()
        for task in self._tasks:
            task.add_done_callback(self._dispose_of)
            task.cancel()
        self._tasks.clear()
        self._error = None  # its traceback refers back to this

    def _dispose_of(self, task: asyncio.Task[_T]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._dispose(task.result())


def _look_away(task: asyncio.Task[Sequence[HostAddress]]) -> None:
    """Retrieve the result, which no longer matters, or asyncio would warn about an exception never retrieved."""
    if not task.cancelled():
        task.exception()


def interleave(addresses: Iterable[HostAddress]) -> list[HostAddress]:
    """Interleave the families, starting with the first address's (RFC 8305 section 4), each in its own order."""
    families: dict[socket.AddressFamily, deque[HostAddress]] = {}
    for address in addresses:
        families.setdefault(address.family, deque()).append(address)
    ordered: list[HostAddress] = []
    while families:
        for family in list(families):
            ordered.append(families[family].popleft())
            if not families[family]:
                del families[family]
    return ordered
