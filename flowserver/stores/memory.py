"""Limits of one process, in its own memory. Every call sweeps a few expired entries, so memory stays bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from ..quota.limits import Decision, LeaseLost, Limit, RequestBucket, Usage, check_tag, countable, milliseconds, tag_of
from .counters import Account, QuotaAccount, SlotsAccount, account_of

_T = TypeVar("_T")


class _Lease:
    """What one stream holds. `total`: all that it was granted, `used`: the charged part of it."""

    __slots__ = ("held", "settled", "total", "until", "used")

    def __init__(self, held: list[Account], total: int, until: int) -> None:
        self.held = held
        """What is returned at the end: everything except requests."""
        self.total = total
        self.used = 0
        self.until = until
        """When it expires, or is forgotten; milliseconds."""
        self.settled = False


class MemoryStore:
    """A `LimitStore`. `clock` returns seconds since the epoch, by which quotas end.

    A lease lives for `ttl` seconds; one that settled or expired is remembered for `remember` seconds.
    """

    __slots__ = ("_accounts", "_clock", "_leases", "_over", "_remember", "_ttl")

    def __init__(self, clock: Callable[[], float], *, ttl: float = 60.0, remember: float = 600.0) -> None:
        self._clock = clock
        self._ttl = milliseconds(ttl)
        self._remember = milliseconds(remember)
        # OrderedDicts, which remove their first entry in constant time: plain dicts scan the holes left at the
        # beginning.
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        """By key; the one swept longest ago first."""
        self._leases: OrderedDict[str, _Lease] = OrderedDict()
        """By stream; the one that expires first comes first."""
        self._over: OrderedDict[str, _Lease] = OrderedDict()
        """Settled and expired ones; the one forgotten first comes first."""

    def __len__(self) -> int:
        """Entries held, of any kind."""
        return len(self._accounts) + len(self._leases) + len(self._over)

    # --- LimitStore ---

    async def admit(self, stream_id: str, limits: Sequence[Limit], *, need: int, want: int) -> Decision:
        check_tag(tag_of(stream_id), limits)
        now = self._now()
        self._sweep(now)
        accounts: list[Account] = []
        new: list[Account] = []
        for limit in limits:
            account = self._accounts.get(limit.key)
            if account is None or not account.refresh(limit, now):
                account = account_of(limit, now)
                new.append(account)
            accounts.append(account)
        need = max(1, need)
        granted = max(need, want)
        if (lease := self._leases.get(stream_id)) is not None:
            return _admitted(accounts, min(lease.total - lease.used, granted), now)
        refusing, granted = _grant(accounts, need, granted)
        if refusing is not None:
            return _refused(accounts, refusing, granted, now)
        held: list[Account] = []
        for account in accounts:
            account.take(granted if account.counts_tokens else 1)
            if type(account.limit) is not RequestBucket:
                held.append(account)
        for account in new:  # not earlier: a refusal leaves no trace
            self._accounts[account.limit.key] = account
            self._sweep_account(now)
        if self._over:
            self._over.pop(stream_id, None)
        self._leases[stream_id] = _Lease(held, granted, now + self._ttl)
        return _admitted(accounts, granted, now)

    async def extend(self, stream_id: str, used: int, want: int) -> int:
        now = self._now()
        self._sweep(now)
        live = self._leases.get(stream_id)
        lease = live or self._over.get(stream_id)
        if lease is None:
            raise LeaseLost(f"nothing is known of the stream {stream_id}")
        if lease.settled:
            return 0
        self._refresh(lease, now)
        if live is None:
            self._revive(stream_id, lease)
        used, granted = countable(used, stream_id), countable(want, stream_id)
        if used > lease.used:
            _charge(lease, used)
        for account in lease.held:
            if isinstance(account, QuotaAccount) and not account.is_over(now):
                granted = min(granted, account.lease(granted, account.room()))
        for account in lease.held:
            if not isinstance(account, SlotsAccount):
                account.take(granted)
        lease.total += granted
        lease.until = now + self._ttl
        self._leases.move_to_end(stream_id)
        return granted

    async def settle(self, stream_id: str, used: int) -> bool:
        now = self._now()
        self._sweep(now)
        live = self._leases.get(stream_id)
        lease = live or self._over.get(stream_id)
        if lease is None or lease.settled:
            return False
        self._refresh(lease, now)
        _charge(lease, countable(used, stream_id))
        if live is not None:
            self._end(stream_id, live, now)
        else:
            _give_back(lease, slots=0)  # its slot was returned when it expired
        lease.settled = True
        lease.held = []
        return True

    async def usage(self, limits: Sequence[Limit]) -> tuple[Usage, ...]:
        if not limits:
            return ()
        check_tag(tag_of(limits[0].key), limits)
        now = self._now()
        self._sweep(now)
        return tuple(self._account(limit, now).usage(now) for limit in limits)

    async def close(self) -> None:
        pass

    def leased(self, stream_id: str) -> int | None:
        """Tokens that a stream has leased in total; None: it is unknown, or holds nothing."""
        lease = self._leases.get(stream_id) or self._over.get(stream_id)
        return None if lease is None or lease.settled else lease.total

    # --- inside ---

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _account(self, limit: Limit, now: int) -> Account:
        """The account of a limit, up to date. A new one is not kept."""
        account = self._accounts.get(limit.key)
        if account is None or not account.refresh(limit, now):
            return account_of(limit, now)
        return account

    def _refresh(self, lease: _Lease, now: int) -> None:
        """Bring what a lease holds up to date. An account may have been swept in the meantime, because it was full, or
        replaced; a quota's account belongs to its own period."""
        for index, account in enumerate(lease.held):
            if not isinstance(account, QuotaAccount):
                account = self._accounts.setdefault(account.limit.key, account)
                account.refresh(account.limit, now)
                lease.held[index] = account

    def _end(self, stream_id: str, lease: _Lease, now: int) -> None:
        """Return what a lease holds beyond the charge, and remember it."""
        _give_back(lease, slots=1)
        lease.until = now + self._remember
        del self._leases[stream_id]
        self._over[stream_id] = lease

    def _revive(self, stream_id: str, lease: _Lease) -> None:
        """Revive an expired lease whose stream still runs: it takes its slot again, free or not."""
        del self._over[stream_id]
        self._leases[stream_id] = lease
        for account in lease.held:
            if isinstance(account, SlotsAccount):
                account.take(1)

    def _sweep(self, now: int) -> None:
        """End expired leases, and check one account. Adding an account checks one more, so their number is bounded."""
        leases, over = self._leases, self._over
        while leases:
            stream_id = next(iter(leases))
            lease = leases[stream_id]
            if lease.until > now:
                break
            self._refresh(lease, now)
            self._end(stream_id, lease, now)
        while over and over[next(iter(over))].until <= now:
            over.popitem(last=False)
        self._sweep_account(now)

    def _sweep_account(self, now: int) -> None:
        """Forget the first account if it is over, else move it to the end."""
        accounts = self._accounts
        if accounts:
            key = next(iter(accounts))
            if accounts[key].is_over(now):
                del accounts[key]
            else:
                accounts.move_to_end(key)


