"""Tenants kept in Redis, beside their counters: `flowserver tenants` writes them, relays look them up.

    flow:{NAME}:tenant    the tenant as JSON (`config/tenants.py`): the truth, in one key
    flow:key:DIGEST       the name of the tenant that a key belongs to
    flow:tenants          the names of all

In a cluster these are on different nodes, so no transaction spans them. So pointers are written before the tenant and
deleted after it, and are valid only if the tenant agrees: an interrupted change leaves pointers without effect.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import orjson
from redis.exceptions import InvalidResponse

from ..config.tenants import TenantError, read_tenant, table_of
from ..quota.limits import Garbled, StoreUnavailable, tenant_key
from ..quota.tenants import Tenant, digest_of, refusal, was_issued
from ..relay.interfaces import Clock
from .failover import BreakerGate
from .redis_connection import busy_timeout
from .redis_store import FAILURES, client_of, execute, unavailable

PREFIX = "flow:"
NAMES = f"{PREFIX}tenants"

FRESH = 5.0
"""Seconds for which a relay trusts a look-up, and so a withdrawn key stays valid."""
MOST_CACHED = 10_000
"""Most known keys in the cache, and the same number of unknown ones."""

CONNECTIONS = 8
"""Most connections; further calls wait for one."""

_SWAP = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2]) end
return 1
"""

_T = TypeVar("_T")

Done = Callable[[Tenant | None, bool], None]
"""Is called with the key's tenant, and whether it could be looked up."""


class Directory:
    """Reads and writes tenants. For `url` see `RedisStore`. No call takes longer than `deadline` milliseconds, counted
    from when its turn comes, so that many calls do not make a busy Redis look silent.

    All methods raise `StoreUnavailable`, also for a tenant whose JSON can't be read.
    """

    __slots__ = ("_client", "_deadline", "_turns")

    def __init__(self, url: str, *, deadline: float = 50.0) -> None:
        self._client = client_of(url)
        self._deadline = deadline / 1000
        self._turns = asyncio.Semaphore(CONNECTIONS)

    async def find(self, digest: bytes) -> Tenant | None:
        """The tenant of a key, usable or not (see `refusal`)."""
        return await self._within(self._find, digest)

    async def get(self, name: str) -> Tenant | None:
        return await self._within(self._get, name)

    async def names(self) -> list[str]:
        """All names, sorted. A tenant may be gone by the time it is read."""
        return await self._within(self._names)

    async def add(self, tenant: Tenant) -> bool:
        """Add a tenant. False: the name is taken."""
        return await self._within(self._add, tenant)

    async def change(self, name: str, change: Callable[[Tenant], Tenant]) -> Tenant | None:
        """Replace a tenant by the result of `change`, which is called again if another change came first; the name
        stays. Returns the new tenant; None: there is no tenant with this name."""
        return await self._within(self._change, name, change)

    async def remove(self, name: str) -> bool:
        """Remove a tenant. False: there was none. Its limits' counters stay until they expire."""
        return await self._within(self._remove, name)

    async def close(self) -> None:
        await self._client.aclose()

    # --- inside ---

    async def _names(self) -> list[str]:
        found = await self._do("SMEMBERS", NAMES)
        if not isinstance(found, list | set):
            raise InvalidResponse("expected a list of names")
        return sorted((_as_text(name) or b"").decode(errors="replace") for name in found)

    async def _find(self, digest: bytes) -> Tenant | None:
        name = await self._text("GET", _pointer(digest))
        tenant = await self._get(name.decode(errors="replace")) if name is not None else None
        return tenant if tenant is not None and digest in _digests(tenant) else None

    async def _get(self, name: str) -> Tenant | None:
        stored = await self._text("GET", _truth(name))
        return _read(name, stored) if stored is not None else None

    async def _add(self, tenant: Tenant) -> bool:
        await self._do("SADD", NAMES, tenant.name)
        await self._point(tenant.name, _digests(tenant))
        added = await self._do("SET", _truth(tenant.name), _write(tenant), "NX")
        if not added:
            await self._forget(_digests(tenant))
        return bool(added)

    async def _change(self, name: str, change: Callable[[Tenant], Tenant]) -> Tenant | None:
        while (stored := await self._text("GET", _truth(name))) is not None:
            old = _read(name, stored)
            new = change(old)
            await self._point(name, _digests(new) - _digests(old))
            if await self._swap(name, stored, _write(new)):
                await self._forget(_digests(old) - _digests(new))
                return new
            await self._forget(_digests(new) - _digests(old))
        return None

    async def _remove(self, name: str) -> bool:
        while (stored := await self._text("GET", _truth(name))) is not None:
            if await self._swap(name, stored, b""):
                await self._do("SREM", NAMES, name)
                await self._forget(_digests(_read(name, stored)))
                return True
        await self._do("SREM", NAMES, name)
        return False

    async def _swap(self, name: str, old: bytes, new: bytes) -> bool:
        """Replace a tenant's JSON unless it has changed in the meantime. An empty `new` removes it."""
        return bool(await self._do("EVAL", _SWAP, 1, _truth(name), old, new))

    async def _point(self, name: str, digests: set[bytes]) -> None:
        for digest in digests:
            await self._do("SET", _pointer(digest), name)

    async def _forget(self, digests: set[bytes]) -> None:
        for digest in digests:
            await self._do("DEL", _pointer(digest))

    async def _do(self, *command: Any) -> Any:
        return await execute(self._client, *command)

    async def _text(self, *command: Any) -> bytes | None:
        """Run a command whose reply is a text or nothing."""
        return _as_text(await self._do(*command))

    async def _within(self, call: Callable[..., Awaitable[_T]], *arguments: Any) -> _T:
        try:
            async with self._turns, busy_timeout(self._deadline):
                return await call(*arguments)
        except FAILURES as error:
            raise unavailable(error) from error


