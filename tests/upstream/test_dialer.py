"""Connections over real sockets to names that a test resolves: several addresses, dead ones among them, TLS or not."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import cast

import pytest
import trustme

from flowserver.config.parsers import parse_url
from flowserver.errors import EndReason, Party
from flowserver.net.receive_buffer import begin_narrow
from flowserver.upstream.connect import ConnectAttempt
from flowserver.upstream.dialer import AVOIDED_FOR, Dialer, DialError
from flowserver.upstream.resolver import Resolver

from ..support.clock import FakeClock
from ..support.lab import eventually, finishes
from ..support.names import FakeNames

NAME = "api.test"
SIX, ONE, TWO, THREE = "::1", "127.0.0.1", "127.0.0.2", "127.0.0.3"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


PREPARE = partial(begin_narrow, bound=12288, may_grow=False)


class Peer(asyncio.Protocol):
    def __init__(self, accepted: list[asyncio.Transport]) -> None:
        self._accepted = accepted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._accepted.append(cast(asyncio.Transport, transport))


class Lab:
    """Addresses of this machine that share one port: each listens, is deaf, is mute (no TLS), or refuses."""

    def __init__(self, authority: trustme.CA) -> None:
        self.clock = FakeClock()
        self.names = FakeNames()
        self.resolver = Resolver(lookup=self.names, clock=self.clock)
        self.accepted: dict[str, list[asyncio.Transport]] = {}
        self.server_names: list[str] = []
        self._authority = authority
        self._exits = contextlib.AsyncExitStack()
        self.port = 0

    async def close(self) -> None:
        self.names.released.set()
        self.resolver.close()
        for transports in self.accepted.values():
            for transport in transports:
                transport.abort()
        await self._exits.aclose()

    def bind(self, host: str) -> socket.socket:
        """A socket with this address, which does not listen yet."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listening = self._exits.enter_context(socket.socket(family))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind((host, self.port))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        self.port = listening.getsockname()[1]
        return listening

    async def listen(self, host: str, *, tls: ssl.SSLContext | None = None) -> None:
        accepted = self.accepted.setdefault(host, [])
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Peer(accepted), sock=self.bind(host), ssl=tls)
        self._exits.callback(server.close)

    def deaf(self, host: str) -> None:
        """Its queue is full: it drops SYNs."""
        listening = self.bind(host)
        listening.listen(0)
        for _ in range(3):
            filler = self._exits.enter_context(socket.socket(listening.family))
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect((host, self.port))

    def mute(self, host: str) -> None:
        """Connections are established; nobody ever says a word."""
        self.bind(host).listen(100)

    def refuse(self, host: str) -> socket.socket:
        """Connections are refused, until the socket listens."""
        return self.bind(host)

    def server_tls(self, name: str = NAME, *protocols: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(name).configure_cert(context)
        context.set_alpn_protocols(list(protocols or ["http/1.1"]))
        context.sni_callback = lambda connection, name, context: self.server_names.append(name)
        return context

    def dialer(self, host: str = NAME, *, tls: bool = False, timeout: float = 10.0) -> Dialer:
        context = None
        if tls:
            context = ssl.create_default_context()
            self._authority.configure_trust(context)
            context.set_alpn_protocols(["h2", "http/1.1"])
        return Dialer(
            parse_url(f"{'https' if tls else 'http'}://{host}:{self.port}"),
            self.resolver,
            timeout=timeout,
            tls=context,
            clock=self.clock,
        )

    def resolves(self, *hosts: str, name: str = NAME) -> None:
        self.names.answers[name] = hosts


@pytest.fixture
async def lab(authority: trustme.CA) -> AsyncIterator[Lab]:
    lab = Lab(authority)
    yield lab
    await lab.close()
    await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "no attempt is left")


async def peer_of(dialer: Dialer) -> str:
    """Connects; returns the address of the other side."""
    attempt = await finishes(dialer.dial(ConnectAttempt, PREPARE))
    peer: str = attempt.transport.get_extra_info("peername")[0]
    attempt.transport.abort()
    return peer


