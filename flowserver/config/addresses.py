"""Where something listens, and where a provider is. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 means any free port."""

    host: str
    """Empty: all interfaces."""
    port: int

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class Url:
    """A provider's base URL in its parts. `path` has no trailing slash and may be empty."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as in the Host header: without the scheme's default port."""
        host = _bracketed(self.host)
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def server_name(self) -> str:
        """The host without the final dot of a fully qualified name: certificates and TLS have none (RFC 6066
        section 3)."""
        return self.host.removesuffix(".")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def _bracketed(host: str) -> str:
    """`host` as it is written before a port: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host
