"""The settings of the environment, as `environment` parses and checks them.

Each field of `Config`, including inherited ones, is the one declaration of its setting: name, default, kind of value,
group, whether a reload or the sweep concerns it, and its description, from which docs/settings.md is generated.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from ..dialects.base import Auth
from .access_log import AccessLog
from .addresses import Address, Networks, Url
from .entries import GivenSetting, Setting, setting
from .groups import (
    BACKPRESSURE,
    CLIENTS,
    LEAVING,
    LIMITS,
    LISTENERS,
    MEMORY,
    OPERATION,
    OVERLOAD,
    PROVIDER_TIMEOUTS,
    PROVIDERS,
    RETRIES,
    TOKENS,
    UPLOADS,
)
from .h2_settings import H2Settings
from .kinds import (
    ACCESS_LOG,
    ADDRESS_OR_OFF,
    ADDRESSES,
    ADMIN_TOKEN,
    AUTH,
    BODY_SIZE,
    BUFFER,
    BUFFER_OR_AUTO,
    BUFFER_OR_AUTO_OR_OFF,
    COUNT,
    COUNT_OR_AUTO,
    COUNT_OR_OFF,
    DIALECT,
    DISCONNECT,
    DRAIN_TARGET,
    FILE,
    GENAI_NAMES,
    HALF_CLOSE,
    HOSTS,
    KEY,
    LEASE_TIME,
    LOG_FORMAT,
    LOG_LEVEL,
    MEMORY_LEVEL_OR_OFF,
    NETWORKS,
    ORIGINS_OR_OFF,
    POLICY,
    POSITIVE_TIME,
    POSITIVE_TIME_OR_OFF,
    READY,
    REDIS_URL,
    SIZE,
    SIZE_OR_AUTO_OR_OFF,
    SOCKET_OR_OFF,
    SWITCH,
    TIME,
    TIME_OR_OFF,
    URL,
    WINDOW_OR_AUTO,
    WORKERS,
)
from .parsers import Auto, GenAiNames, Ready


@dataclass(frozen=True, slots=True)
class Config(H2Settings):
    """Everything that can be set. Sizes are bytes, times are seconds; None means off (or the kernel's default)."""

    listen: tuple[Address, ...] = setting(
        "127.0.0.1:8080",
        ADDRESSES,
        LISTENERS,
        doc="Addresses that clients connect to, separated by commas; `unix:/run/flowserver.sock` for a Unix socket.",
    )
    tls_cert: str | None = setting(
        "",
        FILE,
        LISTENERS,
        reloaded=True,
        doc="PEM file of the certificate chain. With FLOW_TLS_KEY, clients connect over TLS; empty: without TLS.",
    )
    tls_key: str | None = setting(
        "", FILE, LISTENERS, reloaded=True, secret=True, doc="PEM file of the certificate's private key."
    )
    tls_client_ca: str | None = setting(
        "",
        FILE,
        LISTENERS,
        reloaded=True,
        doc="PEM file of the authorities that client certificates must be signed by. Empty: no client "
        "certificates are required.",
    )
    proxy_protocol: bool = setting(
        "off",
        SWITCH,
        LISTENERS,
        doc="Whether each client connection begins with a PROXY protocol header (version 1 or 2), which names the "
        "client; without one it is closed. Anyone who can reach FLOW_LISTEN can then claim any address, unless "
        "FLOW_TRUSTED_PROXIES restricts who may.",
    )
    trusted_proxies: Networks = setting(
        "",
        NETWORKS,
        LISTENERS,
        doc="Networks, separated by commas, whose proxies are trusted when `Forwarded` or `X-Forwarded-For` name a "
        "client; `unix` for connections by a Unix socket. See [operating.md](operating.md#behind-a-proxy).",
    )
    admin_listen: Address | None = setting(
        "127.0.0.1:9090",
        ADDRESS_OR_OFF,
        LISTENERS,
        doc="Address, or Unix socket, of health checks, metrics and live streams. Reading them needs no password "
        "(control needs FLOW_ADMIN_TOKEN), so keep it on a private network.",
    )
    admin_hosts: frozenset[str] = setting(
        "",
        HOSTS,
        LISTENERS,
        doc="Host names, separated by commas, by which `/metrics` and `/streams` may be requested, besides "
        "localhost and numeric addresses. Protects against DNS rebinding.",
    )
    admin_token: str | None = setting(
        "",
        ADMIN_TOKEN,
        LISTENERS,
        secret=True,
        refers=True,
        doc="Token, of 16 characters or more, for control on the admin listener: to end streams, take providers out, "
        "drain, reload, and read the configuration. Empty: nobody may, see "
        "[operating.md](operating.md#control-at-run-time).",
    )
    control_socket: Address | None = setting(
        "off",
        SOCKET_OR_OFF,
        LISTENERS,
        doc="Unix socket for `flowserver ctl`, such as `unix:/run/flowserver/control.sock`. Processes of the "
        "relay's user (mode 0600) may do everything there that FLOW_ADMIN_TOKEN allows, without a token.",
    )
    reuse_port: bool = setting(
        "off",
        SWITCH,
        LISTENERS,
        doc="Whether a second process of the same user may listen on the same addresses (SO_REUSEPORT), to take over "
        "while this one drains. See [operating.md](operating.md#a-new-version-without-an-interruption).",
    )
    cors_origins: tuple[str, ...] | None = setting(
        "off",
        ORIGINS_OR_OFF,
        LISTENERS,
        doc="Origins whose web pages may use the relay, separated by commas, or `*` for all. off: the provider "
        "decides.",
    )
    config: str | None = setting(
        "",
        FILE,
        PROVIDERS,
        reloaded=True,
        doc="TOML file of providers, routes and tenants, in place of the FLOW_UPSTREAM settings.",
    )
    upstream: Url | None = setting(
        "",
        URL,
        PROVIDERS,
        doc="Base URL of the only provider, http or https; `http+unix://%2Frun%2Fvllm.sock/v1` for a Unix socket.",
    )
    upstream_api_key: str | None = setting(
        "",
        KEY,
        PROVIDERS,
        secret=True,
        refers=True,
        doc="API key sent to the provider in place of the client's. Empty: the client's own key is passed on.",
    )
    upstream_auth: Auth | None = setting(
        "",
        AUTH,
        PROVIDERS,
        doc="How the provider takes its key; `aws-sigv4` signs requests. Empty: detected from the host name.",
    )
    upstream_dialect: str | None = setting(
        "", DIALECT, PROVIDERS, doc="Provider profile, such as `vllm` or `xai`. Empty: detected from the host name."
    )
    websocket: bool = setting(
        "off", SWITCH, PROVIDERS, doc="Whether WebSockets pass, see [http.md](http.md#websockets)."
    )
    upstream_ca: str | None = setting(
        "",
        FILE,
        PROVIDERS,
        reloaded=True,
        doc="PEM file of the authorities that the provider's certificate must be signed by. Empty: those of the "
        "system.",
    )
    connect_timeout: float = setting(
        "10s",
        POSITIVE_TIME,
        PROVIDER_TIMEOUTS,
        doc="Longest time for the DNS lookup, TCP and TLS handshakes with a provider, together.",
    )
    first_byte_timeout: float | None = setting(
        "5m",
        TIME_OR_OFF,
        PROVIDER_TIMEOUTS,
        swept=True,
        doc="Longest time from the complete request to the first byte of the answer's body. off: clients wait "
        "for a silent provider without limit.",
    )
    idle_timeout: float | None = setting(
        "5m",
        TIME_OR_OFF,
        PROVIDER_TIMEOUTS,
        swept=True,
        doc="Longest silence of a provider within an answer, not counting pauses for a slow client. off: a "
        "stream may hang without limit.",
    )
    total_timeout: float | None = setting(
        "off",
        TIME_OR_OFF,
        PROVIDER_TIMEOUTS,
        swept=True,
        doc="Longest duration of a whole exchange. It ends streams that are still running, so it is off by default.",
    )
    upstream_keepalive: float | None = setting(
        "30s",
        TIME_OR_OFF,
        PROVIDER_TIMEOUTS,
        swept=True,
        doc="How long an idle connection to a provider is kept for reuse; should be less than the provider's "
        "own timeout. off: connections are not reused.",
    )
    upstream_max_age: float | None = setting(
        "10m",
        TIME_OR_OFF,
        PROVIDER_TIMEOUTS,
        swept=True,
        doc="Age at which a connection to a provider takes no more requests, so that DNS changes take effect. "
        "off: no limit.",
    )
    upstream_ping_interval: float | None = setting(
        "30s",
        TIME_OR_OFF,
        PROVIDER_TIMEOUTS,
        swept=True,
        doc="HTTP/2: silence after which a provider is pinged, to detect dead connections. off: no pings.",
    )
    upstream_h2_stream_window: int | Auto = setting(
        "auto",
        WINDOW_OR_AUTO,
        PROVIDER_TIMEOUTS,
        doc="HTTP/2: bytes a provider may send ahead on one stream. auto: 16k at first, then as the client's pace and "
        "the provider's distance require.",
    )
    max_connections: int = setting(
        "10000", COUNT, CLIENTS, doc="Most client connections at a time; further ones get 503."
    )
    max_connections_per_client: int | None = setting(
        "off",
        COUNT_OR_OFF,
        CLIENTS,
        doc="Most connections of one address, or one IPv6 /64 network, at a time; further ones get 429. "
        "For FLOW_TRUSTED_PROXIES, requests count instead of connections.",
    )
    head_timeout: float | None = setting(
        "10s",
        TIME_OR_OFF,
        CLIENTS,
        swept=True,
        doc="Longest time for a client to send a request's head. Protects against clients that hold connections "
        "open; off: no limit.",
    )
    keepalive_timeout: float | None = setting(
        "75s", TIME_OR_OFF, CLIENTS, swept=True, doc="How long an idle client connection is kept open. off: no limit."
    )
    stall_timeout: float | None = setting(
        "60s",
        TIME_OR_OFF,
        CLIENTS,
        swept=True,
        doc="Time after which a client that accepts no byte of its answer is disconnected and the provider's "
        "request cancelled. off: stalled clients keep the provider busy.",
    )
    stall_tokens: int | None = setting(
        "off",
        COUNT_OR_OFF,
        CLIENTS,
        doc="Tokens that may arrive from the provider while the client acknowledges nothing, as far as buffers hold "
        "them; then the client is cut as by FLOW_STALL_TIMEOUT. off: only time counts.",
    )
    max_body: int = setting("64m", BODY_SIZE, UPLOADS, doc="Largest request body in bytes; larger ones get 413.")
    max_uploads: int = setting(
        "256m",
        SIZE,
        UPLOADS,
        doc="Bytes that all unfinished request bodies together may hold in memory. Further ones wait, for "
        "FLOW_BODY_TIMEOUT at most.",
    )
    body_timeout: float | None = setting(
        "60s", TIME_OR_OFF, UPLOADS, swept=True, doc="Longest silence of a client within a request body. off: no limit."
    )
    replay_body: int = setting("1m", SIZE, UPLOADS, doc="Largest request body, in bytes, that is kept for a retry.")
    memory: int | Auto | None = setting(
        "auto",
        SIZE_OR_AUTO_OR_OFF,
        MEMORY,
        doc="Memory that the relay may use, including all its workers and the kernel buffers of its sockets. auto: 80 "
        "% of its cgroup's limit, or of the machine's memory; off: unlimited.",
    )
    ready_memory: str | None = setting(
        "full",
        MEMORY_LEVEL_OR_OFF,
        MEMORY,
        doc="Memory level from which `/readyz` says 503: `tight`, `no_batch`, `full` or `cutting`. off: memory never "
        "makes it say so.",
    )
    drain_target: float = setting(
        "250ms",
        DRAIN_TARGET,
        BACKPRESSURE,
        doc="How far an answer may be ahead of its client: as much as the client reads in this time.",
    )
    high_water: int | Auto = setting(
        "auto",
        BUFFER_OR_AUTO,
        BACKPRESSURE,
        doc="Bytes held for one stream at which reading from its provider stops. auto: 8k, or less for a client that "
        "reads slowly and steadily.",
    )
    low_water: int | Auto = setting(
        "auto",
        BUFFER_OR_AUTO,
        BACKPRESSURE,
        doc="Bytes in a client's transport at which chunks begin to wait; must be below FLOW_HIGH_WATER. auto: 4k, or "
        "less for a slow client.",
    )
    prefetch_chunks: int | Auto = setting(
        "auto",
        COUNT_OR_AUTO,
        BACKPRESSURE,
        doc="Chunks that may wait for a slow client before reading from its provider stops. auto: 16, and only "
        "FLOW_HIGH_WATER once the client's pace is known.",
    )
    notsent_lowat: int | Auto | None = setting(
        "auto",
        BUFFER_OR_AUTO_OR_OFF,
        BACKPRESSURE,
        doc="Unsent bytes that the kernel may hold for a client, or for a provider during an upload "
        "(TCP_NOTSENT_LOWAT). auto: 16k, less for a slow client, 256k for an upload; off: the kernel's default.",
    )
    upstream_rcvbuf: int | Auto | None = setting(
        "auto",
        BUFFER_OR_AUTO_OR_OFF,
        BACKPRESSURE,
        doc="Size of the kernel's receive buffer for an HTTP/1.1 connection to a provider (SO_RCVBUF). auto: follows "
        "the client's pace and the provider's distance; off: the kernel's default.",
    )
    ask_usage: bool = setting(
        "on",
        SWITCH,
        TOKENS,
        doc="Whether OpenAI-compatible providers are asked for a stream's token usage; clients that did not ask "
        "do not see it.",
    )
    max_tokens: int | None = setting(
        "off",
        COUNT_OR_OFF,
        TOKENS,
        doc='Most output tokens of one answer; there it gets a "length" ending. off: no limit.',
    )
    max_event: int = setting(
        "1m",
        BUFFER,
        TOKENS,
        doc="Largest event, in bytes, that is parsed whole. In a larger one only the fields that count tokens "
        "are read.",
    )
    heartbeat: float | None = setting(
        "off",
        TIME_OR_OFF,
        LEAVING,
        swept=True,
        doc="Silence of a provider after which the client gets a heartbeat, so that its connection does not time out. "
        "off: none.",
    )
    half_close: str = setting(
        "leave",
        HALF_CLOSE,
        LEAVING,
        doc="What it means when an HTTP/1.1 client closes its sending side: `leave`, it has left; `serve`, it "
        "still gets its answer.",
    )
    disconnect: str = setting(
        "cancel",
        DISCONNECT,
        LEAVING,
        doc="What happens to an answer whose client leaves: `cancel` it, or `drain` it to learn its token usage.",
    )
    disconnect_time: float = setting(
        "60s", TIME, LEAVING, swept=True, doc="Longest time for which an answer without a client is drained."
    )
    disconnect_bytes: int = setting(
        "1m", SIZE, LEAVING, doc="Most bytes of an answer without a client that are drained."
    )
    retry_attempts: int = setting("3", COUNT, RETRIES, doc="Most attempts for one request, including the first.")
    retry_time: float = setting(
        "5s", TIME, RETRIES, doc="Time from the start of a request after which it is not retried."
    )
    retry_unanswered: bool = setting(
        "on",
        SWITCH,
        RETRIES,
        doc="Whether the next provider is tried when one broke off before its answer. The first may have "
        "started work, so use `off` if a request must not run twice.",
    )
    first_token_timeout: float | None = setting(
        "off",
        TIME_OR_OFF,
        RETRIES,
        doc="Time within which an attempt must show content, or the request moves to the next provider. Until "
        "then the client gets nothing, no heartbeat either: see [providers.md](providers.md#slow-first-tokens).",
    )
    breaker_failures: int = setting(
        "5", COUNT, RETRIES, doc="Consecutive failures after which a provider gets no more requests."
    )
    breaker_cooldown: float = setting(
        "5s", TIME, RETRIES, doc="Time after which one request tries such a provider again."
    )
    redis_url: str | None = setting(
        "",
        REDIS_URL,
        LIMITS,
        secret=True,
        refers=True,
        doc="Redis that holds tenants and shares their limits between relays. Empty: each relay counts for itself.",
    )
    redis_timeout: float = setting("50ms", POSITIVE_TIME, LIMITS, doc="Longest time to wait for an answer from Redis.")
    limits_policy: str = setting(
        "open",
        POLICY,
        LIMITS,
        doc="What happens while Redis, or the parent process of several workers, does not answer: `open`, each "
        "process enforces limits by itself; `closed`, requests are refused.",
    )
    lease_tokens: int = setting("256", COUNT, LIMITS, doc="Tokens that a stream reserves from its limits at a time.")
    lease_time: float = setting(
        "30s",
        LEASE_TIME,
        LIMITS,
        swept=True,
        doc="Time after which the tokens reserved by a relay that died become available again; at least 1s.",
    )
    overload_target: float | None = setting(
        "20ms",
        POSITIVE_TIME_OR_OFF,
        OVERLOAD,
        doc="Highest acceptable delay of the event loop; if it is exceeded for FLOW_OVERLOAD_INTERVAL, requests are "
        "refused with 503, first those of class `batch`. off: requests wait, however long.",
    )
    overload_interval: float = setting(
        "200ms",
        POSITIVE_TIME,
        OVERLOAD,
        doc="Time during which even the shortest delay must exceed FLOW_OVERLOAD_TARGET.",
    )
    workers: int | Auto = setting(
        "1",
        WORKERS,
        OPERATION,
        doc="Number of worker processes, under a parent that starts them; auto: one for each core that the relay "
        "may use. 1: a single process without a parent.",
    )
    worker_timeout: float = setting(
        "30s",
        POSITIVE_TIME,
        OPERATION,
        doc="Longest time for a worker to start, or to answer its parent; then it is killed and replaced.",
    )
    drain_timeout: float = setting(
        "5m",
        TIME,
        OPERATION,
        doc="Longest time for open streams to finish after SIGTERM and FLOW_DRAIN_DELAY. 0: they are ended at once.",
    )
    drain_delay: float = setting(
        "0",
        TIME,
        OPERATION,
        doc="After SIGTERM, time for which `/readyz` says 503 while the relay still listens and serves, until load "
        "balancers have taken notice; then it drains. 0: it drains at once.",
    )
    ready: Ready = setting(
        "listening",
        READY,
        OPERATION,
        doc="What `/readyz` requires besides a relay that serves: nothing, one available provider, or that all "
        "are. With the last two, a provider that is down may take all relays out of their load balancer.",
    )
    detached_drain: bool = setting(
        "off",
        SWITCH,
        OPERATION,
        doc="Whether a parent of workers with passed sockets ends at once on SIGTERM, and a copy of it drains, so that "
        "systemd can start the next one meanwhile. See [systemd/](../systemd/README.md#restarts).",
    )
    fast_path: bool = setting(
        "on",
        SWITCH,
        OPERATION,
        doc="Whether events that differ only in their text take the fast path. off is for debugging: the bytes are "
        "the same.",
    )
    log_level: str = setting(
        "info",
        LOG_LEVEL,
        OPERATION,
        doc="Lowest level that is logged. Access lines are `info`, those of failures of the relay or a provider "
        "`warning`, and state changes of each exchange `debug`.",
    )
    log_format: str = setting(
        "auto",
        LOG_FORMAT,
        OPERATION,
        doc="Format of the log; auto: text on a terminal, else JSON.",
    )
    access_log: AccessLog = setting(
        "on",
        ACCESS_LOG,
        OPERATION,
        doc="Which exchanges are logged: all, failed ones, or none. sample:0.01: failed ones, and 1 % of the others.",
    )
    metrics_genai: GenAiNames = setting(
        "old",
        GENAI_NAMES,
        OPERATION,
        doc="Which of OpenTelemetry's names for generative AI `/metrics` has: those before "
        "semantic-conventions-genai 0.1.0, those of it, or both. See [metrics.md](metrics.md#names-of-opentelemetry).",
    )

    references: tuple[tuple[str, str], ...] = ()
    """Fields whose settings are references, with these settings."""
    given: tuple[GivenSetting, ...] = field(default=(), compare=False, repr=False)
    """All settings as written, with their origins."""
    resource: tuple[tuple[str, str], ...] = ()
    """Resource attributes from OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME; empty: none, or nothing is traced."""


_INHERITED = frozenset(entry.name for entry in fields(H2Settings))
_LISTED = sorted(fields(Config), key=lambda entry: entry.name in _INHERITED)
"""The fields of `Config` itself come first."""
SETTINGS = tuple(Setting(entry.name, **entry.metadata) for entry in _LISTED if entry.metadata)
