"""Limits shared by all relays that use one Redis, or Redis Cluster.

Each call is one script, so it is one atomic step and one round trip, by the clock of the Redis server. `common.lua`
describes what is stored. Redis should not evict (`maxmemory-policy noeviction`): what it evicts is never charged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import InvalidResponse, NoScriptError, RedisClusterException, RedisError

from ..quota.limits import (
    PAST_QUOTA,
    SMALL_LEASE,
    SMALL_MONEY,
    Decision,
    LeaseLost,
    Limit,
    LimitState,
    MoneyQuota,
    Quota,
    RequestBucket,
    Slots,
    StoreUnavailable,
    Usage,
    cause_of,
    check_tag,
    countable,
    milliseconds,
    tag_of,
)
from .redis_connection import Arg, RedisClient, Reply, busy_timeout, tls_options

PREFIX = "flow:limits:"
"""Prefix of all keys."""

CLUSTER = "+cluster"
"""In a URL's scheme: `redis+cluster://host:port` names any node of a cluster, `rediss+cluster://` one with TLS."""


class RedisStore:
    """A `LimitStore`. `url` is `redis://`, `rediss://` (TLS), `unix://`, or the first two with `+cluster`.

    No call takes longer than `deadline` milliseconds, including connecting, or twice that if it has to start again (see
    `RedisClient`). Failures raise `StoreUnavailable`, and the next call tries again. A lease lives for `ttl` seconds;
    one that was settled or expired is remembered for `remember` seconds. `clock` is for tests (None: the server's own
    time); seconds since the epoch.
    """

    __slots__ = ("_clock", "_lives", "_server")

    def __init__(
        self,
        url: str,
        *,
        deadline: float = 100.0,
        ttl: float = 60.0,
        remember: float = 600.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        client = client_of(url)
        seconds = deadline / 1000
        self._server = _Cluster(client, seconds) if isinstance(client, RedisCluster) else RedisClient(url, seconds)
        self._lives = f"{milliseconds(ttl)} {milliseconds(remember)}"
        self._clock = clock

    # --- LimitStore ---

    async def admit(self, stream_id: str, limits: Sequence[Limit], *, need: int, want: int) -> Decision:
        tag = tag_of(stream_id)
        reply = await self._run_script(_ADMIT, tag, stream_id, need, want, limits=limits, count=4 + 2 * len(limits))
        admitted, granted, refused_by, wait = reply[:4]
        if admitted:
            _check(admitted == 1 and 0 <= granted <= max(1, need, want))
        else:
            _check(1 <= refused_by <= len(limits))
        states = tuple(
            LimitState(limit, reply[4 + 2 * index], _seconds(reply[5 + 2 * index]))
            for index, limit in enumerate(limits)
        )
        if admitted:
            return Decision(True, granted, states)
        limit = limits[refused_by - 1]
        return Decision(False, 0, states, cause_of(limit), limit, _seconds(wait))

    async def extend(self, stream_id: str, used: int, want: int) -> int:
        used, want = countable(used, stream_id), countable(want, stream_id)
        reply = await self._run(_EXTEND, tag_of(stream_id), stream_id, used, want)
        if reply == -1:
            raise LeaseLost(f"nothing is known of the stream {stream_id}")
        return _whole(reply, want)

    async def settle(self, stream_id: str, used: int) -> bool:
        used = countable(used, stream_id)
        return bool(_whole(await self._run(_SETTLE, tag_of(stream_id), stream_id, used), 1))

    async def usage(self, limits: Sequence[Limit]) -> tuple[Usage, ...]:
        if not limits:
            return ()
        reply = await self._run_script(_USAGE, tag_of(limits[0].key), "", limits=limits, count=3 * len(limits))
        return tuple(
            Usage(limit, reply[3 * index], reply[3 * index + 1], _seconds(reply[3 * index + 2]))
            for index, limit in enumerate(limits)
        )

    async def close(self) -> None:
        await self._server.close()

    async def connect(self, seconds: float = 5.0) -> None:
        """Connect in advance, with more time than a call has, since the first connection to a cluster takes several
        round trips. Optional. Raises `StoreUnavailable`."""
        try:
            await self._server.connect(seconds)
        except FAILURES as error:
            raise unavailable(error) from error

    # --- inside ---

    async def _run_script(
        self, script: _Script, tag: str, stream_id: str, *given: int, limits: Sequence[Limit], count: int
    ) -> list[int]:
        """Run a script that replies with `count` numbers in one text; -1 means None."""
        text = await self._run(script, tag, stream_id, *given, limits=limits)
        _check(isinstance(text, bytes) and _NUMBERS.fullmatch(text) is not None)
        numbers = [int(number) for number in cast(bytes, text).split()]
        _check(len(numbers) == count)
        return numbers

    async def _run(self, script: _Script, tag: str, stream_id: str, *given: int, limits: Sequence[Limit] = ()) -> Reply:
        """Run a script by its digest, or by its text if the server does not have it yet."""
        check_tag(tag, limits)
        base = PREFIX + tag
        keys = [f"{base}:leases", f"{base}:live", f"{base}:over:{stream_id}", *(PREFIX + each.key for each in limits)]
        now = 0 if self._clock is None else int(self._clock() * 1000)
        numbers = " ".join(map(str, given))
        rest: tuple[Arg, ...] = (len(keys), *keys, stream_id, f"{now} {self._lives} {numbers}", _written(limits))
        try:
            return await self._server.call("EVALSHA", script.digest, *rest, otherwise=("EVAL", script.text, *rest))
        except FAILURES as error:
            raise unavailable(error) from error


_NUMBERS = re.compile(rb"(?:-1|[0-9]{1,16})(?: (?:-1|[0-9]{1,16}))*")
"""A script's reply: counts and milliseconds, all far below 2^53."""


def _check(plausible: bool) -> None:
    """Raise StoreUnavailable unless a reply is plausible: another program, a proxy or another version may answer."""
    if not plausible:
        raise StoreUnavailable("Redis: unexpected reply; another program or another version answers there")


def _whole(reply: object, most: int) -> int:
    """`reply`, checked to be a whole number from 0 to `most`."""
    _check(isinstance(reply, int) and 0 <= reply <= most)
    return cast(int, reply)


FAILURES = (RedisError, RedisClusterException, OSError)  # a TimeoutError is an OSError


def unavailable(error: Exception) -> StoreUnavailable:
    return StoreUnavailable(f"Redis: {error or type(error).__name__}")


class _Cluster:
    """A Redis Cluster, with the interface of `RedisClient`. redis-py knows its nodes."""

    __slots__ = ("_client", "_deadline")

    def __init__(self, client: RedisCluster, deadline: float) -> None:
        self._client = client
        self._deadline = deadline

    async def call(self, *args: Arg, otherwise: Sequence[Arg] = ()) -> Reply:
        answer: Reply
        async with busy_timeout(self._deadline):
            try:
                answer = await execute(self._client, *args)
            except NoScriptError:
                answer = await execute(self._client, *otherwise)
            return answer

    async def connect(self, seconds: float) -> None:
        async with busy_timeout(seconds):
            await execute(self._client, "PING")

    async def close(self) -> None:
        await self._client.aclose()


class _Script:
    """One of the package's scripts, after the part that all share."""

    __slots__ = ("digest", "text")

    def __init__(self, name: str) -> None:
        values = f"{SMALL_LEASE}, {SMALL_MONEY}, {milliseconds(PAST_QUOTA)}"
        constants = f"local SMALL_LEASE, SMALL_MONEY, PAST_QUOTA = {values}\n"
        folder = files(__package__)
        parts = [folder.joinpath(file).read_text(encoding="utf-8") for file in ("common.lua", f"{name}.lua")]
        self.text = constants + "\n".join(parts)
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


_ADMIT, _EXTEND, _SETTLE, _USAGE = (_Script(name) for name in ("admit", "extend", "settle", "usage"))


async def execute(client: Redis | RedisCluster, *command: Any) -> Any:
    """Execute a command. Raises `FAILURES` only: malformed replies make redis-py's own parsers raise other errors."""
    try:
        return await client.execute_command(*command)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InvalidResponse(f"malformed reply: {error}") from error


def client_of(url: str) -> Redis | RedisCluster:
    """A client that repeats a call once, at once, if its connection has broken: every call may be repeated."""
    scheme, colon, rest = url.partition("://")
    options: dict[str, Any] = {
        "socket_timeout": None,
        "socket_connect_timeout": None,
    }  # its deadline covers everything
    options |= tls_options(url)
    if scheme.endswith(CLUSTER):
        plain = scheme.removesuffix(CLUSTER) + colon + rest
        return RedisCluster.from_url(plain, retry=Retry(NoBackoff(), 3), **options)
    return Redis.from_url(url, retry=Retry(NoBackoff(), 1), **options)


def _written(limits: Sequence[Limit]) -> str:
    """Limits as arguments of the scripts: a kind and three numbers each."""
    return " ".join(map(_written_one, limits))


def _written_one(limit: Limit) -> str:
    if isinstance(limit, Slots):
        return f"s {limit.most} 0 0"
    if isinstance(limit, Quota):
        kind = "m" if isinstance(limit, MoneyQuota) else "q"
        return f"{kind} {limit.most} {milliseconds(limit.ends_at or 0)} {milliseconds(limit.ttl or 0)}"
    return f"{'r' if isinstance(limit, RequestBucket) else 't'} {limit.capacity} {limit.refill} {limit.parts}"


def _seconds(number: int) -> float | None:
    return None if number < 0 else number / 1000
