"""HTTP/1.1 towards the client: a connection, which serves one request after the other.

`http.h1_server` reads requests and writes answers; `h1_stream` is one request and its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, Protocol, cast

import h11

from ..errors import EndReason, Party, RelayError, bad_request
from ..flow.bounded_buffer import BoundedWriter, Watermarks
from ..flow.drain_rate import DrainRate
from ..http.h1_chunked import FramingError
from ..http.h1_request_head import HeadReader, RepeatedHead, whole_head
from ..http.h1_server import Message, PlainMessage, read_request
from ..http.messages import RequestHead, ResponseHead
from ..net.send_queue import UNSENT, SendQueue
from ..net.shared_read import READ_SIZE, SharedReads
from ..relay.interfaces import DownstreamEvents
from ..relay.uploads import Uploads
from .clients_by_address import UNKNOWN, Client, ClientsByAddress
from .context import DRAIN_GRACE, ConnectionSettings, ListenerContext
from .h1_stream import H1Stream
from .linger import Linger

MAX_PIPELINED: Final = 64 * 1024
"""Most bytes of pipelined requests that are read ahead while one is answered."""
FIN_FOLLOWS = 0.01
"""Seconds from the end of a request within which a FIN belongs to it: some programs close their sending side to mark
the end of what they send, and wait for the answer."""
FIN_MAY_FOLLOW = 0.1
"""The same while requests have to wait for their turn, since then the event loop is busy."""
FIN_GRACE = 3.0
"""Seconds that such a client has for its answer: it can't be distinguished from one that has left."""


class EncryptedTransport(Protocol):
    """A transport over TLS, such as `net.tls_transport.TlsTransport`."""

    def shut(self) -> asyncio.Transport:
        """Send close_notify and hand over the plain transport below."""


