"""What a relay under test is to the bench."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.cores import RELAY_CORES
from bench.processes import Process, free_port


@dataclass(frozen=True, slots=True)
class Running:
    """A relay that accepts on `port` of 127.0.0.1. `pid` is None where there is no relay in between. `admin` is the
    port of flowserver's admin pages."""

    name: str
    port: int
    pid: int | None
    share: float = 1.0
    """Part of a case's load that it is given, see `Configured`."""
    admin: int | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """Paths of PEM files. The certificate is its own authority, for 127.0.0.1."""

    file: str
    key: str


@dataclass(frozen=True, slots=True)
class Wiring:
    """What a relay speaks on its two sides: "h1" or "h2", the latter with prior knowledge on a plain port.

    `certificate` is the provider's; None: no TLS towards it. `keeps`: connections to the provider are used again.
    `streams` is how many a client may have on one connection, None: the relay's own limit. `listen` is the address that
    the relay listens on, `provider_host` the provider's. `uploads`: requests of any size pass on while they come.
    `stall` is the seconds after which a client that takes nothing is cut, None: as the peer is set up otherwise.
    `memory` is a budget in bytes, for those that know such a thing.
    """

    client: str = "h1"
    provider: str = "h1"
    certificate: Certificate | None = None
    keeps: bool = True
    streams: int | None = None
    listen: str = "127.0.0.1"
    provider_host: str = "127.0.0.1"
    uploads: bool = False
    stall: float | None = None
    memory: int | None = None

    @property
    def scheme(self) -> str:
        """The provider's."""
        return "http" if self.certificate is None else "https"


PLAIN = Wiring()


class Peer(Protocol):
    """A relay that can be started in front of a provider on a port of 127.0.0.1."""

    @property
    def name(self) -> str: ...

    @property
    def share(self) -> float:
        """Part of a case's load that it is given, see `Configured`."""
        ...

    @property
    def install(self) -> str:
        """What to do where it is not installed."""
        ...

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
    install = ""
    share = 1.0

    def available(self) -> bool:
        return True

    def supports(self, wiring: Wiring) -> bool:
        return wiring.client == wiring.provider and wiring.certificate is None

    @contextmanager
    def start(self, upstream_port: int, wiring: Wiring = PLAIN) -> Iterator[Running]:
        yield Running(self.name, upstream_port, None)


@dataclass(frozen=True, slots=True)
class Configured:
    """A relay that takes a configuration file, whose path is {file}. `template` has {listen}, {port}, {upstream_host},
    {upstream_port}, {folder}, and what `details` gives for a wiring. `providers` is what it speaks to providers,
    `clients` to clients.

    `share` is the part of a case's load that it is given: less than all for one that would be overrun. What is compared
    is the cost of an event or an answer."""

    name: str
    command: tuple[str, ...]
    template: str
    details: Callable[[Wiring], dict[str, str]]
    providers: tuple[str, ...]
    install: str
    environment: Mapping[str, str] = field(default_factory=dict)
    suffix: str = "conf"
    clients: tuple[str, ...] = ("h1", "h2")
    tls: bool = True
    share: float = 1.0

    def available(self) -> bool:
        return self._program() is not None

    def supports(self, wiring: Wiring) -> bool:
        speaks = wiring.provider in self.providers and wiring.client in self.clients
        return speaks and (self.tls or wiring.certificate is None)

    @contextmanager
    def start(self, upstream_port: int, wiring: Wiring = PLAIN) -> Iterator[Running]:
        program = self._program()
        if program is None:
            raise RuntimeError(f"{self.name} is not installed: {self.install}")
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            port = free_port()
            file = Path(folder) / f"{self.name}.{self.suffix}"
            places = {"port": port, "upstream_port": upstream_port, "folder": folder}
            hosts = {"listen": wiring.listen, "upstream_host": wiring.provider_host}
            file.write_text(self.template.format(**places, **hosts, **self.details(wiring)))
            command = [program, *(part.format(file=file, **places) for part in self.command[1:])]
            environment = {name: value.format(**places) for name, value in self.environment.items()}
            with Process(command, port, environment=environment, cpus=RELAY_CORES) as process:
                yield Running(self.name, port, process.pid, self.share)

    def _program(self) -> str | None:
        """Beside the interpreter, on PATH, or where daemons often live and a user's PATH does not look."""
        places = (str(Path(sys.executable).parent), None, "/usr/sbin:/usr/local/sbin:/sbin")
        return next((found for place in places if (found := shutil.which(self.command[0], path=place))), None)


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
