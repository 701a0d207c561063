"""The requests to a limit store, and its answers. No I/O.

A stream is admitted against all its limits at once and takes a **lease**: tokens reserved in advance. While it runs it
reports what it used and takes more; when it ends it settles, and what it did not use is returned. A lease that is not
renewed expires, so a relay that dies holds nothing for longer than a lease's life.

Limits in money work the same way, in nano-dollars. A stream with both kinds is two streams to the store: see
`money_stream`.

Every key, and every stream's id, begins with its tenant in braces (`tenant_key`): in a Redis Cluster this puts a
tenant's data on one node, where one script can access it all. A call names one tenant only, and each key once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, NamedTuple, Protocol
from urllib.parse import quote

SMALL_LEASE = 64
"""Tokens. Near a quota's end a lease is at most a quarter of what is left, so that other streams do not starve; but not
smaller than this, so that the last tokens do not cost a call each."""

SMALL_MONEY = 1_000_000
"""Nano-dollars: the same for quotas of money."""

MAX_PARTS = 1 << 52
"""A bucket counts parts of tokens, in Redis as doubles, which are exact up to twice this."""

MAX_TOKENS = 1 << 32
"""Most tokens of one stream. A larger figure is impossible; up to this one, charges and returns stay exact in
doubles."""

MAX_MONEY = 1 << 44
"""Most nano-dollars of one stream, some 17,000 dollars: likewise."""

PAST_QUOTA = 60.0
"""Seconds that a quota lives if its end has passed when it is first used: the clocks of relay and store differ, and
around midnight every request would otherwise get a new quota."""


class StoreUnavailable(Exception):
    """The store did not answer, answered late, or with an error. Whether it acted is unknown."""


class LeaseLost(StoreUnavailable):
    """The store works but does not know the stream: it lost its data, or the stream was never admitted."""


class Garbled(StoreUnavailable):
    """The store works, but its data can't be read."""


@dataclass(frozen=True, slots=True)
class _Bucket:
    """A token bucket of `capacity`, refilled evenly with `refill` per `period` seconds. Whole numbers keep refills
    exact."""

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
        """Parts of one token, such that `refill` parts are refilled each millisecond."""
        return self.period * 1000


class RequestBucket(_Bucket):
    """A rate of requests; a stream takes one."""

    __slots__ = ()
    counts_tokens: ClassVar[bool] = False


class TokenBucket(_Bucket):
    """A rate of tokens. It is checked at admission only: a running stream may take it below zero rather than be cut,
    which holds back the next streams."""

    __slots__ = ()
    counts_tokens: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Slots:
    """A limit of concurrent streams."""

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
    """A number of tokens until `ends_at` (seconds since the epoch), or for `ttl` seconds from the first use; exactly
    one of them is set. Then the counter ends. What older streams use afterwards is neither limited by it nor charged to
    the next one.
    """

    key: str
    most: int
    ends_at: float | None = None
    ttl: float | None = None
    counts_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        tag_of(self.key)
        if (self.ends_at is None) == (self.ttl is None):
            raise ValueError(f"{self.key}: a quota has either ends_at or ttl")

    @property
    def limit(self) -> int:
        return self.most


class MoneyQuota(Quota):
    """The same for nano-dollars. A stream's lease is of either tokens or nano-dollars."""

    __slots__ = ()


Limit = RequestBucket | TokenBucket | Slots | Quota
"""Includes `MoneyQuota`, a subclass of `Quota`."""


class Cause(Enum):
    """Why a stream is refused."""

    RATE = "rate"
    CONCURRENCY = "concurrency"
    QUOTA = "quota"
    UNAVAILABLE = "unavailable"
    """The store is unavailable, and nothing may pass without it."""


def cause_of(limit: Limit) -> Cause:
    """The cause if `limit` refuses a stream."""
    if isinstance(limit, Slots):
        return Cause.CONCURRENCY
    return Cause.QUOTA if isinstance(limit, Quota) else Cause.RATE


