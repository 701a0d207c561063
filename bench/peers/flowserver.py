"""This project's relay."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.cores import RELAY_CORES
from bench.peers.base import PLAIN, Running, Wiring
from bench.processes import Process, free_port, python_module


class Flowserver:
    """This project's relay, with its defaults, whatever FLOW_ settings the environment has, and `settings` above them.
    `program`: an installation of it other than the interpreter's own."""

    install = ""
    share = 1.0

    def __init__(
        self,
        name: str = "flowserver",
        program: str | None = None,
        settings: Mapping[str, str] | None = None,
        *,
        cpus: frozenset[int] = RELAY_CORES,
    ) -> None:
        self.name = name
        self._cpus = cpus
        self._settings = settings or {}
        self._command = python_module("flowserver") if program is None else [program]

    def available(self) -> bool:
        return True

    def supports(self, wiring: Wiring) -> bool:
        return True

    @contextmanager
    def start(self, upstream_port: int, wiring: Wiring = PLAIN) -> Iterator[Running]:
        port, admin = free_port(), free_port()
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            environment = {
                "FLOW_LISTEN": f"{wiring.listen}:{port}",
                "FLOW_ADMIN_LISTEN": f"127.0.0.1:{admin}",
                "FLOW_LOG_LEVEL": "warning",
                **_towards_provider(f"{wiring.scheme}://{wiring.provider_host}:{upstream_port}", wiring, Path(folder)),
                **self._settings,
            }
            if wiring.streams is not None:
                environment |= {"FLOW_H2_MAX_STREAMS": str(wiring.streams), "FLOW_H2_MAX_REQUESTS": "1000000"}
            if wiring.stall is not None:
                environment["FLOW_STALL_TIMEOUT"] = f"{wiring.stall:g}"
            if wiring.memory is not None:
                # Memory is to be the limit, and no count of connections.
                environment |= {"FLOW_MEMORY": str(wiring.memory), "FLOW_MAX_CONNECTIONS": "100000"}
            with Process([*self._command, "serve"], port, environment=environment, cpus=self._cpus) as process:
                yield Running(self.name, port, process.pid, admin=admin)


def _towards_provider(url: str, wiring: Wiring, folder: Path) -> dict[str, str]:
    """flowserver's settings: the protocol is told in a file only, and left to itself it would be HTTP/2 over TLS."""
    settings = {} if wiring.keeps else {"FLOW_UPSTREAM_KEEPALIVE": "0"}
    if wiring.provider == "h1" and wiring.certificate is None:
        return {**settings, "FLOW_UPSTREAM": url}
    file = folder / "flowserver.toml"
    trusted = f'ca = "{wiring.certificate.file}"\n' if wiring.certificate is not None else ""
    file.write_text(f'[[upstreams]]\nname = "provider"\nurl = "{url}"\nprotocol = "{wiring.provider}"\n{trusted}')
    return {**settings, "FLOW_CONFIG": str(file)}
