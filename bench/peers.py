"""The relays under test behind one interface.

A further one is a class with `name`, `available` and `start`, and one entry in `PEERS`. Each is set up as its manual
advises for streams, with one process or thread that does the work and no access log.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from bench.cores import RELAY_CORES
from bench.processes import Process, free_port, python_module


@dataclass(frozen=True, slots=True)
class Running:
    """A relay that accepts on `port` of 127.0.0.1. `pid` is None where there is no relay in between."""

    name: str
    port: int
    pid: int | None


@dataclass(frozen=True, slots=True)
class Certificate:
    """Paths of PEM files. The certificate is its own authority, for 127.0.0.1."""

    file: str
    key: str


@dataclass(frozen=True, slots=True)
class Wiring:
    """What a relay speaks on its two sides: "h1" or "h2", the latter with prior knowledge on a plain port.

    `certificate` is the provider's; None: no TLS towards it. `keeps`: connections to the provider are used again.
    `streams` is how many a client may have on one connection, None: the relay's own limit.
    """

    client: str = "h1"
    provider: str = "h1"
    certificate: Certificate | None = None
    keeps: bool = True
    streams: int | None = None

    @property
    def scheme(self) -> str:
        """The provider's."""
        return "http" if self.certificate is None else "https"


PLAIN = Wiring()


class Peer(Protocol):
    """A relay that can be started in front of a provider on a port of 127.0.0.1."""

    @property
    def name(self) -> str: ...

    def available(self) -> bool:
        """Is it installed?"""
        ...

    def supports(self, wiring: Wiring) -> bool:
        """Does it speak so?"""
        ...

    def start(self, upstream_port: int, wiring: Wiring = PLAIN) -> AbstractContextManager[Running]:
        """Ends its process on leaving the context."""
        ...


class Direct:
    """No relay: the client speaks to the provider itself."""

    name = "direct"

    def available(self) -> bool:
        return True

    def supports(self, wiring: Wiring) -> bool:
        return wiring.client == wiring.provider and wiring.certificate is None

    @contextmanager
    def start(self, upstream_port: int, wiring: Wiring = PLAIN) -> Iterator[Running]:
        yield Running(self.name, upstream_port, None)


class Flowserver:
    """This project's relay, with its defaults and whatever FLOW_ settings the environment has."""

    name = "flowserver"

    def available(self) -> bool:
        return find_spec("flowserver.server") is not None

    def supports(self, wiring: Wiring) -> bool:
        return wiring.provider == "h1" or find_spec("flowserver.upstream.h2") is not None

    @contextmanager
    def start(self, upstream_port: int, wiring: Wiring = PLAIN) -> Iterator[Running]:
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            environment = {
                "FLOW_LISTEN": f"127.0.0.1:{port}",
                "FLOW_ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
                "FLOW_LOG_LEVEL": "warning",
                **_towards_provider(f"{wiring.scheme}://127.0.0.1:{upstream_port}", wiring, Path(folder)),
            }
            if wiring.streams is not None:
                environment |= {"FLOW_H2_MAX_STREAMS": str(wiring.streams), "FLOW_H2_MAX_REQUESTS": "1000000"}
            command = python_module("flowserver", "serve")
            with Process(command, port, environment=environment, cpus=RELAY_CORES) as process:
                yield Running(self.name, port, process.pid)


def _towards_provider(url: str, wiring: Wiring, folder: Path) -> dict[str, str]:
    """flowserver's settings: HTTP/2 without TLS is told in a file only."""
    settings = {} if wiring.keeps else {"FLOW_UPSTREAM_KEEPALIVE": "0"}
    if wiring.provider == "h1":
        settings["FLOW_UPSTREAM"] = url
        if wiring.certificate is not None:
            settings["FLOW_UPSTREAM_CA"] = wiring.certificate.file
        return settings
    file = folder / "flowserver.toml"
    trusted = f'ca = "{wiring.certificate.file}"\n' if wiring.certificate is not None else ""
    file.write_text(f'[[upstreams]]\nname = "provider"\nurl = "{url}"\nprotocol = "h2"\n{trusted}')
    return {**settings, "FLOW_CONFIG": str(file)}


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
        server 127.0.0.1:{upstream_port};
        {keepalive}
    }}
    server {{
        listen 127.0.0.1:{port} {h2} backlog=4096;
        location / {{
            proxy_pass {scheme}://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "{connection}";
            {tls}
            proxy_buffering off;
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
            send_timeout 1h;
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
    bind 127.0.0.1:{port} {h2} backlog 4096
    default_backend provider
backend provider
    server provider 127.0.0.1:{upstream_port} {server}
"""


def _nginx(wiring: Wiring) -> dict[str, str]:
    return {
        "h2": "http2" if wiring.client == "h2" else "",
        "streams": f"http2_max_concurrent_streams {wiring.streams};" if wiring.streams is not None else "",
        "scheme": wiring.scheme,
        "keepalive": "keepalive 1024; keepalive_requests 1000000;" if wiring.keeps else "",
        "connection": "" if wiring.keeps else "close",
        "tls": NGINX_TLS.format(file=wiring.certificate.file) if wiring.certificate is not None else "",
    }


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


@dataclass(frozen=True, slots=True)
class Configured:
    """A relay that takes a configuration file, whose path is {file}. `template` has {port}, {upstream_port}, {folder},
    and what `details` gives for a wiring. `providers` is what it speaks to providers."""

    name: str
    command: tuple[str, ...]
    template: str
    details: Callable[[Wiring], dict[str, str]]
    providers: tuple[str, ...]

    def available(self) -> bool:
        return self._program() is not None

    def supports(self, wiring: Wiring) -> bool:
        return wiring.provider in self.providers

    @contextmanager
    def start(self, upstream_port: int, wiring: Wiring = PLAIN) -> Iterator[Running]:
        program = self._program()
        if program is None:
            raise RuntimeError(f"{self.name} is not installed")
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            port = free_port()
            file = Path(folder) / f"{self.name}.conf"
            places = {"port": port, "upstream_port": upstream_port, "folder": folder}
            file.write_text(self.template.format(**places, **self.details(wiring)))
            command = [program, *(part.format(file=file, folder=folder) for part in self.command[1:])]
            with Process(command, port, cpus=RELAY_CORES) as process:
                yield Running(self.name, port, process.pid)

    def _program(self) -> str | None:
        """Daemons often live where a user's PATH does not look."""
        name = self.command[0]
        return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Flowserver(),
        Configured("nginx", ("nginx", "-p", "{folder}", "-c", "{file}", "-e", "stderr"), NGINX, _nginx, ("h1",)),
        Configured("haproxy", ("haproxy", "-db", "-q", "-f", "{file}"), HAPROXY, _haproxy, ("h1", "h2")),
        Direct(),
    )
}


def those_that(relays: Iterable[str], wiring: Wiring) -> list[str]:
    """The ones of `relays` that speak so."""
    return [name for name in relays if PEERS[name].supports(wiring)]


@contextmanager
def certificate() -> Iterator[Certificate | None]:
    """One of a provider, made anew; None where there is no openssl to make it."""
    program = shutil.which("openssl")
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        made = Certificate(f"{folder}/certificate.pem", f"{folder}/key.pem")
        wanted = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=127.0.0.1"
        command = [program, *wanted.split(), "-keyout", made.key, "-out", made.file]
        for extension in ("subjectAltName=IP:127.0.0.1", "keyUsage=critical,digitalSignature,keyCertSign"):
            command += ["-addext", extension]
        subprocess.run(command, check=True, capture_output=True)
        yield made
