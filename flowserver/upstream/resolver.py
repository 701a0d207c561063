"""Resolves host names in threads of its own; all requests that wait for a name share a look-up, and answers are cached.

The loop's own getaddrinfo runs in a small thread pool, where a few names whose DNS does not answer block all others.
Here each name has at most one look-up under way, in a daemon thread of its own, which does not delay exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, Protocol

from ..config.addresses import Url
from ..relay.interfaces import Clock

MAX_THREADS = 128
"""Most concurrent look-ups; further names wait for one to end."""
MAX_NAMES = 1024
"""Most names whose answers are kept."""
STALE_AT_ONCE = 600.0
"""Seconds. An older answer is used only after waiting for its refresh: the address may have a new owner by now."""
REFRESH_WAIT = 1.0
"""Seconds to wait for such a refresh."""

Lookup = Callable[..., Sequence[tuple[Any, ...]]]
SocketAddress = tuple[str, int] | tuple[str, int, int, int] | str
"""A string is the path of a Unix socket."""


class HostAddress(NamedTuple):
    """An address for a socket of `family`."""

    family: socket.AddressFamily
    address: SocketAddress

    def with_port(self, port: int) -> HostAddress:
        assert not isinstance(self.address, str)
        host, _, *scope = self.address
        return HostAddress(self.family, (host, port, *scope))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Answer:
    """The addresses of a name, with port 0, in getaddrinfo's order, and when they were requested."""

    addresses: tuple[HostAddress, ...]
    asked_at: float


class Reporter(Protocol):
    """Is told when a name stops resolving and when it resolves again."""

    def dns_failed(self, host: str, reason: str, *, has_answer: bool) -> None:
        """`has_answer`: an earlier answer remains in use."""

    def dns_recovered(self, host: str) -> None: ...


class NameFigures:
    """Counts and durations of the look-ups of one name, for the metrics."""

    __slots__ = ("_clock", "failures", "finished_seconds", "lookups", "since")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.lookups = 0
        """Look-ups that were started."""
        self.failures = 0
        """Look-ups that failed, or took so long that a request gave up."""
        self.finished_seconds = 0.0
        self.since: float | None = None
        """When the current look-up started; None: there is none."""

    @property
    def seconds(self) -> float:
        """Time spent in look-ups, including the one under way, so that a hanging one is visible."""
        return self.finished_seconds + (0.0 if self.since is None else self._clock() - self.since)


class _Phase(Enum):
    IDLE = 0
    QUEUED = 1
    """All threads are busy."""
    RUNNING = 2


class _Name:
    """One host name: its last answer, and the look-up under way with its waiters."""

    __slots__ = ("answer", "failing", "figures", "host", "is_late", "phase", "trusted_until", "waiters")

    def __init__(self, host: str, clock: Clock) -> None:
        self.host = host
        self.answer: Answer | None = None
        self.trusted_until = -math.inf
        """Until this time the answer is used without waiting for a newer one."""
        self.phase = _Phase.IDLE
        self.waiters: dict[asyncio.Future[Answer | OSError], None] = {}
        self.failing = False
        self.is_late = False
        """Whether the current look-up already counts as failed, because a request gave up."""
        self.figures = NameFigures(clock)

    def __repr__(self) -> str:
        return f"<{self.host} {self.phase.name} answer={self.answer} waiters={len(self.waiters)}>"


