"""h2's state of a client's connection, adapted: stream errors stay stream errors, and no state grows without bound."""

from __future__ import annotations

from typing import Any

import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import h2.stream
import h2.windows
import hpack

from ..errors import RelayError
from .h2_bounded_state import BoundedState, CompactSettings
from .h2_frames import header_block, headers, last_data, window_update
from .messages import Headers

_FORGET_AT = 32
"""Streams that h2 may hold before ended ones are removed."""

_Codes = h2.settings.SettingCodes
_ErrorCodes = h2.errors.ErrorCodes
_States = h2.stream.StreamState


def _widen(window: h2.windows.WindowManager, size: int) -> None:
    """h2's `window_opened` widens it no further than what is left of it plus `size`."""
    window.max_window_size += size
    window.current_window_size += size


class ServerStream(h2.stream.H2Stream):
    """The state of one request and its answer."""

    @property
    def takes_body(self) -> bool:
        """Whether neither the request nor the answer has ended."""
        return self.state_machine.state is _States.OPEN

    def begin(self, *, ended: bool) -> None:
        """The request's head was received; `ended`: without a body."""
        machine = self.state_machine
        machine.client = False
        machine.headers_received = True
        machine.state = _States.HALF_CLOSED_REMOTE if ended else _States.OPEN

    def receive_body(self, length: int, *, ended: bool) -> None:
        """`length` bytes of body were received, while it `takes_body`. Raises h2's FlowControlError."""
        self._inbound_window_manager.window_consumed(length)
        if ended:
            self.state_machine.state = _States.HALF_CLOSED_REMOTE

    def credit(self, length: int) -> int | None:
        """`length` bytes of body are consumed. Returns the increment to send now, if any."""
        return self._inbound_window_manager.process_bytes(length)

    @property
    def window_size(self) -> int:
        """Bytes that the client may send ahead when all before them are consumed."""
        return self._inbound_window_manager.max_window_size

    @property
    def may_come(self) -> int:
        """Bytes that the client may send now."""
        return self._inbound_window_manager.current_window_size

    def widen(self, size: int) -> None:
        """The client may send `size` bytes further ahead."""
        _widen(self._inbound_window_manager, size)

    def send_head(self) -> None:
        """The final head of the answer is sent."""
        if self.state_machine.headers_sent or not self.open:
            self.state_machine.process_input(h2.stream.StreamInputs.SEND_HEADERS)  # which raises
        self.state_machine.headers_sent = True

    def send_end(self) -> None:
        """The end of the answer is sent."""
        machine = self.state_machine
        if machine.state is _States.HALF_CLOSED_REMOTE:
            machine.state = _States.CLOSED
            machine.stream_closed_by = h2.stream.StreamClosedBy.SEND_END_STREAM
        else:
            machine.process_input(h2.stream.StreamInputs.SEND_END_STREAM)

    def _initialize_content_length(self, headers: Any) -> None:
        """Not checked by h2, which would end the connection: a wrong content-length is a stream error (RFC 9113 section
        8.1.1)."""

    def receive_headers(
        self, headers: Any, end_stream: bool, header_encoding: bool | str | None
    ) -> tuple[list[Any], list[h2.events.Event]]:
        # h2 takes a client's :status for an interim response, and ends the connection. Under an unknown name it is
        # malformed like other pseudo-header fields (RFC 9113 section 8.3.1).
        headers = [(b":unknown" if name == b":status" else name, value) for name, value in headers]
        if self.state_machine.headers_received and not end_stream and self.is_receiving:
            # Trailers without an end are malformed (RFC 9113 section 8.1).
            event = h2.events.StreamReset(
                stream_id=self.stream_id, error_code=_ErrorCodes.PROTOCOL_ERROR, remote_reset=False
            )
            return self.reset_stream(_ErrorCodes.PROTOCOL_ERROR), [event]
        return super().receive_headers(headers, end_stream, header_encoding)

    @property
    def is_receiving(self) -> bool:
        """Whether more of the request may follow; the answer may be complete."""
        return self.state_machine.state in (_States.OPEN, _States.HALF_CLOSED_LOCAL)


