"""The demo's table: redrawn in its place on a terminal, else printed every two seconds. 79 columns, no library."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

GREEN, YELLOW, RED, BOLD, DIM = "32", "33", "31", "1", "2"
COLUMNS = (
    ("client", -8),
    ("what it does", -16),
    ("read KB", 9),
    ("pulled KB", 10),
    ("ahead KB", 9),
    ("pauses", 7),
    ("paused", 8),
    ("", 2),
)
"""Heading and width; negative: left-aligned. The provider's state follows them."""
STATES = {"streaming": GREEN, "paused": YELLOW, "cancelled": RED, "done": DIM}
AHEAD = 1024
"""Bytes from which on the provider counts as ahead of the client."""


@dataclass(frozen=True, slots=True)
class Row:
    """One client. `read` is what it has read, `pulled` what the relay has read for it, in bytes; `provider` is the
    state of its stream there."""

    client: str
    behaviour: str
    read: int
    pulled: int
    pauses: int
    paused_seconds: float
    provider: str


class Display:
    """Shows the rows. `environment`: NO_COLOR disables colours, TERM=dumb disables redrawing."""

    def __init__(self, out: TextIO | None = None, environment: Mapping[str, str] = os.environ) -> None:
        self._out = out or sys.stdout
        self._is_live = self._out.isatty() and environment.get("TERM", "dumb") != "dumb"
        self._is_coloured = self._is_live and not environment.get("NO_COLOR")
        self._drawn = 0
        """Number of lines to draw over."""
        self._next = 0.0

    def show(self, now: float, memory: int, rows: Sequence[Row]) -> None:
        """`now` is in seconds from the start, `memory` the relay's resident bytes."""
        if not self._is_live:
            if now < self._next:
                return
            self._next = now + 2.0
        title = f"flowserver demo, {now:4.1f} s"
        told = f"relay's memory {memory / 1024 / 1024:.1f} MB"
        heading = [_cell(name, width) for name, width in COLUMNS]
        lines = [
            f" {self.painted(title, BOLD)}{told:>{78 - len(title)}}",
            " " + self.painted("".join([*heading, "provider"]), DIM),
            *map(self._line, rows),
        ]
        if self._drawn:
            self._out.write(f"\x1b[{self._drawn}A")
        if self._is_live:
            self._drawn = len(lines)
            lines = [f"\x1b[2K{line}" for line in lines]
        self._out.write("\n".join(lines) + "\n")
        self._out.flush()

    def painted(self, text: str, colour: str) -> str:
        """`text` in this colour, if colours are on."""
        return f"\x1b[{colour}m{text}\x1b[0m" if self._is_coloured else text

    def _line(self, row: Row) -> str:
        ahead = row.pulled - row.read
        cells = (
            row.client,
            row.behaviour,
            _kilobytes(row.read),
            _kilobytes(row.pulled),
            _kilobytes(ahead),
            str(row.pauses),
            f"{row.paused_seconds:.1f} s",
            "",
        )
        shown = [_cell(text, width) for text, (_, width) in zip(cells, COLUMNS, strict=True)]
        if ahead >= AHEAD:
            shown[4] = self.painted(shown[4], YELLOW)
        return "".join([" ", *shown, self.painted(row.provider, STATES.get(row.provider, DIM))])


def _kilobytes(count: int) -> str:
    return f"{count / 1024:.1f}"


def _cell(text: str, width: int) -> str:
    return text.ljust(-width) if width < 0 else text.rjust(width)
