"""What one exchange may use of its tenant's limits: leased in advance, drawn on by counting, given back at the end.

No I/O: the limiter answers by callbacks, at once or later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from .limits import MAX_TOKENS, Decision, Limit


class Verdict(Enum):
    """What becomes of the event that was just counted."""

    PASS = 0
    WAIT = 1
    """It may pass once more tokens were leased; they are requested."""
    END = 2
    """It is more than may pass: the stream ends before it."""


ADMITTED = Decision(True, 0, ())
"""Where there is nothing to ask for."""


class Limiter(Protocol):
    """A limit store as the middle sees it. Its failures are decisions too: it never raises."""

    lease: int
    """Tokens of one lease."""
    renewal: float
    """Seconds after which a lease that was not extended has to be renewed."""

    def admit(self, stream_id: str, limits: Sequence[Limit], *, need: int, done: Callable[[Decision], None]) -> None:
        """Admit a stream, with a first lease of at least `need` tokens."""

    def extend(self, stream_id: str, used: int, want: int, done: Callable[[int], None]) -> None:
        """It used so much until now and wants more; `done` hears how many it got on top."""

    def settle(self, stream_id: str, used: int) -> None:
        """It is over, and is charged `used` in total."""


class TokenLease:
    """Of one exchange. `ask`, then `verdict` for each event with content, `sweep` now and then, `settle` at the end."""

    __slots__ = (
        "_asking",
        "_done",
        "_limiter",
        "_refused",
        "_renewed_at",
        "_resume",
        "_settled",
        "_stream_id",
        "_used",
        "_waits",
        "counts",
        "decision",
        "granted",
    )

    def __init__(self, limiter: Limiter, stream_id: str, *, resume: Callable[[], None]) -> None:
        """`resume` is called when a `Verdict.WAIT` is over."""
        self._limiter = limiter
        self._stream_id = stream_id
        self._resume: Callable[[], None] | None = resume
        """None once it is over. This and the next lead back to who holds the lease: kept, each request would leave a
        cycle to the garbage collector."""
        self._done: Callable[[Decision], None] | None = None
        self._asking = False
        self._waits = False
        """Whether an event waits for an answer of the limiter. With one that answers at once, none does."""
        self.counts = False
        """Whether a limit of tokens is among those that hold."""
        self._refused = False
        """The limiter has no more tokens."""
        self._settled = False
        self._used = 0
        self._renewed_at: float | None = None
        self.granted = 0
        """Tokens leased so far."""
        self.decision: Decision | None = None
        """How admission went; None before."""

    @property
    def left(self) -> int:
        """Tokens of the lease that are not used."""
        return max(0, self.granted - self._used)

    def ask(self, limits: Sequence[Limit], *, need: int, done: Callable[[Decision], None]) -> None:
        """May it start? `need` tokens are used at once, by its request."""
        if not limits:
            done(ADMITTED)
            return
        self.counts = any(limit.counts_tokens for limit in limits)
        self._done = done
        self._limiter.admit(self._stream_id, limits, need=need, done=self._on_decision)

    def verdict(self, used: int) -> Verdict:
        """`used` tokens in all, the event that was just counted among them. Integers only, while the lease lasts.

        A lower figure than before is a report that corrects an estimate. The stream may use the difference again; if it
        does not, the difference comes back at the end.
        """
        if used > MAX_TOKENS:  # nonsense; asking for all of it would take lease after lease
            used = MAX_TOKENS
        self._used = used
        if not self.counts:
            return Verdict.PASS
        if used + self._limiter.lease // 2 > self.granted and not self._asking and not self._refused:
            self._extend()
        if used <= self.granted:
            return Verdict.PASS
        self._waits = self._asking
        return Verdict.WAIT if self._asking else Verdict.END

    def room(self, used: int) -> int:
        """Tokens beyond `used` that pass before the lease has to be extended; 0 or less where that is due."""
        if not self.counts:
            return used + (1 << 62)
        kept = 0 if self._asking or self._refused else self._limiter.lease // 2
        return self.granted - kept - used

    def sweep(self, now: float) -> None:
        """A slow stream's lease must not expire."""
        if self._renewed_at is None:
            self._renewed_at = now
        elif now - self._renewed_at >= self._limiter.renewal and not self._settled and self._holds_lease:
            self._renewed_at = now
            self._limiter.extend(self._stream_id, self._covered, 0, _nothing)

    def settle(self, used: int) -> None:
        """The exchange is over, and `used` tokens in all are charged; the rest of what was taken is given back. Safe to
        be called at any time and again."""
        if self._settled:
            return
        self._settled = True
        self._resume = self._done = None
        if self._holds_lease:
            self._limiter.settle(self._stream_id, used)

    @property
    def _covered(self) -> int:
        """What is used of the lease. An event beyond it has not passed: charged now, it would be paid for twice."""
        return min(self._used, self.granted)

    @property
    def _holds_lease(self) -> bool:
        return self.decision is not None and self.decision.admitted

    # --- answers of the limiter ------------------------------------------------------------------------------------

    def _on_decision(self, decision: Decision) -> None:
        self.decision = decision
        self.granted = decision.granted
        done, self._done = self._done, None
        if self._settled:  # the client left meanwhile
            if decision.admitted:
                self._limiter.settle(self._stream_id, 0)
        elif done is not None:
            done(decision)

    def _extend(self) -> None:
        self._asking = True
        lease = self._limiter.lease
        want = max(lease, self._used - self.granted + lease)
        self._limiter.extend(self._stream_id, self._covered, want, self._on_more)

    def _on_more(self, more: int) -> None:
        self._asking = False
        self.granted += more
        self._refused = more == 0
        if self._settled:
            return
        if more and self._used > self.granted:  # near a quota's end leases are small
            self._extend()
        elif self._waits and self._resume is not None:
            self._waits = False
            self._resume()


def _nothing(more: int) -> None:
    """A renewal brings nothing."""
