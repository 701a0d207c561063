"""A connection to a provider: DNS, TCP and TLS under one deadline."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from ..config.addresses import Url
from ..errors import EndReason, Party, RelayError, upstream_error
from ..net.tls_transport import TlsTransport
from ..relay.interfaces import Clock
from .race import ATTEMPT_DELAY, MIN_DELAY, FinalFailure, Progress, Race, interleave
from .resolver import REFRESH_WAIT, Answer, HostAddress, Resolver, fixed_address
from .session_cache import SessionCache

_P = TypeVar("_P", bound=asyncio.BufferedProtocol)
_B = TypeVar("_B", bound=asyncio.BaseProtocol)

AVOIDED_FOR = 600.0
"""Seconds for which an address comes last after it failed, or was so slow that another one was tried."""
LOCAL_ERRORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EADDRNOTAVAIL))
"""Errors of this machine (descriptors, memory, local ports), not of the provider."""
FULL_QUEUE = 0.02
"""Seconds until a retry if the accept queue of a provider's Unix socket is full. For TCP the kernel retries."""
NEW_ANSWER = 1.0
"""Seconds for which a DNS answer is not requested again."""


class DialError(Exception):
    """No connection could be made; `error` is for the client."""

    def __init__(self, error: RelayError) -> None:
        super().__init__(error.message)
        self.error = error


Prepare = Callable[[socket.socket], None]


class _Connected(NamedTuple, Generic[_P]):
    transport: asyncio.Transport
    protocol: _P


