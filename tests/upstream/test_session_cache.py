from __future__ import annotations

import ssl
from typing import cast

import pytest

from flowserver.upstream.session_cache import RENEWAL, TICKET_TIME, SessionCache

from ..support.clock import FakeClock


class Connection:
    def __init__(self, *, is_resumed: bool = False) -> None:
        self.is_resumed = is_resumed
        self.closing = False
        self.reads = 0
        self.own_session = cast(ssl.SSLSession, object())

    @property
    def session(self) -> ssl.SSLSession:
        self.reads += 1
        return self.own_session

    def is_closing(self) -> bool:
        return self.closing


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_one_session_serves_many_connections(clock: FakeClock) -> None:
    cache, first = SessionCache(clock), Connection()
    assert cache.offer() is None
    cache.on_established(first)
    clock.advance(TICKET_TIME)
    for _ in range(100):
        assert cache.offer() is first.own_session
        cache.on_established(Connection(is_resumed=True))
        clock.advance(RENEWAL)
    assert first.reads == 1


def test_no_session_is_read_before_its_ticket_came(clock: FakeClock) -> None:
    cache, first, second = SessionCache(clock), Connection(), Connection()
    cache.on_established(first)
    assert cache.offer() is None
    cache.on_established(second)
    first.closing = True  # it sends no more
    assert cache.offer() is first.own_session
    assert second.reads == 0


def test_a_session_that_is_no_longer_accepted_is_replaced(clock: FakeClock) -> None:
    cache, first, second = SessionCache(clock), Connection(), Connection()
    cache.on_established(first)
    clock.advance(TICKET_TIME)
    cache.offer()
    clock.advance(RENEWAL)
    cache.on_established(second)
    clock.advance(TICKET_TIME)
    assert cache.offer() is second.own_session


def test_a_provider_that_resumes_nothing_costs_one_read_in_a_while(clock: FakeClock) -> None:
    cache = SessionCache(clock)
    connections = [Connection() for _ in range(100)]
    for connection in connections:
        cache.offer()
        connection.closing = True
        cache.on_established(connection)
        clock.advance(RENEWAL / 10)
    assert 1 < sum(connection.reads for connection in connections) <= 10
