"""Limits shared by all relays that use one Redis, or Redis Cluster.

Each call is one script, so one atomic step and one round trip; its time is the Redis server's. `common.lua` tells what
is stored. Redis should not evict (`maxmemory-policy noeviction`): what it evicts is forgotten, never charged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from .store import (
    PAST_QUOTA,
    SMALL_LEASE,
    Cause,
    Decision,
    LeaseLost,
    Limit,
    LimitState,
    Quota,
    RequestBucket,
    Slots,
    StoreUnavailable,
    Usage,
    check_tag,
    milliseconds,
    tag_of,
)

PREFIX = "flow:"
"""Of all keys."""

CONNECTIONS = 8
"""To one Redis node at most; further calls wait their turn, within their deadline."""

STEPS = 10
"""Of a deadline: more than the turns of the event loop that connecting and one call take."""

CLUSTER = "+cluster"
"""In a URL's scheme: `redis+cluster://host:port` names any node of a cluster, `rediss+cluster://` one with TLS."""


class RedisStore:
    """A `LimitStore`. `url` is `redis://`, `rediss://` (TLS), `unix://`, or the first two with `+cluster`.

    No call takes longer than `deadline` milliseconds, with connecting when it must; what goes wrong within is told by
    `StoreUnavailable`, and the next call tries anew. A lease lives for `ttl` seconds; of one that settled or expired it
    is known for `remember` seconds. `clock` is for tests (None: the server's own time); seconds since the epoch.
    """

    __slots__ = ("_client", "_clock", "_deadline", "_lives", "_turns")

    def __init__(
        self,
        url: str,
        *,
        deadline: float = 100.0,
        ttl: float = 60.0,
        remember: float = 600.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._client = client_of(url)
        self._deadline = deadline / 1000
        self._lives = (milliseconds(ttl), milliseconds(remember))
        self._clock = clock
        self._turns = asyncio.Semaphore(CONNECTIONS)

    # --- LimitStore ---

    async def admit(self, stream_id: str, limits: Sequence[Limit], *, need: int, want: int) -> Decision:
        tag = tag_of(stream_id)
        reply = await self._told(_ADMIT, tag, stream_id, need, want, limits=limits)
        admitted, granted, refused_by, wait = reply[:4]
        states = tuple(
            LimitState(limit, reply[4 + 2 * index], _seconds(reply[5 + 2 * index]))
            for index, limit in enumerate(limits)
        )
        if admitted:
            return Decision(True, granted, states)
        limit = limits[refused_by - 1]
        return Decision(False, 0, states, _cause(limit), limit, _seconds(wait))

    async def extend(self, stream_id: str, used: int, want: int) -> int:
        granted: int = await self._run(_EXTEND, tag_of(stream_id), stream_id, used, want)
        if granted < 0:
            raise LeaseLost(f"nothing is known of the stream {stream_id}")
        return granted

    async def settle(self, stream_id: str, used: int) -> bool:
        return bool(await self._run(_SETTLE, tag_of(stream_id), stream_id, used))

    async def usage(self, limits: Sequence[Limit]) -> tuple[Usage, ...]:
        if not limits:
            return ()
        reply = await self._told(_USAGE, tag_of(limits[0].key), "", limits=limits)
        return tuple(
            Usage(limit, reply[3 * index], reply[3 * index + 1], _seconds(reply[3 * index + 2]))
            for index, limit in enumerate(limits)
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def connect(self, seconds: float = 5.0) -> None:
        """Connect ahead, with more time than a call has: to a cluster the first connection takes several round trips.

        Not needed otherwise. Raises `StoreUnavailable`.
        """
        await self._within(seconds, "PING")

    # --- inside ---

    async def _told(self, script: _Script, tag: str, stream_id: str, *given: int, limits: Sequence[Limit]) -> list[int]:
        """What a script tells as one text of numbers."""
        text: bytes = await self._run(script, tag, stream_id, *given, limits=limits)
        return [int(number) for number in text.split()]

    async def _run(self, script: _Script, tag: str, stream_id: str, *given: int, limits: Sequence[Limit] = ()) -> Any:
        """Run a script by its digest, or with its text where the server does not have it yet."""
        check_tag(tag, limits)
        base = PREFIX + tag
        keys = [f"{base}:leases", f"{base}:live", f"{base}:over:{stream_id}", *(PREFIX + each.key for each in limits)]
        now = "" if self._clock is None else int(self._clock() * 1000)
        arguments = (len(keys), *keys, now, *self._lives, stream_id, *given, *map(_written, limits))
        return await self._within(self._deadline, "EVALSHA", script, *arguments)

    async def _within(self, seconds: float, command: str, *arguments: Any) -> Any:
        try:
            async with patience(seconds), self._turns:
                return await self._execute(command, *arguments)
        except (RedisError, RedisClusterException, OSError) as error:  # a TimeoutError is an OSError
            raise StoreUnavailable(f"Redis: {error or type(error).__name__}") from error

    async def _execute(self, command: str, *arguments: Any) -> Any:
        if command != "EVALSHA":
            return await self._client.execute_command(command)
        script, *rest = arguments
        try:
            return await self._client.execute_command("EVALSHA", script.digest, *rest)
        except NoScriptError:
            return await self._client.execute_command("EVAL", script.text, *rest)


@asynccontextmanager
async def patience(seconds: float) -> AsyncIterator[None]:
    """Like `asyncio.timeout`, but a busy loop does not count: the time is taken in steps, each from when the one before
    was noticed to be over, and in between the loop looks at its sockets, where the answer may be."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle
    async with asyncio.timeout(None) as limit:

        def step(left: int) -> None:
            nonlocal timer
            if left:
                timer = loop.call_later(seconds / STEPS, step, left - 1)
            else:
                limit.reschedule(loop.time())

        timer = loop.call_later(seconds / STEPS, step, STEPS - 1)
        try:
            yield
        finally:
            timer.cancel()


class _Script:
    """One of the package's scripts, with what all share in front."""

    __slots__ = ("digest", "text")

    def __init__(self, name: str) -> None:
        constants = f"local SMALL_LEASE, PAST_QUOTA = {SMALL_LEASE}, {milliseconds(PAST_QUOTA)}\n"
        folder = files(__package__)
        parts = [folder.joinpath(file).read_text(encoding="utf-8") for file in ("common.lua", f"{name}.lua")]
        self.text = constants + "\n".join(parts)
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


_ADMIT, _EXTEND, _SETTLE, _USAGE = (_Script(name) for name in ("admit", "extend", "settle", "usage"))


def client_of(url: str) -> Redis | RedisCluster:
    """A call on a connection that broke meanwhile is repeated once, at once: each call may be."""
    scheme, colon, rest = url.partition("://")
    options: dict[str, Any] = {"socket_timeout": None, "socket_connect_timeout": None}  # the deadline holds for all
    if scheme.endswith(CLUSTER):
        plain = scheme.removesuffix(CLUSTER) + colon + rest
        return RedisCluster.from_url(plain, retry=Retry(NoBackoff(), 3), **options)
    return Redis.from_url(url, retry=Retry(NoBackoff(), 1), **options)


def _written(limit: Limit) -> str:
    """A limit as the scripts take it: one argument, as each costs the client a microsecond."""
    if isinstance(limit, Slots):
        return f"s {limit.most} 0 0"
    if isinstance(limit, Quota):
        return f"q {limit.most} {milliseconds(limit.ends_at or 0)} {milliseconds(limit.ttl or 0)}"
    return f"{'r' if isinstance(limit, RequestBucket) else 't'} {limit.capacity} {limit.refill} {limit.parts}"


def _cause(limit: Limit) -> Cause:
    if isinstance(limit, Slots):
        return Cause.CONCURRENCY
    return Cause.QUOTA if isinstance(limit, Quota) else Cause.RATE


def _seconds(number: int) -> float | None:
    return None if number < 0 else number / 1000