class KnownTenants:
    """A cache of a directory, for one relay. Recent results come from memory, including that a key is unknown.

    Unknown keys are cached separately, so that a flood of them evicts no known one. `wall` returns seconds since the
    epoch, by which keys expire. With `outlive`, tenants that were known before stay known while Redis does not answer.
    `gate` keeps calls away from Redis then.
    """

    __slots__ = ("_asking", "_clock", "_directory", "_gate", "_known", "_outlive", "_unknown", "_waiting", "_wall")

    def __init__(
        self,
        directory: Directory,
        clock: Clock,
        wall: Callable[[], float],
        *,
        gate: BreakerGate,
        outlive: bool = False,
    ) -> None:
        self._directory = directory
        self._gate = gate
        self._clock = clock
        self._wall = wall
        self._outlive = outlive
        self._known: OrderedDict[bytes, tuple[Tenant, float]] = OrderedDict()
        """By digest, each with the time until which it is fresh; the least recently used first."""
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._waiting: dict[bytes, list[Done]] = {}
        """Waiters for keys that are being looked up: once, however many ask."""
        self._asking: set[asyncio.Task[None]] = set()

    def find(self, key: bytes, done: Done) -> None:
        """Find the tenant of `key`, at once if it is cached, else later. None: the key is unknown or expired, or its
        tenant is disabled; with False, Redis did not answer."""
        digest = digest_of(key)
        now = self._clock()
        tenant, fresh_until = self._known.get(digest, (None, 0.0))
        if tenant is not None and now < fresh_until:
            self._known.move_to_end(digest)
            done(self._usable(tenant, digest), True)
        elif not was_issued(key) or now < self._unknown.get(digest, 0.0):
            done(None, True)
        elif digest in self._waiting:
            self._waiting[digest].append(done)
        else:
            self._waiting[digest] = [done]
            task = asyncio.get_running_loop().create_task(self._look_up(digest))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def close(self) -> None:
        """Cancel look-ups under way; their callbacks are not called."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
        await self._directory.close()

    async def _look_up(self, digest: bytes) -> None:
        known = True
        try:
            tenant = await self._gate.ask(lambda: self._directory.find(digest))
            self._keep(digest, tenant)
        except StoreUnavailable:
            tenant = self._known[digest][0] if self._outlive and digest in self._known else None
            known = tenant is not None
            if tenant is not None:  # so that not every request waits in vain for Redis
                self._keep(digest, tenant)
        finally:
            waiting = self._waiting.pop(digest)
        for done in waiting:
            done(self._usable(tenant, digest), known)

    def _keep(self, digest: bytes, tenant: Tenant | None) -> None:
        until = self._clock() + FRESH
        self._known.pop(digest, None)
        self._unknown.pop(digest, None)
        if tenant is None:
            _put(self._unknown, digest, until)
        else:
            _put(self._known, digest, (tenant, until))

    def _usable(self, tenant: Tenant | None, digest: bytes) -> Tenant | None:
        return tenant if refusal(tenant, digest, self._wall()) is None else None


def _as_text(reply: object) -> bytes | None:
    if reply is None or isinstance(reply, bytes):
        return reply
    raise InvalidResponse(f"expected a text, got {type(reply).__name__}")


def _put(cache: OrderedDict[bytes, _T], digest: bytes, value: _T) -> None:
    cache[digest] = value
    if len(cache) > MOST_CACHED:
        cache.popitem(last=False)


def _truth(name: str) -> str:
    return PREFIX + tenant_key(name, "tenant")


def _pointer(digest: bytes) -> str:
    return f"{PREFIX}key:{digest.hex()}"


def _digests(tenant: Tenant) -> set[bytes]:
    return {key.sha256 for key in tenant.keys}


def _write(tenant: Tenant) -> bytes:
    return orjson.dumps(table_of(tenant))


def _read(name: str, stored: bytes) -> Tenant:
    try:
        table = orjson.loads(stored)
        return read_tenant(table if isinstance(table, dict) else {}, name, stored=True)
    except (orjson.JSONDecodeError, TenantError) as error:
        raise Garbled(f"the data of the tenant {name} in Redis can't be read: {error}") from error
