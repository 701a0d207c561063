"""h2's state of a client's connection, adapted: what is one stream's error stays one, and no state grows at will."""

from __future__ import annotations

from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import h2.stream

from ..errors import RelayError
from ..frames import end_of_stream, header_block, headers
from ..messages import Headers
from .hpack_decoder import HpackDecoder

HEADER_TABLE = 4096
"""Bytes of our HPACK encoder's table at most; a client may allow 4 GiB."""
_FORGET_AT = 32
"""Ended streams that h2 may keep as such before they are looked for."""

_Codes = h2.settings.SettingCodes


class _Stream(h2.stream.H2Stream):
    def _initialize_content_length(self, headers: Any) -> None:
        """A wrong content-length is one stream's error (RFC 9113 section 8.1.1), and the connection's end for h2."""

    def receive_headers(
        self, headers: Any, end_stream: bool, header_encoding: bool | str | None
    ) -> tuple[list[Any], list[h2.events.Event]]:
        # h2 takes a :status of a client for an interim response, which ends the connection. Under a name that does
        # not exist it is malformed like others (RFC 9113 section 8.3.1).
        headers = [(b":unknown" if name == b":status" else name, value) for name, value in headers]
        if self.state_machine.headers_received and not end_stream and self._takes_trailers:
            # Trailers without an end are malformed (RFC 9113 section 8.1).
            event = h2.events.StreamReset(
                stream_id=self.stream_id, error_code=h2.errors.ErrorCodes.PROTOCOL_ERROR, remote_reset=False
            )
            return self.reset_stream(h2.errors.ErrorCodes.PROTOCOL_ERROR), [event]
        return super().receive_headers(headers, end_stream, header_encoding)

    @property
    def _takes_trailers(self) -> bool:
        states = h2.stream.StreamState
        return self.state_machine.state in (states.OPEN, states.HALF_CLOSED_LOCAL)


class ClientState(h2.connection.H2Connection):
    """The state of one connection. `open` makes the first frames."""

    def __init__(self) -> None:
        self._forget_at = _FORGET_AT
        super().__init__(
            h2.config.H2Configuration(
                client_side=False,
                header_encoding=None,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
            )
        )
        self.decoder = HpackDecoder(self.DEFAULT_MAX_HEADER_LIST_SIZE)

    def open(self, *, max_streams: int, stream_window: int, connection_window: int) -> None:
        """Our SETTINGS, and a connection window of our own size."""
        self.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                _Codes.MAX_CONCURRENT_STREAMS: max_streams,
                _Codes.INITIAL_WINDOW_SIZE: stream_window,
                _Codes.MAX_HEADER_LIST_SIZE: self.DEFAULT_MAX_HEADER_LIST_SIZE,
            },
        )
        self.initiate_connection()
        # h2 ends the connection at one stream too many; here such a stream is refused, and may be tried again.
        self.local_settings[_Codes.MAX_CONCURRENT_STREAMS] = 2**31 - 1
        self.local_settings.acknowledge()
        extra = connection_window - 65_535
        if extra > 0:
            self.increment_flow_control_window(extra)

    @property
    def unsent(self) -> int:
        """Bytes that wait for `data_to_send`."""
        return len(self._data_to_send)

    def send_head(self, stream_id: int, stream: h2.stream.H2Stream, fields: Headers) -> None:
        """The head of an answer. By hand if it is the final one, one frame holds it, and the encoder has nothing to
        tell of its table; h2's state is kept true."""
        by_h2 = self.encoder.table_size_changes or fields[0][1].startswith(b"1")
        block = b"" if by_h2 else header_block(fields)
        if not block or len(block) > self.max_outbound_frame_size:
            self.send_headers(stream_id, fields)
            return
        stream.state_machine.process_input(h2.stream.StreamInputs.SEND_HEADERS)
        self._data_to_send += headers(stream_id, block)

    def send_end(self, stream_id: int, stream: h2.stream.H2Stream) -> None:
        """The end of an answer, as an empty DATA frame."""
        stream.state_machine.process_input(h2.stream.StreamInputs.SEND_END_STREAM)
        self._data_to_send += end_of_stream(stream_id)

    def answer_at_once(self, stream_id: int, error: RelayError, *, ended: bool, bodiless: bool) -> None:
        """An error for a request that is not served; `ended`: the request is whole, `bodiless`: it is a HEAD."""
        body = error.body()
        fields = [
            (b":status", b"%d" % error.status),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ]
        self.send_headers(stream_id, fields)
        if bodiless or self.local_flow_control_window(stream_id) >= len(body):
            self.send_data(stream_id, b"" if bodiless else body, end_stream=True)
            if not ended:
                self.reset_stream(stream_id, h2.errors.ErrorCodes.NO_ERROR)
        else:
            self.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)

    @property
    def open_inbound_streams(self) -> int:
        """0: the connection counts its streams itself. h2 asks for each request, and looks at all streams then (40 us
        at 250); here only ended ones are forgotten, now and then."""
        if len(self.streams) >= self._forget_at:
            self._forget_at = 2 * self._open_streams(1) + _FORGET_AT
        return 0

    def _begin_new_stream(self, stream_id: int, allowed_ids: Any) -> h2.stream.H2Stream:
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        stream.__class__ = _Stream
        return stream

    def _receive_headers_frame(self, frame: Any) -> Any:
        if "PRIORITY" in frame.flags:  # of no use here, but it may be malformed
            self._receive_priority_frame(frame)
            frame.flags.discard("PRIORITY")
        try:
            return super()._receive_headers_frame(frame)
        except h2.exceptions.ProtocolError as error:
            if str(error).startswith("Error decoding header block"):
                error.error_code = h2.errors.ErrorCodes.COMPRESSION_ERROR  # RFC 9113 section 4.3
            raise

    def _receive_settings_frame(self, frame: Any) -> Any:
        """Unknown settings must be ignored (RFC 9113 section 6.5.2); h2 would keep each, 46 MB of them."""
        frame.settings = {code: value for code, value in frame.settings.items() if code in _KNOWN}
        return super()._receive_settings_frame(frame)

    def _acknowledge_settings(self) -> list[Any]:
        frames = super()._acknowledge_settings()
        encoder = self.encoder
        if encoder.header_table_size > HEADER_TABLE:
            encoder.header_table_size = HEADER_TABLE
        changes = encoder.table_size_changes
        if len(changes) > 1:  # the smallest and the last are to be told (RFC 7541 section 4.2)
            changes[:] = [min(changes), changes[-1]]
        return frames


_KNOWN = frozenset(int(code) for code in _Codes)