class Dialer:
    """Connects to one provider.

    `timeout` is in seconds and covers everything.
    """

    __slots__ = (
        "_avoided",
        "_clock",
        "_fixed",
        "_resolver",
        "_sessions",
        "_timeout",
        "_tls",
        "_url",
    )

    def __init__(
        self,
        url: Url,
        resolver: Resolver,
        *,
        timeout: float,
        tls: ssl.SSLContext | None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._url = url
        self._resolver = resolver
        self._timeout = timeout
        self._tls = tls
        self._clock = clock
        self._fixed = fixed_address(url)
        self._avoided: dict[HostAddress, float] = {}
        """Addresses that come last, and until when."""
        self._sessions = SessionCache(clock)

    async def dial(self, factory: Callable[[], _P], prepare: Prepare) -> _P:
        """Returns a connected protocol made by `factory`. `prepare` sets options of sockets before they connect. Raises
        DialError."""
        answer: Answer | None = None
        deadline = asyncio.timeout(self._timeout)
        try:
            async with deadline:
                if self._fixed is None:
                    answer = await self._resolver.resolve(self._url.host, fresh_for=self._timeout)
                return await self._connect(factory, prepare, answer)
        except ssl.SSLCertVerificationError as error:
            if self._fixed is None:
                self._resolver.distrust(self._url.host)
            text = f"has a certificate that is not trusted: {error.verify_message} (see FLOW_UPSTREAM_CA)"
            raise DialError(self._error(EndReason.CONNECT_FAILED, text)) from None
        except ssl.SSLError as error:
            text = f"failed the TLS handshake: {error.reason or error}"
            raise DialError(self._error(EndReason.CONNECT_FAILED, text)) from None
        except OSError as error:  # includes TimeoutError: from the deadline, or the system's own
            if deadline.expired():
                raise DialError(self._timed_out(resolved=self._fixed is not None or answer is not None)) from None
            if error.errno in LOCAL_ERRORS:
                raise DialError(self._no_capacity(error)) from None
            text = f"can't be reached: {_reason(error)}"
            raise DialError(self._error(EndReason.CONNECT_FAILED, text)) from None
        finally:
            del deadline  # breaks a reference cycle: it holds the task, which, once cancelled, holds this frame

    # --- addresses -------------------------------------------------------------------------------------------------

    async def _connect(self, factory: Callable[[], _P], prepare: Prepare, answer: Answer | None) -> _P:
        """Race the addresses of `answer`; None: there is only one address."""

        async def more() -> Sequence[HostAddress]:
            assert answer is not None
            async with asyncio.timeout(REFRESH_WAIT):
                return self._candidates(await self._resolver.newer(self._url.host, answer))

        addresses = self._candidates(answer)
        is_new = answer is None or self._clock() - answer.asked_at < NEW_ANSWER
        race = Race(
            addresses,
            partial(self._attempt, factory, prepare),
            lambda connected: connected.transport.abort(),
            more=None if is_new else more,
            delay=min(ATTEMPT_DELAY, max(MIN_DELAY, self._timeout / (len(addresses) + 1))),
        )
        try:
            return (await race.run()).protocol
        finally:
            self._learn(race)

    def _candidates(self, answer: Answer | None) -> list[HostAddress]:
        """The addresses of `answer` in the order in which they are tried."""
        if answer is None:
            assert self._fixed is not None
            return [self._fixed]
        now = self._clock()
        self._avoided = {address: until for address, until in self._avoided.items() if until > now}
        addresses = interleave(address.with_port(self._url.port) for address in answer.addresses)
        return sorted(addresses, key=lambda address: self._avoided.get(address, 0.0))

    def _learn(self, race: Race[_Connected[_P]]) -> None:
        """Addresses that failed or were too slow come last for a while; the winner no longer does."""
        until = self._clock() + AVOIDED_FOR
        self._avoided.update(dict.fromkeys((*race.failed, *race.tried[:-1]), until))
        if race.winner is not None:
            self._avoided.pop(race.winner, None)

    # --- one address -----------------------------------------------------------------------------------------------

    async def _attempt(
        self, factory: Callable[[], _P], prepare: Prepare, address: HostAddress, progress: Progress
    ) -> _Connected[_P]:
        loop = asyncio.get_running_loop()
        connection = socket.socket(address.family, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            if address.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            prepare(connection)
            await _establish(loop, connection, address)
        except BaseException:
            connection.close()
            raise
        progress()
        if self._tls is not None:
            return await self._shake_hands(loop, self._tls, factory, connection)
        return _Connected(*await _open_transport(loop, factory, connection))

    async def _shake_hands(
        self,
        loop: asyncio.AbstractEventLoop,
        context: ssl.SSLContext,
        factory: Callable[[], _P],
        connection: socket.socket,
    ) -> _Connected[_P]:
        done: asyncio.Future[_P] = loop.create_future()
        tls = TlsTransport(
            context,
            partial(self._on_established, factory, done),
            partial(_fail, done),
            server_hostname=self._url.server_name,
            session=self._sessions.offer(),
        )
        try:
            transport, _ = await _open_transport(loop, partial(_identity, tls), connection)
        except BaseException:
            done.cancel()  # nobody waits for the handshake, which fails now
            raise
        try:
            return _Connected(tls, await done)
        except ssl.SSLCertVerificationError as error:
            transport.abort()
            raise FinalFailure(error) from None  # trying another address would hide it
        except BaseException:
            transport.abort()
            raise

    def _on_established(self, factory: Callable[[], _P], done: asyncio.Future[_P], transport: TlsTransport) -> _P:
        self._sessions.on_established(transport)
        protocol = factory()
        if not done.done():
            done.set_result(protocol)
        return protocol

    # --- failing ---------------------------------------------------------------------------------------------------

    def _timed_out(self, *, resolved: bool) -> RelayError:
        what = "did not answer"
        if not resolved:
            self._resolver.timed_out(self._url.host)
            what = "has a name that DNS did not resolve"
        return self._error(
            EndReason.CONNECT_TIMEOUT, f"{what} within {self._timeout:g} s (FLOW_CONNECT_TIMEOUT)", status=504
        )

    def _no_capacity(self, error: OSError) -> RelayError:
        text = f"The relay can't connect to the provider {self._url.place}: {_reason(error)}."
        return RelayError(503, "no_capacity", text, Party.RELAY, EndReason.REFUSED, retry_after=1, not_processed=True)

    def _error(self, end: EndReason, text: str, *, status: int = 502) -> RelayError:
        return upstream_error(end.value, f"The provider {text}.", end, status=status, not_processed=True)


async def _establish(loop: asyncio.AbstractEventLoop, connection: socket.socket, address: HostAddress) -> None:
    """Connect a socket. Raises OSError. uvloop's `sock_connect` resolves even numeric addresses in a thread pool, and
    so waits for look-ups that hang."""
    code = connection.connect_ex(address.address)
    while code == errno.EAGAIN and address.family == socket.AF_UNIX:
        await asyncio.sleep(FULL_QUEUE)
        code = connection.connect_ex(address.address)
    if code in (errno.EINPROGRESS, errno.EINTR):
        done: asyncio.Future[None] = loop.create_future()
        loop.add_writer(connection, _resolve_once, done)
        try:
            await done
        finally:
            loop.remove_writer(connection)
        code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


async def _open_transport(
    loop: asyncio.AbstractEventLoop, factory: Callable[[], _B], connection: socket.socket
) -> tuple[asyncio.Transport, _B]:
    """Returns a transport, which owns the descriptor of `connection` however this ends.

    uvloop closes the descriptor with the transport. It detaches the socket object only if the transport is still alive
    when the connection has been made: if not, the object would close that number again once it is collected, when it
    may belong to another connection. If cancelled, uvloop closes the transport of a protocol that got
    `connection_made`, but never calls `connection_lost`; so it is not cancelled, which costs an iteration of the event
    loop.
    """
    opening = asyncio.ensure_future(loop.create_connection(factory, sock=connection))
    try:
        transport, protocol = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(partial(_abandon, connection))
        raise
    except BaseException:
        connection.detach()
        raise
    if transport.is_closing():
        connection.detach()
    return transport, protocol


def _abandon(connection: socket.socket, opening: asyncio.Future[tuple[asyncio.Transport, _B]]) -> None:
    """Dispose of a transport that nobody waits for any more."""
    connection.detach()
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[0].abort()


def _identity(protocol: _B) -> _B:
    return protocol


def _fail(done: asyncio.Future[_P], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)


def _resolve_once(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _reason(error: OSError) -> str:
    """The system's error text; uvloop's says only that a call failed."""
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)


def tls_context(ca: str | None, *, verify: bool, protocols: list[str]) -> ssl.SSLContext:
    """A TLS context for providers, which verifies if `verify`. `ca` is a PEM file, None for the system's authorities.

    `protocols` are offered by ALPN, the preferred one first. Raises OSError.
    """
    context = ssl.create_default_context(cafile=ca)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(protocols)
    return context
