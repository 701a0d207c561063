"""A connection to Redis that all calls share: each is written at once, and replies arrive in the order of the calls.

redis-py reserves a connection for each call and reads replies from a stream, which takes three more iterations of the
event loop and some 70 us more CPU. Requests wait for their admission, so this is worth a client of its own. redis-py
still parses URLs, talks to clusters, and serves the directory of tenants.

Scripts reply with numbers, texts and errors; of RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec/)
only these are read. Any call may be repeated (see `LimitStore`).
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import parse_qs, urlsplit

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import InvalidResponse, NoScriptError, ResponseError

Reply = int | bytes | None
Arg = str | int

STEPS = 10
"""Steps of a deadline: more than the iterations of the event loop that connecting and one call take."""

MOST_UNREAD = 1 << 16
"""Most bytes of one answer."""


class RedisClient:
    """Calls to one Redis server, over one connection that is opened on first use and again after it broke.

    `url` in redis-py's form. No call takes longer than `deadline` seconds, including connecting; a call whose
    connection broke, or whose script the server lacks, starts again, once.
    """

    __slots__ = ("_address", "_closed", "_connecting", "_connection", "_deadline")

    def __init__(self, url: str, deadline: float) -> None:
        pool = ConnectionPool.from_url(url, **tls_options(url))
        self._address: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
        """Never connected: it only holds where and how to connect."""
        self._deadline = deadline
        self._closed = False
        self._connecting = asyncio.Lock()
        self._connection: RedisConnection | None = None

    async def call(self, *args: Arg, otherwise: Sequence[Arg] = ()) -> Reply:
        """The server's reply to a command, or to `otherwise` if it lacks the script. Raises RedisError for an error or
        unreadable reply, and OSError (TimeoutError, ConnectionError)."""
        connection = self._connection
        if connection is not None and connection.is_open:
            try:
                return await connection.call(pack(*args))
            except ConnectionError:
                if self._closed:
                    raise
            except NoScriptError:
                args, otherwise = tuple(otherwise), ()
        async with busy_timeout(self._deadline):
            connection = await self._connected()
            try:
                return await connection.call(pack(*args))
            except NoScriptError:
                return await connection.call(pack(*otherwise))

    async def connect(self, seconds: float) -> None:
        """Connect in advance, and check the connection."""
        async with busy_timeout(seconds):
            connection = await self._connected()
            try:
                await connection.call(pack("PING"), seconds)
            except BaseException:
                connection.close()
                raise

    async def close(self) -> None:
        self._closed = True
        if self._connection is not None:
            self._connection.close()

    async def _connected(self) -> RedisConnection:
        async with self._connecting:
            if not self._closed and (self._connection is None or not self._connection.is_open):
                self._connection = await _dial(self._address, self._deadline)
            if self._closed or self._connection is None:
                await self.close()  # a connection that was made in the meantime
                raise ConnectionAbortedError("the connection was closed here")
            return self._connection


async def _dial(address: AbstractConnection, deadline: float) -> RedisConnection:
    loop = asyncio.get_running_loop()

    def connection() -> RedisConnection:
        return RedisConnection(deadline)

    def ask(*args: Arg) -> asyncio.Future[Reply]:
        return made.call(pack(*args), _WHOLE_DIAL)

    if isinstance(address, UnixDomainSocketConnection):
        _, made = await loop.create_unix_connection(connection, address.path)
    else:
        assert isinstance(address, Connection)
        tls = address.ssl_context.get() if isinstance(address, SSLConnection) else None
        _, made = await loop.create_connection(connection, address.host, address.port, ssl=tls)
    try:
        if address.password:
            names = [address.username] if address.username else []
            await ask("AUTH", *names, address.password)
        if address.db:
            await ask("SELECT", address.db)
    except BaseException:
        made.close()
        raise
    return made


_WHOLE_DIAL = 3600.0
"""Seconds for each command that sets up a connection: the caller has a deadline for all of them."""


class RedisConnection(asyncio.Protocol):
    """An open connection. One timer measures the time of calls in steps, each of which begins when the end of the
    previous one was noticed: in between the event loop reads its sockets, where the reply may be, so a busy loop does
    not count.

    A call that is late fails alone, as the server may only have paused. Its reply is still waited for, so that it is
    not taken for the next call's; after another `deadline` the connection is given up.
    """

    def __init__(self, deadline: float) -> None:
        self._step = deadline / STEPS
        self._steps = 0
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: deque[tuple[asyncio.Future[Reply], int]] = deque()
        """Calls without a reply, and the step at which each is late."""
        self._unread = b""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def call(self, command: bytes, seconds: float | None = None) -> asyncio.Future[Reply]:
        """Send a command; only while the connection is open. The reply is late after `seconds`; None: after the
        deadline."""
        transport = self._transport
        if transport is None:
            raise ConnectionResetError("the connection is closed")
        transport.write(command)
        answer = self._loop.create_future()
        steps = STEPS if seconds is None else max(1, round(seconds / self._step))
        self._waiting.append((answer, self._steps + steps))
        if self._timer is None:
            self._timer = self._loop.call_later(self._step, self._on_step)
        return answer

    def __repr__(self) -> str:
        return f"<RedisConnection {'open' if self.is_open else 'closed'}: {len(self._waiting)} calls waiting>"

    def close(self) -> None:
        self._end(ConnectionAbortedError("the connection was closed here"))

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._unread:
            data = self._unread + data
        at, end = 0, len(data)
        try:
            while at < end and (found := take(data, at)) is not None:
                answer, at = found
                self._answered(answer)
            self._unread = data[at:]
            if end - at > MOST_UNREAD:
                raise InvalidResponse("an answer is longer than scripts give")
        except InvalidResponse as error:
            self._end(error)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(ConnectionResetError(str(error or "the server closed the connection")))

    # --- inside ---

    def _answered(self, answer: Reply | ResponseError) -> None:
        if not self._waiting:
            raise InvalidResponse("an unexpected answer arrived")
        waiting, _ = self._waiting.popleft()
        if not waiting.done():  # the caller may have been cancelled
            if isinstance(answer, ResponseError):
                waiting.set_exception(answer)
            else:
                waiting.set_result(answer)
        if isinstance(answer, ResponseError) and str(answer).startswith("READONLY"):
            self._end(ConnectionResetError("it is a replica now"))  # its name may lead to the new primary

    def _on_step(self) -> None:
        self._timer = None
        self._steps += 1
        if not self._waiting:
            return
        for answer, late in self._waiting:
            if late <= self._steps and not answer.done():
                answer.set_exception(TimeoutError("no answer in time"))
        if self._waiting[0][1] + STEPS <= self._steps:
            self._end(ConnectionResetError("the server is silent"))
        else:
            self._timer = self._loop.call_later(self._step, self._on_step)

    def _end(self, error: Exception) -> None:
        """No more replies will come."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        transport.abort()
        if self._timer is not None:
            self._timer.cancel()
        while self._waiting:
            answer, _ = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(error)


