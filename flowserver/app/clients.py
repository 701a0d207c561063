"""The settings of clients' connections, from the configuration."""

from __future__ import annotations

import ssl

from ..config.errors import ConfigError
from ..config.parsers import Auto, pinned
from ..config.settings import Config
from ..downstream.context import H2_CONNECTION_WINDOW, H2_STREAM_WINDOW, ConnectionSettings, H2Settings
from ..downstream.tls import TlsFiles, server_context
from ..flow.bounded_buffer import Watermarks
from ..http.h2_flood_guard import H2Limits
from ..net.send_queue import UNSENT
from .tls_files import problems_of


def watermarks(config: Config) -> Watermarks:
    return Watermarks(pinned(config.high_water), pinned(config.low_water), pinned(config.prefetch_chunks))


def tls_context(config: Config) -> ssl.SSLContext | None:
    """Load the certificates; None: clients connect without TLS. Raises ConfigError if they can't be used."""
    if config.tls_cert is None or config.tls_key is None:
        return None
    problems = problems_of(config)
    if problems:
        raise ConfigError(problems)
    try:
        return server_context(TlsFiles(config.tls_cert, config.tls_key, config.tls_client_ca))
    except OSError as error:
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            text = f"{config.tls_key} is not the key of the certificate in {config.tls_cert}"
            remedy = "use a matching pair"
            raise ConfigError([f"FLOW_TLS_CERT, FLOW_TLS_KEY: {text}; {remedy}"]) from None
        raise ConfigError([f"FLOW_TLS_CERT, FLOW_TLS_KEY, FLOW_TLS_CLIENT_CA: can't be used: {error}"]) from None


def connection_settings(
    config: Config, marks: Watermarks, max_connections: int, *, is_public: bool = True
) -> ConnectionSettings:
    """`is_public`: for clients; false: for the admin pages."""
    unsent = UNSENT if isinstance(config.notsent_lowat, Auto) else config.notsent_lowat
    return ConnectionSettings(
        marks,
        max_connections=max_connections,
        head_timeout=config.head_timeout,
        keepalive_timeout=config.keepalive_timeout,
        stall_timeout=config.stall_timeout,
        stall_tokens=config.stall_tokens,
        unsent=unsent,
        limits_unsent=isinstance(config.notsent_lowat, Auto),
        serves_half_closed=config.half_close == "serve",
        h2=_h2_settings(config),
        reads_proxy_header=config.proxy_protocol and is_public,
    )


def _h2_settings(config: Config) -> H2Settings:
    stream_window, connection_window = pinned(config.h2_stream_window), pinned(config.h2_connection_window)
    return H2Settings(
        stream_window=H2_STREAM_WINDOW if stream_window is None else stream_window,
        connection_window=H2_CONNECTION_WINDOW if connection_window is None else connection_window,
        windows_grow=stream_window is None and connection_window is None,
        max_streams=config.h2_max_streams,
        max_requests=config.h2_max_requests,
        max_uploads=config.h2_max_uploads,
        ping_interval=config.h2_ping_interval,
        limits=H2Limits(
            resets=config.h2_max_resets,
            pings=config.h2_max_pings,
            settings=config.h2_max_settings,
            priorities=config.h2_max_priorities,
            empty_frames=config.h2_max_empty_frames,
            window_updates=config.h2_max_window_updates,
            strays=config.h2_max_stray_frames,
            continuations=config.h2_max_continuations,
        ),
    )
