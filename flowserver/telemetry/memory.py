"""The memory metrics of a process."""

from __future__ import annotations

from collections.abc import Iterator

from ..flow.memory_budget import UNBOUNDED, MemoryBudget
from .exposition import Family, Merge, counter, gauge, gauges


class MemoryFigures:
    """Figures set by the memory watch. Sizes in bytes."""

    __slots__ = ("accounted", "budget", "cuts", "holders", "idle_closed", "kernel", "pending", "resident", "trims")

    def __init__(self, budget: MemoryBudget) -> None:
        self.budget = budget
        self.resident = 0
        self.kernel = 0
        """In the kernel buffers of its sockets, estimated from a sample."""
        self.pending = 0
        """What new streams may still come to hold."""
        self.holders: dict[str, int] = {}
        """Held bytes by holder, as last counted."""
        self.accounted = 0
        """The sum of these."""
        self.cuts = 0
        self.idle_closed = 0
        self.trims = 0

    def families(self) -> Iterator[Family]:
        budget = self.budget
        limit = 0 if budget.limit >= UNBOUNDED else budget.limit
        yield gauge(
            "flow_memory_budget_bytes", "Memory budget of the process (FLOW_MEMORY); 0: no bound.", limit, Merge.SUM
        )
        held = {**self.holders, "kernel": self.kernel, "pending": self.pending}
        text = (
            "Memory by holder. process: before it served anybody; kernel: in its sockets, from a sample; pending: "
            "what new streams may still come to hold."
        )
        yield gauges(
            "flow_memory_used_bytes", text, [({"holder": each}, size) for each, size in held.items()], Merge.SUM
        )
        text = "Memory that counts against the budget: the larger of held and resident memory, plus kernel and pending."
        yield gauge("flow_memory_counted_bytes", text, budget.used, Merge.SUM)
        text = "0 normal, 1 tight, 2 no_batch, 3 full, 4 cutting."
        yield gauge("flow_memory_level", text, budget.level.value, Merge.EACH)
        yield counter("flow_memory_cuts", "Streams that were ended to free memory.", self.cuts)
        text = "Idle client connections that were closed to free memory."
        yield counter("flow_memory_idle_closed", text, self.idle_closed)
        yield counter("flow_memory_trims", "How often free memory was returned to the system.", self.trims)
