"""The result of the last reload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """`at`: seconds since the epoch, None: there was no reload. `problems`: why it failed, empty if it succeeded. For
    `changes` see `config.differences`."""

    at: float | None = None
    problems: Sequence[str] = ()
    changes: Sequence[str] = ()

    def table(self) -> dict[str, Any]:
        """The result as the admin pages show it."""
        if self.at is None:
            return {"time": None, "result": "none", "changes": [], "problems": []}
        return {
            "time": datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "result": "failed" if self.problems else "reloaded",
            "changes": list(self.changes),
            "problems": list(self.problems),
        }
