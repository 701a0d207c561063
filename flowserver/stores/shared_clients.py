"""What each client has open, over all workers, if that is limited (FLOW_MAX_CONNECTIONS_PER_CLIENT). No I/O.

A worker reports each connection that begins or ends, and is told which clients have reached the limit. That takes a
moment, in which a client may exceed it a little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

ClientKey = int
"""The key by which a client is counted: see `downstream.clients_by_address`."""
Tell = Callable[..., None]
"""Sends an event with its arguments to the other side."""


class ClientTally:
    """The parent's side."""

    __slots__ = ("_most", "_open", "_parts")

    def __init__(self) -> None:
        self._most: int | None = None
        """The limit per client, as reported by workers; None: not reported yet."""
        self._open: Counter[ClientKey] = Counter()
        self._parts: dict[TallyPart, None] = {}

    def __repr__(self) -> str:
        return f"<ClientTally most={self._most} clients={len(self._open)} workers={len(self._parts)}>"

    def join(self, part: TallyPart, most: int) -> None:
        """A worker joins, and is told which clients have reached the limit."""
        self._most = most
        self._parts[part] = None
        for key, count in self._open.items():
            if count >= most:
                part.tell("full", key)

    def leave(self, part: TallyPart) -> None:
        """A worker is gone, and with it everything its clients had open there."""
        self._parts.pop(part, None)
        for key, count in part.open.items():
            self._change(key, -count)
        part.open.clear()

    def hear(self, part: TallyPart, event: str, given: int) -> None:
        """Handle an event from a `ClientShare`. Raises ValueError for an invalid one."""
        match event:
            case "limit":
                self.join(part, given)
            case "enter":
                part.open[given] += 1
                self._change(given, 1)
            case "leave" if part.open[given] > 0:
                part.open[given] -= 1
                self._change(given, -1)
                if not part.open[given]:
                    del part.open[given]
            case _:
                raise ValueError(f"no such event of a client: {event!r}")

    def _change(self, key: ClientKey, by: int) -> None:
        before = self._open[key]
        self._open[key] = after = before + by
        if not after:
            del self._open[key]
        if self._most is None or (before >= self._most) == (after >= self._most):
            return
        for part in self._parts:
            part.tell("full" if after >= self._most else "free", key)


class TallyPart:
    """What one worker has reported."""

    __slots__ = ("open", "tell")

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.open: Counter[ClientKey] = Counter()


class ClientShare:
    """A worker's side: a `downstream.clients_by_address.Elsewhere`."""

    __slots__ = ("_full", "_tell")

    def __init__(self, tell: Tell, most: int) -> None:
        self._tell = tell
        self._full: set[ClientKey] = set()
        tell("limit", most)

    def enter(self, key: ClientKey) -> None:
        self._tell("enter", key)

    def leave(self, key: ClientKey) -> None:
        self._tell("leave", key)

    def is_full(self, key: ClientKey) -> bool:
        """Whether a client has reached its limit, over all workers."""
        return key in self._full

    def hear(self, event: str, key: ClientKey) -> None:
        if event == "full":
            self._full.add(key)
        else:
            self._full.discard(key)

    def lost(self) -> None:
        """The parent is gone: only what is open here counts."""
        self._full.clear()
