"""TLS over a plain transport, against OpenSSL at the other end, over memory."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from functools import cache
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from flowserver.net.tls_transport import TlsTransport

from ..support.transport import FakeTransport


@cache
def authority() -> trustme.CA:
    return trustme.CA()


@cache
def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("server.test").configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def client_context(*, trusting: bool = True) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trusting:
        authority().configure_trust(context)
    context.set_alpn_protocols(["h2"])
    return context


class Above(asyncio.Protocol):
    """What speaks on the connection: takes bytes as they come."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.data = bytearray()
        self.errors: list[Exception | None] = []
        self.pause_after: int | None = None
        self.close_after: int | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.log.append("made")

    def take(self, data: bytes) -> None:
        assert data
        self.data += data
        if self.pause_after is not None and len(self.data) >= self.pause_after:
            self.transport.pause_reading()
        if self.close_after is not None and len(self.data) >= self.close_after:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        self.take(data)

    def eof_received(self) -> bool:
        self.log.append("eof")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.log.append("lost")
        self.errors.append(exc)

    def pause_writing(self) -> None:
        self.log.append("pause")

    def resume_writing(self) -> None:
        self.log.append("resume")


class AboveBuffered(Above, asyncio.BufferedProtocol):
    """The same, with a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = bytearray(1000)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.take(bytes(self.buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        raise AssertionError("it has a buffer")


class Scene:
    """`above` stands on a `TlsTransport`; `other` is OpenSSL at the other end. `taken_over`: it has come in the place
    of one with a buffer, as fast paths do."""

    def __init__(
        self,
        *,
        server_side: bool = False,
        buffered: bool = False,
        taken_over: bool = False,
        client: ssl.SSLContext | None = None,
        name: str = "server.test",
        shake_hands: bool = True,
    ) -> None:
        self.above: Above = AboveBuffered() if buffered or taken_over else Above()
        self.failures: list[Exception] = []
        context = server_context() if server_side else client or client_context()
        self.tls = TlsTransport(
            context,
            lambda transport: self.above,
            self.failures.append,
            server_side=server_side,
            server_hostname=None if server_side else name,
        )
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        other = client or client_context() if server_side else server_context()
        self.other = other.wrap_bio(
            self._in, self._out, server_side=not server_side, server_hostname=name if server_side else None
        )
        self.raw = FakeTransport(self.tls)
        self._heard = 0
        self.cut: list[int] = []
        if shake_hands:
            self.shake_hands()
        if taken_over:
            before, self.above = self.above, Above()
            self.above.log, self.above.transport = before.log, before.transport
            self.tls.set_protocol(self.above)

    def shake_hands(self) -> None:
        for _ in range(5):
            self.hear()
            with contextlib.suppress(ssl.SSLWantReadError):
                self.other.do_handshake()
            self.say()

    def hear(self) -> None:
        """What the relay sent comes to the other end."""
        data = bytes(self.raw.sent[self._heard :])
        self._heard += len(data)
        self._in.write(data)

    def records(self) -> bytes:
        """What the other side has written and not sent yet."""
        return self._out.read()

    def say(self) -> None:
        """What the other end has to say arrives, in pieces where so wanted."""
        data = self.records()
        turn = 0
        while data:
            size = self.cut[turn % len(self.cut)] if self.cut else len(data)
            if not self.raw.lost and not self.raw.is_closing():
                self.raw.arrive(data[:size])
            data = data[size:]
            turn += 1

    def sends(self, data: bytes) -> None:
        while data:
            data = data[self.other.write(data) :]
        self.say()

    def reads(self) -> bytes:
        self.hear()
        data = bytearray()
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while piece := self.other.read(65_536):
                data += piece
        return bytes(data)

    def says_goodbye(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            self.other.unwrap()
        self.say()

    def got_goodbye(self) -> bool:
        self.hear()
        try:
            return self.other.read(1) == b""
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLWantReadError:
            return False


BOTH = pytest.mark.parametrize("buffered", [False, True])
KINDS: tuple[dict[str, Any], ...] = ({}, {"buffered": True}, {"taken_over": True})
EACH = pytest.mark.parametrize("kind", KINDS, ids=["bytes", "buffered", "taken over"])
SIDES = pytest.mark.parametrize("server_side", [False, True])


# The handshake


@SIDES
@BOTH
def test_hands_are_shaken_and_bytes_go_both_ways(server_side: bool, buffered: bool) -> None:
    scene = Scene(server_side=server_side, buffered=buffered)
    assert scene.above.log == ["made"]
    assert scene.failures == []
    tls = scene.tls.get_extra_info("ssl_object")
    assert tls.selected_alpn_protocol() == "h2"
    assert scene.tls.get_extra_info("socket") is scene.raw.socket
    scene.sends(b"hello")
    assert scene.above.data == b"hello"
    scene.tls.write(b"world")
    assert scene.reads() == b"world"
    assert b"world" not in scene.raw.sent


@SIDES
def test_a_handshake_in_single_bytes(server_side: bool) -> None:
    scene = Scene(server_side=server_side, shake_hands=False)
    scene.cut = [1]
    scene.shake_hands()
    scene.sends(b"hello")
    assert scene.above.data == b"hello"


def test_bytes_right_behind_the_handshake_are_not_lost() -> None:
    scene = Scene(server_side=True, shake_hands=False)
    with contextlib.suppress(ssl.SSLWantReadError):
        scene.other.do_handshake()
    scene.say()
    scene.hear()
    scene.other.do_handshake()
    scene.other.write(b"hello")
    scene.say()
    assert scene.above.data == b"hello"


@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_a_certificate_that_is_not_trusted_fails_and_nobody_speaks(wrong: str) -> None:
    context = client_context(trusting=wrong != "authority")
    name = "other.test" if wrong == "name" else "server.test"
    scene = Scene(client=context, name=name, shake_hands=False)
    with contextlib.suppress(ssl.SSLError):
        scene.shake_hands()
    [failure] = scene.failures
    assert isinstance(failure, ssl.SSLCertVerificationError)
    assert scene.above.log == []
    assert scene.raw.end == "closed"
    scene.raw.lose()
    assert len(scene.failures) == 1


@SIDES
def test_garbage_in_place_of_a_handshake_fails(server_side: bool) -> None:
    scene = Scene(server_side=server_side, shake_hands=False)
    scene.raw.arrive(b"GET / HTTP/1.1\r\n\r\n")
    assert isinstance(scene.failures[0], ssl.SSLError)
    assert scene.raw.end == "closed"
    assert scene.above.log == []


def test_a_connection_lost_in_the_handshake_fails_once() -> None:
    scene = Scene(shake_hands=False)
    scene.raw.lose()
    assert isinstance(scene.failures[0], ConnectionResetError)
    assert len(scene.failures) == 1
    assert scene.above.log == []


def test_a_connection_given_up_before_it_is_made_is_closed_when_it_is() -> None:
    failures: list[Exception] = []
    tls = TlsTransport(client_context(), lambda transport: Above(), failures.append, server_hostname="x")
    tls.abort()
    raw = FakeTransport(tls)
    assert raw.end == "reset"
    assert raw.sent == b""
    raw.lose()
    assert len(failures) == 1


# Bytes


@settings(max_examples=30)
@given(
    st.lists(st.binary(min_size=1, max_size=40_000), min_size=1, max_size=5),
    st.lists(st.integers(1, 20_000), min_size=1, max_size=5),
    st.sampled_from(KINDS),
)
def test_in_any_pieces_the_same_arrives(said: list[bytes], cut: list[int], kind: dict[str, Any]) -> None:
    scene = Scene(**kind)
    scene.cut = cut
    for data in said:
        scene.sends(data)
        scene.tls.write(data)
    assert scene.above.data == b"".join(said)
    assert scene.reads() == b"".join(said)


@BOTH
async def test_a_pause_holds_and_bytes_beyond_it_are_bounded(buffered: bool) -> None:
    scene = Scene(buffered=buffered)
    scene.above.pause_after = 1
    scene.sends(b"x" * 200_000)
    assert len(scene.above.data) <= 16_384
    assert scene.raw.unread >= 200_000 - 2 * 16_384
    scene.above.pause_after = None
    scene.tls.resume_reading()
    scene.tls.resume_reading()
    held = len(scene.above.data)
    await asyncio.sleep(0)
    assert len(scene.above.data) > held or not buffered  # what was decrypted or could be, without a further read
    scene.raw.deliver()
    assert scene.above.data == b"x" * 200_000
    assert scene.raw.calls == ["pause_reading", "resume_reading"]


async def test_a_pause_that_comes_again_before_anything_was_read_holds() -> None:
    scene = Scene(buffered=True)
    scene.above.pause_after = 1
    scene.sends(b"x" * 5000)
    held = len(scene.above.data)
    scene.tls.resume_reading()
    scene.tls.pause_reading()
    await asyncio.sleep(0)
    assert len(scene.above.data) == held


async def test_resuming_inside_a_delivery_goes_on_with_it() -> None:
    class Blinking(Above):
        def take(self, data: bytes) -> None:
            super().take(data)
            self.transport.pause_reading()
            self.transport.resume_reading()

    scene = Scene(shake_hands=False)
    scene.above = Blinking()
    scene.shake_hands()
    scene.sends(b"x" * 100_000)
    await asyncio.sleep(0)
    assert scene.above.data == b"x" * 100_000


def test_marks_and_figures_are_the_plain_transport_s() -> None:
    scene = Scene()
    scene.tls.set_write_buffer_limits(high=1000, low=0)
    scene.raw.block()
    scene.tls.write(b"x" * 2000)
    assert scene.above.log == ["made", "pause"]
    assert scene.tls.get_write_buffer_size() == scene.raw.get_write_buffer_size() > 2000
    scene.raw.drain()
    assert scene.above.log == ["made", "pause", "resume"]
    assert scene.reads() == b"x" * 2000


# Ends


@EACH
def test_a_goodbye_is_a_proper_end_and_is_answered(kind: dict[str, Any]) -> None:
    scene = Scene(**kind)
    scene.other.write(b"last")
    scene.says_goodbye()
    assert scene.above.data == b"last"
    assert scene.above.log == ["made", "eof"]
    assert scene.tls.is_closing()
    assert scene.got_goodbye()
    scene.raw.lose()
    assert scene.above.errors == [None]


@EACH
def test_a_close_without_a_goodbye_is_no_proper_end(kind: dict[str, Any]) -> None:
    scene = Scene(**kind)
    scene.sends(b"part")
    scene.raw.arrive_eof()
    scene.raw.lose()
    assert scene.above.data == b"part"
    assert scene.above.log == ["made", "lost"]
    assert isinstance(scene.above.errors[0], ssl.SSLEOFError)


async def test_an_end_behind_a_pause_comes_behind_what_was_held() -> None:
    scene = Scene(buffered=True)
    scene.above.pause_after = 1
    scene.other.write(b"x" * 5000)
    scene.says_goodbye()
    scene.raw.arrive_eof()
    assert scene.above.log == ["made"]
    scene.above.pause_after = None
    scene.tls.resume_reading()
    await asyncio.sleep(0)
    scene.raw.deliver()
    assert scene.above.data == b"x" * 5000
    assert scene.above.log == ["made", "eof"]


def test_closing_says_goodbye_behind_all_that_was_written() -> None:
    scene = Scene()
    scene.raw.block()
    scene.tls.write(b"x" * 100_000)
    scene.tls.close()
    scene.tls.close()
    scene.tls.write(b"too late")
    assert scene.tls.is_closing()
    scene.raw.drain()
    assert scene.reads() == b"x" * 100_000
    assert scene.got_goodbye()
    assert scene.raw.calls.count("close") == 1


def test_closing_inside_a_delivery_ends_it() -> None:
    scene = Scene(buffered=True)
    scene.above.close_after = 1
    scene.sends(b"x" * 50_000)
    assert len(scene.above.data) == 1000
    assert scene.got_goodbye()


def test_aborting_ends_it_at_once() -> None:
    scene = Scene()
    scene.tls.abort()
    scene.tls.write(b"x")
    scene.tls.resume_reading()
    assert scene.raw.end == "reset"
    assert scene.reads() == b""
    scene.raw.lose()
    assert scene.above.log == ["made", "lost"]


@pytest.mark.parametrize("error", [ConnectionResetError(), None])
def test_a_loss_is_told_once_with_its_reason(error: Exception | None) -> None:
    scene = Scene()
    scene.raw.lose(error)
    assert scene.above.log == ["made", "lost"]
    assert isinstance(scene.above.errors[0], ssl.SSLEOFError if error is None else ConnectionResetError)
    scene.tls.write(b"x")
    scene.tls.close()
    scene.tls.resume_reading()


@EACH
def test_bytes_that_were_tampered_with_break_the_connection(kind: dict[str, Any]) -> None:
    scene = Scene(**kind)
    scene.other.write(b"hello")
    data = bytearray(scene.records())
    data[-1] ^= 1
    scene.raw.arrive(bytes(data))
    assert scene.above.data == b""
    assert scene.raw.end == "reset"
    assert "eof" not in scene.above.log


async def test_pausing_inside_a_delivery_holds_what_came_with_it() -> None:
    scene = Scene(taken_over=True)
    scene.above.pause_after = 1
    for data in (b"one", b" two", b" three"):
        scene.other.write(data)
    scene.say()
    assert scene.above.data == b"one"
    scene.above.pause_after = None
    scene.tls.resume_reading()
    await asyncio.sleep(0)
    assert scene.above.data == b"one two three"


def test_closing_inside_a_delivery_ends_it_where_bytes_are_taken() -> None:
    scene = Scene(taken_over=True)
    scene.above.close_after = 1
    for data in (b"one", b" two"):
        scene.other.write(data)
    scene.say()
    assert scene.above.data == b"one"
    assert scene.got_goodbye()


def test_another_protocol_takes_over() -> None:
    scene = Scene()
    successor = AboveBuffered()
    scene.tls.set_protocol(successor)
    assert scene.tls.get_protocol() is successor
    successor.connection_made(scene.tls)
    scene.sends(b"x" * 3000)
    assert scene.above.data == b""
    assert successor.data == b"x" * 3000
    scene.raw.lose()
    assert successor.log == ["made", "lost"]
