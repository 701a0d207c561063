"""Who held an answer up, and for how long: its client, the path to it, its provider, or the relay. No I/O.

While the answer's gate is open, the provider holds the answer. The gate closes for the client's side or for lack of
tokens; in the former case the kernel knows which part is the client's own. It is queried when a pause begins and ends,
and when figures are needed in between.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from ..flow.read_gate import Reason


class Holder(StrEnum):
    """Who holds an answer up: a label in the metrics, a word in /streams."""

    CLIENT = "client"
    NETWORK = "network"
    """The path to the client."""
    PROVIDER = "provider"
    RELAY = "relay"
    """The answer waits for tokens."""


class ClientSide(Protocol):
    """The client's side of an answer: the part that tells who is slow."""

    @property
    def held_since(self) -> float | None: ...

    def client_seconds(self, now: float) -> float | None: ...


class WaitObserver(Protocol):
    """Is told how long bytes waited for a client's side."""

    def waited(self, seconds: float) -> None: ...


TICK = 0.01
"""Seconds by which the kernel's count may be ahead of ours: it counts in clock ticks of at most 10 ms."""
RECENT = 0.02
"""Seconds of a pause that are needed to tell who causes it."""


class LimitedTime:
    """The time accounts of one answer. Created when something other than the provider first holds it up, which is
    rare."""

    __slots__ = (
        "_ahead",
        "_down",
        "_is_client",
        "_is_last",
        "_mark",
        "_observer",
        "_reasons",
        "_since",
        "held_since",
        "seconds",
    )

    def __init__(self, down: ClientSide, observer: WaitObserver, first_byte_at: float | None) -> None:
        """Time is counted from `first_byte_at`; None: from `begin`."""
        self._down = down
        self._observer = observer
        self._since = first_byte_at
        """Up to when the accounts are settled; None: not begun, or over."""
        self._reasons = 0
        self._mark: float | None = None
        """`client_seconds` when the accounts were last settled in the current pause."""
        self._ahead = 0.0
        """Excess of the kernel's count over the time that had passed: it belongs to a later time."""
        self._is_client = True
        """Whether the current pause is caused by the client rather than by the path."""
        self._is_last = False
        """Whether the current pause lasts to the end."""
        self.held_since: float | None = None
        """Since when bytes wait for the client's side in the current pause; None: there is no such pause."""
        self.seconds = dict.fromkeys(Holder, 0.0)
        """How long each has held it up so far."""

    def __repr__(self) -> str:
        by = " ".join(f"{holder}={seconds:g}" for holder, seconds in self.seconds.items())
        return f"<LimitedTime {self.holder.value} {by}>"

    @property
    def holder(self) -> Holder:
        """Who holds the answer up at present, as of the last `settle`."""
        if self._reasons & Reason.DOWNSTREAM:
            return Holder.CLIENT if self._is_client else Holder.NETWORK
        return Holder.RELAY if self._reasons & Reason.QUOTA else Holder.PROVIDER

    def begin(self, now: float) -> None:
        """The answer's first byte has arrived."""
        self.settle(now)
        self._since = now

    def hold(self, reason: Reason, now: float) -> None:
        """From now on `reason` holds the answer up. Safe to repeat."""
        if self._reasons & reason:
            return
        self.settle(now)
        self._reasons |= reason
        if reason is Reason.DOWNSTREAM:
            since = self._down.held_since
            self.held_since = now if since is None else since
            self._mark = self._down.client_seconds(now)
            self._is_client = True

    def hold_to_end(self, now: float) -> None:
        """The answer is complete, and the rest of it waits for the client's side."""
        self.hold(Reason.DOWNSTREAM, now)
        self._is_last = True

    def release(self, reason: Reason, now: float) -> None:
        """`reason` no longer holds it up. Safe to repeat."""
        if not self._reasons & reason or self._is_last:
            return
        self.settle(now)
        self._reasons &= ~reason
        if reason is Reason.DOWNSTREAM:
            self._end_pause(now)

    def end(self, now: float) -> None:
        """The exchange is over."""
        self.settle(now)
        self._reasons = 0
        self._since = None
        self._end_pause(now)

    def _end_pause(self, now: float) -> None:
        since, self.held_since = self.held_since, None
        if since is not None:
            self._observer.waited(now - since)

    def settle(self, now: float) -> None:
        """Count the time up to now."""
        passed = 0.0 if self._since is None else max(0.0, now - self._since)
        if self._since is not None:
            self._since = now
        if self._reasons & Reason.DOWNSTREAM:
            self._divide(passed, now)
        elif self._reasons & Reason.QUOTA:
            self.seconds[Holder.RELAY] += passed
        else:
            self.seconds[Holder.PROVIDER] += passed

    def _divide(self, passed: float, now: float) -> None:
        """Divide time in which the client's side accepted nothing. If the kernel can't tell, it is the client's."""
        before = self._mark
        mark = self._mark = self._down.client_seconds(now)
        if before is None or mark is None:
            part = passed
        else:
            counted = max(0.0, mark - before) + self._ahead
            part = min(passed, counted)
            self._ahead = min(TICK, counted - part)
        self.seconds[Holder.CLIENT] += part
        self.seconds[Holder.NETWORK] += passed - part
        if passed >= RECENT:
            self._is_client = part * 2 >= passed