class ServerState(BoundedState):
    """The state of one connection. `open` makes the first frames.

    What every request needs is done without h2's frame and event objects, and its state is kept true: `receive_head`,
    `receive_body`, `acknowledge`, `send_head`.
    """

    stream_class = ServerStream

    def __init__(self) -> None:
        self._forget_at = _FORGET_AT
        super().__init__(client_side=False)
        self._our_window = self.local_settings.initial_window_size
        """The initial window of a request's stream."""

    def open(self, *, max_streams: int, stream_window: int, connection_window: int) -> None:
        """Our SETTINGS, and a connection window of our own size."""
        self.local_settings = CompactSettings(
            client=False,
            initial_values={
                _Codes.MAX_CONCURRENT_STREAMS: max_streams,
                _Codes.INITIAL_WINDOW_SIZE: stream_window,
                _Codes.MAX_HEADER_LIST_SIZE: self.DEFAULT_MAX_HEADER_LIST_SIZE,
                _Codes.ENABLE_CONNECT_PROTOCOL: 1,
            },
        )
        self._our_window = stream_window
        self.initiate_connection()
        # h2 would end the connection at one stream too many; such a stream is refused here, and may be retried.
        self.local_settings[_Codes.MAX_CONCURRENT_STREAMS] = 2**31 - 1
        self.local_settings.acknowledge()
        extra = connection_window - 65_535
        if extra > 0:
            self.increment_flow_control_window(extra)

    def stream(self, stream_id: int) -> ServerStream:
        """A stream that has begun."""
        return self.streams[stream_id]  # type: ignore[return-value]

    def begins(self, stream_id: int) -> bool:
        """Whether a HEADERS frame on `stream_id` opens a stream (RFC 9113 section 5.1.1)."""
        return stream_id > self.highest_inbound_stream_id and stream_id & 1 == 1

    def receive_head(self, stream_id: int, block: bytes, *, ended: bool) -> Headers:
        """Decodes a request's whole header block, on a stream that `begins`; `ended`: without a body.

        Raises h2's ProtocolError, with a GOAWAY made.
        """
        if len(self.streams) >= self._forget_at:
            self._forget_ended()
        try:
            fields = self.decoder.decode(block, raw=True)
        except hpack.OversizedHeaderListError as error:
            raise self._broken(h2.exceptions.DenialOfServiceError(str(error))) from None
        except hpack.HPACKError as error:
            raise self._broken(_undecodable(error)) from None
        if self.state_machine.state is not h2.connection.ConnectionState.SERVER_OPEN:
            self.state_machine.process_input(h2.connection.ConnectionInputs.RECV_HEADERS)
        stream = ServerStream(stream_id, self.config, self._our_window, self.send_windows.initial)
        stream.max_outbound_frame_size = self.max_outbound_frame_size
        stream.begin(ended=ended)
        self.streams[stream_id] = stream
        self.highest_inbound_stream_id = stream_id
        return fields  # type: ignore[return-value]

    def receive_body(self, stream: ServerStream, length: int, *, ended: bool) -> None:
        """A DATA frame of `length` bytes, without padding, on a stream that `takes_body`. Raises as `receive_head`."""
        try:
            self._inbound_flow_control_window_manager.window_consumed(length)
            stream.receive_body(length, ended=ended)
        except h2.exceptions.FlowControlError as error:
            raise self._broken(error) from None

    def acknowledge(self, stream: ServerStream, length: int) -> bool:
        """`length` bytes of a stream's body are consumed: opens both windows once enough are, the stream's only while
        more may follow. Returns whether a frame was made."""
        made = self.credit_connection(length)
        return self.credit_stream(stream, length) or made

    def credit_connection(self, length: int) -> bool:
        """Open the connection's window only. Returns whether a frame was made."""
        increment = self._inbound_flow_control_window_manager.process_bytes(length)
        if increment:
            self._data_to_send += window_update(0, increment)
        return bool(increment)

    def credit_stream(self, stream: ServerStream, length: int) -> bool:
        """Open the stream's window only. Returns whether a frame was made."""
        increment = stream.credit(length) if stream.is_receiving else None
        if increment:
            self._data_to_send += window_update(stream.stream_id, increment)
        return bool(increment)

    def widen(self, stream: ServerStream, size: int, *, connection: int) -> None:
        """The client may send `size` bytes further ahead on the stream, and `connection` bytes on all of them."""
        stream.widen(size)
        self._data_to_send += window_update(stream.stream_id, size)
        if connection:
            _widen(self._inbound_flow_control_window_manager, connection)
            self._data_to_send += window_update(0, connection)

    def send_head(self, stream: ServerStream, fields: Headers) -> None:
        """Send the head of an answer. By hand if it is the final one, fits into one frame, and the encoder has no table
        update to announce."""
        by_h2 = self.encoder.table_size_changes or fields[0][1].startswith(b"1")
        block = b"" if by_h2 else header_block(fields)
        if not block or len(block) > self.max_outbound_frame_size:
            self.send_headers(stream.stream_id, fields)
            return
        stream.send_head()
        self._data_to_send += headers(stream.stream_id, block)

    def answer_at_once(self, stream_id: int, error: RelayError, *, bodiless: bool) -> bool:
        """Answer a request with an error; `bodiless`: it is a HEAD. Returns False if the windows have no room for the
        answer, and the stream was reset."""
        body = error.body()
        fields = [
            (b":status", b"%d" % error.status),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ]
        self.send_headers(stream_id, fields)
        if bodiless:
            body = b""
        windows = self.send_windows
        if len(body) > min(windows.initial, windows.left):
            self.reset_stream(stream_id, _ErrorCodes.CANCEL)
            return False
        windows.left -= len(body)
        self.stream(stream_id).send_end()
        self._data_to_send += last_data(stream_id, body)
        return True

    @property
    def open_inbound_streams(self) -> int:
        """Always 0: the connection counts its streams itself. h2 reads this for each request and would go through all
        streams (40 us at 250); here ended ones are removed now and then."""
        if len(self.streams) >= self._forget_at:
            self._forget_ended()
        return 0

    def _forget_ended(self) -> None:
        self._forget_at = 2 * self._open_streams(1) + _FORGET_AT

    def _receive_headers_frame(self, frame: Any) -> Any:
        if "PRIORITY" in frame.flags:  # not used, but it may be malformed
            self._receive_priority_frame(frame)
            frame.flags.discard("PRIORITY")
        try:
            return super()._receive_headers_frame(frame)
        except h2.exceptions.ProtocolError as error:
            if str(error).startswith("Error decoding header block"):
                error.error_code = _ErrorCodes.COMPRESSION_ERROR  # RFC 9113 section 4.3
            raise


def _undecodable(error: hpack.HPACKError) -> h2.exceptions.ProtocolError:
    wrong = h2.exceptions.ProtocolError(str(error))
    wrong.error_code = _ErrorCodes.COMPRESSION_ERROR  # RFC 9113 section 4.3
    return wrong
