"""Connections that a drain finds before their first byte, or whose sockets were accepted just before it began."""

from __future__ import annotations

import asyncio

import pytest

from flowserver.downstream.clients_by_address import UNKNOWN
from flowserver.downstream.context import DRAIN_GRACE, ListenerContext
from flowserver.downstream.detect import ProtocolDetector
from tests.support import h2_frames as frames

from ..support.clock import FakeClock
from ..support.dialogue import Answer, Side, listener_context, understood
from ..support.h1_client import GET, Instant
from ..support.transport import FakeTransport


class NewClient(Side):
    """One of whom the relay knows nothing yet."""

    def __init__(self, context: ListenerContext) -> None:
        self.detector = ProtocolDetector(context, UNKNOWN)
        super().__init__(FakeTransport(self.detector))

    def answer(self) -> Answer:
        return understood(self.hears(), closed=self.end == "closed")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def context(clock: FakeClock) -> ListenerContext:
    return listener_context(Instant().open_exchange, head_timeout=1000, clock=clock)


def _drain(context: ListenerContext) -> None:
    context.drain.has_begun = True
    for connection in list(context.connections):
        connection.drain()


def test_one_that_has_sent_nothing_gets_its_first_request_answered(context: ListenerContext, clock: FakeClock) -> None:
    client = NewClient(context)
    clock.advance(10)
    _drain(context)
    client.detector.sweep(clock.advance(DRAIN_GRACE - 0.1))
    assert client.end == "open"
    client.says(GET)
    answer = client.answer()
    assert (answer.whole, answer.headers[b"connection"]) == (True, b"close")
    assert client.end == "closed"


def test_one_that_goes_on_sending_nothing_is_closed(context: ListenerContext, clock: FakeClock) -> None:
    client = NewClient(context)
    _drain(context)
    client.detector.sweep(clock.advance(DRAIN_GRACE))
    assert client.end == "closed"


def test_one_that_appears_after_the_drain_began_drains_too(context: ListenerContext) -> None:
    _drain(context)
    client = NewClient(context)
    client.says(GET)
    assert client.answer().headers[b"connection"] == b"close"
    assert client.end == "closed"


async def test_an_http2_client_is_told_before_its_first_request_which_is_served(context: ListenerContext) -> None:
    _drain(context)
    client = NewClient(context)
    client.says(frames.PREFACE + frames.settings())
    await asyncio.sleep(0)
    kinds = [kind for kind, *_ in frames.split(bytearray(client.hears()))]
    assert kinds[0] == frames.SETTINGS
    assert frames.GOAWAY in kinds
    assert client.end == "open"
