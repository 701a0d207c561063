"""Requests to a provider that requires signatures. The signature covers the body, so nothing is sent before the body is
complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ..errors import RelayError
from ..flow.drain_rate import DrainRate
from ..http.messages import Headers, RequestHead
from ..relay.interfaces import Connector, UpstreamEvents, UpstreamStream

Signed = Callable[[Headers | RelayError], None]


class Signer(Protocol):
    def sign(self, request: RequestHead, body: Sequence[bytes], done: Signed) -> None:
        """Call `done`, at once or later, with the fields that sign `request` with `body`, which replace those of the
        same names; with an error if the request can't be signed."""


class SigningConnector:
    """A `relay.interfaces.Connector` that signs requests and passes them to another connector."""

    __slots__ = ("_connector", "_signer")

    def __init__(self, connector: Connector, signer: Signer) -> None:
        self._connector = connector
        self._signer = signer

    def open(self, request: RequestHead, events: UpstreamEvents) -> UpstreamStream:
        if request.method == b"OPTIONS":  # browsers' preflights are served without a key
            return self._connector.open(request, events)
        return SigningStream(self._connector, self._signer, request, events)


class SigningStream:
    """Keeps a request until it is complete and signed, then passes everything on to the stream that carries it."""

    __slots__ = ("_body", "_connector", "_events", "_is_over", "_paused", "_request", "_signer", "_stream")

    def __init__(self, connector: Connector, signer: Signer, request: RequestHead, events: UpstreamEvents) -> None:
        self._connector = connector
        self._signer = signer
        self._request = request
        self._events = events
        self._body: list[bytes] = []
        self._stream: UpstreamStream | None = None
        """None: the request waits."""
        self._paused = False
        self._is_over = False

    def __repr__(self) -> str:
        state = "over" if self._is_over else "waiting" if self._stream is None else "begun"
        return f"<SigningStream {state} held={sum(map(len, self._body))} stream={self._stream}>"

    # --- relay.interfaces.UpstreamStream ---

    @property
    def reused(self) -> bool:
        return self._stream is not None and self._stream.reused

    def send_data(self, data: bytes) -> None:
        if not self._is_over:
            self._body.append(data)

    def send_end(self) -> None:
        if not self._is_over:
            self._signer.sign(self._request, self._body, self._on_signed)

    def cancel(self, error: RelayError | None = None) -> None:
        self._is_over = True
        self._body = []
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel(error)

    def pause_reading(self) -> None:
        self._paused = True
        if self._stream is not None:
            self._stream.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        if self._stream is not None:
            self._stream.resume_reading()

    def keep_pace(self, pace: DrainRate) -> None:
        if self._stream is not None:
            self._stream.keep_pace(pace)

    # --- the signature ---

    def _on_signed(self, signature: Headers | RelayError) -> None:
        if self._is_over:
            return
        if isinstance(signature, RelayError):
            self._is_over = True
            self._events.on_upstream_failed(signature)
            return
        body, self._body = self._body, []
        self._stream = stream = self._connector.open(_signed(self._request, signature, body), self._events)
        if self._paused:
            stream.pause_reading()
        for data in body:
            stream.send_data(data)
        stream.send_end()


def _signed(request: RequestHead, signature: Headers, body: Sequence[bytes]) -> RequestHead:
    replaced = {name for name, _ in signature}
    head = RequestHead(
        request.method,
        request.target,
        [field for field in request.headers if field[0] not in replaced] + signature,
        content_length=sum(map(len, body)) if request.has_body else request.content_length,
        has_body=request.has_body,
    )
    head.body_follows = bool(body)
    return head
