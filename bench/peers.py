"""The relays under test behind one interface.

A further one is a class with `name`, `available` and `start`, and one entry in `PEERS`. Each is set up as its manual
advises for streams, with one process or thread that does the work and no access log.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
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


class Peer(Protocol):
    """A relay that can be started in front of a provider on a port of 127.0.0.1."""

    @property
    def name(self) -> str: ...

    def available(self) -> bool:
        """Is it installed?"""
        ...

    def start(self, upstream_port: int) -> AbstractContextManager[Running]:
        """Ends its process on leaving the context."""
        ...


class Direct:
    """No relay: the client speaks to the provider itself."""

    name = "direct"

    def available(self) -> bool:
        return True

    @contextmanager
    def start(self, upstream_port: int) -> Iterator[Running]:
        yield Running(self.name, upstream_port, None)


class Flowserver:
    """This project's relay, with its defaults and whatever FLOW_ settings the environment has."""

    name = "flowserver"

    def available(self) -> bool:
        return find_spec("flowserver.server") is not None

    @contextmanager
    def start(self, upstream_port: int) -> Iterator[Running]:
        port = free_port()
        environment = {
            "FLOW_LISTEN": f"127.0.0.1:{port}",
            "FLOW_ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
            "FLOW_UPSTREAM": f"http://127.0.0.1:{upstream_port}",
            "FLOW_LOG_LEVEL": "warning",
        }
        command = python_module("flowserver", "serve")
        with Process(command, port, environment=environment, cpus=RELAY_CORES) as process:
            yield Running(self.name, port, process.pid)


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
    upstream provider {{
        server 127.0.0.1:{upstream_port};
        keepalive 1024;
        keepalive_requests 1000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
            send_timeout 1h;
        }}
    }}
}}
"""

HAPROXY = """
global
    nbthread 1
    maxconn 8000
defaults
    mode http
    option http-no-delay
    option abortonclose
    http-reuse always
    timeout connect 10s
    timeout client 1h
    timeout server 1h
frontend clients
    bind 127.0.0.1:{port} backlog 4096
    default_backend provider
backend provider
    server provider 127.0.0.1:{upstream_port}
"""


@dataclass(frozen=True, slots=True)
class Configured:
    """A relay that takes a configuration file, whose path is {file}. `template` has {port}, {upstream_port} and
    {folder}."""

    name: str
    command: tuple[str, ...]
    template: str

    def available(self) -> bool:
        return self._program() is not None

    @contextmanager
    def start(self, upstream_port: int) -> Iterator[Running]:
        program = self._program()
        if program is None:
            raise RuntimeError(f"{self.name} is not installed")
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            port = free_port()
            file = Path(folder) / f"{self.name}.conf"
            file.write_text(self.template.format(port=port, upstream_port=upstream_port, folder=folder))
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
        Configured("nginx", ("nginx", "-p", "{folder}", "-c", "{file}", "-e", "stderr"), NGINX),
        Configured("haproxy", ("haproxy", "-db", "-q", "-f", "{file}"), HAPROXY),
        Direct(),
    )
}
