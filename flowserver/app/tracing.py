"""Tracing, as configured."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
import time
from dataclasses import dataclass, replace

from .. import __version__
from ..config.addresses import Url
from ..config.errors import ConfigError
from ..config.settings import Config
from ..telemetry.log import Log
from ..telemetry.otlp import resource, scope
from ..telemetry.otlp_http import CollectorConnection
from ..telemetry.span_exporter import SpanExporter, Told
from ..telemetry.traces import SpanTracer

_LOOK = 0.01
"""Seconds between two checks whether the exporter has finished."""


@dataclass(frozen=True, slots=True)
class Tracing:
    """The tracer and exporter of a process."""

    tracer: SpanTracer
    exporter: SpanExporter

    @classmethod
    def of(cls, config: Config, log: Log) -> Tracing | None:
        """None: nothing is traced. Raises ConfigError."""
        endpoint = config.otlp_endpoint
        if endpoint is None:
            return None
        collector = CollectorConnection(replace(endpoint, path=f"{endpoint.path}/v1/traces"), collector_tls(config))
        told = Told(resource(_resource(config).items()), scope("flowserver", __version__))
        exporter = SpanExporter(collector, told, _headers(config, endpoint), log=log, random=random.random)
        tracer = SpanTracer(
            exporter,
            ratio=config.trace_sample,
            random=random.getrandbits,
            clocks=(time.monotonic, time.time),
            scheme="http" if config.tls_cert is None else "https",
        )
        return cls(tracer, exporter)

    def start(self) -> None:
        """Start exporting. Call this in the process that is traced, after any fork."""
        self.exporter.start()

    async def close(self) -> None:
        """Wait until the remaining spans are sent, for little more than `Pace.end` at most."""
        self.exporter.end()
        for _ in range(round((self.exporter.pace.end + 0.5) / _LOOK)):
            if not self.exporter.is_running:
                return
            await asyncio.sleep(_LOOK)

    def reconfigure(self, config: Config) -> None:
        """Send the header fields of `config` from now on."""
        if config.otlp_endpoint is not None:
            self.exporter.headers = _headers(config, config.otlp_endpoint)


def collector_tls(config: Config) -> ssl.SSLContext | None:
    """None: there is no collector, or it is reached without TLS. Raises ConfigError."""
    if config.otlp_endpoint is None or config.otlp_endpoint.scheme != "https":
        return None
    try:
        context = ssl.create_default_context(cafile=config.otlp_ca)
    except OSError as error:
        raise ConfigError([f"FLOW_OTLP_CA: {config.otlp_ca!r} can't be used: {error}"]) from None
    context.set_alpn_protocols(["http/1.1"])
    return context


def _resource(config: Config) -> dict[str, str]:
    """Each process is an instance of the service."""
    host = socket.gethostname()
    own = {
        "service.name": "flowserver",
        "service.version": __version__,
        "service.instance.id": f"{host}-{os.getpid()}",
        "host.name": host,
    }
    return own | dict(config.resource)


def _headers(config: Config, endpoint: Url) -> list[tuple[bytes, bytes]]:
    own = [
        (b"host", endpoint.authority.encode("ascii")),
        (b"content-type", b"application/x-protobuf"),
        (b"user-agent", f"flowserver/{__version__}".encode()),
    ]
    return [*own, *((name.encode("ascii"), value.encode("ascii")) for name, value in config.otlp_headers)]
