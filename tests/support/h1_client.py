"""What clients and providers say over HTTP/1.1, for tests of a client's connection."""

from __future__ import annotations

from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.relay.interfaces import DownstreamStream

from .dialogue import Answer, Client, understood
from .recording import RecordingDownstreamEvents

GET = b"GET /v1 HTTP/1.1\r\nHost: relay.test\r\n\r\n"
HEAD = b"HEAD /v1 HTTP/1.1\r\nHost: relay.test\r\n\r\n"
OLD = b"GET /v1 HTTP/1.0\r\n\r\n"
POST = b"POST /v1 HTTP/1.1\r\nHost: relay.test\r\nContent-Length: 5\r\n\r\n"
CHUNKED_POST = b"POST /v1 HTTP/1.1\r\nHost: relay.test\r\nTransfer-Encoding: chunked\r\n\r\n"
BAD = b"GET / HTTP/1.1\r\n\r\n"

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def target_of(request: bytes) -> bytes:
    return request.split(b" ")[1]


def heard(client: Client, *, method: bytes = b"GET") -> Answer:
    """What the client makes of what came since it last listened."""
    return understood(client.hears(), closed=client.end in ("closed", "half-closed"), method=method)


class Instant:
    """Opens exchanges that are answered before the call returns."""

    def __init__(self, body: bytes = b"hello", status: int = 200) -> None:
        self.body = body
        self.status = status
        self.events: list[RecordingDownstreamEvents] = []

    def open_exchange(self, request: RequestHead, stream: DownstreamStream) -> None:
        events = RecordingDownstreamEvents()
        self.events.append(events)
        stream.attach(events)
        stream.send_head(ResponseHead(self.status, [], content_length=len(self.body)))
        stream.send_data(self.body)
        stream.send_end()
