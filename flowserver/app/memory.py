"""Keeps a relay within its memory budget: measures memory, tells its holders how much is left, and ends streams if it
must.

`flow.memory_budget` decides; this module measures and acts.
"""

from __future__ import annotations

import asyncio
import gc
import math
import random
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ..config.errors import ConfigError
from ..config.parsers import Auto
from ..config.settings import Config
from ..downstream.context import OpenConnections
from ..downstream.h1 import DownstreamH1
from ..downstream.h2 import DownstreamH2
from ..downstream.linger import Linger
from ..errors import OUT_OF_MEMORY
from ..flow.memory_budget import STREAM, UNBOUNDED, UPLOAD, Holding, Level, MemoryBudget, worst_first
from ..net.sockets import kernel_memory
from ..quota.traffic_class import BATCH
from ..relay.exchange import Exchange
from ..relay.interfaces import H2Totals
from ..relay.uploads import Uploads
from ..routing.overload import LARGE, OverloadGate
from ..telemetry.log import Log
from ..telemetry.memory import MemoryFigures
from ..telemetry.slices import advance
from ..upstream.h1 import UpstreamH1
from ..upstream.h2 import UpstreamH2
from ..upstream.pool import Pool
from .idle_connections import close_idle, idle_since
from .machine_memory import Allocator, ResidentMemory, available

PARENT = 64 << 20
"""Bytes for the parent of several workers, including tenants' limits: it uses 48 MB at the start."""
LEAST = 1.5
"""A process's share must be at least this many times what it uses before it serves anybody, so that something fits
below the first level."""
MEBIBYTE = 1 << 20

ACCOUNT_INTERVAL = 1.0
"""Seconds between two counts of what is held."""
AT_A_TIME = 100
"""Exchanges that are counted in one iteration of the event loop: some 0.5 ms."""
STUCK = 1.0
"""Seconds during which, with all requests refused, only streams of class batch are ended. After that, other streams are
ended too: memory that is still held may never be released."""
CUT_INTERVAL = 0.02
"""Seconds between two cuts at level CUTTING: the count before each takes 5 us per stream."""
TRIM_INTERVAL, LONGEST_TRIM_INTERVAL = 0.25, 1.0
"""Seconds between two attempts to return memory to the system; they double while it has no effect. It takes 0.1 ms if
there is nothing to return."""
IDLE_CLOSES = 0.88
"""Share of the budget from which idle connections are closed: after large requests give way, before all others do."""
SAMPLE = 128
"""Connections whose kernel buffers are measured in each count: of providers, and of idle clients."""
BUSY_SAMPLE = 768
"""The same of busy clients, which differ most: one may have a hundred times what another has. It takes 2 us each."""
FILLED_CONNECTION, OVER_H2, OVER_TLS, FILLED_STREAM = 3 * 1024, 11 * 1024, 17 * 1024, 14 * 1024
"""Bytes of a client's connection, and more over HTTP/2 or TLS; and of a stream, without what it holds."""
FEW = 500
"""With fewer connections and streams than this, a full garbage collection takes less than 20 ms. It also empties
Python's free lists, which otherwise keep memory from being returned once a load is gone: 8 MB after 2,000 HTTP/2
connections."""
_COUNTED = object()
CUT_SLICE = 0.004
"""Seconds of an iteration of the event loop in which streams are ended."""
CUTS = 64
"""Most streams that are ended before memory is measured again."""


