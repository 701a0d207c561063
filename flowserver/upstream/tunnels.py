"""Connections for tunnels to one provider: each serves one, over HTTP/1.1, and ends with it."""

from __future__ import annotations

from functools import partial

from ..errors import EndReason, Party, RelayError
from ..flow.bounded_buffer import Watermarks
from ..http.messages import RequestHead
from ..relay.interfaces import UpstreamEvents, UpstreamStream
from .h1 import UpstreamH1
from .pool import Cancellable, Dial, PooledConnection, PooledStream, WaitingStream


class TunnelConnector:
    """A `relay.interfaces.Connector`. A handshake switches the protocol of its connection, so none is kept."""

    __slots__ = ("_connections", "_dial", "_dials", "_most", "_name", "watermarks")

    def __init__(self, name: str, watermarks: Watermarks, *, most: int) -> None:
        """`most`: most concurrent tunnels. Call `dial_by` next."""
        self._name = name
        self.watermarks = watermarks
        self._most = most
        self._dial: Dial
        self._dials: dict[WaitingStream, Cancellable] = {}
        """Dials under way, by stream."""
        self._connections: set[UpstreamH1] = set()

    def __repr__(self) -> str:
        return f"<TunnelConnector {self._name} open={len(self._connections)} dials={len(self._dials)}>"

    def dial_by(self, dial: Dial) -> None:
        """Make connections by `dial`."""
        self._dial = dial

    def open(self, request: RequestHead, events: UpstreamEvents) -> UpstreamStream:
        stream = WaitingStream(self, request, events)
        self._dials[stream] = self._dial(partial(self._connected, stream), partial(self._failed, stream), False)
        return stream

    # --- for the streams -------------------------------------------------------------------------------------------

    def begin(self, connection: PooledConnection, request: RequestHead, events: UpstreamEvents) -> PooledStream:
        return connection.begin(request, events)

    def leave(self, stream: WaitingStream) -> None:
        dial = self._dials.pop(stream, None)
        if dial is not None:
            dial.cancel()

    # --- for the dials ---------------------------------------------------------------------------------------------

    def _connected(self, stream: WaitingStream, connection: PooledConnection) -> None:
        del self._dials[stream]
        assert isinstance(connection, UpstreamH1)
        if len(self._connections) < self._most:
            self._connections.add(connection)
            stream.begin(connection)
            return
        connection.close()
        text = f"All {self._most} tunnels to the provider {self._name} are in use."
        stream.fail(
            RelayError(503, "no_capacity", text, Party.RELAY, EndReason.REFUSED, retry_after=1, not_processed=True)
        )

    def _failed(self, stream: WaitingStream, error: RelayError) -> None:
        del self._dials[stream]
        stream.fail(error)

    # --- h1.ConnectionOwner ----------------------------------------------------------------------------------------

    def on_capacity(self, connection: UpstreamH1) -> None:
        connection.close()

    def on_lost(self, connection: UpstreamH1) -> None:
        self._connections.discard(connection)
