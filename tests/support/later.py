"""What an event loop does once the present event is over, when a test says so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Later:
    """Calls put off until the present event is over, as by an event loop's `call_soon`."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()

    def __call__(self, call: Callable[[], None]) -> None:
        self._calls.append(call)

    def run(self) -> None:
        """The event is over, and so are those that follow from it."""
        while self._calls:
            self._calls.popleft()()

    def run_once(self) -> None:
        """One iteration of the loop."""
        for _ in range(len(self._calls)):
            self._calls.popleft()()

    @property
    def is_idle(self) -> bool:
        return not self._calls
