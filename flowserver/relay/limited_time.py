"""Who held an answer up, and for how long: its client, the path to it, its provider, or the relay. No I/O.

While the answer's gate is open, whatever comes next is up to the provider. It is shut for the client's side or for
tokens; of the former the kernel tells which part is the client's own. It is asked when a pause begins and ends, and
when figures are needed meanwhile.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from ..flow.read_gate import Reason


class Holder(StrEnum):
    """Who holds an answer: a label in the metrics, a word in /streams."""

    CLIENT = "client"
    NETWORK = "network"
    """The path to the client."""
    PROVIDER = "provider"
    RELAY = "relay"
    """It waits for tokens."""


class ClientSide(Protocol):
    """The client's side of an answer, as far as it tells who is slow."""

    @property
    def held_since(self) -> float | None: ...

    def client_seconds(self, now: float) -> float | None: ...


class WaitObserver(Protocol):
    """Hears how long bytes waited for a client's side."""

    def waited(self, seconds: float) -> None: ...


TICK = 0.01
"""Seconds by which the kernel's count may be ahead of ours: it counts in ticks of its clock, of 10 ms at most."""
RECENT = 0.02
"""Seconds of a pause that tell who holds it at present."""


class LimitedTime:
    """The accounts of one answer. Made when something other than its provider holds it first, which is seldom."""

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
        """Time counts from `first_byte_at` on; None: from `begin` on."""
        self._down = down
        self._observer = observer
        self._since = first_byte_at
        """Up to when the accounts are settled; None: not begun, or over."""
        self._reasons = 0
        self._mark: float | None = None
        """What `client_seconds` was when the accounts were last settled in the present pause."""
        self._ahead = 0.0
        """How much of the kernel's count was more than the time that had passed: it is a later time's."""
        self._is_client = True
        """Whether the present pause is the client's doing rather than the path's."""
        self._is_last = False
        """Whether the present pause lasts to the end."""
        self.held_since: float | None = None
        """Since when bytes wait for the client's side in the present pause; None: there is none."""
        self.seconds = dict.fromkeys(Holder, 0.0)
        """How long each held it so far."""

    def __repr__(self) -> str:
        by = " ".join(f"{holder}={seconds:g}" for holder, seconds in self.seconds.items())
        return f"<LimitedTime {self.holder.value} {by}>"

    @property
    def holder(self) -> Holder:
        """Who holds the answer at present, as of the last `settle`."""
        if self._reasons & Reason.DOWNSTREAM:
            return Holder.CLIENT if self._is_client else Holder.NETWORK
        return Holder.RELAY if self._reasons & Reason.QUOTA else Holder.PROVIDER

    def begin(self, now: float) -> None:
        """The answer's first byte is there."""
        self.settle(now)
        self._since = now

    def hold(self, reason: Reason, now: float) -> None:
        """From now on `reason` holds the answer. Safe to repeat."""
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
        """The answer is whole, and the rest of it waits for the client's side."""
        self.hold(Reason.DOWNSTREAM, now)
        self._is_last = True

    def release(self, reason: Reason, now: float) -> None:
        """`reason` holds it no more. Safe to repeat."""
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
        """Divide time for which the client's side took nothing. Where nobody can tell, it is the client's."""
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
