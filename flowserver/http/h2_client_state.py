"""h2's state of a connection to a provider, adapted: frames that cross a reset break one stream at most. No I/O."""

from __future__ import annotations

from typing import Any

import h2.events
import h2.exceptions
import h2.settings
import h2.stream

from .h2_bounded_state import BoundedState, CompactSettings
from .messages import Headers

_Codes = h2.settings.SettingCodes


class ClientStream(h2.stream.H2Stream):
    """The state of one request and its answer."""

    def _initialize_content_length(self, headers: Any) -> None:
        """Not checked by h2: it sees no DATA, so its sums would be wrong."""

    def receive_headers(
        self, headers: Any, end_stream: bool, header_encoding: bool | str | None
    ) -> tuple[list[Any], list[h2.events.Event]]:
        if self.closed:  # h2 would end the connection if an interim response crosses our reset
            raise h2.exceptions.StreamClosedError(self.stream_id)
        return super().receive_headers(headers, end_stream, header_encoding)


class ClientState(BoundedState):
    """The state of one connection. `open` makes the first frames."""

    stream_class = ClientStream

    def __init__(self) -> None:
        super().__init__(client_side=True)

    def open(self, *, stream_window: int, connection_window: int) -> None:
        """Our SETTINGS, and a connection window of our own size."""
        self.local_settings = CompactSettings(
            client=True,
            initial_values={
                _Codes.ENABLE_PUSH: 0,
                _Codes.INITIAL_WINDOW_SIZE: stream_window,
                _Codes.MAX_HEADER_LIST_SIZE: self.DEFAULT_MAX_HEADER_LIST_SIZE,
            },
        )
        self.initiate_connection()
        self.increment_flow_control_window(connection_window - 65_535)

    def begin_request(self, fields: Headers) -> ClientStream:
        """Send the head of a request, on a new stream."""
        stream_id = self.get_next_available_stream_id()
        self.send_headers(stream_id, fields)
        return self.streams[stream_id]  # type: ignore[return-value]
