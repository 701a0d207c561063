"""The load of each worker, in memory shared by the workers and their parent.

A worker writes its own figures when they change, and the parent reads them when it has a connection to assign. Each
figure is 8 aligned bytes, which are written and read atomically.
"""

from __future__ import annotations

import mmap

_FIELDS = 5
CONNECTIONS, STREAMS, ADOPTED, ARRIVING, PRESSURE = range(_FIELDS)
"""PRESSURE: 0, or the worker's memory level; from REFUSES on it accepts no connections."""
REFUSES = 3


class LoadTable:
    """The figures of all workers. The parent creates it before it forks the first worker."""

    __slots__ = ("_cells", "_memory", "count")

    def __init__(self, count: int) -> None:
        """`count`: the number of workers."""
        self.count = count
        self._memory = mmap.mmap(-1, count * _FIELDS * 8)  # shared and anonymous; gone with the last process
        self._cells = memoryview(self._memory).cast("Q")

    def read(self, worker: int, field: int) -> int:
        return int(self._cells[worker * _FIELDS + field])

    def write(self, worker: int, field: int, value: int) -> None:
        self._cells[worker * _FIELDS + field] = value

    def reset(self, worker: int) -> None:
        """The worker's process has ended."""
        for field in range(_FIELDS):
            self.write(worker, field, 0)

    def total(self, field: int) -> int:
        return sum(self._cells[field::_FIELDS])


class WorkerLoad:
    """The writing side of one worker's figures: a `downstream.context.ConnectionCount`."""

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
        """Set the memory level; 0: memory is not short."""
        self._table.write(self._worker, PRESSURE, level)

    def adopt(self, connections: int, lost: int = 0) -> None:
        """Connections from the parent have been received, which are arriving until they count as connections; `lost`
        were not received."""
        self._arriving += connections
        self._table.write(self._worker, ARRIVING, self._arriving)
        self._adopted += connections + lost
        self._table.write(self._worker, ADOPTED, self._adopted)

    def arrived(self) -> None:
        self._arriving -= 1
        self._table.write(self._worker, ARRIVING, self._arriving)
