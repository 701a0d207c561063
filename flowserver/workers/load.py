"""What each worker has to do, in memory that all of them and their parent share.

A worker writes its own figures when they change, and the parent reads them when it has a connection to give away. Each
is 8 aligned bytes, which are written and read whole.
"""

from __future__ import annotations

import mmap

_FIELDS = 5
CONNECTIONS, STREAMS, ADOPTED, ARRIVING, PRESSURE = range(_FIELDS)
"""PRESSURE: 0, or how short of memory the worker is; from REFUSES on it takes no connection."""
REFUSES = 3


class LoadTable:
    """The figures of all workers. The parent makes it before it forks the first."""

    __slots__ = ("_cells", "_memory", "count")

    def __init__(self, count: int) -> None:
        """`count`: workers."""
        self.count = count
        self._memory = mmap.mmap(-1, count * _FIELDS * 8)  # shared and anonymous; gone with the last process
        self._cells = memoryview(self._memory).cast("Q")

    def read(self, worker: int, field: int) -> int:
        return int(self._cells[worker * _FIELDS + field])

    def write(self, worker: int, field: int, value: int) -> None:
        self._cells[worker * _FIELDS + field] = value

    def reset(self, worker: int) -> None:
        """Its process has ended."""
        for field in range(_FIELDS):
            self.write(worker, field, 0)

    def total(self, field: int) -> int:
        return sum(self._cells[field::_FIELDS])


class WorkerLoad:
    """The figures of one worker, as it writes them: a `downstream.context.ConnectionCount`."""

    __slots__ = ("_adopted", "_arriving", "_table", "_worker")

    def __init__(self, table: LoadTable, worker: int) -> None:
        self._table = table
        self._worker = worker
        self._adopted = 0
        self._arriving = 0

    def changed(self, connections: int) -> None:
        self._table.write(self._worker, CONNECTIONS, connections)

    def elsewhere(self) -> int:
        table = self._table
        return table.total(CONNECTIONS) - table.read(self._worker, CONNECTIONS)

    def streams_changed(self, streams: int) -> None:
        self._table.write(self._worker, STREAMS, streams)

    def pressed(self, level: int) -> None:
        """So short is memory now; 0: it is not."""
        self._table.write(self._worker, PRESSURE, level)

    def adopt(self, connections: int, lost: int = 0) -> None:
        """So many of those that the parent gave have come, and are arriving until they are counted among the
        connections; so many were lost."""
        self._arriving += connections
        self._table.write(self._worker, ARRIVING, self._arriving)
        self._adopted += connections + lost
        self._table.write(self._worker, ADOPTED, self._adopted)

    def arrived(self) -> None:
        self._arriving -= 1
        self._table.write(self._worker, ARRIVING, self._arriving)
