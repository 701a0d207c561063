"""The simulator's connections: requests by h11, answers and streams written by hand."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import parse_qs

import h11
import orjson

from . import chat
from .pacing import Pacer
from .record import Record, Records
from .script import Script, ScriptError, parse
from .stream import Answer, EventStream, WholeAnswer

HIGH_WATER = 32 * 1024
NOTSENT_LOWAT = 16 * 1024
"""Unsent bytes the kernel may take, so that what the socket accepts says how far the reader is."""

Headers = dict[str, str]


class Simulator:
    """A pretend provider. `start`, look at `streams` and `requests`, `close`."""

    def __init__(self) -> None:
        self.records = Records()
        self.url = ""
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self.pacer: Pacer

    async def start(self, host: str = "127.0.0.1", port: int = 0, ssl: ssl.SSLContext | None = None) -> int:
        """Listen; returns the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        self.pacer = Pacer()
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)
            listening.bind((host, port))
            listening.listen(4096)
            self._server = await loop.create_server(lambda: Connection(self), sock=listening, ssl=ssl)
        except BaseException:
            listening.close()
            raise
        bound = cast(int, listening.getsockname()[1])
        self.url = f"{'https' if ssl else 'http'}://{f'[{host}]' if ':' in host else host}:{bound}"
        return bound

    async def close(self) -> None:
        """Close everything at once."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections):
            connection.abort()
        await self._server.wait_closed()
        self.pacer.close()
        self._server = None

    @property
    def streams(self) -> list[dict[str, Any]]:
        """A record of each stream, as /simulator/streams shows it."""
        return self.records.streams

    @property
    def requests(self) -> list[tuple[str, str, Headers]]:
        """(method, target, headers) of every request read."""
        return list(self.records.requests)

    def on_connection(self, connection: Connection) -> None:
        self._connections.add(connection)
        self.records.connections += 1
        self.records.connections_open += 1

    def on_connection_lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self.records.connections_open -= 1


class Connection(asyncio.Protocol):
    """A client of the simulator; one request at a time."""

    __slots__ = (
        "_answer",
        "_body",
        "_digest",
        "_h11",
        "_keep_alive",
        "_readable",
        "_record",
        "_request",
        "_route",
        "_script",
        "_simulator",
        "_size",
        "paused",
        "transport",
    )

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self.transport: asyncio.Transport
        self.paused = False
        """Whether the socket takes no more."""
        self._h11 = h11.Connection(h11.SERVER)
        self._readable = True
        self._reset()

    def _reset(self) -> None:
        self._answer: Answer | None = None
        self._record: Record | None = None
        self._route: Callable[[], None] | None = None
        self._script = Script()
        self._body = bytearray()
        self._digest = hashlib.sha256()
        self._size = 0

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER, low=0)
        self._simulator.on_connection(self)

    def data_received(self, data: bytes) -> None:
        self._h11.receive_data(data)
        self._advance()
        rate = self._script.read_rate
        if rate and self._readable and self._route is not None:
            self._pause_for(len(data) / rate)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._simulator.on_connection_lost(self)
        self._end_record("cancelled")
        if self._answer is not None:
            self._answer.stop()
            self._answer = None

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self._answer is not None:
            self._answer.resume()

    def abort(self) -> None:
        self.transport.abort()

    # --- for the answers ---

    @property
    def pacer(self) -> Pacer:
        return self._simulator.pacer

    def on_answered(self, keep: bool) -> None:
        """The answer is written."""
        self._answer = None
        self._end_record("done")
        if not keep or self._h11.their_state is not h11.DONE or not self._keep_alive:
            self.transport.close()
            return
        # The answer was written by hand: h11 is told of one, so that it takes the next request.
        self._h11.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
        self._h11.send(h11.EndOfMessage())
        self._h11.start_next_cycle()
        self._reset()
        self._advance()

    def on_broken(self, state: str) -> None:
        """The answer ended this connection without an end of its own."""
        self._answer = None
        self._end_record(state)

    # --- requests ---

    def _advance(self) -> None:
        """Read on as far as bytes and the present answer allow."""
        try:
            while self._readable:
                event = self._h11.next_event()
                if isinstance(event, h11.Request):
                    self._begin(event)
                elif isinstance(event, h11.Data):
                    self._on_data(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    if self._route is not None:
                        self._route()
                else:
                    return
        except h11.RemoteProtocolError as failure:
            if self._answer is None:
                self._keep_alive = False
                self._respond(400, chat.error(str(failure)))

    def _begin(self, request: h11.Request) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        method, target = request.method.decode("ascii"), request.target.decode("ascii")
        records = self._simulator.records
        records.requests_total += 1
        records.requests.append((method, target, headers))
        self._request = (method, target, headers)
        self._keep_alive = request.http_version == b"1.1" and "close" not in headers.get("connection", "").lower()
        if self._h11.they_are_waiting_for_100_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            self._script = parse(headers.get("x-simulate"))
        except ScriptError as error:
            body = chat.error(str(error))
            self._route = lambda: self._respond(400, body)
            return
        self._route = self._find(method, target.partition("?")[0])
        if self._script.read_after and self._takes_body:
            self._pause_for(self._script.read_after)

    def _find(self, method: str, path: str) -> Callable[[], None]:
        routes: dict[tuple[str, str], Callable[[], None]] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/echo"): self._echo,
            ("POST", "/v1/sink"): self._sink,
            ("GET", "/v1/models"): self._models,
            ("GET", "/simulator/streams"): self._streams,
            ("DELETE", "/simulator/streams"): self._forget,
            ("GET", "/simulator/totals"): self._totals,
        }
        return routes.get(("GET" if method == "HEAD" else method, path), self._not_found)

    @property
    def _takes_body(self) -> bool:
        return self._route in (self._echo, self._sink)

    def _on_data(self, data: bytes) -> None:
        self._size += len(data)
        if self._route == self._sink:
            self._digest.update(data)
        else:
            self._body += data

    def _pause_for(self, seconds: float) -> None:
        self._readable = False
        self.transport.pause_reading()
        self.pacer.at(self.pacer.now() + seconds, self._read_on)

    def _read_on(self, due: float) -> None:
        self._readable = True
        if not self.transport.is_closing():
            self.transport.resume_reading()
            self._advance()

    # --- routes ---

    def _chat(self) -> None:
        try:
            request = chat.parse_request(bytes(self._body))
        except chat.RequestError as error:
            self._respond(400, chat.error(str(error)))
            return
        script = self._script
        record = self._add_record()
        answer: Answer
        if request.stream and script.status == 200:
            answer = EventStream(self, record, script, request)
        else:
            answer = WholeAnswer(self, record, script, request)
        self._answer = answer
        answer.start()

    def _echo(self) -> None:
        kind = self._request[2].get("content-type", "application/octet-stream")
        self._respond(200, bytes(self._body), kind=kind)

    def _sink(self) -> None:
        self._respond(200, orjson.dumps({"bytes": self._size, "sha256": self._digest.hexdigest()}))

    def _models(self) -> None:
        model = {"id": "simulated", "object": "model", "created": chat.CREATED, "owned_by": "flowserver"}
        self._respond(200, orjson.dumps({"object": "list", "data": [model]}))

    def _streams(self) -> None:
        wanted = parse_qs(self._request[1].partition("?")[2]).get("id")
        streams = self._simulator.streams
        self._respond(200, orjson.dumps([s for s in streams if wanted is None or s["id"] in wanted]))

    def _forget(self) -> None:
        self._simulator.records.forget_ended()
        self._respond(200, b"{}")

    def _totals(self) -> None:
        self._respond(200, orjson.dumps(self._simulator.records.totals()))

    def _not_found(self) -> None:
        self._respond(404, chat.error(f"there is no {self._request[0]} {self._request[1]} here", code="not_found"))

    def _respond(self, status: int, body: bytes, *, kind: str = "application/json") -> None:
        """A small answer at once."""
        head = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n" % (
            status,
            HTTPStatus(status).phrase.encode(),
            kind.encode("latin-1"),
            len(body),
            b"" if self._keep_alive else b"connection: close\r\n",
        )
        is_head = self._h11.their_state is not h11.ERROR and self._request[0] == "HEAD"
        self.transport.write(head if is_head else head + body)
        self.on_answered(keep=True)

    # --- records ---

    def _add_record(self) -> Record:
        method, target, headers = self._request
        records = self._simulator.records
        name = self._script.id or headers.get("x-request-id") or str(records.requests_total)
        request = {"method": method, "path": target, "headers": headers, "body_bytes": self._size}
        self._record = record = Record(name, request, self.transport.get_write_buffer_size)
        records.add(record)
        return record

    def _end_record(self, state: str) -> None:
        if self._record is not None:
            self._simulator.records.end(self._record, state)
            self._record = None
