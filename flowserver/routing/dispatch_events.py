"""The events that a dispatcher sends to its exchange. No I/O."""

from __future__ import annotations

from typing import Final, Protocol

from ..errors import RelayError
from ..http.messages import ResponseHead
from ..relay.interfaces import UpstreamEvents
from .upstream_host import UpstreamHost


class DispatchEvents(UpstreamEvents, Protocol):
    """The events of an upstream stream, and those before there is one."""

    def on_provider(self, provider: UpstreamHost, now: float) -> None:
        """The request goes to `provider` at time `now`; its deadlines apply."""

    def on_more_tokens(self) -> None:
        """More tokens are granted, or are not available: see `Verdict.WAIT`."""


class Nobody:
    """`DispatchEvents` that do nothing, for a dispatcher that has ended."""

    def on_upstream_interim(self, head: ResponseHead) -> None: ...

    def on_upstream_head(self, head: ResponseHead) -> None: ...

    def on_upstream_data(self, data: bytes) -> None: ...

    def fast_path(self) -> None:
        return None

    def unacknowledged(self) -> int:
        return 0

    def on_upstream_end(self) -> None: ...

    def on_upstream_failed(self, error: RelayError) -> None: ...

    def on_upstream_full(self) -> None: ...

    def on_upstream_drained(self) -> None: ...

    def on_provider(self, provider: UpstreamHost, now: float) -> None: ...

    def on_more_tokens(self) -> None: ...


NOBODY: Final = Nobody()