def at_once(call: Coroutine[Any, Any, _T]) -> _T:
    """The result of a call to a store that never waits."""
    try:
        call.send(None)
    except StopIteration as over:
        result: _T = over.value
        return result
    raise RuntimeError("a store that is local waited for something")


def _charge(lease: _Lease, used: int) -> None:
    """Make the total charge `used`. What was charged above it returns to the lease; the lease grows to what is beyond
    it."""
    amount, over = used - lease.used, max(0, used - lease.total)
    for account in lease.held:
        if not isinstance(account, SlotsAccount):
            account.charge(amount, over)
    lease.used = used
    lease.total = max(lease.total, used)


def _give_back(lease: _Lease, *, slots: int) -> None:
    """Return what is not charged, and `slots` of each account of slots."""
    rest = lease.total - lease.used
    for account in lease.held:
        account.give(slots if isinstance(account, SlotsAccount) else rest)
    lease.total = lease.used


def _grant(accounts: Sequence[Account], need: int, want: int) -> tuple[Account | None, int]:
    """(None, the tokens that all accounts grant), at least `need`; or (the account that refuses, the amount it
    refuses)."""
    granted = want
    for account in accounts:
        room = account.room()
        if isinstance(account, SlotsAccount) or not account.counts_tokens:
            if room < 1:
                return account, 1
        elif room < need:
            return account, need
        else:
            granted = max(need, account.lease(granted, room))
    return None, granted


def _admitted(accounts: Sequence[Account], granted: int, now: int) -> Decision:
    return Decision(True, granted, tuple([account.state(now) for account in accounts]))


def _refused(accounts: Sequence[Account], by: Account, cost: int, now: int) -> Decision:
    wait = by.wait(cost, now)
    states = tuple([account.state(now) for account in accounts])
    return Decision(False, 0, states, by.cause, by.limit, None if wait is None else wait / 1000)
