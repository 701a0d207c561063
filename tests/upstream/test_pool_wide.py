"""Wide connections, whose providers may be far ahead, are for whole answers; streams take them where they must."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowserver.http.messages import RequestHead
from flowserver.relay.interfaces import UpstreamStream
from tests.support.pool import REFUSED, Events, Many, Scene


def ask(scene: Scene, *, whole: bool = False) -> tuple[UpstreamStream, Events]:
    events = Events()
    head = RequestHead(b"POST", b"/", [(b"host", b"x")], has_body=False)
    head.awaits_whole = whole
    events.stream = stream = scene.pool.open(head, events)
    return stream, events


def idle(scene: Scene, *kinds: bool) -> list[Many]:
    """So many idle connections; each is wide, or not."""
    asked = [ask(scene)[0] for _ in kinds]
    made = [scene.connect_many(1) for _ in kinds]
    for stream, connection, wide in zip(asked, made, kinds, strict=True):
        connection.is_wide = wide
        stream.cancel()
    assert scene.pool.idle_connections == len(kinds)
    return made


def test_a_stream_takes_the_narrow_one_and_a_whole_answer_the_wide_one() -> None:
    for whole in (False, True):
        for kinds in ((True, False), (False, True)):
            scene = Scene()
            connections = idle(scene, *kinds)
            ask(scene, whole=whole)
            assert [connection.busy for connection in connections] == [int(wide is whole) for wide in kinds]
            assert scene.dial.under_way == []


def test_a_whole_answer_takes_a_narrow_one_rather_than_a_new_one() -> None:
    scene = Scene()
    [connection] = idle(scene, False)
    ask(scene, whole=True)
    assert (connection.busy, scene.dial.under_way) == (1, [])


def test_a_stream_has_a_new_connection_made_rather_than_take_a_wide_one() -> None:
    scene = Scene()
    [wide] = idle(scene, True)
    ask(scene)
    assert (wide.busy, len(scene.dial.under_way)) == (0, 1)
    assert scene.connect_many(1).busy == 1
    assert scene.figures == (2, 0, 2, 1)


def test_a_stream_takes_a_wide_one_where_no_more_may_be_made() -> None:
    scene = Scene(max_connections=2)
    wide, narrow = idle(scene, True, False)
    ask(scene)
    assert (wide.busy, narrow.busy) == (0, 1)
    ask(scene)
    assert (wide.busy, narrow.busy) == (1, 1)
    assert (scene.pool.waiting_requests, scene.dial.under_way) == (0, [])


def test_a_stream_takes_a_wide_one_where_those_under_way_are_the_last() -> None:
    """Else it would wait for another's answer, beside a connection that does nothing."""
    scene = Scene(max_connections=2)
    [wide] = idle(scene, True)
    ask(scene)
    _, second = ask(scene)
    assert len(scene.dial.under_way) == 1
    scene.connect_many(1)
    scene.clock.advance(10)
    scene.pool.sweep(scene.clock.now)
    assert second.errors == []
    assert (wide.busy, scene.pool.waiting_requests) == (1, 0)


def test_a_stream_takes_a_wide_one_where_none_can_be_made() -> None:
    """A provider that takes no more connections still answers on those that it has."""
    scene = Scene()
    [wide] = idle(scene, True)
    _, events = ask(scene)
    scene.dial.under_way[0].failed(REFUSED)
    assert events.errors == []
    assert wide.busy == 1


def test_one_that_was_wide_is_kept_with_the_wide_ones() -> None:
    scene = Scene()
    [connection] = idle(scene, False)
    stream, _ = ask(scene)
    connection.is_wide = True
    stream.cancel()
    assert scene.pool.idle_connections == 1
    ask(scene)
    assert (connection.busy, len(scene.dial.under_way)) == (0, 1)


def test_whoever_waits_gets_the_first_that_is_free() -> None:
    scene = Scene(max_connections=1)
    [wide] = idle(scene, True)
    stream, _ = ask(scene, whole=True)
    ask(scene)
    assert scene.pool.waiting_requests == 1
    stream.cancel()
    assert (wide.busy, scene.pool.waiting_requests, scene.pool.idle_connections) == (1, 0, 0)


def test_idle_ones_of_both_kinds_are_closed_in_time() -> None:
    scene = Scene(keepalive=30.0)
    connections = idle(scene, True, False, True)
    scene.clock.advance(29.9)
    scene.pool.sweep(scene.clock.now)
    assert [connection.closed for connection in connections] == [False] * 3
    scene.clock.advance(0.2)
    scene.pool.sweep(scene.clock.now)
    assert [connection.closed for connection in connections] == [True] * 3
    assert scene.pool.idle_connections == 0


def test_old_ones_of_both_kinds_are_closed() -> None:
    scene = Scene(keepalive=100.0, max_age=60.0)
    connections = idle(scene, True, False)
    scene.clock.advance(60)
    scene.pool.sweep(scene.clock.now)
    assert [connection.closed for connection in connections] == [True] * 2


def test_a_pool_that_closes_closes_both_kinds() -> None:
    scene = Scene()
    connections = idle(scene, True, False)
    assert scene.pool.is_unused
    scene.pool.close()
    assert [connection.closed for connection in connections] == [True] * 2
    assert scene.pool.idle_connections == 0


@pytest.mark.parametrize("whole", [True, False])
def test_a_dead_one_is_passed_over(*, whole: bool) -> None:
    scene = Scene()
    connections = idle(scene, True, False)
    for connection in connections:
        connection.alive = False
    ask(scene, whole=whole)
    assert len(scene.dial.under_way) == 1
    assert [connection.busy for connection in connections] == [0, 0]


def test_one_that_is_lost_is_idle_no_more() -> None:
    scene = Scene()
    wide, _ = idle(scene, True, False)
    wide.lose()
    assert (scene.pool.idle_connections, scene.pool.open_connections) == (1, 1)


STEPS = st.lists(
    st.tuples(st.sampled_from(["stream", "whole", "end", "widen", "connected", "failed"]), st.integers(0, 9)),
    max_size=60,
)


WIDE = [("stream", 0), ("connected", 0), ("widen", 0), ("end", 0)]


@given(STEPS)
@example([*WIDE, ("stream", 0), ("stream", 0), ("stream", 0), ("connected", 0), ("connected", 0)])
def test_nobody_waits_beside_an_idle_connection_unless_another_is_made(steps: list[tuple[str, int]]) -> None:
    scene = Scene(max_connections=3)
    connections: list[Many] = []
    for action, which in steps:
        under_way = scene.dial.under_way
        if action in ("stream", "whole"):
            ask(scene, whole=action == "whole")
        elif action == "connected" and under_way:
            connections.append(scene.connect_many(1))
        elif action == "failed" and under_way:
            under_way[0].failed(REFUSED)
        elif connections and (busy := [each for each in connections if each.busy]):
            connection = busy[which % len(busy)]
            if action == "widen":
                connection.is_wide = True
            elif action == "end":
                connection.streams[0].cancel()
        pool = scene.pool
        assert pool.idle_connections == sum(not each.busy for each in connections)
        assert pool.open_connections + len(scene.dial.under_way) <= 3
        assert pool.waiting_requests <= len(scene.dial.under_way) or not pool.idle_connections


@pytest.mark.parametrize("whole", [False, True])
def test_a_connection_is_made_for_the_kind_of_answer_that_waits_for_it(*, whole: bool) -> None:
    scene = Scene()
    ask(scene, whole=whole)
    assert scene.dial.wholes == [whole]
