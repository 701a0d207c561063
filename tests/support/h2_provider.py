"""Providers of HTTP/2 that do what a test says, by h2's own server state: what breaks a rule is an exception here."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from . import h2_frames as frames
from .provider import Caller, Script

Fields = list[tuple[str, str]]


class H2Server:
    """One connection. Answers wait in `pending` until the relay's windows take them."""

    def __init__(self, caller: Caller, settings: dict[h2.settings.SettingCodes, int]) -> None:
        self.caller = caller
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="latin-1", validate_inbound_headers=True)
        )
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=settings)
        self.h2.initiate_connection()
        self.requests: dict[int, Fields] = {}
        self.bodies: defaultdict[int, bytes] = defaultdict(bytes)
        self.whole: set[int] = set()
        """Streams whose request has ended."""
        self.resets: dict[int, int] = {}
        """Codes of the relay's resets."""
        self.most = 0
        """Most streams that were open at once."""
        self.pending: dict[int, bytearray] = {}
        self.ending: set[int] = set()
        self.sent: defaultdict[int, int] = defaultdict(int)
        self.hears_pings = True
        self._raw = bytearray()

    @property
    def open(self) -> int:
        return int(self.h2.open_inbound_streams)

    def head(
        self, stream_id: int, status: int = 200, fields: Iterable[tuple[str, str]] = (), *, end: bool = False
    ) -> None:
        self.h2.send_headers(stream_id, [(":status", str(status)), *fields], end_stream=end)

    def body(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        self.pending.setdefault(stream_id, bytearray()).extend(data)
        if end:
            self.ending.add(stream_id)

    def answer(
        self, stream_id: int, data: bytes = b"ok", status: int = 200, fields: Iterable[tuple[str, str]] = ()
    ) -> None:
        self.head(stream_id, status, fields)
        self.body(stream_id, data, end=True)

    def reset(self, stream_id: int, code: int) -> None:
        self.h2.reset_stream(stream_id, code)
        self.pending.pop(stream_id, None)

    def goaway(self, last: int, code: int = 0) -> None:
        """h2 would take it for the end, while streams go on."""
        self._raw += self.h2.data_to_send()
        self._raw += frames.frame(frames.GOAWAY, payload=last.to_bytes(4, "big") + code.to_bytes(4, "big"))

    def raw(self, data: bytes) -> None:
        self._raw += self.h2.data_to_send() + data

    def limit(self, streams: int) -> None:
        self.h2.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: streams})

    async def flush(self) -> None:
        for stream_id, waiting in list(self.pending.items()):
            while waiting:
                size = min(len(waiting), self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size)
                if size <= 0:
                    break
                self.h2.send_data(stream_id, bytes(waiting[:size]))
                self.sent[stream_id] += size
                del waiting[:size]
            if not waiting and stream_id in self.ending:
                self.h2.end_stream(stream_id)
            if not waiting:
                del self.pending[stream_id]
        data = bytes(self._raw) + self.h2.data_to_send()
        self._raw.clear()
        if data:
            with contextlib.suppress(OSError):
                await self.caller.send(data)

    def hear(self, data: bytes, on_request: Callable[[H2Server, int], object]) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.requests[event.stream_id] = [(str(name), str(value)) for name, value in event.headers]
                self.most = max(self.most, self.open)
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self.resets[event.stream_id] = int(event.error_code)
                self.pending.pop(event.stream_id, None)
            if isinstance(event, h2.events.StreamEnded):
                self.whole.add(event.stream_id)
                on_request(self, event.stream_id)


class H2Site:
    """What a scripted provider of HTTP/2 has seen: its connections in order."""

    def __init__(self, on_request: Callable[[H2Server, int], object], **settings: int) -> None:
        """`settings` by the names of h2's SettingCodes, in lower case."""
        codes = {code.name.lower(): code for code in h2.settings.SettingCodes}
        self._settings = {codes[name]: value for name, value in settings.items()}
        self.on_request = on_request
        self.servers: list[H2Server] = []

    async def _play(self, caller: Caller) -> None:
        server = H2Server(caller, self._settings)
        self.servers.append(server)
        await server.flush()
        with contextlib.suppress(OSError):
            while True:
                try:
                    async with asyncio.timeout(60):
                        data = await asyncio.get_running_loop().sock_recv(caller.socket, 65536)
                except ConnectionResetError:
                    return
                if not data:
                    return
                server.hear(data, self.on_request)
                await server.flush()

    @property
    def script(self) -> Script:
        return self._play

    @property
    def open(self) -> int:
        return sum(server.open for server in self.servers)


def ok(server: H2Server, stream_id: int) -> None:
    server.answer(stream_id)


def silent(server: H2Server, stream_id: int) -> None:
    """Says nothing."""