class Resolver:
    """Looks names up and caches the answers. One serves all providers of a relay.

    `lookup` stands in for `socket.getaddrinfo`; it is called in a thread and may block for as long as it likes.
    """

    __slots__ = ("_clock", "_closed", "_lookup", "_max_threads", "_names", "_queue", "_reporter", "_running")

    def __init__(
        self,
        reporter: Reporter | None = None,
        *,
        lookup: Lookup | None = None,
        clock: Clock = time.monotonic,
        max_threads: int = MAX_THREADS,
    ) -> None:
        self._reporter = reporter
        self._lookup = lookup
        self._clock = clock
        self._max_threads = max_threads
        self._names: dict[str, _Name] = {}
        self._queue: deque[_Name] = deque()
        self._running = 0
        self._closed = False

    # --- for the dialers ---

    async def resolve(self, host: str, *, fresh_for: float) -> Answer:
        """The addresses of `host`. An answer older than `fresh_for` seconds is refreshed in the background, but still
        used. Raises OSError if there is no answer and the look-up fails; waits for as long as it takes."""
        name = self._name(host)
        answer = name.answer
        if answer is None:
            return await self._wait(name)
        now = self._clock()
        if now >= name.trusted_until:
            with contextlib.suppress(OSError):
                async with asyncio.timeout(REFRESH_WAIT):
                    return await self._wait(name)
        elif now - answer.asked_at >= fresh_for:
            self._start(name)
        return answer

    async def newer(self, host: str, than: Answer) -> Answer:
        """An answer that was requested after `than`. Raises OSError."""
        name = self._name(host)
        if name.answer is not None and name.answer.asked_at > than.asked_at:
            return name.answer
        return await self._wait(name)

    def distrust(self, host: str) -> None:
        """The address belongs to another server: the next `resolve` waits for a newer answer."""
        self._name(host).trusted_until = -math.inf

    def timed_out(self, host: str) -> None:
        """A request gave up waiting for `host`."""
        name = self._name(host)
        if name.phase is not _Phase.IDLE and not name.is_late:
            name.is_late = True
            self._count_failure(name, "no answer in time")

    def figures(self, host: str) -> NameFigures:
        """The figures of `host`, which are updated as long as the resolver lives."""
        return self._name(host).figures

    # --- for the process ---

    def close(self) -> None:
        """Abandon the look-ups under way; waiters get an error."""
        self._closed = True
        self._queue.clear()
        for name in self._names.values():
            self._settle(name, ConnectionAbortedError("the relay is shutting down"))

    @property
    def running(self) -> int:
        """Threads in use."""
        return self._running

    # --- looking up ---

    def _name(self, host: str) -> _Name:
        name = self._names.get(host)
        if name is None:
            if len(self._names) >= MAX_NAMES:
                self._forget_one()
            name = self._names[host] = _Name(host, self._clock)
        return name

    def _forget_one(self) -> None:
        """Drop the oldest name without a look-up under way."""
        for host, name in self._names.items():
            if name.phase is _Phase.IDLE:
                del self._names[host]
                return

    async def _wait(self, name: _Name) -> Answer:
        """The result of the look-up under way, or of a new one. Cancelling the wait does not stop the look-up."""
        waiter: asyncio.Future[Answer | OSError] = asyncio.get_running_loop().create_future()
        name.waiters[waiter] = None
        try:
            self._start(name)
            outcome = await waiter
        finally:
            name.waiters.pop(waiter, None)
        if isinstance(outcome, OSError):
            raise copy.copy(outcome)  # each waiter has a traceback of its own
        return outcome

    def _start(self, name: _Name) -> None:
        if self._closed:
            self._settle(name, ConnectionAbortedError("the relay is shutting down"))
        elif name.phase is _Phase.IDLE:
            name.figures.lookups += 1
            name.figures.since = self._clock()
            if self._running < self._max_threads:
                self._run(name)
            else:
                name.phase = _Phase.QUEUED
                self._queue.append(name)

    def _run(self, name: _Name) -> None:
        name.phase = _Phase.RUNNING
        self._running += 1
        loop, asked_at = asyncio.get_running_loop(), self._clock()

        def work() -> None:
            outcome = _look_up(self._lookup or socket.getaddrinfo, name.host, asked_at)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._finish, name, outcome)

        try:
            threading.Thread(target=work, name=f"dns {name.host}", daemon=True).start()
        except RuntimeError as error:  # no thread is available
            loop.call_soon(self._finish, name, OSError(errno.EAGAIN, f"no thread to look it up: {error}"))

    def _finish(self, name: _Name, outcome: Answer | OSError) -> None:
        self._running -= 1
        figures = name.figures
        if figures.since is not None:
            figures.finished_seconds += self._clock() - figures.since
            figures.since = None
        name.phase = _Phase.IDLE
        late, name.is_late = name.is_late, False
        if self._closed:
            return
        if isinstance(outcome, OSError):
            if not late:
                self._count_failure(name, outcome.strerror or str(outcome))
        else:
            name.answer = outcome
            name.trusted_until = outcome.asked_at + STALE_AT_ONCE
            self._recover(name)
        while self._queue and self._running < self._max_threads:
            self._run(self._queue.popleft())
        self._settle(name, outcome)

    def _settle(self, name: _Name, outcome: Answer | OSError) -> None:
        waiters, name.waiters = name.waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(outcome)

    # --- telling ---

    def _count_failure(self, name: _Name, reason: str) -> None:
        name.figures.failures += 1
        if not name.failing:
            name.failing = True
            if self._reporter is not None:
                self._reporter.dns_failed(name.host, reason, has_answer=name.answer is not None)

    def _recover(self, name: _Name) -> None:
        if name.failing:
            name.failing = False
            if self._reporter is not None:
                self._reporter.dns_recovered(name.host)


def _look_up(lookup: Lookup, host: str, asked_at: float) -> Answer | OSError:
    """Runs in a thread. Never raises: errors are returned."""
    try:
        found = lookup(host, 0, type=socket.SOCK_STREAM)
        addresses = tuple(dict.fromkeys(HostAddress(family, address) for family, _, _, _, address in found))
    except OSError as error:
        return error
    except Exception as error:  # such as UnicodeError, for a name that DNS can't encode
        return OSError(f"its name can't be looked up: {error}")
    return Answer(addresses, asked_at) if addresses else OSError("its name has no address")


def fixed_address(url: Url) -> HostAddress | None:
    """The address if it is a Unix socket or numeric; None for a name. Nothing is looked up."""
    if url.socket:
        return HostAddress(socket.AF_UNIX, url.socket)
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    try:
        [(family, _, _, _, address), *_] = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError):
        return None
    return HostAddress(family, address)  # type: ignore[arg-type]
