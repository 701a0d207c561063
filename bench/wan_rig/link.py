"""What a link does to packets, one direction of it at a time. No I/O, no clock."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Link:
    """`delay` is one way: half of a round trip. A packet takes up to `jitter` more; order is kept. `rate` is bytes per
    second in each direction, None: no limit; then `queue` bytes wait at most, and what comes beyond them is dropped.
    `loss` is the share of packets that are dropped. Times are seconds."""

    delay: float = 0.0
    jitter: float = 0.0
    rate: float | None = None
    queue: int = 256 * 1024
    loss: float = 0.0

    @property
    def joins_segments(self) -> bool:
        """Does TCP hand over segments joined, up to 64 KB at once? That is as network cards do it, and a third of the
        CPU; where packets are lost or queued, each has to be one."""
        return self.rate is None and not self.loss


class Direction:
    """The packets that are under way in one direction."""

    __slots__ = ("_chance", "_clear", "_last", "link", "waiting")

    def __init__(self, link: Link, seed: int) -> None:
        self.link = link
        self._chance = random.Random(seed)
        self._clear = 0.0
        """When the queue is empty."""
        self._last = 0.0
        """When the last packet arrives."""
        self.waiting: deque[tuple[float, bytes]] = deque()
        """(time of arrival, packet), in order."""

    def take(self, packet: bytes, now: float) -> None:
        """A packet begins its way, or is dropped."""
        link = self.link
        if link.loss and self._chance.random() < link.loss:
            return
        leaves = now
        if link.rate is not None:
            begins = max(now, self._clear)
            if (begins - now) * link.rate + len(packet) > link.queue:
                return
            leaves = self._clear = begins + len(packet) / link.rate
        arrives = leaves + link.delay
        if link.jitter:
            arrives += self._chance.random() * link.jitter
        self._last = max(self._last, arrives)
        self.waiting.append((self._last, packet))

    def cut(self) -> None:
        """What is under way is lost."""
        self.waiting.clear()
        self._clear = self._last = 0.0
