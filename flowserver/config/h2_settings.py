"""The settings of HTTP/2 with clients: the part of `settings.Config` that has a file of its own."""

from __future__ import annotations

from dataclasses import dataclass

from .entries import setting
from .groups import FLOODS, HTTP2
from .kinds import COUNT, SIZE, TIME_OR_OFF, WINDOW_OR_AUTO
from .parsers import Auto
from .trace_settings import TraceSettings


@dataclass(frozen=True, slots=True)
class H2Settings(TraceSettings):
    """As in `settings.Config`."""

    h2_stream_window: int | Auto = setting(
        "auto",
        WINDOW_OR_AUTO,
        HTTP2,
        doc="Bytes a client may send ahead on one stream. auto: 64k, or more for a large body over a distance, if "
        "FLOW_H2_CONNECTION_WINDOW is auto too.",
    )
    h2_connection_window: int | Auto = setting(
        "auto",
        WINDOW_OR_AUTO,
        HTTP2,
        doc="Bytes a client may send ahead on all streams of a connection together. auto: 1m, plus the growth of the "
        "windows of its streams.",
    )
    h2_max_streams: int = setting("250", COUNT, HTTP2, doc="Most streams at a time on one connection.")
    h2_max_requests: int = setting(
        "1000", COUNT, HTTP2, doc="Requests after which a client is told to open a new connection."
    )
    h2_max_uploads: int = setting(
        "32m", SIZE, HTTP2, doc="Bytes that the unfinished request bodies of one connection may hold in memory."
    )
    h2_ping_interval: float | None = setting(
        "30s",
        TIME_OR_OFF,
        HTTP2,
        swept=True,
        doc="Silence after which a client is pinged, to detect dead connections. off: no pings.",
    )
    h2_max_resets: int = setting(
        "200", COUNT, FLOODS, doc="Resets of requests that have just begun, or that are a client's fault."
    )
    h2_max_pings: int = setting("100", COUNT, FLOODS, doc="PING frames.")
    h2_max_settings: int = setting("50", COUNT, FLOODS, doc="SETTINGS frames.")
    h2_max_priorities: int = setting("1000", COUNT, FLOODS, doc="PRIORITY frames.")
    h2_max_empty_frames: int = setting(
        "100", COUNT, FLOODS, doc="Frames without content; a hundred frames with less than 9 bytes count as one."
    )
    h2_max_window_updates: int = setting(
        "1000", COUNT, FLOODS, doc="WINDOW_UPDATE frames, beyond two for each DATA frame sent."
    )
    h2_max_stray_frames: int = setting("1000", COUNT, FLOODS, doc="Frames of unknown types or for ended streams.")
    h2_max_continuations: int = setting(
        "8", COUNT, FLOODS, doc="CONTINUATION frames of one request head, whatever the time."
    )
