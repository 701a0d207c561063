"""A blocking client of a running relay's admin listener or control socket, for commands only."""

from __future__ import annotations

import argparse
import http.client
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT = 30.0
"""Seconds that a relay may take to answer. A reload of many workers takes a while."""


class AskError(Exception):
    """The relay can't be reached, or refuses; the text says why. `status` is that of its answer, 0 if there is none."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


Connected = Callable[[socket.socket], None]


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which relay is asked."""
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--socket", metavar="PATH", help="the relay's control socket")
    place.add_argument("--url", metavar="URL", help="its admin listener, such as http://127.0.0.1:9090")


def given_place(options: argparse.Namespace) -> str | None:
    """The place that these flags name, as `AdminClient.where`; None: neither was given."""
    if options.socket is not None:
        return "unix:" + os.path.abspath(str(options.socket).removeprefix("unix:"))
    return None if options.url is None else str(options.url)


@dataclass(frozen=True, slots=True)
class AdminClient:
    """`where`: `unix:/path` or a URL. `token`: None sends none."""

    where: str
    token: str | None = None

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Returns the answer's body. Raises AskError if there is no answer, or its status is not a success."""
        with self.open(method, path, body) as answer:
            return answer.read()

    @contextmanager
    def open(
        self, method: str, path: str, body: bytes | None = None, connected: Connected | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """The same for an answer that is read as it arrives; errors while reading are raised as AskError, too.
        `connected` is called with the connection: shutting it down ends the answer."""
        base, connection = self._connection()
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            connection.request(method, base + path, body, headers)
            if connected is not None:
                connected(connection.sock)
            answer = connection.getresponse()
            if answer.status >= 300:
                text = answer.read().decode(errors="replace").strip()
                raise AskError(text or f"{self.where} answers {answer.status}", answer.status)
            yield answer
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise AskError(f"{self.where} can't be reached: {reason}{_hint(error)}") from None
        finally:
            connection.close()

    def _connection(self) -> tuple[str, http.client.HTTPConnection]:
        """The prefix of all paths, and a connection. Raises AskError."""
        kind, _, path = self.where.partition(":")
        if kind == "unix":
            return "", _UnixConnection(path)
        url = urlsplit(self.where)
        try:
            port = url.port
        except ValueError:
            port = -1
        if url.scheme not in ("http", "https") or not url.hostname or port == -1:
            raise AskError(f"invalid address {self.where!r}: expected a URL such as http://127.0.0.1:9090")
        base = url.path.rstrip("/")
        if url.scheme == "https":
            context = ssl.create_default_context()
            return base, http.client.HTTPSConnection(url.hostname, port, timeout=TIMEOUT, context=context)
        return base, http.client.HTTPConnection(url.hostname, port, timeout=TIMEOUT)


def _hint(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "; is the relay running, with FLOW_CONTROL_SOCKET set to this path?"
    if isinstance(error, ConnectionRefusedError):
        return "; is the relay running?"
    if isinstance(error, PermissionError):
        return "; only the relay's own user may use the socket"
    return ""


def read_token(path: str) -> str:
    """Read a token from a file. Raises AskError."""
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not ASCII"
        raise AskError(f"{path} can't be read: {reason}") from None
    if not token or not token.isprintable():
        raise AskError(f"{path}: expected a token on one line")
    return token