# Which address


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(("dead", "alive"), [(SIX, ONE), (ONE, SIX), (ONE, TWO)])
@pytest.mark.parametrize("how", ["deaf", "refuse"])
async def test_a_dead_first_address_is_passed_and_the_winner_is_tried_first_next_time(
    lab: Lab, how: str, dead: str, alive: str, *, tls: bool
) -> None:
    getattr(lab, how)(dead)
    await lab.listen(alive, tls=lab.server_tls() if tls else None)
    lab.resolves(dead, alive)
    dialer = lab.dialer(tls=tls)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await peer_of(dialer) == alive
    first = loop.time() - began
    assert first < 5  # of ten
    if how == "deaf":
        assert first >= 0.25
        times = []
        for _ in range(3):
            began = loop.time()
            assert await peer_of(dialer) == alive
            times.append(loop.time() - began)
        assert min(times) < 0.25


async def test_a_dead_address_is_tried_first_again_after_a_while(lab: Lab) -> None:
    dead = lab.refuse(ONE)
    await lab.listen(TWO)
    lab.resolves(ONE, TWO)
    dialer = lab.dialer()
    assert await peer_of(dialer) == TWO
    dead.listen()
    assert await peer_of(dialer) == TWO
    lab.clock.advance(AVOIDED_FOR)
    assert await peer_of(dialer) == ONE


async def test_healthy_addresses_keep_the_order_of_dns(lab: Lab) -> None:
    for host in (ONE, TWO):
        await lab.listen(host)
    lab.resolves(ONE, TWO)
    dialer = lab.dialer()
    assert await peer_of(dialer) == ONE
    lab.resolves(TWO, ONE)
    lab.clock.advance(11)
    assert await peer_of(dialer) == ONE  # the old answer, while the new one is fetched
    await eventually(lambda: not lab.resolver.running)
    assert await peer_of(dialer) == TWO


async def test_an_address_whose_tls_is_silent_is_passed(lab: Lab) -> None:
    lab.mute(ONE)
    await lab.listen(TWO, tls=lab.server_tls())
    lab.resolves(ONE, TWO)
    assert await peer_of(lab.dialer(tls=True)) == TWO


async def test_an_address_that_speaks_no_tls_is_passed(lab: Lab) -> None:
    class Plain(Peer):
        def data_received(self, data: bytes) -> None:
            self._accepted[-1].write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    accepted = lab.accepted.setdefault(ONE, [])
    server = await asyncio.get_running_loop().create_server(lambda: Plain(accepted), sock=lab.bind(ONE))
    await lab.listen(TWO, tls=lab.server_tls())
    lab.resolves(ONE, TWO)
    assert await peer_of(lab.dialer(tls=True)) == TWO
    server.close()


async def test_many_dead_addresses_are_all_tried_within_the_timeout(lab: Lab) -> None:
    dead = [f"127.0.0.{number}" for number in range(10, 20)]
    lab.deaf(dead[0])
    for host in dead[1:]:
        lab.deaf(host)
    await lab.listen(ONE)
    lab.resolves(*dead, ONE)
    assert await peer_of(lab.dialer(timeout=2)) == ONE


async def test_losers_are_closed(lab: Lab) -> None:
    lab.mute(ONE)
    await lab.listen(TWO, tls=lab.server_tls())
    lab.resolves(ONE, TWO)
    descriptors = len(_sockets())
    assert await peer_of(lab.dialer(tls=True)) == TWO
    for transport in lab.accepted[TWO]:
        transport.abort()
    await eventually(lambda: len(_sockets()) == descriptors)


def _sockets() -> list[str]:
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if (target := os.readlink(f"/proc/self/fd/{descriptor}")).startswith("socket:"):
                found.append(target)
    return found


async def test_all_addresses_dead_is_an_error_that_says_so(lab: Lab) -> None:
    lab.refuse(ONE)
    lab.refuse(TWO)
    lab.resolves(ONE, TWO)
    with pytest.raises(DialError, match="can't be reached: Connection refused") as caught:
        await peer_of(lab.dialer())
    assert (caught.value.error.end, caught.value.error.not_processed) == (EndReason.CONNECT_FAILED, True)


async def test_all_addresses_deaf_end_with_the_timeout(lab: Lab) -> None:
    lab.deaf(ONE)
    lab.deaf(TWO)
    lab.resolves(ONE, TWO)
    with pytest.raises(DialError, match=r"did not answer within 0\.5 s") as caught:
        await peer_of(lab.dialer(timeout=0.5))
    assert (caught.value.error.end, caught.value.error.status) == (EndReason.CONNECT_TIMEOUT, 504)


async def test_the_system_s_own_timeout_is_not_taken_for_the_relay_s(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    # As an OSError it is a TimeoutError.
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *_: errno.ETIMEDOUT)
    lab.resolves(ONE)
    with pytest.raises(DialError, match="can't be reached: Connection timed out"):
        await finishes(lab.dialer().dial(ConnectAttempt, PREPARE))


