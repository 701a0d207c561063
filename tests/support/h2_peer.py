"""A client of HTTP/2 without I/O. h2's own client state reads all that the relay says, so a byte beyond a window, a
frame out of order or a malformed head is an exception here."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings

from . import h2_frames as frames

_Codes = h2.settings.SettingCodes


@dataclass
class H2Answer:
    """What came on one stream."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    interim: list[int] = field(default_factory=list)
    whole: bool = False
    """It came to a clean end."""
    reset: int | None = None
    """The code of the RST_STREAM that broke it off; one after a clean end is left out, see `rest_refused`."""
    rest_refused: int | None = None
    """The code of the RST_STREAM behind a clean end: the rest of the upload is not wanted."""
    sizes: list[int] = field(default_factory=list)
    """Of its DATA frames."""

    @property
    def ended(self) -> bool:
        return self.whole or self.reset is not None


@dataclass(frozen=True)
class Goaway:
    last: int
    code: int
    reason: str


class H2Peer:
    """Say things, `take` the bytes they make, `hear` what comes back. Streams in `stalled` get no window back."""

    def __init__(self, *, window: int = 65_535, max_frame: int = 16_384, credits_connection: bool = True) -> None:
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="latin-1"))
        self._h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                _Codes.ENABLE_PUSH: 0,
                _Codes.INITIAL_WINDOW_SIZE: window,
                _Codes.MAX_FRAME_SIZE: max_frame,
            },
        )
        self._h2.max_inbound_frame_size = max_frame
        self._h2.initiate_connection()
        self._next_id = 1
        self.requested: set[int] = set()
        """Streams of its own requests."""
        self._reset: set[int] = set()
        self._raw = bytearray()
        self._unread = bytearray()
        self._credits_connection = credits_connection
        self.answers: defaultdict[int, H2Answer] = defaultdict(H2Answer)
        self.goaways: list[Goaway] = []
        self.frames: list[frames.Raw] = []
        """All that came."""
        self.stalled: set[int] = set()
        self.owed: defaultdict[int, int] = defaultdict(int)
        """Bytes of stalled streams that were read and not credited."""
        self.pings: list[bytes] = []
        """What the relay's own pings and the answers to ours carried."""

    def take(self) -> bytes:
        """What there is to send."""
        data = bytes(self._raw) + self._h2.data_to_send()
        self._raw.clear()
        return data

    def new_id(self) -> int:
        """A stream to be opened by raw bytes."""
        stream_id, self._next_id = self._next_id, self._next_id + 2
        return stream_id

    def raw(self, data: bytes) -> None:
        """Bytes that h2 knows nothing of, behind what waits."""
        self._raw += self._h2.data_to_send() + data

    def request(
        self,
        method: str = "GET",
        path: str = "/v1/test",
        headers: Iterable[tuple[str, str]] = (),
        *,
        body: bytes | None = None,
        end: bool = True,
        authority: str = "relay.test",
    ) -> int:
        """A request; with a `body` that fits the windows. `end` False: more of it follows. Returns its stream."""
        stream_id = self.new_id()
        self.requested.add(stream_id)
        fields = [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path), *headers]
        self._h2.send_headers(stream_id, fields, end_stream=end and body is None)
        if body is not None:
            self.upload(stream_id, body, end=end)
        return stream_id

    def room(self, stream_id: int) -> int:
        """Bytes that may be uploaded now."""
        return self._h2.local_flow_control_window(stream_id)

    def upload(self, stream_id: int, body: bytes, *, end: bool = False, pad: int | None = None) -> None:
        size = self._h2.max_outbound_frame_size - 256
        pieces = [body[start : start + size] for start in range(0, len(body), size)] or [b""]
        for number, piece in enumerate(pieces, 1):
            self._h2.send_data(stream_id, piece, end_stream=end and number == len(pieces), pad_length=pad)

    def trailers(self, stream_id: int, fields: Iterable[tuple[str, str]]) -> None:
        self._h2.send_headers(stream_id, list(fields), end_stream=True)

    def reset(self, stream_id: int, code: int = frames.CANCEL) -> None:
        self._h2.reset_stream(stream_id, code)
        self._reset.add(stream_id)

    def ping(self, payload: bytes = b"12345678") -> None:
        self._h2.ping(payload)

    def settings(self, **values: int) -> None:
        """By the names of h2's SettingCodes, in lower case."""
        codes = {code.name.lower(): code for code in _Codes}
        self._h2.update_settings({codes[name]: value for name, value in values.items()})

    def credit(self, stream_id: int, size: int) -> None:
        """More window; stream 0 is the connection."""
        self._h2.increment_flow_control_window(size, stream_id or None)

    def release(self, stream_id: int) -> None:
        """Go on with a stalled stream."""
        self.stalled.discard(stream_id)
        if owed := self.owed.pop(stream_id, 0):
            self.credit(stream_id, owed)

    def hear(self, data: bytes) -> None:
        """Bytes from the relay. Raises what h2 raises when they break a rule."""
        self._unread += data
        for raw in frames.split(self._unread):
            self.frames.append(raw)
            if raw.kind == frames.GOAWAY:  # h2 would take it for the end, while streams go on
                last, code = struct.unpack("!II", raw.payload[:8])
                self.goaways.append(Goaway(last & 0x7FFFFFFF, code, raw.payload[8:].decode("ascii")))
                continue
            if raw.stream_id and raw.stream_id not in self.requested:
                self._on_raw(raw)
                continue
            if raw.stream_id in self._reset and raw.kind == frames.HEADERS:
                self._h2.decoder.decode(raw.payload)  # h2 takes an interim response for the connection's end here
                continue
            for event in self._h2.receive_data(frames.frame(*raw)):
                self._on_event(event)

    def _on_raw(self, raw: frames.Raw) -> None:
        """A frame for a stream that was opened by raw bytes."""
        answer = self.answers[raw.stream_id]
        if raw.kind == frames.HEADERS:
            answer.headers = _text(self._h2.decoder.decode(raw.payload))  # which keeps its table right
            answer.status = int(answer.headers.pop(":status"))
        elif raw.kind == frames.DATA:
            answer.body += raw.payload
            if raw.payload and self._credits_connection:
                self._h2.increment_flow_control_window(len(raw.payload))
        elif raw.kind == frames.RST_STREAM:
            code = int.from_bytes(raw.payload, "big")
            if answer.whole:
                answer.rest_refused = code
            else:
                answer.reset = code
        if raw.kind in (frames.DATA, frames.HEADERS) and raw.flags & frames.END_STREAM:
            answer.whole = True

    def _on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.PingReceived | h2.events.PingAckReceived):
            self.pings.append(event.ping_data)
            return
        stream_id = getattr(event, "stream_id", None)
        if not stream_id:
            return
        answer = self.answers[stream_id]
        if isinstance(event, h2.events.InformationalResponseReceived):
            answer.interim.append(int(_text(event.headers)[":status"]))
        elif isinstance(event, h2.events.ResponseReceived):
            assert not answer.status
            answer.headers = _text(event.headers)
            answer.status = int(answer.headers.pop(":status"))
        elif isinstance(event, h2.events.DataReceived):
            answer.body += event.data
            answer.sizes.append(len(event.data))
            self._on_data(stream_id, event.flow_controlled_length)
        elif isinstance(event, h2.events.StreamEnded):
            answer.whole = True
        elif isinstance(event, h2.events.StreamReset):
            if answer.whole:
                answer.rest_refused = int(event.error_code)
            else:
                answer.reset = int(event.error_code)

    def _on_data(self, stream_id: int, size: int) -> None:
        if not size:
            return
        if self._credits_connection and stream_id not in self.stalled:
            self._h2.acknowledge_received_data(size, stream_id)
        elif self._credits_connection:
            self.owed[stream_id] += size
            self._h2.increment_flow_control_window(size)
        else:
            self.owed[stream_id] += size


def _text(fields: Iterable[tuple[Any, ...]]) -> dict[str, str]:
    """Values of repeated fields are joined."""
    found: dict[str, str] = {}
    for name, value in (tuple(part if isinstance(part, str) else part.decode("latin-1") for part in f) for f in fields):
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found
