"""Builds the tenants and their limits from the configuration."""

from __future__ import annotations

import time
from dataclasses import replace

from ..config.file import Topology
from ..config.settings import Config, ConfigError
from ..quota.identify import QuotaContext
from ..quota.tenants import Tenants
from ..routing.circuit_breaker import CircuitBreaker
from ..stores.directory import Directory, KnownTenants
from ..stores.failover import BreakerGate, FailoverStats, FailoverStore, Policy
from ..stores.limiter import StoreLimiter
from ..stores.memory import MemoryStore
from ..stores.redis_store import RedisStore

STORE_FAILURES = 3
"""Consecutive failures after which Redis is not called."""
STORE_COOLDOWN = 1.0
"""Seconds until it is tried again, with one call."""


class Tenancy:
    """The limits of one relay process. Needs a running event loop."""

    def __init__(self, config: Config, topology: Topology) -> None:
        self._config = config
        self.breaker: CircuitBreaker | None = None
        """Of Redis; None: there is none."""
        self.failover: FailoverStats | None = None
        """What happened while it did not answer."""
        self._known: KnownTenants | None = None
        self._limiter = self._build_limiter()
        everybody = QuotaContext(Tenants(()), self._limiter, time.time, self._known)
        self.quota = self._with(everybody, topology)
        """None: there are no tenants, and everybody may use the relay."""
        self._everybody = everybody

    def reload(self, topology: Topology) -> None:
        """Take the tenants of the new file. Counters are kept."""
        self.quota = self._with(self._everybody, topology)

    async def close(self) -> None:
        """Close the stores, after streams have settled."""
        if self._known is not None:
            await self._known.close()
        await self._limiter.close()

    def _with(self, everybody: QuotaContext, topology: Topology) -> QuotaContext | None:
        if not topology.tenants and self._known is None:
            return None
        return replace(everybody, tenants=Tenants(topology.tenants))

    def _build_limiter(self) -> StoreLimiter:
        config = self._config
        # Within a process no answer is lost, so nothing settles twice, and what is remembered of a request is memory.
        memory = MemoryStore(time.time, ttl=config.lease_time, remember=config.lease_time)
        if config.redis_url is None:
            return StoreLimiter(memory, lease=config.lease_tokens, life=config.lease_time, is_local=True)
        policy = Policy(config.limits_policy)
        deadline = config.redis_timeout * 1000
        breaker = self.breaker = CircuitBreaker(failures=STORE_FAILURES, cooldown=STORE_COOLDOWN)
        redis = RedisStore(config.redis_url, deadline=deadline, ttl=config.lease_time)
        store = FailoverStore(redis, memory, policy=policy, breaker=breaker, clock=time.monotonic)
        self.failover = store.stats
        self._known = KnownTenants(
            Directory(config.redis_url, deadline=deadline),
            time.monotonic,
            time.time,
            # With a breaker of its own: a Redis that refuses scripts may still know keys.
            gate=BreakerGate(
                CircuitBreaker(failures=STORE_FAILURES, cooldown=STORE_COOLDOWN), time.monotonic, store.stats
            ),
            outlive=policy is Policy.OPEN,
        )
        return StoreLimiter(store, lease=config.lease_tokens, life=config.lease_time, is_local=False)


def check_tenants(config: Config, before: Topology, after: Topology) -> None:
    """Raises ConfigError if the file has lost its tenants, for example because it was truncated: without tenants the
    relay, with the providers' keys, is open to everybody who reaches it."""
    if before.tenants and not after.tenants and not after.open:
        text = "its [[tenants]] are gone; if that is intended, set `open = true` above the first table"
        raise ConfigError([f"{config.config}: {text}"])
