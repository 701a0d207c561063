"""What an exchange hears from its dispatcher. No I/O."""

from __future__ import annotations

from typing import Protocol

from ..errors import RelayError
from ..http.messages import ResponseHead
from ..relay.interfaces import UpstreamEvents
from .upstream_host import UpstreamHost


class DispatchEvents(UpstreamEvents, Protocol):
    """What an upstream stream tells, and what happens before there is one."""

    def on_provider(self, provider: UpstreamHost, now: float) -> None:
        """`provider` is asked, from `now` on; its deadlines hold."""

    def on_more_tokens(self) -> None:
        """More tokens are granted, or turn out not to be available: see `Verdict.WAIT`."""


class Nobody:
    """The `DispatchEvents` that do nothing, for a dispatcher that has ended."""

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


NOBODY = Nobody()