def share_of(config: Config, workers: int, warn: Callable[[str], None]) -> int:
    """Bytes that each process which serves clients may use. `warn` is called if the machine has too little. Raises
    ConfigError if FLOW_MEMORY is too small to start with."""
    wanted = config.memory
    if wanted is None:
        return UNBOUNDED
    try:
        resident = ResidentMemory()
    except OSError:
        if isinstance(wanted, Auto):
            return UNBOUNDED
        raise ConfigError(["FLOW_MEMORY: can't be enforced without /proc/self/statm; set it to off"]) from None
    least = int(LEAST * resident.read())
    resident.close()
    parent = PARENT if workers > 1 else 0
    total = available() * 4 // 5 if isinstance(wanted, Auto) else wanted
    share = (total - parent) // workers
    if share >= least:
        return share
    needed = -(-(least * workers + parent) // MEBIBYTE)
    of_workers = f" with {workers} workers" if workers > 1 else ""
    if not isinstance(wanted, Auto):
        raise ConfigError([f"FLOW_MEMORY: too small{of_workers}: expected at least {needed}m, or off"])
    warn(f"80 % of the memory is {total // MEBIBYTE}m, but at least {needed}m is needed{of_workers}")
    return least


@dataclass(slots=True, kw_only=True)
class Holders:
    """The holders of memory, some of which are told how much is left."""

    exchanges: Collection[object]
    """The open ones: each is an `Exchange`, except those of the admin pages."""
    connections: OpenConnections
    pools: Callable[[], Iterable[Pool]]
    uploads: Uploads
    gate: OverloadGate | None
    h2: H2Totals
    is_tls: bool
    """Whether clients connect over TLS."""
    relieve: Callable[[], None]
    """Makes all connections and exchanges release what they do not need."""


@dataclass(slots=True)
class _Count:
    """One count of what is held."""

    at: float = 0.0
    streams: int = 0
    answers: int = 0
    """Of these, requests that are whole."""
    uploads: int = 0
    """Of the others, the large ones that hold something."""
    moved: dict[bytes, int] = field(default_factory=dict)
    """Bytes that had passed by then, by request id, so that it keeps no exchange alive."""


def _any(exchange: Exchange) -> bool:
    return True


def _is_large_upload(exchange: Exchange) -> bool:
    """Whether a large body is still being sent and has no answer yet, so that nothing is lost that its client has seen.
    One of unknown size counts as large if it must wait."""
    is_unknown = exchange.request.content_length is None
    return exchange.unanswered_upload > (0 if is_unknown and exchange.upload_waits else LARGE)


def _gives_way(exchange: Exchange) -> bool:
    return exchange.account.traffic_class is BATCH or _is_large_upload(exchange)


class MemoryWatch:
    """Checks the memory of a process whenever it may have filled."""

    def __init__(self, limit: int, log: Log, pressed: Callable[[int], None] | None = None) -> None:
        """`pressed` is called with each new level."""
        self.budget = MemoryBudget(limit, self._on_spent)
        self.figures = MemoryFigures(self.budget)
        self._log = log
        self._pressed = pressed
        self._loop = asyncio.get_running_loop()
        self._holders: Holders
        self._resident: ResidentMemory
        self._allocator = Allocator()
        self._base = 0
        """Bytes that the process used before it served anybody."""
        self._count = self._earlier = _Count()
        """The last count of what is held, and the one before it, at least a second older."""
        self._counted_at = 0.0
        self._counting: Iterator[None] | None = None
        """A count under way."""
        self._cutting: Iterator[None] | None = None
        """Cuts under way."""
        self._cut_at = 0.0
        self._full_since = 0.0
        """Since when all requests are refused because of used memory."""
        self._timer: asyncio.TimerHandle | None = None
        self._acted: Level = Level.NORMAL
        """The level that was acted upon last."""
        self._trimmed_at = 0.0
        self._idle_freed = 0
        """Bytes of connections that were closed since memory was last returned to the system."""
        self._most_open = 0
        """Most connections and streams since the last full garbage collection."""
        self._trim_after = TRIM_INTERVAL
        self._began = False

    def begin(self, holders: Holders) -> None:
        self._holders = holders
        self._resident = ResidentMemory()
        self._base = self._resident.read()
        self._began = True
        self._look_and_act()

    def close(self) -> None:
        if not self._began:
            return
        self._began = False
        if self._timer is not None:
            self._timer.cancel()
        self._resident.close()

    # --- looking -----------------------------------------------------------------------------------------------------

    def _on_spent(self) -> None:
        """Called in the middle of other work, so a new level is acted upon later."""
        if self._began and self._look():
            self._loop.call_soon(self._act)

    def _look_and_act(self) -> None:
        now = time.monotonic()
        try:
            if now - self._counted_at >= ACCOUNT_INTERVAL and self._counting is None:
                self._counting = self._account(now)
                self._go_on_counting()
            self._look()
            if self.budget.level:
                self._trim_if_due(now)
            self._act()
            if self.budget.level >= Level.NO_BATCH:
                self._close_idle(now)
            if self.budget.level is Level.CUTTING and now - self._cut_at >= CUT_INTERVAL:
                self._begin_cutting(now, lambda: self.budget.excess)
            elif now - self._cut_at >= TRIM_INTERVAL:  # time for malloc to return memory
                self._make_room(now)
            if not self.budget.must_free:
                self._full_since = now
        finally:
            if self._began:
                self._timer = self._loop.call_later(self.budget.next_look(), self._look_and_act)

    def _look(self) -> bool:
        """Returns whether the level changes."""
        figures, holders = self.figures, self._holders
        figures.resident = resident = self._resident.read()
        figures.pending = pending = self._pending()
        uploads = max(0, holders.uploads.large - self._earlier.uploads) * UPLOAD
        changes = self.budget.look(max(resident, figures.accounted) + figures.kernel, pending, uploads)
        if holders.gate is not None:
            holders.gate.memory_level = self.budget.level
        self._fit_uploads(holders.uploads)
        return changes

    def _fit_uploads(self, uploads: Uploads) -> None:
        """Large uploads may use half of what others leave below the first level, so that requests without large bodies
        continue: the one upload that always proceeds comes on top, and so does what the kernel holds of those that
        wait."""
        budget = self.budget
        left = budget.mark(Level.TIGHT) - budget.used + uploads.held
        uploads.fit(small=budget.room(Level.NO_BATCH), large=max(0, left // 2 - uploads.held))

    def _pending(self) -> int:
        """What answers added since the last count but one may still come to hold. An upload holds what is counted, and
        is stopped where memory is short."""
        return max(0, self._answers() - self._earlier.answers) * STREAM

    def _answers(self) -> int:
        """Requests that are whole."""
        return len(self._holders.exchanges) - self._holders.uploads.unfinished

    # --- counting ----------------------------------------------------------------------------------------------------

    def _exchanges(self) -> Iterator[Exchange]:
        for exchange in self._holders.exchanges:
            if isinstance(exchange, Exchange):
                yield exchange

    def _go_on_counting(self) -> None:
        """Count a few exchanges per iteration of the event loop: counting thousands at once would delay all others."""
        if self._counting is not None and self._began:
            if next(self._counting, _COUNTED) is _COUNTED:
                self._counting = None
            else:
                self._loop.call_soon(self._go_on_counting)

    def _account(self, now: float, holdings: list[Holding[Exchange]] | None = None) -> Iterator[None]:
        """Count what is held, and by whom, in steps. `holdings` receives what each exchange holds, and its rate."""
        holders, figures, before = self._holders, self.figures, self._count
        self._counted_at = now
        count = _Count(now, len(holders.exchanges), self._answers(), holders.uploads.large)
        connections = len(holders.connections)
        elapsed = max(now - before.at, 0.001)
        answers = requests = events = 0
        for number, exchange in enumerate(list(self._exchanges()), 1):
            if not number % AT_A_TIME:
                yield
            answer, request, event = exchange.holdings()
            answers += answer
            requests += request
            events += event
            moved = exchange.bytes_up + exchange.bytes_down
            count.moved[exchange.request_id] = moved
            if holdings is not None:
                rate = (moved - before.moved.get(exchange.request_id, 0)) / elapsed
                holdings.append(Holding(exchange, answer + request + event, rate))
        if now - before.at >= ACCOUNT_INTERVAL:
            self._earlier, self._count = before, count
        figures.holders = {
            "process": self._base,
            "connections": connections * FILLED_CONNECTION + holders.h2.connections * OVER_H2,
            "tls": connections * OVER_TLS if holders.is_tls else 0,
            "streams": count.streams * FILLED_STREAM,
            "answers": answers,
            "requests": max(requests, holders.uploads.held),
            "events": events,
        }
        figures.accounted = sum(figures.holders.values())
        figures.kernel = yield from self._kernel_memory()

    def _kernel_memory(self) -> Generator[None, None, int]:
        """Estimated in steps, from samples of idle clients, of busy ones, which may hold far more, and of providers."""
        busy: list[DownstreamH1 | DownstreamH2 | Linger] = []
        idle: list[DownstreamH1 | DownstreamH2 | Linger] = []
        for each in self._holders.connections:
            if isinstance(each, Linger):
                busy.append(each)
            elif isinstance(each, DownstreamH1 | DownstreamH2):
                (busy if idle_since(each) == math.inf else idle).append(each)
        providers = [each for pool in self._holders.pools() for each in pool.connections]
        of_busy = yield from _estimate(busy, _client_memory, BUSY_SAMPLE)
        of_idle = yield from _estimate(idle, _client_memory)
        of_providers = yield from _estimate(providers, _provider_memory)
        return of_busy + of_idle + of_providers

    # --- acting ------------------------------------------------------------------------------------------------------

    def _trim_if_due(self, now: float) -> None:
        """Make malloc return free memory. Resident memory may be far more than what is held."""
        open_now = len(self._holders.connections) + len(self._holders.exchanges)
        self._most_open = max(self._most_open, open_now)
        has_emptied = open_now < FEW and 2 * open_now < self._most_open - FEW // 10
        if not has_emptied and now - self._trimmed_at < self._trim_after:
            return
        before = self._resident.read()
        if has_emptied:
            self._most_open = open_now
            gc.collect()
        self._allocator.trim()
        self._trimmed_at = now
        self._idle_freed = 0
        self.figures.trims += 1
        is_of_use = before - self._resident.read() > self.budget.limit // 100
        self._trim_after = TRIM_INTERVAL if is_of_use else min(2 * self._trim_after, LONGEST_TRIM_INTERVAL)
        self._look()

    def _act(self) -> None:
        """Act on a changed level."""
        budget, before = self.budget, self._acted
        if budget.level is before:
            return
        self._acted = level = budget.level
        rises = level > before
        figures = self.figures
        self._log.write(
            "warning" if level else "info",
            "memory_level",
            now=level.name.lower(),
            before=before.name.lower(),
            used=budget.used,
            budget=budget.limit,
            resident=figures.resident,
            kernel=figures.kernel,
            pending=figures.pending,
            streams=len(self._holders.exchanges),
            connections=len(self._holders.connections),
        )
        self._trim_after = TRIM_INTERVAL
        if self._pressed is not None:
            self._pressed(level.value)
        if rises:
            self._holders.relieve()

    def _close_idle(self, now: float) -> None:
        """Make room below IDLE_CLOSES, by connections that nobody uses."""
        budget, connections, held = self.budget, len(self._holders.connections), self.figures.holders
        excess = budget.used - int(IDLE_CLOSES * budget.limit) - self._idle_freed
        if excess <= 0 or not connections:
            return
        each = max(FILLED_CONNECTION, (held.get("connections", 0) + held.get("tls", 0)) // connections)
        closed = close_idle(self._holders.connections, -(-excess // each), now)
        self.figures.idle_closed += closed
        self._idle_freed += closed * each
        if closed:
            self._trim_after = TRIM_INTERVAL

    def _make_room(self, now: float) -> None:
        """End what gives way first: large uploads without an answer, which have nothing to lose. If all requests are
        refused, also batch, and after a while all others."""
        if self.budget.must_free:
            is_stuck = now - self._full_since >= STUCK
            self._begin_cutting(now, self._stuck, _any if is_stuck else _gives_way)
        elif self.budget.level >= Level.NO_BATCH and self._stuck() > 0 and self._holders.uploads.held > LARGE:
            self._begin_cutting(now, self._stuck, _is_large_upload)

    def _stuck(self) -> int:
        """Bytes that keep requests from being served."""
        return self.budget.used - self.budget.mark(Level.NO_BATCH) - self._idle_freed

    def _begin_cutting(self, now: float, excess: Callable[[], int], may_end: Callable[[Exchange], bool] = _any) -> None:
        self._cut_at = now
        if self._cutting is None:
            self._cutting = self._cut(excess, may_end)
            self._go_on_cutting()

    def _go_on_cutting(self) -> None:
        """Cut in slices: a stream takes up to 1 ms, most of it in the kernel."""
        steps, self._cutting = self._cutting, None
        if steps is None or not self._began:
            return
        if not advance(steps, CUT_SLICE, time.monotonic):
            self._cutting = steps
            self._loop.call_soon(self._go_on_cutting)
        self._cut_at = time.monotonic()

    def _cut(self, excess: Callable[[], int], may_end: Callable[[Exchange], bool]) -> Iterator[None]:
        """Of the streams that may end, end those that hold most and move least, the worst first, until `excess` bytes
        are free, in steps."""
        holdings: list[Holding[Exchange]] = []
        yield from self._account(time.monotonic(), holdings)
        self._look()
        holdings = [each for each in holdings if may_end(each.holder)]
        for exchange in worst_first(holdings, excess(), FILLED_STREAM + self._kernel_share)[:CUTS]:
            if not exchange.is_over:
                self.figures.cuts += 1
                exchange.cut(OUT_OF_MEMORY)
                yield

    @property
    def _kernel_share(self) -> int:
        """Estimated kernel memory per stream."""
        return self.figures.kernel // max(1, len(self._holders.exchanges))


def _client_memory(connection: DownstreamH1 | DownstreamH2 | Linger) -> int:
    return connection.send_queue.kernel_memory()


def _provider_memory(connection: object) -> int:
    return kernel_memory(connection.transport) if isinstance(connection, UpstreamH1 | UpstreamH2) else 0


_T = TypeVar("_T")


def _estimate(connections: Sequence[_T], size: Callable[[_T], int], most: int = SAMPLE) -> Generator[None, None, int]:
    """The sum of their sizes, estimated from a sample of at most so many, in steps."""
    sample = connections if len(connections) <= most else random.sample(connections, most)
    found = 0
    for number, each in enumerate(sample, 1):
        found += size(each)
        if not number % AT_A_TIME:
            yield
    return found * len(connections) // max(1, len(sample))
