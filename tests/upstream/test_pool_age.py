"""Connections that are too old for further requests."""

from __future__ import annotations

import pytest

from ..support.pool import ANSWER, Scene


def test_an_idle_connection_that_is_too_old_is_closed() -> None:
    scene = Scene(keepalive=1000, max_age=600)
    provider = scene.answered()
    scene.pool.sweep(scene.clock.advance(599))
    assert provider.end == "open"
    scene.pool.sweep(scene.clock.advance(1))
    assert provider.end == "reset"
    assert scene.pool.idle_connections == 0


def test_requests_do_not_make_a_connection_younger() -> None:
    scene = Scene(max_age=600)
    provider = scene.answered()
    for _ in range(29):
        scene.pool.sweep(scene.clock.advance(20))
        scene.ask()
        provider.says(ANSWER)
    assert scene.pool.reuses == 29
    scene.clock.advance(20)
    stream, _ = scene.ask()  # before any sweep
    assert provider.end == "reset"
    scene.connect()
    assert not stream.reused


def test_a_connection_that_grew_too_old_under_its_request_is_not_kept_after_it() -> None:
    scene = Scene(max_age=600)
    scene.ask()
    provider = scene.connect()
    scene.pool.sweep(scene.clock.advance(700))
    assert provider.end == "open"
    assert scene.figures == (1, 0, 1, 0)
    provider.says(ANSWER)
    assert provider.end == "reset"
    provider.transport.lose()
    assert scene.figures == (1, 0, 0, 0)


def test_who_waits_for_an_old_connection_gets_a_new_one_in_its_place() -> None:
    scene = Scene(max_age=600, max_connections=1)
    scene.ask()
    provider = scene.connect()
    scene.clock.advance(700)
    stream, events = scene.ask()
    assert scene.dial.under_way == []
    provider.says(ANSWER)
    provider.transport.lose()
    scene.connect().says(ANSWER)
    assert events.body == b"hello"
    assert not stream.reused


@pytest.mark.parametrize("swept", [True, False])
def test_an_old_http_2_connection_takes_no_new_stream_and_closes_with_its_last_one(*, swept: bool) -> None:
    scene = Scene(multiplexed=True, max_age=600)
    streams = [scene.ask()[0] for _ in range(2)]
    old = scene.connect_many(10)
    scene.clock.advance(600)
    if swept:
        scene.pool.sweep(scene.clock.now)
    scene.ask()
    assert (old.busy, len(scene.dial.under_way)) == (2, 1)
    new = scene.connect_many(10)
    assert new.busy == 1
    assert scene.pool.open_connections == 2
    streams[0].cancel()
    assert old.is_alive()
    streams[1].cancel()
    assert not old.is_alive()
    old.lose()
    assert scene.figures == (2, 1, 1, 0)


def test_a_pool_whose_old_connection_still_carries_requests_is_in_use() -> None:
    scene = Scene(multiplexed=True, max_age=600)
    scene.ask()
    connection = scene.connect_many(10)
    scene.clock.advance(600)
    scene.pool.sweep(scene.clock.now)
    assert connection.busy
    assert not scene.pool.is_unused
    connection.streams.clear()
    scene.pool.on_capacity(connection)
    scene.pool.on_lost(connection)
    assert scene.pool.is_unused


def test_an_old_http_2_connection_with_a_long_stream_makes_room_for_a_new_one() -> None:
    scene = Scene(multiplexed=True, max_connections=1, max_age=600)
    scene.ask()
    old = scene.connect_many(10)
    scene.clock.advance(600)
    _, events = scene.ask()
    assert scene.dial.under_way == []
    scene.pool.sweep(scene.clock.now)
    new = scene.connect_many(10)
    assert [stream.events for stream in new.streams] == [events]
    assert not old.closed


def test_a_lost_old_connection_fails_its_requests() -> None:
    scene = Scene(multiplexed=True, max_age=600)
    _, events = scene.ask()
    old = scene.connect_many(10)
    scene.pool.sweep(scene.clock.advance(600))
    old.lose()
    assert events.log == ["failed 502"]
    assert scene.pool.open_connections == 0


def test_closing_the_pool_closes_old_connections_too() -> None:
    scene = Scene(multiplexed=True, max_age=600)
    scene.ask()
    old = scene.connect_many(10)
    scene.pool.sweep(scene.clock.advance(600))
    scene.pool.close()
    assert old.closed
