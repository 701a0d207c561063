"""haproxy: one thread."""

from __future__ import annotations

from bench.peers.base import Configured, Wiring

HAPROXY = """
global
    nbthread 1
    maxconn 8000
    {streams}
defaults
    mode http
    option http-no-delay
    option abortonclose
    http-reuse {reuse}
    {keepalive}
    timeout connect 10s
    timeout client 1h
    timeout server 1h
frontend clients
    bind {listen}:{port} {h2} backlog 4096
    default_backend provider
backend provider
    server provider {upstream_host}:{upstream_port} {server}
"""


def _haproxy(wiring: Wiring) -> dict[str, str]:
    server = []
    if wiring.certificate is not None:
        server.append(f"ssl verify required ca-file {wiring.certificate.file}")
    if wiring.provider == "h2":
        server.append("proto h2" if wiring.certificate is None else "alpn h2")
    if not wiring.keeps:
        server.append("pool-max-conn 0")
    return {
        "h2": "proto h2" if wiring.client == "h2" else "",
        "streams": f"tune.h2.max-concurrent-streams {wiring.streams}" if wiring.streams is not None else "",
        "reuse": "always" if wiring.keeps else "never",
        "keepalive": "" if wiring.keeps else "option http-server-close",
        "server": " ".join(server),
    }


HAPROXY_PEER = Configured(
    "haproxy",
    ("haproxy", "-db", "-q", "-f", "{file}"),
    HAPROXY,
    _haproxy,
    providers=("h1", "h2"),
    install="apt-get install haproxy",
)