class DownstreamH1(SharedReads):
    """A client's connection. Requests are served one after the other, even if they are pipelined."""

    __slots__ = (
        "_blocked",
        "_context",
        "_fd",
        "_half_closed_at",
        "_held",
        "_is_over",
        "_is_paced",
        "_is_tls",
        "_known",
        "_parsing",
        "_pipelined",
        "_reader",
        "_reading",
        "_served",
        "_since",
        "_skipped",
        "_transport",
        "_waits_for_turn",
        "client",
        "must_close",
        "send_queue",
        "stream",
        "write",
    )

    def __init__(self, context: ListenerContext, client: Client = UNKNOWN) -> None:
        self._context = context
        self.client = client
        self._reader: HeadReader | None = None
        """None: no byte of a head waits, as usual."""
        self._known: RepeatedHead | None = None
        """The second head, as long as all others equal it; None: they do not, it is not plain, or has no length. The
        first may be the only one."""
        self.stream: H1Stream | None = None
        self.must_close = False
        """Whether the next response is the last of this connection."""
        # Flags side by side: see CONTRIBUTING.md, "The compiled build".
        self._parsing = False
        self._reading = True
        self._blocked = False
        self._waits_for_turn = False
        """Whether what was read waits until other connections have had their turn."""
        self._is_paced = False
        """Whether transport and kernel are limited to a slow client's pace."""
        self._is_over = False
        """Whether the transport was handed over: see `Linger`."""
        self._is_tls = False
        self._pipelined = b""
        self._half_closed_at: float | None = None
        """When a client that still gets its answer closed its sending side."""
        self._held = b""
        """A head that is sent with the first bytes of its body."""
        self._skipped = 0
        """Bytes still to drop of a body that was answered early."""
        self._served = 0
        self._since = context.clock()
        """When the wait for the current head began, or the current request was complete."""

    def __repr__(self) -> str:
        state = "lingering" if self._is_over else "closing" if self._transport.is_closing() else "open"
        states = (("unread", not self._reading), ("blocked", self._blocked), ("waiting", self._waits_for_turn))
        pauses = [name for name, is_so in states if is_so]
        return f"<DownstreamH1 {' '.join([state, *pauses])} served={self._served} stream={self.stream}>"

    # --- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._fd: int = transport.get_extra_info("socket").fileno()
        self.send_queue = SendQueue(self._transport, self._fd)
        self._is_tls = transport.get_extra_info("ssl_object") is not None
        self.write: Callable[[bytes], None] = self._transport.write
        self._context.settings.watermarks.limit_transport(self._transport)
        refusal = self._context.refusal(self.client)
        self._context.connections.add(self)
        if refusal is not None:
            self._refuse(refusal)

    def receive(self, data: bytes) -> None:
        stream = self.stream
        if self._skipped:
            data = self._skip(data)
            if not data:
                return
        if stream is None and not self._blocked and not self._waits_for_turn:
            self._receive_in_turn(data)
        elif stream is None or stream.request_whole:
            self._keep_for_later(data)
        else:
            self._receive_body(stream, data)

    def eof_received(self) -> bool:
        """A FIN means that the client has left, as for nginx, Envoy and Go. The transport stays open for a client that
        still gets its answer."""
        stream = self.stream
        if stream is not None and stream.message.is_tunnel:
            return self._end_request_of_tunnel(stream)
        if self._waits_for_answer(stream):
            self._half_closed_at = self._context.clock()
            self._context.hangups.watch(self._fd, self._on_gone, half_close=False)
            return True
        self._drop_stream(EndReason.CLIENT_GONE)
        if stream is not None and self._transport.get_write_buffer_size():
            self._transport.abort()  # a close would wait until the rest is written
        return False  # a complete answer is still sent

    def _end_request_of_tunnel(self, stream: H1Stream) -> bool:
        """The provider has `FIN_GRACE` to end the other direction, too."""
        stream.request_whole = True
        if not self._is_tls:
            self._half_closed_at = self._context.clock()
            self._context.hangups.watch(self._fd, self._on_gone, half_close=False)
        stream.events.on_downstream_end()
        return not self._is_tls

    def _waits_for_answer(self, stream: H1Stream | None) -> bool:
        """Whether a client that closed its sending side still gets its answer. TLS has no half-close here."""
        is_whole = stream.request_whole if stream is not None else bool(self._pipelined)
        if self._is_tls or not is_whole:
            return False
        if self._waits_for_turn or self._context.settings.serves_half_closed:
            return True
        now = self._context.clock()
        is_busy = now - self._context.turns.waited_at < FIN_MAY_FOLLOW
        return now - self._since < (FIN_MAY_FOLLOW if is_busy else FIN_FOLLOWS)

    def _grace_is_over(self, now: float) -> bool:
        since = self._half_closed_at
        return since is not None and now - since >= FIN_GRACE and not self._context.settings.serves_half_closed

    def connection_lost(self, exc: Exception | None) -> None:
        self._context.hangups.forget(self._fd, self._on_gone)
        self._context.connections.discard(self)
        self._drop_stream(EndReason.CLIENT_GONE)
        self.write = self._transport.write  # replaces its own method, which would be a reference cycle

    def pause_writing(self) -> None:
        self._blocked = True
        self.send_queue.blocked_since = self._context.clock()
        if self.stream is not None:
            self.stream.block()

    def resume_writing(self) -> None:
        self._blocked = False
        self.send_queue.blocked_since = None
        if self.stream is not None:
            self.stream.unblock()
        else:
            self._serve_pipelined()

    # --- for the stream ---

    def writer(self, write: Callable[[bytes], None], events: DownstreamEvents) -> BoundedWriter:
        """A writer for a stream whose chunks have to wait."""
        return BoundedWriter(
            self._transport,
            self._context.settings.watermarks,
            write=write,
            on_full=events.on_downstream_full,
            on_drained=events.on_downstream_drained,
        )

    def held(self, writer: BoundedWriter | None) -> int:
        """Bytes that wait in `writer`, if there is one, and in the transport."""
        return writer.held if writer is not None else self._transport.get_write_buffer_size()

    def keep_pace(self, pace: DrainRate) -> Watermarks:
        """Limit transport and kernel to a client with this pace. Returns the watermarks for the writer."""
        settings = self._context.settings
        if settings.limits_unsent:
            self.send_queue.limit(pace.mark(UNSENT))
        marks = settings.watermarks.paced(pace)
        marks.limit_transport(self._transport)
        self._is_paced = True
        return marks

    def _end_pace(self) -> None:
        """Reset the limits for the next answer."""
        if self._is_paced:
            self._is_paced = False
            self.send_queue.end_limit()
            self._context.settings.watermarks.limit_transport(self._transport)

    def hold(self, head: bytes) -> None:
        """Keep a head until the next write, which follows in the same event, or the stream's end."""
        self._held = head
        self.write = self._write_with_head

    def _write_with_head(self, data: bytes) -> None:
        head, self._held = self._held, b""
        self.write = self._transport.write
        self._transport.write(head + data)

    def pause_reading(self) -> None:
        """Stop reading the client. From then on the hang-up watcher reports when it leaves."""
        if self._reading and self._half_closed_at is None:
            self._reading = False
            self._transport.pause_reading()
            watches_fin = not self._context.settings.serves_half_closed
            self._context.hangups.watch(self._fd, self._on_gone, half_close=watches_fin)

    def resume_reading(self) -> None:
        if not self._reading and not self._transport.is_closing():
            self._reading = True
            self._context.hangups.forget(self._fd, self._on_gone)
            self._transport.resume_reading()

    @property
    def uploads(self) -> Uploads:
        return self._context.uploads

    @property
    def clients(self) -> ClientsByAddress:
        return self._context.clients

    @property
    def is_serving(self) -> bool:
        """Whether a request is being read or answered."""
        return self.stream is not None

    @property
    def is_last_response(self) -> bool:
        return self.must_close or (self._half_closed_at is not None and not self._pipelined)

    def on_response_done(self, stream: H1Stream) -> None:
        """The answer was passed to the transport: go on with the next request, or close."""
        if self._held:
            self._write_with_head(b"")
        self.stream = None
        self._end_pace()
        self._served += 1
        self._since = self._context.clock()
        stream.events.on_downstream_finished()
        stream.let_go()
        if not stream.request_whole and not self.is_last_response:
            self._skipped = stream.message.skip()
        if not stream.message.reusable or self.is_last_response:
            self._close(linger=not stream.request_whole)
        elif not self._parsing:
            self._serve_pipelined()

    def on_broken_off(self, *, reset: bool) -> None:
        """Close without a proper end; `reset` if a plain close would look like one."""
        if self._held:
            self._write_with_head(b"")
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.let_go()
        if reset:
            self._reset_on_close()
        self._transport.close()

    # --- for the listener ---

    def sweep(self, now: float) -> None:
        """Check the deadlines of this connection and of its exchange."""
        settings = self._context.settings
        if self._is_stalled(now, settings):
            self.cut(EndReason.CLIENT_STALLED)
            return
        if self._context.memory.must_free:
            self.must_close = True
        if self._grace_is_over(now):
            self._on_gone()
        elif self.stream is not None:
            self.stream.events.sweep(now)
        elif not self._transport.is_closing() and not self._waits_for_turn:
            self._sweep_head(now, settings)

    @property
    def idle_since(self) -> float:
        """Since when it waits for another request; infinity: it does not, or is closed once its last bytes are sent."""
        is_waiting = self.stream is None and self._is_between_heads and not self._waits_for_turn
        return self._since if is_waiting and self._served and not self._transport.is_closing() else math.inf

    def close_idle(self) -> None:
        self._transport.close()

    def _is_stalled(self, now: float, settings: ConnectionSettings) -> bool:
        limit, stream = settings.stall_timeout, self.stream
        if limit is not None and self.send_queue.stalled_for(now, busy=stream is not None) >= limit:
            return True
        tokens = settings.stall_tokens
        return tokens is not None and stream is not None and stream.stalled_tokens() >= tokens

    def drain(self) -> None:
        """Accept no more requests, or one more if none is being served: see `DRAIN_GRACE`."""
        self.must_close = True
        if self.stream is None and self._is_between_heads:
            self._since = self._context.clock()

    def end_drain(self) -> None:
        """The drain time is over."""
        if self.stream is not None:
            self.stream.events.on_drain_timeout()
        if self.stream is not None:
            self.abort()  # waiting bytes would delay the end
        elif not self._transport.is_closing():
            self._transport.close()

    def abort(self) -> None:
        """The relay ends. Close at once, with a reset: the end of what the kernel still holds must not look like the
        answer's end."""
        self.cut(EndReason.RELAY_STOPPED)

    def cut(self, reason: EndReason) -> None:
        self._drop_stream(reason)
        self._reset()

    def _reset(self) -> None:
        self._reset_on_close()
        self._transport.abort()

    # --- reading ---

    def _receive_in_turn(self, data: bytes) -> None:
        turns, clock = self._context.turns, self._context.clock
        began = clock()
        if turns.is_free:
            self._receive_heads(data)
            turns.spend(clock() - began)
        else:
            self._since = began
            self._waits_for_turn = True
            self._keep_for_later(data)
            turns.wait(self)

    def take_turn(self) -> bool:
        """Start the requests that waited. Returns that nothing is left: others wait for the answer of the first."""
        self._waits_for_turn = False
        if self._half_closed_at is not None and self._has_given_up(self._half_closed_at - self._since):
            self._on_gone()
            return False
        if self.stream is None:
            self._serve_pipelined()
        if self._half_closed_at is not None and self.stream is not None and not self.stream.request_whole:
            self._on_gone()  # the rest of the request can't come any more
        return False

    def _has_given_up(self, waited: float) -> bool:
        """Whether a client left that closed its sending side after `waited` seconds in which its request had not begun.
        A FIN that belongs to the request is read an iteration of the event loop later, which may be a long one."""
        return waited >= FIN_MAY_FOLLOW and not self._context.settings.serves_half_closed

    def _receive_heads(self, data: bytes) -> None:
        """Start the requests in `data`, until one waits for its answer or for the rest of its body."""
        if self._is_between_heads:
            self._since = self._context.clock()
        self._parsing = True
        while data and self.stream is None and not self._transport.is_closing() and not self._is_over:
            if self._blocked:  # answers without a body never wait: they would pile up in the transport
                self._keep_for_later(data)
                break
            result = self._take_head(data)
            if result is None:
                break
            if isinstance(result, RelayError):
                self._refuse(result)
                break
            raw, data = result
            request = self._read_request(raw)
            if isinstance(request, RelayError):
                self._refuse(request)
                break
            head, message = request
            data = self._start(H1Stream(self, message, head), data)
        self._parsing = False
        if self.stream is None and not self._pipelined and not self._is_over:
            self.resume_reading()
            if self._half_closed_at is not None:
                self._transport.close()

    def _take_head(self, data: bytes) -> tuple[bytes, bytes] | RelayError | None:
        """A complete raw head and what follows it; an error; or None while the head is incomplete."""
        reader = self._reader
        if reader is None:
            whole = whole_head(data)
            if whole is not None:
                return whole
            reader = self._reader = HeadReader()
        result = reader.feed(data)
        if isinstance(result, tuple):
            self._reader = None
        return result

    @property
    def _is_between_heads(self) -> bool:
        """Whether no byte of a head has arrived yet."""
        return self._reader is None or self._reader.is_empty

    def _read_request(self, raw: bytes) -> tuple[RequestHead, Message] | RelayError:
        known = self._known
        head = known.read(raw) if known is not None else None
        if head is not None:
            return head, PlainMessage(head)
        request = read_request(raw)
        if not isinstance(request, RelayError):
            head, message = request
            repeats = self._served == 1 and isinstance(message, PlainMessage) and head.content_length is not None
            self._known = RepeatedHead(raw, head) if repeats else None
        return request

    def _serve_pipelined(self) -> None:
        """Serve the requests that were read ahead, unless the client still lags."""
        if not self._blocked and not self._is_over:
            self.resume_reading()
            if self._pipelined:
                data, self._pipelined = self._pipelined, b""
                self._receive_heads(data)

    def _start(self, stream: H1Stream, data: bytes) -> bytes:
        """Open the exchange and pass it the available part of the body. Returns what follows the request, if its answer
        is over already."""
        self.stream = cast("H1Stream | None", stream)  # an immediate answer ends it
        stream.request_whole = not stream.request.has_body
        if stream.request_whole:
            stream.message.feed(b"")  # signals the end, which must precede an immediate answer
            if data:
                self._keep_for_later(data)
        self._context.open_exchange(stream.request, stream)
        if self.stream is stream:
            if stream.request_whole:
                self._end_request(stream)
            else:
                if stream.message.awaits_continue and not data:
                    self._answer_continue(stream)
                self._receive_body(stream, data)
        elif self._skipped:
            self._keep_for_later(self._skip(data))
        if not self.is_serving and not self._is_over:
            data, self._pipelined = self._pipelined, b""
            return data
        return b""

    def _skip(self, data: bytes) -> bytes:
        """Drop what is left of a body. Returns what follows it."""
        size = min(self._skipped, len(data))
        self._skipped -= size
        return data[size:]

    def _receive_body(self, stream: H1Stream, data: bytes) -> None:
        try:
            body, whole, rest = stream.message.feed(data)
        except (h11.RemoteProtocolError, FramingError) as failure:
            self.must_close = True
            stream.events.on_downstream_failed(bad_request(f"The request body is malformed: {failure}."))
            return
        if body:
            stream.events.on_downstream_data(body)
        is_answered = self.stream is not stream
        if whole and not is_answered:
            stream.request_whole = True
        if rest and not self._is_over and not self._transport.is_closing():
            self._keep_for_later(rest)
        if whole and not is_answered:
            self._end_request(stream)
        elif rest and is_answered and not self._parsing:
            self._serve_pipelined()

    def _end_request(self, stream: H1Stream) -> None:
        """The request is complete."""
        stream.events.on_downstream_end()
        self._since = self._context.clock()  # not earlier: that took time, and a FIN may wait already

    def _keep_for_later(self, data: bytes) -> None:
        """Keep pipelined requests, within bounds, until the current one is answered."""
        self._pipelined += data
        if len(self._pipelined) >= (READ_SIZE if self._waits_for_turn else MAX_PIPELINED):
            self.pause_reading()

    def _answer_continue(self, stream: H1Stream) -> None:
        if not stream.head_sent:
            stream.send_interim(ResponseHead(100, [], reason=b"Continue"))

    # --- ending ---

    def _refuse(self, error: RelayError) -> None:
        """Answer an invalid request, and close."""
        self._context.observer.request_refused(error, "h1")
        body = error.body()
        phrase = HTTPStatus(error.status).phrase.encode()
        retry = b"" if error.retry_after is None else b"retry-after: %d\r\n" % error.retry_after
        self.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%bconnection: close\r\n\r\n%b"
            % (error.status, phrase, len(body), retry, body)
        )
        self._close(linger=True)

    def _close(self, *, linger: bool) -> None:
        """Close after what is written. `linger` if the client may still be sending."""
        if not linger or self._half_closed_at is not None or self._transport.is_closing():
            self._transport.close()
            return
        self._is_over = True
        self._context.hangups.forget(self._fd, self._on_gone)
        self._context.connections.discard(self)
        plain = cast(EncryptedTransport, self._transport).shut() if self._is_tls else self._transport
        Linger(self._context, plain, self.client)

    def _on_gone(self) -> None:
        """The client has left."""
        self._drop_stream(EndReason.CLIENT_GONE)
        self._transport.abort()

    def _drop_stream(self, reason: EndReason) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.events.on_downstream_reset(reason)
            stream.let_go()

    def _sweep_head(self, now: float, settings: ConnectionSettings) -> None:
        waited = now - self._since
        if self._is_between_heads and self.must_close:  # during a drain
            if waited >= DRAIN_GRACE:
                self._transport.close()
        elif self._is_between_heads and self._served:
            if settings.keepalive_timeout is not None and waited >= settings.keepalive_timeout:
                self._transport.close()
        elif settings.head_timeout is not None and waited >= settings.head_timeout:
            if self._is_between_heads:
                self._transport.close()
            else:
                self._refuse(_head_timeout(settings.head_timeout))

    def _reset_on_close(self) -> None:
        connection = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _head_timeout(seconds: float) -> RelayError:
    message = f"The request head was not complete after {seconds:g} s (FLOW_HEAD_TIMEOUT)."
    return RelayError(408, "head_timeout", message, Party.CLIENT, EndReason.CLIENT_ERROR)
