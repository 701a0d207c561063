"""TLS over a plain transport, by OpenSSL's memory buffers; both sides use it instead of uvloop's TLS transport.

uvloop's holds up to 512 KiB of writes by default, some 67 KiB more that it does not count, and 330 KiB for a connection
that once read much. Here all connections read into one shared buffer, decrypt no more than their protocols take, and
buffer no writes: what waits is in the plain transport, so that its watermarks and counts are exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, cast

READ_SIZE = 16 * 1024
_READ_BUFFER = memoryview(bytearray(READ_SIZE))
"""The buffer that all connections read into: data is passed to OpenSSL's buffer before the next read."""

Established = Callable[["TlsTransport"], asyncio.Protocol | asyncio.BufferedProtocol]
"""Returns the protocol of an established connection; what was negotiated is in `get_extra_info`."""


class TlsTransport(asyncio.BufferedProtocol, asyncio.Transport):
    """Protocol of the plain transport, and transport of the protocol above.

    `established` is called when the handshake is done; what it returns gets `connection_made` and the rest. If the
    handshake fails or the connection is lost before, `failed` is called instead, with the reason.
    """

    __deletable__ = ("_established",)

    def __init__(
        self,
        context: ssl.SSLContext,
        established: Established,
        failed: Callable[[Exception], None],
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        """`session`, of an earlier connection with the same context, saves the expensive part of the handshake."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname, session=session
        )
        self._established = established
        self._failed = failed
        self._protocol: Any = None
        """None until the handshake is done."""
        self._get_buffer: Callable[[int], memoryview] | None = None
        """None if the protocol takes bytes."""
        self._raw: asyncio.Transport
        self._is_made = False
        self._reading = True
        self._delivering = False
        self._closing = False
        self._ended = False
        """Whether the other side sent its close_notify."""
        self._raw_ended = False

    def __repr__(self) -> str:
        state = "closing" if self._closing else "handshake" if self._protocol is None else "open"
        flags = [name for name, is_so in (("paused", not self._reading), ("ended", self._ended)) if is_so]
        return f"<TlsTransport {' '.join([state, *flags])} protocol={type(self._protocol).__name__}>"

    # --- asyncio.BufferedProtocol: below ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        self._is_made = True
        if self._closing:
            self._raw.abort()
        else:
            self._handshake()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _READ_BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        self.receive(_READ_BUFFER[:nbytes])

    def receive(self, data: bytes | memoryview) -> None:
        """Bytes from the other side."""
        self._incoming.write(data)
        if self._protocol is None:
            self._handshake()
        else:
            self.deliver()

    def deliver(self) -> None:
        """Decrypt into the protocol's own buffer, until nothing is left or reading is paused."""
        if self._delivering:
            return
        self._delivering = True
        try:
            # A read of nothing would raise, and that costs as much as a read of something.
            while self._reading and not self._closing and (self._incoming.pending or self._tls.pending()):
                if not self._read():
                    self.end()
                    return
        except ssl.SSLError as error:
            self.stop(error)
        finally:
            self._delivering = False
        if self._outgoing.pending:
            self._send()  # the answer to a key update, say
        if self._raw_ended and self._reading and not self._closing:
            self._raw.abort()

    def stop(self, error: ssl.SSLError) -> None:
        """OpenSSL raised `error` instead of returning bytes."""
        if isinstance(error, ssl.SSLZeroReturnError):
            self.end()
        elif not isinstance(error, ssl.SSLWantReadError):
            self._break(error)

    def end(self) -> None:
        """The other side sent its close_notify."""
        self._ended = True
        if self._protocol is not None:
            self._protocol.eof_received()
        self.close()  # half-closed TLS connections are not supported

    def eof_received(self) -> bool:
        """The other side closed. Without a close_notify that may be an attacker's doing, so it is not a clean end."""
        self._raw_ended = True
        if self._protocol is not None and self._reading:
            self.deliver()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        if self._protocol is None:
            self._fail(exc or ConnectionResetError("closed during the TLS handshake"))
        else:
            truncated = None if self._ended else ssl.SSLEOFError("closed without a TLS goodbye")
            protocol, self._protocol, self._get_buffer = self._protocol, None, None
            protocol.connection_lost(exc or truncated)  # which holds this: no cycle is left to be collected

    def pause_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.resume_writing()

    # --- asyncio.Transport: above ----------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or not data:
            return
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            self._break(error)
            return
        self._raw.write(self._outgoing.read())

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        if self._reading or self._closing:
            return
        self._reading = True
        self._raw.resume_reading()
        if not self._delivering:
            asyncio.get_running_loop().call_soon(self.deliver)  # what was decrypted, or can be

    def is_closing(self) -> bool:
        return self._closing or self._raw.is_closing()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._say_goodbye()
            self._raw.close()

    def abort(self) -> None:
        self._closing = True
        if self._is_made:
            self._raw.abort()

    def shut(self) -> asyncio.Transport:
        """Send close_notify and hand over the plain transport; what still arrives is not decrypted."""
        self._closing = True
        self._say_goodbye()
        self._protocol = None
        return self._raw

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        get_buffer = getattr(protocol, "get_buffer", None)
        if self._protocol is None:
            pass  # the handshake's last read is still under way
        elif get_buffer is None:
            take = cast(asyncio.Protocol, protocol).data_received
            self._raw.set_protocol(_Whole(self, self._incoming, self._tls, take))
        elif self._get_buffer is None:
            self._raw.set_protocol(self)
        self._protocol = protocol
        self._get_buffer = get_buffer

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast(asyncio.BaseProtocol, self._protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._tls if name == "ssl_object" else self._raw.get_extra_info(name, default)

    @property
    def session(self) -> ssl.SSLSession | None:
        """The session for the next connection to the same provider; with TLS 1.3 it exists once the first answer has
        arrived."""
        return self._tls.session

    @property
    def is_resumed(self) -> bool:
        """Whether the other side accepted the session that was offered."""
        return bool(self._tls.session_reused)

    # --- between ---------------------------------------------------------------------------------------------------

    def _handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return
        except (ssl.SSLError, ssl.CertificateError) as error:
            self._send()  # the alert that says why
            self._raw.close()
            self._fail(error)
            return
        self._send()
        established, self._failed = self._established, _nothing
        del self._established
        protocol = established(self)
        self.set_protocol(protocol)
        protocol.connection_made(self)
        self.deliver()

    def _read(self) -> bool:
        """Pass one piece to the protocol; False at the end. Raises ssl.SSLError."""
        if self._get_buffer is None:
            # As much as is available, since OpenSSL allocates the buffer beforehand.
            data = self._tls.read(min(self._incoming.pending + self._tls.pending(), READ_SIZE))
            if data:
                self._protocol.data_received(data)
            return bool(data)
        buffer = self._get_buffer(-1)
        read: Any = self._tls.read  # into a buffer it returns a size, though typeshed says bytes
        count: int = read(len(buffer), buffer)
        if count:
            self._protocol.buffer_updated(count)
        return bool(count)

    def _say_goodbye(self) -> None:
        with contextlib.suppress(ssl.SSLError, ValueError):
            self._tls.unwrap()
        self._send()

    def _send(self) -> None:
        data = self._outgoing.read()
        if data and not self._raw.is_closing():
            self._raw.write(data)

    def _break(self, error: ssl.SSLError) -> None:
        self._send()
        self.abort()

    def _fail(self, error: Exception) -> None:
        failed, self._failed = self._failed, _nothing
        failed(error)


class _Whole(asyncio.Protocol):
    """Protocol of the plain transport while the one above takes bytes (`data_received`). A BufferedProtocol costs
    uvloop an extra callback and two extra objects per read."""

    __slots__ = ("_incoming", "_read", "_take", "_tls", "_write")

    def __init__(
        self,
        tls: TlsTransport,
        incoming: ssl.MemoryBIO,
        engine: ssl.SSLObject,
        take: Callable[[bytes], None],
    ) -> None:
        self._tls = tls
        self._incoming = incoming
        self._write = incoming.write
        # SSLObject.read does nothing but call this, where it still has this name.
        self._read: Callable[[int], bytes] = getattr(engine, "_sslobj", engine).read
        self._take = take

    def data_received(self, data: bytes) -> None:
        """Like `deliver`, but optimised for the usual case that a read is one record with one event."""
        write, read, take = self._write, self._read, self._take
        write(data)
        size = len(data)
        if size > READ_SIZE:  # OpenSSL allocates the buffer beforehand
            size = READ_SIZE
        try:
            piece = read(size)
        except ssl.SSLError as error:
            self._tls.stop(error)
            self._tls.deliver()  # what came may call for an answer
            return
        if not piece:
            self._tls.end()
            return
        take(piece)
        if self._incoming.pending or len(piece) == size:
            self._tls.deliver()

    def eof_received(self) -> bool:
        return self._tls.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._tls.connection_lost(exc)

    def pause_writing(self) -> None:
        self._tls.pause_writing()

    def resume_writing(self) -> None:
        self._tls.resume_writing()


def _nothing(error: Exception) -> None:
    """The failure was reported already."""
