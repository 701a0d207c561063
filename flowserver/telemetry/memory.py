"""What a process tells of its memory."""

from __future__ import annotations

from collections.abc import Iterator

from ..flow.memory_budget import UNBOUNDED, MemoryBudget
from .exposition import Family, Merge, counter, gauge, gauges


class MemoryFigures:
    """Written by whoever looks at the memory. Sizes in bytes."""

    __slots__ = ("accounted", "budget", "cuts", "holders", "idle_closed", "kernel", "pending", "resident", "trims")

    def __init__(self, budget: MemoryBudget) -> None:
        self.budget = budget
        self.resident = 0
        self.kernel = 0
        """In the buffers of its sockets, by a sample."""
        self.pending = 0
        """What streams that began a moment ago may still come to hold."""
        self.holders: dict[str, int] = {}
        """What is held, by whom, when it was counted last."""
        self.accounted = 0
        """The sum of that."""
        self.cuts = 0
        self.idle_closed = 0
        self.trims = 0

    def families(self) -> Iterator[Family]:
        budget = self.budget
        limit = 0 if budget.limit >= UNBOUNDED else budget.limit
        yield gauge(
            "flow_memory_budget_bytes", "What the process may have (FLOW_MEMORY); 0: no bound.", limit, Merge.SUM
        )
        held = {**self.holders, "kernel": self.kernel, "pending": self.pending}
        text = (
            "What is held, by whom. process: before it served anybody; kernel: in its sockets, by a sample; pending: "
            "what streams that began a moment ago may still come to hold."
        )
        yield gauges(
            "flow_memory_used_bytes", text, [({"holder": each}, size) for each, size in held.items()], Merge.SUM
        )
        text = "What counts against the budget: the larger of what is held and what is resident, kernel and pending."
        yield gauge("flow_memory_counted_bytes", text, budget.used, Merge.SUM)
        text = "0 normal, 1 tight, 2 no_batch, 3 full, 4 cutting."
        yield gauge("flow_memory_level", text, budget.level.value, Merge.EACH)
        yield counter("flow_memory_cuts", "Streams that were ended to free memory.", self.cuts)
        text = "Idle client connections that were closed to free memory."
        yield counter("flow_memory_idle_closed", text, self.idle_closed)
        yield counter("flow_memory_trims", "Times that what was free was returned to the system.", self.trims)
