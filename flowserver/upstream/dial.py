"""A connection to a provider: DNS, TCP and TLS under one deadline."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

from ..config import Url
from ..errors import EndReason, RelayError, upstream_error
from ..tls import TlsTransport

_P = TypeVar("_P", bound=asyncio.BufferedProtocol)
_Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]


class DialError(Exception):
    """No connection; `error` says to the client why."""

    def __init__(self, error: RelayError) -> None:
        super().__init__(error.message)
        self.error = error


class Dialer:
    """Connects to one provider.

    `timeout` is in seconds and covers everything. `receive_buffer` is SO_RCVBUF in bytes (None: the kernel's default):
    the kernel reads ahead of the relay that far, so it is part of what a stalled client pulls from the provider.
    """

    __slots__ = ("_before", "_receive_buffer", "_timeout", "_tls", "_url")

    def __init__(self, url: Url, *, timeout: float, receive_buffer: int | None, tls: ssl.SSLContext | None) -> None:
        self._url = url
        self._timeout = timeout
        self._receive_buffer = receive_buffer
        self._tls = tls
        self._before: TlsTransport | None = None
        """The last connection established, for its session."""

    async def dial(self, factory: Callable[[], _P]) -> _P:
        """A connected protocol made by `factory`. Raises DialError."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._dial(factory)
        except TimeoutError:
            seconds = f"{self._timeout:g} s"
            raise DialError(
                self._error(
                    EndReason.CONNECT_TIMEOUT, f"did not answer within {seconds} (FLOW_CONNECT_TIMEOUT)", status=504
                )
            ) from None
        except ssl.SSLCertVerificationError as error:
            text = f"has a certificate that is not trusted: {error.verify_message} (see FLOW_UPSTREAM_CA)"
            raise DialError(self._error(EndReason.CONNECT_FAILED, text)) from None
        except ssl.SSLError as error:
            text = f"failed the TLS handshake: {error.reason or error}"
            raise DialError(self._error(EndReason.CONNECT_FAILED, text)) from None
        except OSError as error:
            text = f"can't be reached: {_reason(error)}"
            raise DialError(self._error(EndReason.CONNECT_FAILED, text)) from None

    async def _dial(self, factory: Callable[[], _P]) -> _P:
        loop = asyncio.get_running_loop()
        failure: OSError | None = None
        for family, address in await self._resolve(loop):
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._receive_buffer is not None:  # only before connect does it bound the window
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
                await loop.sock_connect(connection, address)
                if self._tls is None:
                    _, protocol = await loop.create_connection(factory, sock=connection)
                else:
                    protocol = await self._shake_hands(loop, self._tls, factory, connection)
            except ssl.SSLError:
                connection.close()
                raise
            except OSError as error:
                connection.close()
                failure = error
            except BaseException:
                connection.close()
                raise
            else:
                return protocol
        raise failure or OSError("its name has no address")

    async def _shake_hands(
        self,
        loop: asyncio.AbstractEventLoop,
        context: ssl.SSLContext,
        factory: Callable[[], _P],
        connection: socket.socket,
    ) -> _P:
        done: asyncio.Future[_P] = loop.create_future()

        def established(transport: TlsTransport) -> _P:
            self._before = transport
            protocol = factory()
            if not done.done():
                done.set_result(protocol)
            return protocol

        def failed(error: Exception) -> None:
            if not done.done():
                done.set_exception(error)

        session = None if self._before is None else self._before.session
        tls = TlsTransport(context, established, failed, server_hostname=self._url.host, session=session)
        transport, _ = await loop.create_connection(lambda: tls, sock=connection)
        try:
            return await done
        except BaseException:
            transport.abort()
            raise

    async def _resolve(self, loop: asyncio.AbstractEventLoop) -> list[_Address]:
        host, port = self._url.host, self._url.port
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]
        return [(socket.AF_INET if ip.version == 4 else socket.AF_INET6, (host, port))]

    def _error(self, end: EndReason, text: str, *, status: int = 502) -> RelayError:
        return upstream_error(end.value, f"The provider {text}.", end, status=status, untouched=True)


def _reason(error: OSError) -> str:
    """The system's own words; uvloop's tell no more than that a call failed."""
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)


def tls_context(ca: str | None, *, verify: bool, protocols: list[str]) -> ssl.SSLContext:
    """A client context that verifies, unless told otherwise. `ca` is a PEM file, None for the system's authorities.

    `protocols` are offered by ALPN, the preferred one first. Raises OSError.
    """
    context = ssl.create_default_context(cafile=ca)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(protocols)
    return context
