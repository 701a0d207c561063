"""The requests to a limit store, and its answers. No I/O.

A stream is admitted against all its limits at once and takes a **lease**: tokens reserved in advance. While it runs it
reports what it used and takes more; when it ends it settles, and what it did not use comes back. A lease that nobody
moves on expires, so that a relay that dies holds nothing for longer than the lease's life.

Limits of money are the same in nano-dollars. A stream that has both is two to the store: see `money_stream`.

Every key, and every stream's id, begins with its tenant in braces (`tenant_key`): in a Redis Cluster that puts all of a
tenant on one node, where one script sees it all. One call names one tenant only, and each key once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, NamedTuple, Protocol
from urllib.parse import quote

SMALL_LEASE = 64
"""Tokens. Near a quota's end a lease is at most a quarter of what is left, so that one stream does not hold all of it
while others starve; down to this size, so that the last tokens do not cost a call each."""

SMALL_MONEY = 1_000_000
"""Nano-dollars: the same for quotas of money."""

MAX_PARTS = 1 << 52
"""A bucket counts in parts of tokens, in Redis as doubles: they are exact up to twice this."""

MAX_TOKENS = 1 << 32
"""Of one stream. A larger figure is nonsense; up to this one, what is charged and given back stays exact in doubles."""

MAX_MONEY = 1 << 44
"""Nano-dollars of one stream, some 17,000 dollars: likewise."""

PAST_QUOTA = 60.0
"""Seconds that a quota lives whose end has passed when it is first used: the clocks of relay and store differ, and
around midnight every request would otherwise find a quota of its own."""


class StoreUnavailable(Exception):
    """The store did not answer, not in time, or with an error. Whether it acted is not known."""


class LeaseLost(StoreUnavailable):
    """The store is well but knows nothing of the stream: it lost its memory, or the stream was never admitted."""


class Garbled(StoreUnavailable):
    """The store is well, but what it has can't be read."""


@dataclass(frozen=True, slots=True)
class _Bucket:
    """`capacity` at once, and `refill` more in each `period` seconds, evenly. Whole numbers keep refills exact."""

    key: str
    capacity: int
    refill: int
    period: int = 60

    def __post_init__(self) -> None:
        tag_of(self.key)
        if self.capacity < 1 or self.refill < 1 or self.period < 1:
            raise ValueError(f"{self.key}: capacity, refill and period must be at least 1")
        if self.capacity * self.parts > MAX_PARTS:
            raise ValueError(f"{self.key}: capacity times period must be at most {MAX_PARTS // 1000}")

    @property
    def limit(self) -> int:
        return self.capacity

    @property
    def parts(self) -> int:
        """Parts of one token, such that each millisecond refills `refill` parts."""
        return self.period * 1000


class RequestBucket(_Bucket):
    """Requests per time; a stream takes one."""

    __slots__ = ()
    counts_tokens: ClassVar[bool] = False


class TokenBucket(_Bucket):
    """Tokens per time. It decides at admission only: a stream that runs takes from it below zero rather than to be cut,
    and what it took holds back those that come next."""

    __slots__ = ()
    counts_tokens: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Slots:
    """At most so many streams at once."""

    key: str
    most: int
    counts_tokens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        tag_of(self.key)

    @property
    def limit(self) -> int:
        return self.most


@dataclass(frozen=True, slots=True)
class Quota:
    """At most so many tokens until `ends_at` (seconds since the epoch), or for `ttl` seconds from the first use: one of
    both. Then the counter is gone. What streams of before use afterwards is not limited by it, nor charged to the next.
    """

    key: str
    most: int
    ends_at: float | None = None
    ttl: float | None = None
    counts_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        tag_of(self.key)
        if (self.ends_at is None) == (self.ttl is None):
            raise ValueError(f"{self.key}: a quota has ends_at or ttl")

    @property
    def limit(self) -> int:
        return self.most


class MoneyQuota(Quota):
    """The same of nano-dollars. A stream's lease is either of tokens or of these."""

    __slots__ = ()


Limit = RequestBucket | TokenBucket | Slots | Quota
"""A `MoneyQuota` is a `Quota`."""


class Cause(Enum):
    """Why a stream is refused."""

    RATE = "rate"
    CONCURRENCY = "concurrency"
    QUOTA = "quota"
    UNAVAILABLE = "unavailable"
    """The store is not there, and nothing may pass without it."""


def cause_of(limit: Limit) -> Cause:
    """Why a stream is refused that `limit` refuses."""
    if isinstance(limit, Slots):
        return Cause.CONCURRENCY
    return Cause.QUOTA if isinstance(limit, Quota) else Cause.RATE