async def test_the_window_is_bounded_before_the_connection_is_made(lab: Lab) -> None:
    await lab.listen(ONE)
    lab.resolves(ONE)
    attempt = await finishes(lab.dialer().dial(ConnectAttempt, PREPARE))
    connection = attempt.transport.get_extra_info("socket")
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * 12288
    # tcpi_options and the two window scales: ours was chosen for so small a buffer.
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[6] >> 4 == 0
    attempt.transport.abort()


# Names that change


@pytest.mark.parametrize("how", ["deaf", "refuse"])
async def test_a_name_that_moved_is_looked_up_again_when_its_old_address_fails(lab: Lab, how: str) -> None:
    getattr(lab, how)(ONE)
    await lab.listen(TWO)
    lab.resolves(ONE)
    await lab.resolver.resolve(NAME, fresh_for=10)
    lab.resolves(TWO)
    lab.clock.advance(5)  # the answer is fresh, and wrong
    assert await peer_of(lab.dialer()) == TWO


async def test_an_old_address_that_refuses_says_so_before_the_timeout_when_dns_hangs(lab: Lab) -> None:
    lab.refuse(ONE)
    lab.resolves(ONE)
    await lab.resolver.resolve(NAME, fresh_for=10)
    lab.names.hanging.add(NAME)
    lab.clock.advance(5)
    with pytest.raises(DialError, match="Connection refused"):
        await peer_of(lab.dialer(timeout=9))


# DNS


async def test_a_name_that_is_not_there(lab: Lab) -> None:
    with pytest.raises(DialError, match="can't be reached: Name or service not known"):
        await peer_of(lab.dialer("nobody.test"))


async def test_a_name_that_hangs_is_told_from_a_provider_that_does_and_stops_no_other(lab: Lab) -> None:
    await lab.listen(ONE)
    lab.names.hanging.add("hanging.test")
    lab.resolves(ONE)
    waiting = [asyncio.create_task(peer_of(lab.dialer("hanging.test", timeout=0.5))) for _ in range(50)]
    assert await peer_of(lab.dialer()) == ONE
    assert await peer_of(lab.dialer(ONE)) == ONE
    outcomes = await finishes(asyncio.gather(*waiting, return_exceptions=True))
    assert all("has a name that DNS did not resolve within 0.5 s" in str(outcome) for outcome in outcomes)
    assert lab.names.asked["hanging.test"] == 1
    assert lab.resolver.figures("hanging.test").failures == 1


async def test_who_leaves_stops_no_look_up_of_the_others(lab: Lab) -> None:
    await lab.listen(ONE)
    lab.resolves(ONE)
    lab.names.hanging.add(NAME)
    dialer = lab.dialer()
    leaving, staying = (asyncio.create_task(peer_of(dialer)) for _ in range(2))
    await eventually(lambda: lab.names.asked[NAME])
    leaving.cancel()
    await asyncio.wait([leaving])
    lab.names.released.set()
    assert await finishes(staying) == ONE
    assert lab.names.asked[NAME] == 1


async def test_a_numeric_address_asks_nobody(lab: Lab) -> None:
    await lab.listen(ONE)
    threads = threading.active_count()
    assert await peer_of(lab.dialer(ONE)) == ONE
    assert (lab.names.asked.total(), threading.active_count()) == (0, threads)


async def test_a_numeric_address_of_version_6(lab: Lab) -> None:
    await lab.listen(SIX)
    assert await peer_of(lab.dialer(f"[{SIX}]")) == SIX
    assert lab.names.asked.total() == 0


# TLS


@pytest.mark.parametrize(("offered", "chosen"), [(["h2", "http/1.1"], True), (["http/1.1"], False)])
@pytest.mark.parametrize("first", ["deaf", None])
async def test_alpn_is_that_of_the_winner(lab: Lab, offered: list[str], first: str | None, *, chosen: bool) -> None:
    if first is not None:
        getattr(lab, first)(ONE)
    await lab.listen(TWO, tls=lab.server_tls(NAME, *offered))
    lab.resolves(*([ONE] if first else []), TWO)
    attempt = await finishes(lab.dialer(tls=True).dial(ConnectAttempt, PREPARE))
    assert attempt.chosen is chosen
    attempt.transport.abort()