class LimitState(NamedTuple):
    """What is left of a limit, for the response head."""

    limit: Limit
    remaining: int
    """Requests, tokens or streams, without leased ones. Never less than 0."""
    reset: float | None
    """Seconds until a bucket is full or a quota ends; None for slots."""


class Decision(NamedTuple):
    """Whether a stream may start. A refusal takes nothing."""

    admitted: bool
    granted: int
    """Tokens of the first lease; 0 when refused."""
    states: tuple[LimitState, ...]
    """In the order of the limits; empty if no store could check them."""
    cause: Cause | None = None
    refused_by: Limit | None = None
    """The first limit that refused."""
    retry_after: float | None = None
    """Seconds until that limit may admit the stream; None: unknown, or never (it needs more than a bucket holds)."""


class Usage(NamedTuple):
    """The current usage of a limit."""

    limit: Limit
    used: int
    """Tokens charged to a quota; streams in slots; what a bucket lacks, including leases."""
    reserved: int
    """Tokens of a quota that are leased and not yet charged; 0 for other limits."""
    reset: float | None
    """As in `LimitState`."""


class LimitStore(Protocol):
    """A limit store. Each call is one atomic step. All raise `StoreUnavailable`, and ValueError if tenants are
    mixed."""

    async def admit(self, stream_id: str, limits: Sequence[Limit], *, need: int, want: int) -> Decision:
        """Check all `limits` and, if all pass, take from all: a request, a slot, and a lease of `want` tokens, fewer if
        fewer are left, but at least `need` (and 1). A stream that is already admitted gets the same lease again, so a
        call whose answer was lost may be repeated.
        """

    async def extend(self, stream_id: str, used: int, want: int) -> int:
        """Charge `used`, all tokens that the stream has used so far, and renew its lease. A lower figure than before
        changes nothing, as calls may be repeated and overtake one another.

        Returns how many of `want` tokens it may use in addition to its lease; 0: a quota is exhausted, or the stream
        has settled. With `want=0` it only charges and renews. An expired lease is restored, and so is its slot. Raises
        `LeaseLost`.
        """

    async def settle(self, stream_id: str, used: int) -> bool:
        """The stream is over: charge it `used` in total, as far as `countable`, whatever `extend` charged before.
        Everything beyond that is returned, and its slot. A quota whose period has ended is not changed.

        Returns False if there is nothing to settle, and changes nothing then: the stream has settled before, with this
        figure or another, or is unknown. May be repeated after `StoreUnavailable`, while the store remembers the
        stream.
        """

    async def usage(self, limits: Sequence[Limit]) -> tuple[Usage, ...]:
        """The usage of one tenant's limits, in their order."""

    async def close(self) -> None: ...


def tenant_key(tenant: str, *names: str) -> str:
    """`{tenant}:name:name`. Braces in the tenant's own name are quoted, since Redis hashes the text in the first
    pair."""
    if not tenant:
        raise ValueError("a tenant has a name")
    return ":".join((f"{{{quote(tenant, safe='')}}}", *names))


def tag_of(key: str) -> str:
    """The tenant in braces at the beginning of `key`."""
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
    """The id of a stream's lease of money."""
    return stream_id + _MONEY


def is_of_money(stream_id: str) -> bool:
    """Whether the lease of `stream_id` is in nano-dollars."""
    return stream_id.endswith(_MONEY)


def small_lease(limit: Quota) -> int:
    return SMALL_MONEY if isinstance(limit, MoneyQuota) else SMALL_LEASE


def lease_size(want: int, left: int, small: int = SMALL_LEASE) -> int:
    """The size of a quota's next lease: see `SMALL_LEASE`. 0 if nothing is `left`."""
    return max(0, min(want, left, max(small, left // 4)))


def countable(amount: int, stream_id: str) -> int:
    """`amount` clamped to what a stream can use: 0 to `MAX_TOKENS`, or `MAX_MONEY`."""
    return 0 if amount < 0 else min(amount, MAX_MONEY if is_of_money(stream_id) else MAX_TOKENS)


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
