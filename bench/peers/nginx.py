"""nginx: one process, buffering off, connections kept."""

from __future__ import annotations

from bench.peers.base import Configured, Wiring

NGINX = """
daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 16000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_timeout 1h;
    keepalive_requests 1000000;
    {streams}
    upstream provider {{
        server {upstream_host}:{upstream_port};
        {keepalive}
    }}
    server {{
        listen {listen}:{port} {h2} backlog=4096;
        location / {{
            proxy_pass {scheme}://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "{connection}";
            {tls}
            proxy_buffering off;
            {uploads}
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
            send_timeout {stall};
        }}
    }}
}}
"""

NGINX_TLS = """
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {file};
            proxy_ssl_name 127.0.0.1;
            proxy_ssl_protocols TLSv1.2 TLSv1.3;
            proxy_ssl_session_reuse on;
"""


def _nginx(wiring: Wiring) -> dict[str, str]:
    return {
        "h2": "http2" if wiring.client == "h2" else "",
        "streams": f"http2_max_concurrent_streams {wiring.streams};" if wiring.streams is not None else "",
        "scheme": wiring.scheme,
        "keepalive": "keepalive 1024; keepalive_requests 1000000;" if wiring.keeps else "",
        "connection": "" if wiring.keeps else "close",
        "stall": f"{wiring.stall:g}s" if wiring.stall is not None else "1h",
        "uploads": "client_max_body_size 0; proxy_request_buffering off;" if wiring.uploads else "",
        "tls": NGINX_TLS.format(file=wiring.certificate.file) if wiring.certificate is not None else "",
    }


NGINX_PEER = Configured(
    "nginx",
    ("nginx", "-p", "{folder}", "-c", "{file}", "-e", "stderr"),
    NGINX,
    _nginx,
    providers=("h1",),
    install="apt-get install nginx",
)
