"""h2's state of a connection, bounded: the other side can't make it grow at will. No I/O."""

from __future__ import annotations

from typing import Any, ClassVar

import h2.config
import h2.connection
import h2.exceptions
import h2.settings
import h2.stream

from .h2_send_window import SendWindows
from .hpack_decoder import HpackDecoder

HEADER_TABLE = 4096
"""Bytes of our HPACK encoder's table at most; the other side may allow 4 GiB."""
_KNOWN = frozenset(int(code) for code in h2.settings.SettingCodes)


class _Values(list[int]):
    """The current and pending values of a setting."""

    __slots__ = ()

    def popleft(self) -> int:
        return self.pop(0)


class CompactSettings(h2.settings.Settings):
    """h2 has a deque for each setting: 760 bytes that hold one number, and 9 KB a connection."""

    def __init__(self, client: bool, initial_values: dict[h2.settings.SettingCodes, int] | None = None) -> None:
        super().__init__(client, initial_values)
        kept: dict[int, Any] = self._settings
        for code, values in kept.items():
            kept[code] = _Values(values)

    def __setitem__(self, key: int, value: int) -> None:
        super().__setitem__(key, value)
        kept: dict[int, Any] = self._settings
        if not isinstance(kept[key], _Values):
            kept[key] = _Values(kept[key])


class BoundedState(h2.connection.H2Connection):
    """The part that both sides need; each has a state of its own that extends it. Header fields are bytes, and no check
    of h2 applies to them."""

    stream_class: ClassVar[type[h2.stream.H2Stream]]

    def __init__(self, *, client_side: bool) -> None:
        super().__init__(
            h2.config.H2Configuration(
                client_side=client_side,
                header_encoding=None,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
            )
        )
        self.remote_settings = CompactSettings(not client_side)
        self.decoder = HpackDecoder(self.DEFAULT_MAX_HEADER_LIST_SIZE)
        self.send_windows = SendWindows()
        """In place of h2's own, which count only what h2 sends."""

    def let_go(self) -> None:
        """Call this when it is over. h2 refers to its own methods: a cycle that the garbage collector would have to
        find."""
        self._frame_dispatch_table.clear()

    @property
    def unsent(self) -> int:
        """Bytes that wait for `data_to_send`."""
        return len(self._data_to_send)

    def _begin_new_stream(self, stream_id: int, allowed_ids: Any) -> h2.stream.H2Stream:
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        stream.__class__ = self.stream_class
        return stream

    def _receive_settings_frame(self, frame: Any) -> Any:
        """Unknown settings must be ignored (RFC 9113 section 6.5.2); h2 would keep each, 46 MB of them."""
        frame.settings = {code: value for code, value in frame.settings.items() if code in _KNOWN}
        return super()._receive_settings_frame(frame)

    def update_window(self, increment: int) -> None:
        """WINDOW_UPDATE of the connection. Raises h2's FlowControlError, with a GOAWAY made."""
        try:
            self.send_windows.update(increment)
        except h2.exceptions.FlowControlError as error:
            raise self._broken(error) from None

    def _broken(self, error: h2.exceptions.ProtocolError) -> h2.exceptions.ProtocolError:
        """`error`, with the GOAWAY for it made, as h2 does it in `receive_data`."""
        self._terminate_connection(error.error_code)
        return error

    def _flow_control_change_from_settings(self, old_value: int | None, new_value: int) -> None:
        self.send_windows.change_initial(new_value)

    def _acknowledge_settings(self) -> list[Any]:
        frames = super()._acknowledge_settings()
        encoder = self.encoder
        if encoder.header_table_size > HEADER_TABLE:
            encoder.header_table_size = HEADER_TABLE
        changes = encoder.table_size_changes
        if len(changes) > 1:  # the smallest and the last must be signalled (RFC 7541 section 4.2)
            changes[:] = [min(changes), changes[-1]]
        return frames
