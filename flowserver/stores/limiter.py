"""A limit store behind callbacks: calls return at once, results come later."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from ..quota.limits import Cause, Decision, Limit, LimitStore, StoreUnavailable, Usage
from .memory import at_once

_T = TypeVar("_T")


class StoreLimiter:
    """A `quota.lease.Limiter`. A store that does not answer grants no tokens; `FailoverStore` handles that case."""

    __slots__ = ("_is_local", "_store", "_tasks", "lease", "renewal")

    def __init__(self, store: LimitStore, *, lease: int, life: float, is_local: bool) -> None:
        """Leases are of `lease` tokens and expire `life` seconds after their last renewal. `is_local`: the store is in
        this process and never waits, so its calls need no task (some 20 us)."""
        self._store = store
        self._is_local = is_local
        self.lease = lease
        self.renewal = life / 3
        self._tasks: set[asyncio.Task[None]] = set()

    def admit(
        self, stream_id: str, limits: Sequence[Limit], *, need: int, want: int, done: Callable[[Decision], None]
    ) -> None:
        self.run(self._store.admit(stream_id, limits, need=need, want=want), done, NOT_ADMITTED)

    def extend(self, stream_id: str, used: int, want: int, done: Callable[[int], None]) -> None:
        self.run(self._store.extend(stream_id, used, want), done, 0)

    def settle(self, stream_id: str, used: int) -> None:
        self.run(self._store.settle(stream_id, used), _ignore, False)

    def usage(self, limits: Sequence[Limit], done: Callable[[tuple[Usage, ...]], None]) -> None:
        """The usage of one tenant's limits; empty if the store fails."""
        self.run(self._store.usage(limits), done, ())

    def run(self, call: Coroutine[Any, Any, _T], done: Callable[[_T], None], otherwise: _T) -> None:
        """`done` gets the result of `call` to the store, or `otherwise` if the store fails."""
        if self._is_local:
            done(_at_once(call, otherwise))
            return
        task = asyncio.get_running_loop().create_task(_wait(call, done, otherwise))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def under_way(self) -> int:
        """Calls that the store has not answered yet."""
        return len(self._tasks)

    def __repr__(self) -> str:
        return f"<StoreLimiter over {type(self._store).__name__}: {self.under_way} calls under way>"

    async def close(self) -> None:
        """Wait for calls under way, such as streams that settle. Stores have their own deadlines."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._store.close()


def _at_once(call: Coroutine[Any, Any, _T], otherwise: _T) -> _T:
    try:
        return at_once(call)
    except StoreUnavailable:
        return otherwise


async def _wait(call: Coroutine[Any, Any, _T], done: Callable[[_T], None], otherwise: _T) -> None:
    result = otherwise
    try:
        with contextlib.suppress(StoreUnavailable):
            result = await call
    finally:  # whatever goes wrong, nobody may wait for ever
        done(result)


def _ignore(settled: bool) -> None:
    """Whether there was something to settle does not matter here."""


NOT_ADMITTED = Decision(False, 0, (), Cause.UNAVAILABLE)