def pack(*args: Arg) -> bytes:
    """A command in RESP2: an array of texts."""
    texts = [arg.encode() if isinstance(arg, str) else b"%d" % arg for arg in args]
    return b"*%d\r\n%b" % (len(texts), b"".join([b"$%d\r\n%b\r\n" % (len(text), text) for text in texts]))


def take(data: bytes, at: int) -> tuple[Reply | ResponseError, int] | None:
    """The reply that begins at `at`, and where the next one does; None: it is incomplete. Raises InvalidResponse."""
    end = data.find(b"\r\n", at)
    if end < 0:
        return None
    kind, text, after = data[at : at + 1], data[at + 1 : end], end + 2
    if kind == b"+":
        return text, after
    if kind == b"-":
        error = text.decode("utf-8", "replace")
        return (NoScriptError if error.startswith("NOSCRIPT") else ResponseError)(error), after
    if kind == b":":
        return _number(text), after
    if kind != b"$":
        raise InvalidResponse(f"not what scripts answer: {data[at : at + 20]!r}")
    size = _number(text)
    if size == -1:
        return None, after
    if not 0 <= size <= MOST_UNREAD:
        raise InvalidResponse(f"invalid length of a bulk string: {size}")
    last = after + size
    if len(data) < last + 2:
        return None
    if data[last : last + 2] != b"\r\n":
        raise InvalidResponse("a bulk string does not end where its length says")
    return data[after:last], last + 2


_INTEGER = re.compile(rb"[+-]?[0-9]{1,19}")


def _number(text: bytes) -> int:
    if not _INTEGER.fullmatch(text):
        raise InvalidResponse(f"invalid number: {text[:20]!r}")
    return int(text)


def tls_options(url: str) -> dict[str, bool]:
    """Options for redis-py in addition to the URL, so that every version checks host names against certificates: before
    6.0 it does so only on request. Options in the URL take precedence."""
    parts = urlsplit(url)
    said = parse_qs(parts.query)
    unchecked = said.get("ssl_cert_reqs", [""])[-1].strip().lower() in ("none", "cert_none")
    if not parts.scheme.startswith("rediss") or "ssl_check_hostname" in said or unchecked:
        return {}
    return {"ssl_check_hostname": True}


@asynccontextmanager
async def busy_timeout(seconds: float) -> AsyncIterator[None]:
    """Like `asyncio.timeout`, but a busy loop does not count; see `RedisConnection`."""
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
