"""The memory store's accounts, one for each limit. No I/O; `now` is in milliseconds, and all numbers are whole.

The same arithmetic is in common.lua, for Redis.
"""

from __future__ import annotations

from typing import Any

from ..quota.limits import (
    PAST_QUOTA,
    Cause,
    Limit,
    LimitState,
    Quota,
    RequestBucket,
    Slots,
    TokenBucket,
    Usage,
    lease_size,
    milliseconds,
    small_lease,
)


class BucketAccount:
    """What a bucket lacks, in parts of a token. 0 means full, so a full bucket need not be kept.

    Refilling or returning late gives the same result as doing it often: only the floor of 0 could make a difference,
    and below it there is nothing to return.
    """

    __slots__ = ("_at", "_lacks", "_parts", "counts_tokens", "limit")

    cause = Cause.RATE

    def __init__(self, limit: RequestBucket | TokenBucket, now: int) -> None:
        self.limit = limit
        self.counts_tokens = limit.counts_tokens
        self._parts = limit.parts
        self._lacks = 0
        self._at = now

    def refresh(self, limit: Any, now: int) -> bool:
        """Refill up to `now`; called before anything else, with a limit of the same kind. Always True: a bucket never
        ends."""
        if self._lacks:
            elapsed = now - self._at
            if elapsed > 0:
                self._lacks = max(0, self._lacks - elapsed * self.limit.refill)
        self._at = now
        if limit is not self.limit:
            self._change(limit)
        return True

    def _change(self, limit: RequestBucket | TokenBucket) -> None:
        if limit.parts != self._parts:
            self._lacks = -(-self._lacks * limit.parts // self._parts)
            self._parts = limit.parts
        self.limit = limit

    def room(self) -> int:
        """Whole tokens that are available; negative if overdrawn."""
        return self.limit.capacity - -(-self._lacks // self._parts)

    def lease(self, want: int, room: int) -> int:
        return min(want, room)

    def wait(self, amount: int, now: int) -> int | None:
        """Milliseconds until `amount` is available."""
        limit = self.limit
        if amount > limit.capacity:
            return None
        return -(-(self._lacks + (amount - limit.capacity) * self._parts) // limit.refill)

    def take(self, amount: int) -> None:
        self._lacks += amount * self._parts

    def charge(self, amount: int, over: int) -> None:
        """Charge `amount` tokens, of which `over` were not taken before; a negative `amount` reverses a charge."""
        self._lacks += over * self._parts

    def give(self, amount: int) -> None:
        self._lacks = max(0, self._lacks - amount * self._parts)

    def is_over(self, now: int) -> bool:
        """Whether forgetting it changes nothing."""
        return self._lacks <= (now - self._at) * self.limit.refill

    def state(self, now: int) -> LimitState:
        limit, lacks = self.limit, self._lacks
        room = limit.capacity - -(-lacks // self._parts)
        return LimitState(limit, room if room > 0 else 0, -(-lacks // limit.refill) / 1000)

    def usage(self, now: int) -> Usage:
        limit = self.limit
        return Usage(limit, limit.capacity - self.room(), 0, self.state(now).reset)


class SlotsAccount:
    """Concurrent streams."""

    __slots__ = ("_taken", "limit")

    cause = Cause.CONCURRENCY
    counts_tokens = False

    def __init__(self, limit: Slots, now: int) -> None:
        self.limit = limit
        self._taken = 0

    def refresh(self, limit: Any, now: int) -> bool:
        self.limit = limit
        return True

    def room(self) -> int:
        return self.limit.most - self._taken

    def wait(self, amount: int, now: int) -> int | None:
        return None

    def take(self, amount: int) -> None:
        self._taken += amount

    def give(self, amount: int) -> None:
        self._taken -= amount

    def is_over(self, now: int) -> bool:
        return not self._taken

    def state(self, now: int) -> LimitState:
        return LimitState(self.limit, max(0, self.room()), None)

    def usage(self, now: int) -> Usage:
        return Usage(self.limit, self._taken, 0, None)


class QuotaAccount:
    """One period of a quota: the next period has an account of its own."""

    __slots__ = ("_ends", "_reserved", "_small", "_used", "limit")

    cause = Cause.QUOTA
    counts_tokens = True

    def __init__(self, limit: Quota, now: int) -> None:
        self.limit = limit
        self._used = 0
        self._reserved = 0
        self._ends = quota_end(limit, now)
        self._small = small_lease(limit)

    def refresh(self, limit: Any, now: int) -> bool:
        """Use `limit` from now on. False: the period is over."""
        self.limit = limit
        return now < self._ends

    def room(self) -> int:
        return self.limit.most - self._used - self._reserved

    def lease(self, want: int, room: int) -> int:
        return lease_size(want, room, self._small)

    def wait(self, amount: int, now: int) -> int | None:
        """Milliseconds until its end; None if leases are in the way, which may be returned sooner."""
        return self._ends - now if self._used + amount > self.limit.most else None

    def take(self, amount: int) -> None:
        self._reserved += amount

    def charge(self, amount: int, over: int) -> None:
        """See `BucketAccount`."""
        self._used += amount
        self._reserved -= amount - over

    def give(self, amount: int) -> None:
        self._reserved -= amount

    def is_over(self, now: int) -> bool:
        return self._ends <= now

    def state(self, now: int) -> LimitState:
        return LimitState(self.limit, max(0, self.room()), (self._ends - now) / 1000)

    def usage(self, now: int) -> Usage:
        return Usage(self.limit, self._used, self._reserved, (self._ends - now) / 1000)


Account = BucketAccount | SlotsAccount | QuotaAccount


def account_of(limit: Limit, now: int) -> Account:
    """A new account: nothing of `limit` is taken."""
    if isinstance(limit, Quota):
        return QuotaAccount(limit, now)
    if isinstance(limit, Slots):
        return SlotsAccount(limit, now)
    return BucketAccount(limit, now)


def quota_end(limit: Quota, now: int) -> int:
    """The end of a period that is first used now, in milliseconds."""
    if limit.ttl is not None:
        return now + milliseconds(limit.ttl)
    assert limit.ends_at is not None
    end = milliseconds(limit.ends_at)
    return end if end > now else now + milliseconds(PAST_QUOTA)
