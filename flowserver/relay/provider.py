"""A provider as an exchange sees it. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ..config.addresses import Url
from ..dialects.base import Auth, Quirks
from ..dialects.profiles import GENERIC
from ..http.messages import CREDENTIALS, Headers
from .usage_option import UsageOption


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One `[[upstreams]]` table. Times in seconds; None is off, or no limit for `max_concurrent`."""

    name: str
    url: Url
    api_key: bytes | None = field(default=None, repr=False)
    auth: Auth | None = None
    """How the provider takes the key; None: detected from its host name or the path."""
    signs: bool = False
    """Whether its connector signs each request, so that no key is needed."""
    headers: Headers = field(default_factory=list, repr=False)
    models: dict[str, str] = field(default_factory=dict)
    """The client's model names to the provider's."""
    weight: int = 1
    slow_start: float | None = None
    """Time in which its share of the load grows when it comes back."""
    max_concurrent: int | None = None
    adapts: bool = False
    """Whether the number of places is learned; `max_concurrent` is None then."""
    queue: int | None = 0
    """Requests that may wait for a place; None: as many as there are places, only with `adapts`."""
    queue_timeout: float = 5.0
    quirks: Quirks = GENERIC
    asks_usage: bool = True
    """Whether to ask for a usage report, if it sends one only on demand."""
    holds_key: bool = field(init=False)
    """Whether it gets a key from the relay; if not, the client's passes."""

    def __post_init__(self) -> None:
        holds = self.api_key is not None or self.signs or any(name in CREDENTIALS for name, _ in self.headers)
        object.__setattr__(self, "holds_key", holds)


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Deadlines in seconds; None is off."""

    first_byte: float | None
    idle: float | None
    body: float | None
    total: float | None


class Provider(Protocol):
    """The provider that a request is sent to."""

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> ProviderSettings: ...

    @property
    def authority(self) -> bytes:
        """The host and port of its URL."""

    @property
    def deadlines(self) -> Deadlines: ...

    @property
    def usage_option(self) -> UsageOption:
        """What is known about its usage reports."""