@pytest.mark.parametrize("host", [NAME, f"{NAME}."])
async def test_a_final_dot_is_no_part_of_the_name_that_is_verified(lab: Lab, host: str) -> None:
    await lab.listen(ONE, tls=lab.server_tls())
    lab.resolves(ONE, name=host)
    assert await peer_of(lab.dialer(host, tls=True)) == ONE
    assert lab.server_names == [NAME]
    assert lab.names.asked == {host: 1}  # with its dot: no search domains are tried


async def test_a_wrong_certificate_is_reported_and_hidden_by_no_other_address(lab: Lab) -> None:
    await lab.listen(ONE, tls=lab.server_tls("other.test"))
    await lab.listen(TWO, tls=lab.server_tls())
    lab.resolves(ONE, TWO)
    dialer = lab.dialer(tls=True)
    with pytest.raises(DialError, match="certificate that is not trusted"):
        await peer_of(dialer)
    assert lab.accepted[TWO] == []


async def test_after_a_wrong_certificate_the_name_is_looked_up_first(lab: Lab) -> None:
    """The address may have a new owner."""
    await lab.listen(ONE, tls=lab.server_tls("other.test"))
    await lab.listen(TWO, tls=lab.server_tls())
    lab.resolves(ONE)
    dialer = lab.dialer(tls=True)
    with pytest.raises(DialError):
        await peer_of(dialer)
    lab.resolves(TWO)
    assert await peer_of(dialer) == TWO


@pytest.fixture(autouse=True)
def _no_task_complains(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


# Whose fault it is


async def test_want_of_descriptors_is_no_failure_of_the_provider(lab: Lab) -> None:
    await lab.listen(ONE)
    lab.resolves(ONE)
    dialer = lab.dialer()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_one = os.dup(0)
    os.close(next_one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, hard))
    try:
        with pytest.raises(DialError) as raised:
            await finishes(dialer.dial(ConnectAttempt, PREPARE))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    error = raised.value.error
    assert (error.party, error.status, error.not_processed) == (Party.RELAY, 503, True)
    assert "Too many open files" in error.message
    assert await peer_of(dialer) == ONE


async def test_want_of_local_ports_is_no_failure_of_the_provider(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *_: errno.EADDRNOTAVAIL)
    lab.resolves(ONE, TWO)
    with pytest.raises(DialError, match="Cannot assign requested address") as raised:
        await finishes(lab.dialer().dial(ConnectAttempt, PREPARE))
    assert raised.value.error.party is Party.RELAY


# Descriptors


class _Aborts(asyncio.BufferedProtocol):
    """A connection that is lost as soon as it is made."""

    is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True


@pytest.mark.parametrize("waits", [False, True])
async def test_a_connection_that_is_lost_at_once_closes_its_descriptor_once(lab: Lab, waits: bool) -> None:
    """Its number may be another one's by the time that the socket object is collected."""
    await lab.listen(ONE)
    lab.resolves(ONE)
    dialer = lab.dialer()
    for _ in range(5):
        attempt = await dialer.dial(_Aborts, PREPARE)
        assert attempt.transport.is_closing()
        if waits:
            await eventually(lambda a=attempt: a.is_lost)  # type: ignore[misc]
        del attempt
    await asyncio.sleep(0.05)
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]  # they take over free numbers
    gc.collect()
    for descriptor in others:
        os.close(descriptor)


class _Cancels(asyncio.BufferedProtocol):
    """A connection that is wanted no more by the time that it is made."""

    task: asyncio.Task[object]
    made: _Cancels | None = None
    is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        _Cancels.made = self
        self.task.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True


async def test_a_connection_hears_that_it_is_lost_where_nobody_waits_for_it_any_more(lab: Lab) -> None:
    await lab.listen(ONE)
    lab.resolves(ONE)
    dial = asyncio.ensure_future(lab.dialer().dial(_Cancels, PREPARE))
    _Cancels.task = dial
    with pytest.raises(asyncio.CancelledError):
        await dial
    made, _Cancels.made = _Cancels.made, None
    assert made is not None
    await eventually(lambda: made.is_lost)


async def test_a_handshake_that_nobody_waits_for_any_more_fails_in_silence(lab: Lab) -> None:
    await lab.listen(ONE)  # which never answers it
    problems: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: problems.append(context["message"]))
    dialer = lab.dialer(ONE, tls=True)
    for turns in range(30):
        dial = asyncio.ensure_future(dialer.dial(ConnectAttempt, PREPARE))
        for _ in range(turns):
            await asyncio.sleep(0)
        dial.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await dial
        del dial
    await asyncio.sleep(0.05)
    gc.collect()
    assert problems == []
