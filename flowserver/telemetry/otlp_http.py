"""A blocking connection to a collector: one POST at a time, each with a timeout."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any, cast

import h11

from ..config.addresses import Url

MOST_REPLY = 1 << 16
"""Most bytes of a reply's body that are read."""
_PIECE = 1 << 14


class CollectorError(Exception):
    """A collector did not answer, or not in HTTP."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    retry_after: str
    """As sent by the collector; empty: not sent."""
    body: bytes


class CollectorConnection:
    """A connection that is kept between requests. Used by one thread."""

    def __init__(self, url: Url, tls: ssl.SSLContext | None) -> None:
        """`url`: where spans are sent. `tls` None: without TLS."""
        self._url = url
        self._tls = tls
        self._socket: socket.socket | None = None
        self._codec = h11.Connection(h11.CLIENT)

    def post(self, body: bytes, headers: list[tuple[bytes, bytes]], timeout: float) -> Reply:
        """Send `body` and wait for the reply, for `timeout` seconds in total. A kept connection that the collector has
        closed is replaced once. Raises CollectorError."""
        deadline = time.monotonic() + timeout
        is_kept = self._socket is not None
        try:
            return self._ask(body, headers, deadline)
        except TimeoutError as error:
            self.close()
            raise CollectorError(f"no reply within {timeout:g} s") from error
        except (OSError, h11.ProtocolError) as error:
            self.close()
            if is_kept:
                return self.post(body, headers, deadline - time.monotonic())
            raise CollectorError(_reason(error)) from error

    def close(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()

    def _ask(self, body: bytes, headers: list[tuple[bytes, bytes]], deadline: float) -> Reply:
        connection = self._socket or self._connect(deadline)
        codec = self._codec
        head = codec.send(h11.Request(method="POST", target=self._url.path or "/", headers=headers))
        data = codec.send(h11.Data(data=body))
        codec.send(h11.EndOfMessage())
        connection.settimeout(_left(deadline))
        connection.sendall(b"".join((head or b"", data or b"")))
        reply = self._receive(connection, deadline)
        if codec.our_state is h11.DONE and codec.their_state is h11.DONE:
            codec.start_next_cycle()
        else:
            self.close()
        return reply

    def _receive(self, connection: socket.socket, deadline: float) -> Reply:
        status, retry_after = 0, ""
        body = bytearray()
        while True:
            event = self._codec.next_event()
            if event is h11.NEED_DATA:
                connection.settimeout(_left(deadline))
                self._codec.receive_data(connection.recv(_PIECE))
            elif isinstance(event, h11.Response):
                status = event.status_code
                found = [value for name, value in event.headers if name == b"retry-after"]
                retry_after = found[0].decode("latin-1") if found else ""
            elif isinstance(event, h11.Data):
                body += cast(Any, event).data  # a bytearray, whatever h11 says: compiled code looks
            if isinstance(event, h11.EndOfMessage) or len(body) > MOST_REPLY:
                return Reply(status, retry_after, bytes(body))

    def _connect(self, deadline: float) -> socket.socket:
        url = self._url
        if url.socket:
            connection = socket.socket(socket.AF_UNIX)
            self._socket = connection
            connection.settimeout(_left(deadline))
            connection.connect(url.socket)
        else:
            connection = socket.create_connection((url.host, url.port), _left(deadline))
            self._socket = connection
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            connection.settimeout(_left(deadline))
            self._socket = connection = self._tls.wrap_socket(connection, server_hostname=url.server_name)
        self._codec = h11.Connection(h11.CLIENT)
        return connection


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _reason(error: Exception) -> str:
    """A readable description of `error`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
