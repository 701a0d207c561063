"""How long new input waits for an event loop. No I/O: loop and clock are passed in.

An event loop handles ready events in iterations. Input that arrives during one waits for the rest of it, and then for
its turn in the next.
"""

from __future__ import annotations

from collections.abc import Callable

Found = Callable[[float, float], None]
"""Is called with a delay in seconds, and the time."""


class LoopDelay:
    """Measures the rest of one iteration and the whole of the next, with two callbacks of the loop."""

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
        """The callback of the measurement under way; None: there is none."""
        self._since = 0.0

    def measure(self, found: Found, *, after: float = 0.0) -> None:
        """Measure once, in `after` seconds; ignored while another measurement is under way."""
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
