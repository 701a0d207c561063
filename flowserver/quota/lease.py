"""What one exchange may use of its tenant's limits: leased in advance, used without further calls, returned at the end.

No I/O: the limiter answers by callbacks, at once or later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from .limits import MAX_MONEY, MAX_TOKENS, Decision, Limit


class Verdict(Enum):
    """What to do with the event that was just counted."""

    PASS = 0
    WAIT = 1
    """It may pass once more tokens are granted; they have been requested."""
    END = 2
    """It exceeds the limit: the stream ends before it."""


class LeaseState(Enum):
    ASKED = "asked"
    """The stream is not admitted yet."""
    HELD = "held"
    EXTENDING = "extending"
    """More tokens have been requested."""
    EXHAUSTED = "exhausted"
    """No more tokens are available, or the stream was refused."""
    SETTLED = "settled"


_PASS, _END = Verdict.PASS, Verdict.END
_HELD, _EXTENDING = LeaseState.HELD, LeaseState.EXTENDING
"""Python 3.11 takes 75 ns to look up a member of an enumeration."""

ADMITTED = Decision(True, 0, ())
"""The decision if there is no limit to check."""


def worse(one: Verdict, other: Verdict) -> Verdict:
    """The stricter of the two."""
    return other if one is _PASS or other is _END else one


class Limiter(Protocol):
    """A limit store as a lease sees it. It never raises: failures are decisions, too."""

    lease: int
    """Tokens of one lease."""
    renewal: float
    """Seconds after which a lease that was not extended has to be renewed."""

    def admit(
        self, stream_id: str, limits: Sequence[Limit], *, need: int, want: int, done: Callable[[Decision], None]
    ) -> None:
        """Admit a stream, with a first lease of `want` tokens, or fewer if fewer are left, but at least `need`."""

    def extend(self, stream_id: str, used: int, want: int, done: Callable[[int], None]) -> None:
        """The stream has used `used` tokens in total and requests `want` more; `done` is called with the number
        granted."""

    def settle(self, stream_id: str, used: int) -> None:
        """The stream is over, and is charged `used` tokens in total."""


class TokenLease:
    """The lease of one exchange: `ask`, then `verdict` for each event with content, `sweep` about once a second,
    `settle` at the end.

    If money is limited there is a second lease, of nano-dollars: `size` is the amount leased at a time.
    """

    __slots__ = (
        "_done",
        "_limiter",
        "_most",
        "_renewed_at",
        "_resume",
        "_size",
        "_stream_id",
        "_used",
        "_waits",
        "counts",
        "decision",
        "granted",
        "state",
    )

    def __init__(
        self, limiter: Limiter, stream_id: str, *, resume: Callable[[], None], size: int | None = None
    ) -> None:
        """`resume` is called when a `Verdict.WAIT` is over. `size` None: the lease is of tokens, in the limiter's
        size."""
        self._limiter = limiter
        self._size = limiter.lease if size is None else size
        self._most = MAX_TOKENS if size is None else MAX_MONEY
        self._stream_id = stream_id
        self._resume: Callable[[], None] | None = resume
        """None once it is settled. This and `_done` refer to the lease's owner: if kept, each request would leave a
        reference cycle."""
        self._done: Callable[[Decision], None] | None = None
        self._waits = False
        """Whether an event waits for more tokens. That never happens with a limiter that answers at once."""
        self.counts = False
        """Whether one of the limits is of tokens."""
        self.state = LeaseState.ASKED
        self._used = 0
        self._renewed_at: float | None = None
        self.granted = 0
        """Tokens leased so far."""
        self.decision: Decision | None = None
        """The result of the admission; None before."""

    def __repr__(self) -> str:
        waits = ", an event waits" if self._waits else ""
        return f"<TokenLease {self._stream_id} {self.state.value}: {self._used} of {self.granted} tokens used{waits}>"

    @property
    def left(self) -> int:
        """Tokens of the lease that are not used."""
        return max(0, self.granted - self._used)

    def ask(self, limits: Sequence[Limit], *, need: int, done: Callable[[Decision], None]) -> None:
        """Ask for admission. `need` tokens are used at once, by the request itself."""
        if not limits:
            done(ADMITTED)
            return
        self.counts = any(limit.counts_tokens for limit in limits)
        self._done = done
        self._limiter.admit(self._stream_id, limits, need=need, want=need + self._size, done=self._on_decision)

    def verdict(self, used: int) -> Verdict:
        """Decide on the event that was just counted; `used`: all tokens so far, including it. While the lease lasts,
        this is integer arithmetic only.

        A lower figure than before is a report that corrects an estimate. The stream may use the difference again;
        otherwise it is returned at the end.
        """
        if used > self._most:  # an impossible figure; requesting all of it would take lease after lease
            used = self._most
        self._used = used
        if not self.counts:
            return _PASS
        if used + self._size // 2 > self.granted and self.state is _HELD:
            self._extend()
        if used <= self.granted:
            return _PASS
        self._waits = self.state is _EXTENDING
        return Verdict.WAIT if self._waits else Verdict.END

    def room(self, used: int) -> int:
        """Tokens beyond `used` that may pass before more must be requested; 0 or less if that is due."""
        if not self.counts:
            return used + (1 << 62)
        kept = self._size // 2 if self.state is _HELD else 0
        return self.granted - kept - used

    def sweep(self, now: float) -> None:
        """Renew the lease of a slow stream before it expires."""
        if self._renewed_at is None:
            self._renewed_at = now
        elif now - self._renewed_at >= self._limiter.renewal and self._holds_lease:
            self._renewed_at = now
            self._limiter.extend(self._stream_id, self._covered, 0, _nothing)

    def settle(self, used: int) -> None:
        """The exchange is over: charge `used` tokens in total, and return the rest of the lease. Safe at any time, and
        to repeat."""
        holds_lease, self.state = self._holds_lease, LeaseState.SETTLED
        self._resume = self._done = None
        if holds_lease:
            self._limiter.settle(self._stream_id, used)

    @property
    def _covered(self) -> int:
        """The used part of the lease. An event beyond it has not passed yet: if charged now, it would be charged
        twice."""
        return min(self._used, self.granted)

    @property
    def _holds_lease(self) -> bool:
        """Whether the limiter holds tokens of this stream."""
        return self.decision is not None and self.decision.admitted and self.state is not LeaseState.SETTLED

    # --- answers of the limiter ------------------------------------------------------------------------------------

    def _on_decision(self, decision: Decision) -> None:
        self.decision = decision
        self.granted = decision.granted
        done, self._done = self._done, None
        if self.state is LeaseState.SETTLED:  # the client left meanwhile
            if decision.admitted:
                self._limiter.settle(self._stream_id, 0)
            return
        self.state = _HELD if decision.admitted else LeaseState.EXHAUSTED
        if done is not None:
            done(decision)

    def _extend(self) -> None:
        self.state = _EXTENDING
        want = max(self._size, self._used - self.granted + self._size)
        self._limiter.extend(self._stream_id, self._covered, want, self._on_more)

    def _on_more(self, more: int) -> None:
        self.granted += more
        if self.state is LeaseState.SETTLED:
            return
        self.state = _HELD if more else LeaseState.EXHAUSTED
        if more and self._used > self.granted:  # near a quota's end leases are small
            self._extend()
        elif self._waits and self._resume is not None:
            self._waits = False
            self._resume()


def _nothing(more: int) -> None:
    """Ignore the result of a renewal."""
