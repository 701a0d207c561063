"""The simulator: its socket, its routes, and its reports about itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from ssl import SSLContext
from typing import Any
from urllib.parse import parse_qs

import orjson

from . import openai
from .answer import Answer, AnswerConnection, AnswerOf, Echo, Plain, Sink
from .completion import Completion
from .connection import Connection
from .pacing import Ticker
from .paths import dialect_of
from .records import Records, RequestHead, StreamRecord
from .script import HEADER, Script, ScriptError, parse

REQUESTS_KEPT = 10_000

NOTSENT_LOWAT = 16 * 1024
"""Unsent bytes that the kernel takes, so that what it has accepted says how far the reader is."""

LOOK_EVERY = 0.05
"""Seconds between two checks of what full connections have unsent; one timer for all."""

UPLOADS: dict[str, type[Echo] | type[Sink]] = {"/v1/echo": Echo, "/v1/sink": Sink}

METHODS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(UPLOADS, ("POST",)),
    "/v1/models": ("GET", "HEAD"),
    "/simulator/streams": ("GET", "HEAD", "DELETE"),
    "/simulator/totals": ("GET", "HEAD"),
}


class Simulator:
    """A pretend provider: `start`, look at `streams` and `requests`, `close`.

    `notsent_lowat` bounds the unsent bytes in the kernel's queue of each connection; 0 leaves the kernel's default.
    """

    def __init__(self, *, notsent_lowat: int = NOTSENT_LOWAT) -> None:
        self.url = ""
        self.port = 0
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """(method, target, headers) of each request but those to /simulator/; the newest REQUESTS_KEPT or more."""
        self.notsent_lowat = notsent_lowat
        self.closing = False
        self.records = Records()
        self._open: set[Connection] = set()
        self._watched: set[Connection] = set()
        self._watch_timer: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None
        self._ticker: Ticker | None = None
        self._all_gone: asyncio.Future[None] | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0, ssl: SSLContext | None = None) -> int:
        """Listens; returns the port. Raises OSError."""
        if self._server is not None:
            raise RuntimeError("the simulator is already running")
        loop = asyncio.get_running_loop()
        ticker = Ticker(loop)
        server = await loop.create_server(lambda: Connection(self, loop, ticker), host, port, ssl=ssl, backlog=4096)
        self._ticker = ticker
        self._server = server
        self.closing = False
        self.port = server.sockets[0].getsockname()[1]
        self.url = f"{'https' if ssl else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}"
        return self.port

    async def close(self) -> None:
        """Close the socket and all connections at once. Does nothing if it is not running."""
        server, self._server = self._server, None
        if server is None:
            return
        self.closing = True
        server.close()
        if self._open:
            self._all_gone = asyncio.get_running_loop().create_future()
            for connection in list(self._open):
                connection.abort()
            await self._all_gone
        await server.wait_closed()
        if self._ticker is not None:
            self._ticker.close()
        if self._watch_timer is not None:
            self._watch_timer.cancel()
            self._watch_timer = None

    @property
    def streams(self) -> list[dict[str, Any]]:
        """The answer of `GET /simulator/streams`, in the order of the streams' start."""
        return [record.as_dict() for record in self.records]

    @property
    def totals(self) -> dict[str, int]:
        """The answer of `GET /simulator/totals`."""
        return self.records.totals()

    # What connections call.

    def opened(self, connection: Connection, sock: socket.socket | None) -> None:
        self.records.connections += 1
        self.records.connections_open += 1
        self._open.add(connection)
        if self.notsent_lowat and sock is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, self.notsent_lowat)
        if self.closing:
            connection.abort()

    def closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        self.records.connections_open -= 1
        if self._all_gone is not None and not self._open and not self._all_gone.done():
            self._all_gone.set_result(None)

    def watch(self, connection: Connection) -> None:
        """The connection is full: check how much it holds until `unwatch`."""
        self._watched.add(connection)
        if self._watch_timer is None:
            self._watch_timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)

    def unwatch(self, connection: Connection) -> None:
        self._watched.discard(connection)

    def _look(self) -> None:
        self._watch_timer = None
        for connection in self._watched:
            connection.look()
        if self._watched:
            self._watch_timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)

    def settled(self, record: StreamRecord) -> None:
        self.records.finished(record)

    def route(self, method: str, target: str, headers: dict[str, str]) -> tuple[Script, AnswerOf]:
        """How a request is answered."""
        path, _, query = target.partition("?")
        if not path.startswith("/simulator/"):
            self.records.requests_total += 1
            self.requests.append((method, target, headers))
            if len(self.requests) > 2 * REQUESTS_KEPT:
                del self.requests[:REQUESTS_KEPT]
        dialect = dialect_of(path, query)
        error = openai.error if dialect is None else dialect.error
        methods = METHODS.get(path) if dialect is None else ("POST",)
        if methods is None:
            return Script(), _plain(404, openai.error(404, f"there is no {path} here", code="not_found"))
        if method not in methods:
            body = error(405, f"{path} takes {', '.join(methods)}")
            return Script(), _plain(405, body, ("allow", ", ".join(methods)))
        if dialect is None and path not in UPLOADS:
            return Script(), _plain(200, self._tell(method, path, query))
        try:
            script = parse(headers.get(HEADER))
        except ScriptError as problem:
            return Script(), _plain(400, error(400, str(problem), problem.key))
        number = self.records.requests_total

        def answer(connection: AnswerConnection) -> Answer:
            record = StreamRecord(
                number,
                script.id or headers.get("x-request-id") or str(number),
                head=RequestHead(method, target, headers),
                started=time.monotonic(),
                wire=connection,
            )
            self.records.add(record)
            if dialect is None:
                return UPLOADS[path](connection, record)
            return Completion(connection, record, script, dialect)

        return script, answer

    def _tell(self, method: str, path: str, query: str) -> bytes:
        if path == "/v1/models":
            return openai.models()
        if path == "/simulator/totals":
            return orjson.dumps(self.totals)
        if method == "DELETE":
            return orjson.dumps({"forgotten": self.records.forget_finished()})
        wanted = parse_qs(query).get("id")
        return orjson.dumps([record.as_dict() for record in self.records if wanted is None or record.id in wanted])


def _plain(status: int, body: bytes, *headers: tuple[str, str]) -> AnswerOf:
    return lambda connection: Plain(connection, status, body, headers=headers)
