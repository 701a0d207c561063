"""How long what arrives now waits for an event loop. No I/O: loop and clock are handed in.

An event loop handles what is ready in turns. What arrives during a turn waits for the rest of it, and then until the
next turn comes to it.
"""

from __future__ import annotations

from collections.abc import Callable

Found = Callable[[float, float], None]
"""Takes a delay in seconds, and the time."""


class LoopDelay:
    """Measures the rest of one turn and the whole of the next: two callbacks of the loop, and none in between."""

    __slots__ = ("_clock", "_found", "_later", "_since", "_soon")

    def __init__(
        self,
        clock: Callable[[], float],
        soon: Callable[[Callable[[], None]], object],
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        """`soon` and `later` are the loop's `call_soon` and `call_later`."""
        self._clock = clock
        self._soon = soon
        self._later = later
        self._found: Found | None = None
        """Who hears of the measurement under way; None: there is none."""
        self._since = 0.0

    def measure(self, found: Found, *, after: float = 0.0) -> None:
        """Once, in `after` seconds; nothing while another measurement is under way."""
        if self._found is not None:
            return
        self._found = found
        if after:
            self._later(after, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        self._since = self._clock()
        self._soon(self._turn)

    def _turn(self) -> None:
        self._soon(self._end)

    def _end(self) -> None:
        found, self._found = self._found, None
        if found is not None:
            now = self._clock()
            found(now - self._since, now)
