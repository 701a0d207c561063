"""Builds the tenants and their limits from the configuration."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..config.errors import ConfigError
from ..config.settings import Config
from ..config.topology import Topology
from ..quota.identify import QuotaContext
from ..quota.limits import Limit, LimitStore, Usage
from ..quota.prices import PriceTable
from ..quota.tenants import Tenant, Tenants
from ..routing.circuit_breaker import CircuitBreaker
from ..stores.directory import Directory, KnownTenants
from ..stores.failover import BreakerGate, FailoverStats, FailoverStore, Policy
from ..stores.limiter import StoreLimiter
from ..stores.memory import MemoryStore
from ..stores.redis_store import RedisStore
from ..stores.shared_state import SharedState

STORE_FAILURES = 3
"""Consecutive failures after which the store is not called."""
STORE_COOLDOWN = 1.0
"""Seconds until the store is tried again, with one call."""


class Tenancy:
    """The limits of one relay process. Needs a running event loop."""

    def __init__(self, config: Config, topology: Topology, shared: SharedState | None = None) -> None:
        """`shared`: without Redis, limits hold across all workers; None: in this process only."""
        self._config = config
        self.breaker: CircuitBreaker | None = None
        """The breaker of the store that this process shares with others; None: there is none."""
        self.failover: FailoverStats | None = None
        """What happened while that store did not answer."""
        self._failover_store: FailoverStore | None = None
        self._known: KnownTenants | None = None
        self._limiter = self._build_limiter(shared)
        everybody = QuotaContext(Tenants(()), self._limiter, time.time, self._known)
        self.quota = self._with(everybody, topology)
        """None: there are no tenants, and everybody may use the relay."""
        self._everybody = everybody

    def reload(self, topology: Topology) -> None:
        """Use the tenants of the new file. Counters are kept, and so are tenants of the directory that were used."""
        of_old_file = frozenset(() if self.quota is None else [tenant.name for tenant in self.quota.tenants.all])
        self._everybody = replace(self._everybody, profiles=self._everybody.profiles.without(of_old_file))
        self.quota = self._with(self._everybody, topology)

    def tenants(self) -> list[Tenant]:
        """The tenants in the file, and those in the directory that were used recently."""
        if self.quota is None:
            return []
        of_file = self.quota.tenants.all
        if self._known is None:
            return list(of_file)
        names = {tenant.name for tenant in of_file}
        return [*of_file, *[tenant for name, tenant in self.quota.profiles.tenants.items() if name not in names]]

    def usage(self, limits: Sequence[Limit], done: Callable[[Sequence[Usage]], None]) -> None:
        """The current usage of one tenant's limits. `done` is called at once or later; with an empty sequence if the
        store does not answer."""
        self._limiter.usage(limits, done)

    def stored_usage(self, limits: Sequence[Limit], done: Callable[[Sequence[Usage]], None]) -> None:
        """The same, but while a shared store does not answer never the counts of this process alone."""
        if self._failover_store is None:
            self._limiter.usage(limits, done)
        else:
            self._limiter.run(self._failover_store.stored_usage(limits), done, ())

    async def close(self) -> None:
        """Close the stores, after streams have settled."""
        if self._known is not None:
            await self._known.close()
        await self._limiter.close()

    def _with(self, everybody: QuotaContext, topology: Topology) -> QuotaContext | None:
        if not topology.tenants and self._known is None:
            return None
        return replace(everybody, tenants=Tenants(topology.tenants))

    def _build_limiter(self, shared: SharedState | None) -> StoreLimiter:
        config = self._config
        memory = memory_store(config)
        store = self._shared_store(shared)
        if store is None:
            return StoreLimiter(memory, lease=config.lease_tokens, life=config.lease_time, is_local=True)
        breaker = self.breaker = _breaker()
        policy = Policy(config.limits_policy)
        failover = FailoverStore(store, memory, policy=policy, breaker=breaker, clock=time.monotonic)
        self._failover_store, self.failover = failover, failover.stats
        if config.redis_url is not None:
            self._known = KnownTenants(
                Directory(config.redis_url, deadline=config.redis_timeout * 1000),
                time.monotonic,
                time.time,
                # With a breaker of its own: a Redis that refuses scripts may still know keys.
                gate=BreakerGate(_breaker(), time.monotonic, failover.stats),
                outlive=policy is Policy.OPEN,
            )
        return StoreLimiter(failover, lease=config.lease_tokens, life=config.lease_time, is_local=False)

    def _shared_store(self, shared: SharedState | None) -> LimitStore | None:
        config = self._config
        if config.redis_url is not None:
            return RedisStore(config.redis_url, deadline=config.redis_timeout * 1000, ttl=config.lease_time)
        return None if shared is None else shared.store


def memory_store(config: Config) -> MemoryStore:
    """The limits of a single process, or of all workers in their parent."""
    # On one machine no answer is lost, so nothing settles twice, and remembering requests would only cost memory.
    return MemoryStore(time.time, ttl=config.lease_time, remember=config.lease_time)


def price_table(topology: Topology) -> PriceTable | None:
    """None: no model has a price."""
    return PriceTable(topology.prices) if topology.prices else None


def check_tenants(config: Config, before: Topology, after: Topology) -> None:
    """Raises ConfigError if the file has lost its tenants, for example because it was truncated: without tenants the
    relay, with the providers' keys, is open to anyone who can reach it."""
    if before.tenants and not after.tenants and not after.open:
        text = "its [[tenants]] are gone; if that is intended, set `open = true` above the first table"
        raise ConfigError([f"{config.config}: {text}"])


def _breaker() -> CircuitBreaker:
    return CircuitBreaker(failures=STORE_FAILURES, cooldown=STORE_COOLDOWN)
