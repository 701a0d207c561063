"""One timer for all paced streams: a heap of due times, no task and no timer of a stream's own."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

TICK = 0.002
"""Seconds between two looks at the heap while something is due soon."""


class Pacer:
    """Calls functions when they are due, to a tick."""

    __slots__ = ("_heap", "_loop", "_order", "_timer")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heap: list[tuple[float, int, Callable[[float], float | None]]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None

    def at(self, due: float, step: Callable[[float], float | None]) -> None:
        """Call `step(due)` at `due` (loop time); it returns when to call it next, None for no more."""
        heapq.heappush(self._heap, (due, next(self._order), step))
        if self._timer is None:
            self._schedule()
        elif due < self._timer.when():
            self._timer.cancel()
            self._schedule()

    def now(self) -> float:
        return self._loop.time()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._heap.clear()

    def _schedule(self) -> None:
        due = max(self._heap[0][0], self._loop.time() + TICK)
        self._timer = self._loop.call_at(due, self._run)

    def _run(self) -> None:
        self._timer = None
        heap = self._heap
        now = self._loop.time()
        while heap and heap[0][0] <= now:
            due, order, step = heapq.heappop(heap)
            following = step(due)
            if following is not None:
                heapq.heappush(heap, (following, order, step))
        if heap and self._timer is None:
            self._schedule()