class LimitState(NamedTuple):
    """What is left of a limit, for the response's head."""

    limit: Limit
    remaining: int
    """Requests, tokens or streams; leases are taken off. Never less than 0."""
    reset: float | None
    """Seconds until a bucket is full or a quota ends; None for slots."""


class Decision(NamedTuple):
    """Whether a stream may start. A refusal took nothing."""

    admitted: bool
    granted: int
    """Tokens of the first lease; 0 when refused."""
    states: tuple[LimitState, ...]
    """In the order of the limits; empty if there was no store to check them."""
    cause: Cause | None = None
    refused_by: Limit | None = None
    """The first limit that refused."""
    retry_after: float | None = None
    """Seconds until that limit may pass; None: not known, or never (it needs more than a bucket holds)."""


class Usage(NamedTuple):
    """What is taken of a limit now."""

    limit: Limit
    used: int
    """Tokens charged to a quota; streams in slots; what a bucket lacks, leases included."""
    reserved: int
    """Tokens of a quota in leases, not yet charged; 0 for the others."""
    reset: float | None
    """As in `LimitState`."""


class LimitStore(Protocol):
    """Each call is one atomic step. All raise `StoreUnavailable`; ValueError when tenants are mixed."""

    async def admit(self, stream_id: str, limits: Sequence[Limit], *, need: int, want: int) -> Decision:
        """Check all `limits` and, if all pass, take from all: a request, a slot, and a lease of `want` tokens, less
        where less is left, but at least `need` (and 1). A stream that is already admitted gets the same lease again, so
        a call whose answer was lost may be repeated.
        """

    async def extend(self, stream_id: str, used: int, want: int) -> int:
        """Charge `used`, all tokens the stream used so far, and move its lease on. Less than before changes nothing, as
        calls may be repeated and overtake one another.

        Returns how many of `want` tokens it may use on top of its lease; 0: a quota is exhausted, or the stream
        settled. With `want=0` it only charges and renews. A lease that had expired is taken up again, its slot also.
        Raises `LeaseLost`.
        """

    async def settle(self, stream_id: str, used: int) -> bool:
        """The stream is over: it is charged `used` in total, as far as `countable`, whatever `extend` charged before.
        Everything beyond that comes back, and its slot. A quota's period that has ended stays as it is.

        Returns False if there is nothing to settle, and changes nothing then: the stream has settled, with this figure
        or another, or is not known. Repeat it after a `StoreUnavailable`, while the store remembers.
        """

    async def usage(self, limits: Sequence[Limit]) -> tuple[Usage, ...]:
        """What is taken of one tenant's limits, in their order."""

    async def close(self) -> None: ...


def tenant_key(tenant: str, *names: str) -> str:
    """`{tenant}:name:name`. Braces in the tenant's own name are quoted, as Redis takes the text between the first."""
    if not tenant:
        raise ValueError("a tenant has a name")
    return ":".join((f"{{{quote(tenant, safe='')}}}", *names))


def tag_of(key: str) -> str:
    """The tenant in braces with which `key` begins."""
    end = key.find("}")
    if end < 2 or not key.startswith("{"):
        raise ValueError(f"{key!r} does not begin with its tenant in braces")
    return key[: end + 1]


def check_tag(tag: str, limits: Sequence[Limit]) -> None:
    for limit in limits:
        if not limit.key.startswith(tag):
            raise ValueError(f"{limit.key!r} is not a key of {tag}")


_MONEY = "$"


def money_stream(stream_id: str) -> str:
    """The id under which a stream holds its lease of money."""
    return stream_id + _MONEY


def is_of_money(stream_id: str) -> bool:
    """Whether the lease of `stream_id` is of nano-dollars."""
    return stream_id.endswith(_MONEY)


def small_lease(limit: Quota) -> int:
    return SMALL_MONEY if isinstance(limit, MoneyQuota) else SMALL_LEASE


def lease_size(want: int, left: int, small: int = SMALL_LEASE) -> int:
    """The size of a quota's next lease: see `SMALL_LEASE`. 0 when nothing is `left`."""
    return max(0, min(want, left, max(small, left // 4)))


def countable(amount: int, stream_id: str) -> int:
    """`amount` within what a stream can have: 0 to `MAX_TOKENS`, or `MAX_MONEY`."""
    return 0 if amount < 0 else min(amount, MAX_MONEY if is_of_money(stream_id) else MAX_TOKENS)


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
