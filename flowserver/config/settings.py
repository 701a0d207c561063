"""Configuration: the environment, parsed and checked once at start-up.

`SETTINGS` is the one list of what can be set. Each entry names its field in `Config`, and the README's table is held to
it by a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from ..dialects.base import Auth
from .addresses import Address, Url
from .parsers import (
    or_off,
    parse_address,
    parse_addresses,
    parse_auth,
    parse_body_size,
    parse_buffer,
    parse_count,
    parse_dialect,
    parse_disconnect,
    parse_half_close,
    parse_hosts,
    parse_log_level,
    parse_origins,
    parse_policy,
    parse_redis_url,
    parse_secret,
    parse_size,
    parse_switch,
    parse_time,
    parse_url,
    parse_window,
)


class ConfigError(Exception):
    """One or more settings are wrong; `problems` has a line for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set. Sizes are bytes, times are seconds; None means off (or the kernel's default)."""

    listen: tuple[Address, ...]
    admin_listen: Address | None
    admin_hosts: frozenset[str]
    config: str | None
    upstream: Url | None
    upstream_api_key: str | None = field(repr=False)
    upstream_ca: str | None
    tls_cert: str | None
    tls_key: str | None
    tls_client_ca: str | None
    high_water: int
    low_water: int
    prefetch_chunks: int
    notsent_lowat: int | None
    upstream_rcvbuf: int | None
    max_connections: int
    max_body: int
    max_uploads: int
    head_timeout: float | None
    body_timeout: float | None
    keepalive_timeout: float | None
    connect_timeout: float
    first_byte_timeout: float | None
    idle_timeout: float | None
    stall_timeout: float | None
    total_timeout: float | None
    upstream_keepalive: float | None
    upstream_max_age: float | None
    upstream_h2_stream_window: int
    upstream_ping_interval: float | None
    upstream_dialect: str | None
    upstream_auth: Auth | None
    ask_usage: bool
    max_tokens: int | None
    max_event: int
    heartbeat: float | None
    half_close: str
    disconnect: str
    disconnect_time: float
    disconnect_bytes: int
    retry_attempts: int
    retry_time: float
    retry_unanswered: bool
    replay_body: int
    breaker_failures: int
    breaker_cooldown: float
    drain_timeout: float
    redis_url: str | None = field(repr=False)
    redis_timeout: float
    limits_policy: str
    lease_tokens: int
    lease_time: float
    h2_stream_window: int
    h2_connection_window: int
    h2_max_streams: int
    h2_max_requests: int
    h2_max_uploads: int
    h2_ping_interval: float | None
    h2_max_resets: int
    h2_max_pings: int
    h2_max_settings: int
    h2_max_priorities: int
    h2_max_empty_frames: int
    h2_max_window_updates: int
    h2_max_stray_frames: int
    h2_max_continuations: int
    cors_origins: tuple[str, ...] | None
    fast_path: bool
    log_level: str

    def sweep_interval(self, *others: float | None) -> float:
        """Seconds between two looks at all deadlines: 1, or less when a deadline, one of `others` among them, is so
        short that it needs it."""
        timeouts = (
            *others,
            self.head_timeout,
            self.body_timeout,
            self.keepalive_timeout,
            self.first_byte_timeout,
            self.idle_timeout,
            self.stall_timeout,
            self.total_timeout,
            self.upstream_keepalive,
            self.upstream_max_age,
            self.h2_ping_interval,
            self.heartbeat,
            self.disconnect_time,
            self.lease_time,
            self.upstream_ping_interval,
        )
        shortest = min((t for t in timeouts if t is not None), default=4.0)
        return min(1.0, max(0.02, shortest / 4))


@dataclass(frozen=True, slots=True)
class Setting:
    """One environment variable: `default` is written as the environment would have it, `doc` is one line."""

    env: str
    default: str
    parse: Callable[[str], Any]
    doc: str

    @property
    def field(self) -> str:
        return self.env.removeprefix("FLOW_").lower()

    @property
    def secret(self) -> bool:
        """Whether its value is, or may hold, what nobody should see."""
        return self.env.endswith("_KEY") or self.env == "FLOW_REDIS_URL"


SETTINGS: tuple[Setting, ...] = (
    Setting("FLOW_LISTEN", "127.0.0.1:8080", parse_addresses, "where clients connect; several with commas"),
    Setting(
        "FLOW_ADMIN_LISTEN",
        "127.0.0.1:9090",
        or_off(parse_address),
        "health, metrics and live streams; `off` for none. Keep it private",
    ),
    Setting(
        "FLOW_ADMIN_HOSTS",
        "",
        parse_hosts,
        "names by which `/metrics` and `/streams` may be asked for, beside addresses and localhost; with commas",
    ),
    Setting("FLOW_CONFIG", "", or_off(str), "TOML file of providers, routes and tenants, instead of `FLOW_UPSTREAM`"),
    Setting("FLOW_UPSTREAM", "", or_off(parse_url), "the provider's base URL, http or https"),
    Setting(
        "FLOW_UPSTREAM_API_KEY",
        "",
        or_off(parse_secret),
        "sent to the provider in its API's own field; empty passes the client's own on",
    ),
    Setting("FLOW_UPSTREAM_CA", "", or_off(str), "PEM file of the authorities to trust; empty takes the system's"),
    Setting("FLOW_TLS_CERT", "", or_off(str), "PEM file of the certificate chain; with the key, clients speak TLS"),
    Setting("FLOW_TLS_KEY", "", or_off(str), "PEM file of the certificate's key; both are read again on SIGHUP"),
    Setting("FLOW_TLS_CLIENT_CA", "", or_off(str), "PEM file of authorities whose certificate clients must show"),
    Setting("FLOW_HIGH_WATER", "8k", parse_buffer, "bytes held for one stream at which its provider is stopped"),
    Setting("FLOW_LOW_WATER", "4k", parse_buffer, "bytes in a transport at which chunks begin to wait"),
    Setting("FLOW_PREFETCH_CHUNKS", "16", parse_count, "chunks that may wait for a lagging client"),
    Setting(
        "FLOW_NOTSENT_LOWAT",
        "16k",
        or_off(parse_buffer),
        "unsent bytes the kernel may hold for a client (TCP_NOTSENT_LOWAT); 0: the kernel's default",
    ),
    Setting(
        "FLOW_UPSTREAM_RCVBUF",
        "12k",
        or_off(parse_buffer),
        "the kernel's receive buffer towards a provider (SO_RCVBUF); 0: the kernel's default",
    ),
    Setting("FLOW_MAX_CONNECTIONS", "10000", parse_count, "client connections at once; further ones get 503"),
    Setting("FLOW_MAX_BODY", "64m", parse_body_size, "largest request body, at least 1 byte; larger ones get 413"),
    Setting(
        "FLOW_MAX_UPLOADS",
        "256m",
        parse_size,
        "bytes that unfinished request bodies may hold, all together; what exceeds it waits, for FLOW_BODY_TIMEOUT",
    ),
    Setting("FLOW_HEAD_TIMEOUT", "10s", or_off(parse_time), "for a client to send a request head"),
    Setting("FLOW_BODY_TIMEOUT", "60s", or_off(parse_time), "between two pieces of a request body"),
    Setting("FLOW_KEEPALIVE_TIMEOUT", "75s", or_off(parse_time), "for an idle client connection"),
    Setting("FLOW_CONNECT_TIMEOUT", "10s", parse_time, "for DNS, TCP and TLS to a provider, together"),
    Setting(
        "FLOW_FIRST_BYTE_TIMEOUT", "5m", or_off(parse_time), "from the whole request to the answer's first body byte"
    ),
    Setting("FLOW_IDLE_TIMEOUT", "5m", or_off(parse_time), "between two reads of an answer; not counted while paused"),
    Setting("FLOW_STALL_TIMEOUT", "60s", or_off(parse_time), "for a client that accepts no byte of its answer"),
    Setting("FLOW_TOTAL_TIMEOUT", "off", or_off(parse_time), "for a whole exchange; cuts live streams, so off"),
    Setting(
        "FLOW_UPSTREAM_KEEPALIVE",
        "30s",
        or_off(parse_time),
        "for an idle provider connection; 0: no reuse",
    ),
    Setting(
        "FLOW_UPSTREAM_MAX_AGE",
        "10m",
        or_off(parse_time),
        "after which a provider connection takes no more requests, so that DNS changes arrive; 0: never",
    ),
    Setting(
        "FLOW_UPSTREAM_H2_STREAM_WINDOW",
        "64k",
        parse_window,
        "HTTP/2 to a provider: bytes it may send ahead on one stream",
    ),
    Setting(
        "FLOW_UPSTREAM_PING_INTERVAL", "30s", or_off(parse_time), "HTTP/2: silence after which a provider is pinged"
    ),
    Setting(
        "FLOW_UPSTREAM_DIALECT",
        "",
        or_off(parse_dialect),
        "provider profile, such as `vllm` or `xai`; detected from the host name if empty",
    ),
    Setting(
        "FLOW_UPSTREAM_AUTH",
        "",
        or_off(parse_auth),
        "how the provider takes its key: `bearer`, `x-api-key`, `api-key`, `x-goog-api-key`, or `aws-sigv4`, which "
        "signs requests; detected from the host name if empty",
    ),
    Setting(
        "FLOW_ASK_USAGE", "on", parse_switch, "ask OpenAI-like providers for a stream's token usage; clients see none"
    ),
    Setting(
        "FLOW_MAX_TOKENS", "off", or_off(parse_count), "tokens of one answer, at which it ends as by its own limit"
    ),
    Setting(
        "FLOW_MAX_EVENT",
        "1m",
        parse_buffer,
        "largest event that is read whole; of a larger one only what its tokens are told by",
    ),
    Setting(
        "FLOW_HEARTBEAT", "off", or_off(parse_time), "silence of a provider after which clients get a sign of life"
    ),
    Setting(
        "FLOW_HALF_CLOSE",
        "leave",
        parse_half_close,
        "HTTP/1.1 clients that close their sending side: `leave`, they have left; `serve`, they still get their answer",
    ),
    Setting(
        "FLOW_DISCONNECT",
        "cancel",
        parse_disconnect,
        "what happens when a client leaves in mid-answer: `cancel` it, or `drain` it to know its usage",
    ),
    Setting("FLOW_DISCONNECT_TIME", "60s", parse_time, "longest drain of an answer that nobody reads"),
    Setting("FLOW_DISCONNECT_BYTES", "1m", parse_size, "most bytes of it that are drained"),
    Setting("FLOW_RETRY_ATTEMPTS", "3", parse_count, "attempts for one request, the first one included"),
    Setting("FLOW_RETRY_TIME", "5s", parse_time, "from a request's start: later nothing is tried again"),
    Setting(
        "FLOW_RETRY_UNANSWERED",
        "on",
        parse_switch,
        "ask the next provider also when one broke off before its answer; it may have begun",
    ),
    Setting("FLOW_REPLAY_BODY", "1m", parse_size, "largest request body that is kept to be sent again"),
    Setting("FLOW_BREAKER_FAILURES", "5", parse_count, "failures in a row after which a provider is left alone"),
    Setting("FLOW_BREAKER_COOLDOWN", "5s", parse_time, "until it is tried again, with one request"),
    Setting("FLOW_DRAIN_TIMEOUT", "5m", parse_time, "for open streams to finish after SIGTERM"),
    Setting(
        "FLOW_REDIS_URL",
        "",
        or_off(parse_redis_url),
        "Redis that tenants and their limits are shared by; empty: each process counts for itself",
    ),
    Setting("FLOW_REDIS_TIMEOUT", "50ms", parse_time, "for each answer of Redis"),
    Setting(
        "FLOW_LIMITS_POLICY",
        "open",
        parse_policy,
        "while Redis does not answer: `open`, each process limits by itself; `closed`, nothing starts",
    ),
    Setting("FLOW_LEASE_TOKENS", "256", parse_count, "tokens that a stream takes from its limits at a time"),
    Setting("FLOW_LEASE_TIME", "30s", parse_time, "after which what a relay took and died with is free again"),
    Setting("FLOW_H2_STREAM_WINDOW", "64k", parse_window, "HTTP/2: bytes a client may send ahead on one stream"),
    Setting("FLOW_H2_CONNECTION_WINDOW", "1m", parse_window, "HTTP/2: bytes it may send ahead on all its streams"),
    Setting("FLOW_H2_MAX_STREAMS", "250", parse_count, "HTTP/2: streams at once on a connection"),
    Setting("FLOW_H2_MAX_REQUESTS", "1000", parse_count, "HTTP/2: requests until a connection is asked to end"),
    Setting(
        "FLOW_H2_MAX_UPLOADS",
        "32m",
        parse_size,
        "HTTP/2: bytes that unfinished bodies of one connection may hold",
    ),
    Setting("FLOW_H2_PING_INTERVAL", "30s", or_off(parse_time), "HTTP/2: silence after which a client is pinged"),
    Setting(
        "FLOW_H2_MAX_RESETS",
        "200",
        parse_count,
        "HTTP/2: resets of new requests, or for a client's fault, in 10 s",
    ),
    Setting("FLOW_H2_MAX_PINGS", "100", parse_count, "HTTP/2: PING frames in 10 s"),
    Setting("FLOW_H2_MAX_SETTINGS", "50", parse_count, "HTTP/2: SETTINGS frames in 10 s"),
    Setting("FLOW_H2_MAX_PRIORITIES", "1000", parse_count, "HTTP/2: PRIORITY frames in 10 s"),
    Setting(
        "FLOW_H2_MAX_EMPTY_FRAMES",
        "100",
        parse_count,
        "HTTP/2: frames without content in 10 s; a hundred with under 9 bytes are one",
    ),
    Setting(
        "FLOW_H2_MAX_WINDOW_UPDATES",
        "1000",
        parse_count,
        "HTTP/2: WINDOW_UPDATE frames in 10 s, beside two for each DATA frame sent",
    ),
    Setting(
        "FLOW_H2_MAX_STRAY_FRAMES", "1000", parse_count, "HTTP/2: frames of unknown kinds or for ended streams in 10 s"
    ),
    Setting("FLOW_H2_MAX_CONTINUATIONS", "8", parse_count, "HTTP/2: CONTINUATION frames of one head"),
    Setting(
        "FLOW_CORS_ORIGINS",
        "off",
        or_off(parse_origins),
        "origins whose pages may use the relay, with commas, or `*`; off: that is the provider's to say",
    ),
    Setting(
        "FLOW_FAST_PATH",
        "on",
        parse_switch,
        "pass events that differ in their text only straight on; `off` to look for a fault: the bytes are the same",
    ),
    Setting(
        "FLOW_LOG_LEVEL",
        "info",
        parse_log_level,
        "debug, info, warning or error; access lines are info, each exchange's states debug",
    ),
)


def load(environ: Mapping[str, str]) -> Config:
    """Parse `environ`. Raises ConfigError with every problem found."""
    problems: list[str] = []
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        text = environ.get(setting.env, setting.default)
        try:
            values[setting.field] = setting.parse(text)
        except ValueError as error:
            is_secret = setting.secret or "@" in text  # a URL may have credentials
            shown = "" if is_secret else f" {text[:100]!r}"
            problems.append(f"{setting.env}: invalid value{shown}: {error}")
    if not problems:
        problems = _cross_check(values)
    if problems:
        raise ConfigError(problems)
    return Config(**values)


def _cross_check(values: Mapping[str, Any]) -> list[str]:
    problems = []
    if not values["listen"]:
        problems.append("FLOW_LISTEN: expected at least one address")
    if values["low_water"] >= values["high_water"]:
        problems.append("FLOW_LOW_WATER: must be below FLOW_HIGH_WATER")
    if (values["tls_cert"] is None) != (values["tls_key"] is None):
        problems.append("FLOW_TLS_CERT, FLOW_TLS_KEY: give both, or none")
    if values["tls_client_ca"] is not None and values["tls_cert"] is None:
        problems.append("FLOW_TLS_CLIENT_CA: needs FLOW_TLS_CERT and FLOW_TLS_KEY")
    if values["connect_timeout"] <= 0:
        problems.append("FLOW_CONNECT_TIMEOUT: must be above 0")
    if values["redis_timeout"] <= 0:
        problems.append("FLOW_REDIS_TIMEOUT: must be above 0")
    if values["lease_time"] < 1:
        problems.append("FLOW_LEASE_TIME: must be at least 1s")
    return problems


def unknown_settings(environ: Mapping[str, str]) -> list[str]:
    """A line for each FLOW_ name that means nothing here.

    A warning and no error: orchestrators add variables of their own, such as FLOW_SERVICE_HOST for a service `flow`.
    """
    known = {setting.env for setting in SETTINGS}
    lines = []
    for name in sorted(environ):
        if name.startswith("FLOW_") and name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            lines.append(f"{name}: there is no such setting{hint}")
    return lines
