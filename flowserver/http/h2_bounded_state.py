"""h2's state of a connection, bounded: what the other side says makes nothing grow at will. No I/O."""

from __future__ import annotations

from typing import Any

import h2.config
import h2.connection
import h2.settings

from .hpack_decoder import HpackDecoder

HEADER_TABLE = 4096
"""Bytes of our HPACK encoder's table at most; the other side may allow 4 GiB."""
_KNOWN = frozenset(int(code) for code in h2.settings.SettingCodes)


class BoundedState(h2.connection.H2Connection):
    """The part that both sides need; each has a state of its own that extends it."""

    def __init__(self, config: h2.config.H2Configuration) -> None:
        super().__init__(config)
        self.decoder = HpackDecoder(self.DEFAULT_MAX_HEADER_LIST_SIZE)

    def let_go(self) -> None:
        """It is over. h2 keeps methods of its own, a cycle that would be left to be collected."""
        self._frame_dispatch_table.clear()

    @property
    def unsent(self) -> int:
        """Bytes that wait for `data_to_send`."""
        return len(self._data_to_send)

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
