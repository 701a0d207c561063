"""What an exchange hears of its dispatch. No I/O."""

from __future__ import annotations

from typing import Protocol

from ..errors import RelayError
from ..http.messages import ResponseHead
from ..relay.interfaces import UpstreamEvents
from .upstream_host import UpstreamHost


class DispatchEvents(UpstreamEvents, Protocol):
    """More than an upstream stream tells: what happens before there is one."""

    def on_target(self, target: UpstreamHost, now: float) -> None:
        """This provider is asked now; its deadlines hold."""

    def on_more_tokens(self) -> None:
        """What waited for tokens may pass, or never will."""


class Nobody:
    """Who hears of a dispatch that is over: the `DispatchEvents` that do nothing."""

    def on_upstream_interim(self, head: ResponseHead) -> None: ...

    def on_upstream_head(self, head: ResponseHead) -> None: ...

    def on_upstream_data(self, data: bytes) -> None: ...

    def fast_path(self) -> None:
        return None

    def on_upstream_end(self) -> None: ...

    def on_upstream_failed(self, error: RelayError) -> None: ...

    def on_upstream_full(self) -> None: ...

    def on_upstream_drained(self) -> None: ...

    def on_target(self, target: UpstreamHost, now: float) -> None: ...

    def on_more_tokens(self) -> None: ...


NOBODY = Nobody()
